"""Reading and listing jobs, instances and groups."""

import re
import time
from typing import Any
from uuid import uuid4

import pytest

from tests.api.served import ApiServer, a_request

V4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def listing(served: ApiServer, path: str = "/jobs", **query: Any) -> list[str]:
    asked: dict[str, Any] = {
        "user": "owner",
        "state": ["waiting", "running", "completed"],
        "start": 0,
        "end": "2999-01-01",
    }
    reply = served.ask("GET", path, **{**asked, **query})
    assert reply.status == 200, reply.text
    return [job["uuid"] for job in reply.json]


class TestByUuid:
    def test_jobs_come_in_the_order_asked(self, served: ApiServer) -> None:
        uuids = [served.submit() for _ in range(3)][::-1]
        told = served.ask("GET", "/jobs", uuid=uuids).json
        assert [job["uuid"] for job in told] == uuids

    def test_a_uuid_may_be_asked_for_in_upper_case(self, served: ApiServer) -> None:
        uuid = served.submit()
        assert served.ask("GET", f"/jobs/{uuid.upper()}").json["uuid"] == uuid

    @pytest.mark.parametrize(
        ("path", "key"),
        [
            ("/jobs", "uuid"),
            ("/rawscheduler", "job"),
            ("/instances", "uuid"),
            ("/unscheduled_jobs", "job"),
            ("/group", "uuid"),
        ],
    )
    def test_unknown_ones_are_named_each_on_its_own(self, served: ApiServer, path: str, key: str) -> None:
        strangers = [str(uuid4()), str(uuid4())]
        reply = served.ask("GET", f"{path}?" + "&".join(f"{key}={each}" for each in strangers))
        assert reply.status == 404
        assert reply.headers["X-Cook-Error"] == "NotFound"
        assert V4.findall(reply.json["error"]) == strangers
        assert set(strangers) <= set(reply.json["error"].split())

    def test_partial_leaves_them_out(self, served: ApiServer) -> None:
        uuid = served.submit()
        asked = [str(uuid4()), uuid]
        (told,) = served.ask("GET", "/jobs", uuid=asked, partial="true").json
        assert told["uuid"] == uuid
        assert served.ask("GET", "/jobs", uuid=asked[:1], partial="true").status == 404

    @pytest.mark.parametrize(
        "path",
        [
            "/jobs/nonsense",
            "/jobs?uuid=nonsense",
            "/instances/x",
            "/instances",
            "/rawscheduler",
            "/rawscheduler?job=1",
            "/group",
            "/group?uuid=",
            "/unscheduled_jobs",
        ],
    )
    def test_an_invalid_uuid_is_refused(self, served: ApiServer, path: str) -> None:
        assert served.ask("GET", path).status == 400

    def test_an_instance_leads_to_its_job(self, served: ApiServer) -> None:
        uuid = served.submit(name="it")
        task = served.started(uuid)
        instance = served.ask("GET", f"/instances/{task}").json
        assert instance["job"] == {
            "uuid": uuid,
            "name": "it",
            "status": "running",
            "state": "running",
            "user": "owner",
        }
        assert served.ask("GET", "/instances", uuid=task).json == [instance]
        (parent,) = served.ask("GET", "/rawscheduler", instance=task).json
        assert parent["uuid"] == uuid
        assert "groups" not in parent

    def test_a_hundred_uuids_fit_in_a_url(self, served: ApiServer) -> None:
        uuids = [served.submit() for _ in range(100)]
        assert len(served.ask("GET", "/jobs", uuid=uuids).json) == 100


class TestListing:
    def test_newest_first(self, served: ApiServer) -> None:
        uuids = []
        for _ in range(3):
            before = int(time.time() * 1000)
            while int(time.time() * 1000) == before:
                pass  # so that no two were submitted in one millisecond
            uuids.append(served.submit())
        assert listing(served) == uuids[::-1]

    def test_only_the_users_own(self, served: ApiServer) -> None:
        served.submit(user="ada")
        assert listing(served) == []
        assert len(listing(served, user="ada")) == 1

    def test_by_state(self, served: ApiServer) -> None:
        done, waiting = served.submit(), served.submit(cpus=1000)
        served.finish(done)
        failed = served.submit()
        served.finish(failed, exit_code=1)
        assert listing(served, state="success") == [done]
        assert listing(served, state="failed") == [failed]
        assert set(listing(served, state="completed")) == {done, failed}
        assert listing(served, state="waiting") == [waiting]
        assert set(listing(served, state=["waiting", "success"])) == {done, waiting}

    def test_by_time_with_the_start_inside_and_the_end_outside(self, served: ApiServer) -> None:
        uuid = served.submit()
        at = served.job(uuid)["submit_time"]
        assert listing(served, start=at, end=at + 1) == [uuid]
        assert listing(served, start=at - 5, end=at) == []
        assert listing(served, start="2001-01-01T00:00:00Z", end="2999-01-01T00:00:00.000+00:00") == [uuid]

    @pytest.mark.parametrize(
        ("name", "found"),
        [("f*o", True), ("foo", True), ("fo", False), ("*", True), ("f.o", False), ("", False)],
    )
    def test_by_name(self, served: ApiServer, name: str, found: bool) -> None:
        uuid = served.submit(name="foo")
        assert listing(served, name=name) == ([uuid] if found else [])

    def test_an_empty_filter_finds_empty_names(self, served: ApiServer) -> None:
        uuid = served.submit(name="")
        assert listing(served, name="") == [uuid]

    def test_by_pool(self, served: ApiServer) -> None:
        uuid = served.submit()
        assert listing(served, pool="default") == [uuid]
        assert listing(served, pool="other") == []
        assert listing(served, pool="nope") == []

    @pytest.mark.parametrize(
        "query",
        [
            {"state": "odd"},
            {"start": "yesterday"},
            {"end": ""},
            {"limit": "many"},
            {"name": "a b"},
            {"name": "$"},
            {"user": "Not A User"},
            {"start": "9" * 30},
        ],
    )
    def test_invalid_values_are_refused(self, served: ApiServer, query: dict[str, Any]) -> None:
        asked: dict[str, Any] = {"user": "owner", "state": "running", "start": "0", "end": "1"}
        assert served.ask("GET", "/jobs", **{**asked, **query}).status == 400

    def test_a_limit_below_one_is_forbidden(self, served: ApiServer) -> None:
        assert served.ask("GET", "/jobs?user=owner&state=running&start=0&end=1&limit=0").status == 403

    @pytest.mark.parametrize("missing", ["user", "state", "start", "end"])
    def test_a_missing_parameter_is_named(self, served: ApiServer, missing: str) -> None:
        asked: dict[str, Any] = {"user": "owner", "state": "running", "start": "0", "end": "1"}
        del asked[missing]
        reply = served.ask("GET", "/jobs", **asked)
        assert (reply.status, reply.json) == (400, {"errors": {missing: "missing-required-key"}})


class TestOldListing:
    def test_states_are_joined_by_plus(self, served: ApiServer) -> None:
        uuid = served.submit(expected_runtime=5)
        (told,) = served.ask("GET", "/list?user=owner&state=running%2Bwaiting").json
        assert told["uuid"] == uuid
        assert told["expected-runtime"] == 5

    def test_times(self, served: ApiServer) -> None:
        uuid = served.submit()
        at = served.job(uuid)["submit_time"]
        query = "/list?user=owner&state=waiting%2Brunning"
        assert served.ask("GET", f"{query}&start-ms={at}&end-ms={at + 1}").json
        assert served.ask("GET", f"{query}&start-ms={at - 1}&end-ms={at}").json == []
        assert served.ask("GET", f"{query}&since-hours-ago=1").json

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("", 400),
            ("?user=owner", 400),
            ("?user=owner&state=odd", 400),
            ("?user=owner&state=running&since-hours-ago=169", 400),
            ("?user=owner&state=running&limit=0", 403),
        ],
    )
    def test_errors_are_plain_text(self, served: ApiServer, query: str, status: int) -> None:
        reply = served.ask("GET", f"/list{query}")
        assert reply.status == status
        assert not reply.text.startswith("{")


class TestGroups:
    def test_counts_come_only_in_detail(self, served: ApiServer) -> None:
        group = str(uuid4())
        jobs = [a_request(group=group), a_request(group=group, cpus=1000)]
        body = {"jobs": jobs, "groups": [{"uuid": group, "name": "g"}]}
        assert served.ask("POST", "/jobs", body).status == 201
        served.finish(jobs[0]["uuid"])
        (told,) = served.ask("GET", f"/group?uuid={group}").json
        assert told == {
            "uuid": group,
            "name": "g",
            "host_placement": {"type": "all"},
            "straggler_handling": {"type": "none"},
            "jobs": [job["uuid"] for job in jobs],
        }
        (detailed,) = served.ask("GET", f"/group?uuid={group}&detailed=true").json
        assert (detailed["waiting"], detailed["running"], detailed["completed"]) == (1, 0, 1)
        assert served.job(jobs[0]["uuid"])["groups"] == [{"uuid": group, "name": "g"}]

    def test_partial_may_find_nothing(self, served: ApiServer) -> None:
        assert served.ask("GET", f"/group?uuid={uuid4()}&partial=true").json == []
