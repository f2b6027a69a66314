"""POST /jobs and /rawscheduler: what is taken, and how refusals are told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import QueueLimit, ServerSettings
from tests.api.served import POOLS, ApiServer, a_request, serving


def test_the_response_to_a_submission_is_plain_text(served: ApiServer) -> None:
    one, two = a_request(), a_request()
    reply = served.ask("POST", "/jobs", {"jobs": [one, two]})
    assert reply.status == 201
    assert reply.text == f"submitted jobs {one['uuid']} {two['uuid']}"


@pytest.mark.parametrize("path", ["/jobs", "/rawscheduler"])
def test_groups_are_named_behind_the_jobs(served: ApiServer, path: str) -> None:
    job = a_request(group=str(uuid4()))
    reply = served.ask("POST", path, {"jobs": [job]})
    assert reply.text == f"submitted jobs {job['uuid']} submitted groups {job['group']}"
    (group,) = served.ask("GET", f"/group?uuid={job['group']}").json
    assert (group["name"], group["jobs"]) == ("defaultgroup", [job["uuid"]])


def test_sending_the_same_jobs_again_is_a_conflict_that_names_them(served: ApiServer) -> None:
    job = a_request()
    assert served.ask("POST", "/jobs", {"jobs": [job]}).status == 201
    reply = served.ask("POST", "/jobs", {"jobs": [a_request(), job]})
    assert reply.status == 409
    assert reply.headers["X-Cook-Error"] == "Conflict"
    assert job["uuid"] in reply.json["error"]


def test_nothing_of_a_refused_batch_exists(served: ApiServer) -> None:
    good = a_request()
    assert served.ask("POST", "/jobs", {"jobs": [good, a_request(cpus=-1)]}).status == 400
    assert served.ask("GET", f"/jobs/{good['uuid']}").status == 404


def test_the_same_uuid_twice_in_a_batch_is_refused(served: ApiServer) -> None:
    job = a_request()
    reply = served.ask("POST", "/jobs", {"jobs": [job, job]})
    assert (reply.status, reply.json) == (400, {"error": f'Duplicate job uuids: ["{job["uuid"]}"]'})


def test_a_uuid_may_name_a_job_and_a_group_at_once(served: ApiServer) -> None:
    job = a_request()
    job["group"] = job["uuid"]
    assert served.ask("POST", "/jobs", {"jobs": [job]}).status == 201


def test_a_group_may_only_grow_if_that_is_asked_for(served: ApiServer) -> None:
    group = str(uuid4())
    body = {"jobs": [a_request(group=group)], "groups": [{"uuid": group}]}
    assert served.ask("POST", "/jobs", body).status == 201
    later: dict[str, Any] = {"jobs": [a_request(group=group)]}
    assert served.ask("POST", "/jobs", later).status == 400
    assert served.ask("POST", "/jobs", {**later, "override-group-immutability": True}).status == 201


class TestPools:
    def test_without_a_pool_the_default_is_used(self, served: ApiServer) -> None:
        told = served.job(served.submit())
        assert told["pool"] == "default"
        assert "submit_pool" not in told

    def test_the_body_wins_over_the_header(self, served: ApiServer) -> None:
        job = a_request()
        body = {"jobs": [job], "pool": "other"}
        assert served.ask("POST", "/jobs", body, headers={"X-Cook-Pool": "closed"}).status == 201
        assert served.job(job["uuid"])["submit_pool"] == "other"

    def test_rawscheduler_only_reads_the_header(self, served: ApiServer) -> None:
        job = a_request()
        assert served.ask("POST", "/rawscheduler", {"jobs": [job], "pool": "other"}).status == 400
        named = served.ask("POST", "/rawscheduler", {"jobs": [job]}, headers={"X-Cook-Pool": "other"})
        assert named.status == 201
        assert served.job(job["uuid"])["pool"] == "other"

    @pytest.mark.parametrize(
        ("pool", "text"),
        [("nope", "nope is not a valid pool name."), ("closed", "closed is not accepting job submissions.")],
    )
    def test_unknown_and_inactive_ones_are_refused(self, served: ApiServer, pool: str, text: str) -> None:
        reply = served.ask("POST", "/jobs", {"jobs": [a_request()], "pool": pool})
        assert (reply.status, reply.json) == (400, {"error": text})


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"gpus": 1}, "GPU support is not enabled"),
        ({"disk": {"request": 10}}, "Disk specifications are not supported on pool default"),
        ({"ports": 6}, "Requested 6 ports, but only allowed to use 5"),
        (
            {"command": "x" * 65537},
            "Job command length of 65537 is greater than the maximum command length (65536)",
        ),
    ],
)
def test_a_job_that_the_settings_do_not_allow_is_refused(
    served: ApiServer, named: dict[str, Any], text: str
) -> None:
    reply = served.ask("POST", "/jobs", {"jobs": [a_request(**named)]})
    assert (reply.status, reply.json) == (400, {"error": text})


@pytest.mark.parametrize("named", [{"max_retries": 21}, {"cpus": 2e6}, {"mem": 1e12}])
def test_a_job_above_a_maximum_is_refused(served: ApiServer, named: dict[str, Any]) -> None:
    assert served.ask("POST", "/jobs", {"jobs": [a_request(**named)]}).status == 400


def test_a_job_larger_than_the_machine_is_accepted_and_waits(served: ApiServer) -> None:
    assert served.job(served.submit(cpus=1000))["status"] == "waiting"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(served: ApiServer, kind: str) -> None:
    reply = served.ask("POST", "/jobs", {"jobs": [a_request()]}, headers={"Content-Type": kind})
    assert reply.status == 400
    assert "application/json" in reply.json["error"]


def test_a_content_type_may_name_its_charset(served: ApiServer) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert served.ask("POST", "/jobs", {"jobs": [a_request()]}, headers=headers).status == 201


def test_a_job_above_its_users_quota_is_refused(served: ApiServer) -> None:
    body = {"user": "ada", "reason": "r", "quota": {"cpus": 1}}
    assert served.ask("POST", "/quota", body).status == 201
    reply = served.ask("POST", "/jobs", {"jobs": [a_request(cpus=2)]}, by="ada")
    assert reply.status == 422
    assert reply.headers["X-Cook-Error"] == "QuotaExceeded"
    assert "exceeds quota" in reply.json["error"]


class TestQueueLimits:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[ApiServer]:
        limit = QueueLimit(user_limit_normal=2, user_limit_constrained=2)
        with serving(tmp_path, settings=Settings(pools=POOLS, queue_limits=(limit,))) as running:
            yield running

    def test_too_many_waiting_jobs_are_refused(self, served: ApiServer) -> None:
        reply = served.ask("POST", "/jobs", {"jobs": [a_request(cpus=1000) for _ in range(3)]})
        assert reply.status == 422
        assert reply.json["error"].startswith("User has too many jobs queued")


def test_a_job_is_returned_as_it_was_submitted(served: ApiServer) -> None:
    sent = a_request(
        name="it",
        priority=7,
        max_retries=3,
        env={"A": "b"},
        labels={"x/y": "z"},
        constraints=[["HOSTNAME", "EQUALS", "h1"]],
        uris=[{"value": "http://x/y"}],
        application={"name": "app", "version": "1"},
        expected_runtime=1000,
        executor="cook",
        progress_output_file="out",
        progress_regex_string="r",
        disable_mea_culpa_retries=True,
        checkpoint={"mode": "periodic", "periodic-options": {"period-sec": 5}},
    )
    assert served.ask("POST", "/jobs", {"jobs": [sent]}).status == 201
    told = served.job(sent["uuid"])
    sent["uris"] = [{"value": "http://x/y", "cache": False, "executable": False, "extract": False}]
    assert {key: told[key] for key in sent} == sent
    assert (told["user"], told["gpus"], told["ports"]) == ("owner", 0, 0)


def test_a_setting_limits_the_jobs_of_a_submission(tmp_path: Path) -> None:
    with serving(
        tmp_path, settings=Settings(pools=POOLS, server=ServerSettings(jobs_per_submission=2))
    ) as served:
        assert served.ask("POST", "/jobs", {"jobs": [a_request() for _ in range(2)]}).status == 201
        reply = served.ask("POST", "/jobs", {"jobs": [a_request() for _ in range(3)]})
        assert (reply.status, reply.headers["X-Cook-Error"]) == (413, "TooLarge")


def test_five_hundred_jobs_go_in_one_request(served: ApiServer) -> None:
    jobs = [a_request() for _ in range(500)]
    assert served.ask("POST", "/jobs", {"jobs": jobs}).status == 201


@pytest.mark.parametrize("path", ["/jobs", "/rawscheduler"])
def test_a_job_that_no_host_can_take_waits_as_with_cook(path: str, tmp_path: Path) -> None:
    with serving(tmp_path, has_fixed_capacity=True) as served:
        assert served.ask("POST", path, {"jobs": [a_request(cpus=100)]}).status == 201


def test_a_job_that_no_host_can_take_is_refused_on_request_where_no_host_can_join(tmp_path: Path) -> None:
    with serving(tmp_path, has_fixed_capacity=True) as served:
        good = a_request()
        for bad in (a_request(cpus=100), a_request(constraints=[["rack", "EQUALS", "7"]])):
            reply = served.ask("POST", "/jobs?refuse-unsatisfiable=true", {"jobs": [good, bad]})
            assert (reply.status, reply.headers["X-Cook-Error"]) == (400, "Unsatisfiable")
            assert "can never start here" in reply.json["error"]
        assert served.ask("POST", "/jobs?refuse-unsatisfiable=true", {"jobs": [good]}).status == 201


def test_a_job_that_no_host_can_take_waits_where_hosts_may_join(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        reply = served.ask("POST", "/jobs?refuse-unsatisfiable=true", {"jobs": [a_request(cpus=100)]})
        assert reply.status == 201
