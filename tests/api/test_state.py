"""Pools, queue, running, why jobs wait; and what the scheduler says of itself."""

from uuid import uuid4

import pytest

from cook_jupyter.model.instance import InstanceId
from tests.api.served import OWNER, ApiServer, a_request


def secret_of(served: ApiServer, task: InstanceId) -> dict[str, str]:
    """The header by which an instance shows its secret."""
    assert served.scheduler.instance_secrets is not None
    return {"Authorization": f"Bearer {served.scheduler.instance_secrets.of(task)}"}


def test_inactive_pools_are_listed_too(served: ApiServer) -> None:
    assert served.ask("GET", "/pools").json == [
        {"name": "default", "purpose": "this machine", "state": "active"},
        {"name": "other", "purpose": "", "state": "active"},
        {"name": "closed", "purpose": "", "state": "inactive"},
    ]


def test_the_queue_has_waiting_jobs_in_launch_order(served: ApiServer) -> None:
    group = str(uuid4())
    low, high = a_request(cpus=1000, priority=1), a_request(cpus=1000, priority=99, group=group)
    served.ask("POST", "/jobs", {"jobs": [low, high]})
    queue = served.ask("GET", "/queue").json
    assert [entry["job/uuid"] for entry in queue["default"]] == [high["uuid"], low["uuid"]]
    (told,) = queue["default"][0]["group/_job"]
    assert told["group/uuid"] == group
    assert "group/job" not in told
    assert "group/_job" not in queue["default"][1]
    assert len(served.ask("GET", "/queue?limit=1").json["default"]) == 1


def test_the_queue_is_cut_at_an_upper_limit(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cook_jupyter.api.pools.MAX_LIMIT", 2)
    served.ask("POST", "/jobs", {"jobs": [a_request(cpus=1000) for _ in range(3)]})
    assert len(served.ask("GET", "/queue?limit=100000").json["default"]) == 2


def test_running_instances_are_listed(served: ApiServer) -> None:
    task = served.started(served.submit())
    assert [instance["task_id"] for instance in served.ask("GET", "/running").json] == [task]


@pytest.mark.parametrize("path", ["/queue", "/running"])
def test_queue_and_running_are_for_administrators_and_only_to_be_read(served: ApiServer, path: str) -> None:
    assert served.ask("GET", path, by="ada").status == 403
    assert served.ask("GET", f"{path}?limit=0", by="ada").status == 400
    assert served.ask("POST", path, {}).status == 405


def test_the_reasons_why_a_job_waits_come_in_cooks_format_and_in_sentences(served: ApiServer) -> None:
    uuid = served.submit(cpus=1000)
    (told,) = served.ask("GET", f"/unscheduled_jobs?job={uuid}").json
    assert told["uuid"] == uuid
    assert told["reasons"]
    why = served.ask("GET", f"/v1/why/{uuid}").json
    assert (why["uuid"], why["state"]) == (uuid, "waiting")
    assert why["sentences"]
    assert why["reasons"] == told["reasons"]


def test_the_reason_of_a_running_job_is_that_it_runs(served: ApiServer) -> None:
    uuid = served.submit()
    served.started(uuid)
    (told,) = served.ask("GET", f"/unscheduled_jobs?job={uuid}").json
    assert told["reasons"] == [{"reason": "The job is running now.", "data": {}}]


def test_the_reasons_of_an_unknown_job_are_not_found(served: ApiServer) -> None:
    assert served.ask("GET", f"/v1/why/{uuid4()}").status == 404
    assert served.ask("GET", "/v1/why/nonsense").status == 400


def test_info_has_the_url_and_the_authentication_scheme(served: ApiServer) -> None:
    info = served.ask("GET", "/info", by=None).json
    assert info["leader-url"] == served.url
    assert info["authentication-scheme"] == "http-basic"
    assert set(info) == {"authentication-scheme", "commit", "start-time", "version", "leader-url"}


def test_settings_have_all_that_cooks_suite_reads(served: ApiServer) -> None:
    told = served.ask("GET", "/settings").json
    assert told["pools"]["default"] == "default"
    assert told["mesos-gpu-enabled"] is False
    assert told["task-constraints"]["timeout-interval-minutes"] > 0
    assert told["task-constraints"]["max-ports"] >= 5
    assert told["progress"]["publish-interval-ms"] > 0
    assert told["rate-limit"] == {
        "job-submission": None,
        "per-user-per-pool-job-launch": {"enforce?": True},
        "compute-cluster-launch": None,
    }
    assert told["rebalancer"]["max-preemption"] == 100
    assert {"job-launch-filter", "job-submission-validator"} <= set(told["plugins"])
    (cluster,) = told["compute-clusters"]
    assert cluster["factory-fn"] == "cook.mesos.mesos-compute-cluster/factory-fn"


def test_only_mea_culpa_reasons_have_a_failure_limit(served: ApiServer) -> None:
    told = {reason["code"]: reason for reason in served.ask("GET", "/failure_reasons").json}
    assert told[99003] == {
        "code": 99003,
        "name": "mesos-command-executor-failed",
        "description": "Command exited non-zero",
        "mea_culpa": False,
    }
    assert told[4003]["failure_limit"] == 10
    assert told[1008]["failure_limit"] == 5
    assert told[1002]["failure_limit"] == -1  # preemption is free, however often


def test_metrics_count_jobs(served: ApiServer) -> None:
    served.started(served.submit(user="ada"))
    text = served.ask("GET", "/metrics").text
    assert 'cook_jobs{state="running",user="ada"} 1.0' in text


def test_v1_info_has_the_user_and_the_limits_of_requests(served: ApiServer) -> None:
    told = served.ask("GET", "/v1/info", by="ada").json
    assert (told["name"], told["user"]) == ("cook_jupyter", "ada")
    assert told["capacity"] == {"cpus": 4.0, "mem": 8192.0, "gpus": 0.0, "hosts": 2}
    assert told["limits"]["body_bytes"] == 8 * 1024 * 1024


def test_v1_info_has_the_url_and_the_identity_of_the_blob_store(served: ApiServer) -> None:
    blob_store = served.ask("GET", "/v1/info").json["blob_store"]
    blobs = served.scheduler.home.blobs
    assert blob_store == {"url": str(blobs), "identity": (blobs / "identity").read_text()}
    (blobs / "identity").unlink()
    assert served.ask("GET", "/v1/info").json["blob_store"]["identity"] not in ("", blob_store["identity"])


def test_the_summary_has_a_row_for_each_user(served: ApiServer) -> None:
    served.started(served.submit(user="ada"))
    served.submit(user="bob", cpus=1000)
    told = served.ask("GET", "/v1/summary", by="ada").json
    assert (told["user"], told["waiting"], told["running"]) == ("ada", 1, 1)
    assert {row["user"]: (row["waiting"], row["running"]) for row in told["users"]} == {
        "ada": (0, 1),
        "bob": (1, 0),
    }


def test_administrators_alone_may_have_a_dump_of_a_pool(served: ApiServer) -> None:
    waiting = served.submit(user="ada", cpus=1000)
    assert served.ask("GET", "/v1/debug/dump", by="ada").status == 403

    reply = served.ask("GET", f"/v1/debug/dump?job={waiting}")

    assert reply.status == 200
    (job,) = reply.json["jobs"]
    assert (reply.json["snapshot"]["pool"]["name"], job["job"]["spec"]["job_id"]) == ("default", waiting)


def test_only_the_owner_may_shut_the_scheduler_down(served: ApiServer) -> None:
    assert served.ask("POST", "/v1/shutdown", {}, by="ada").status == 403
    assert not served.scheduler.shutdown.is_set()
    assert served.ask("POST", "/v1/shutdown", {"stop_agent": True}).status == 202
    assert served.scheduler.shutdown.is_set()
    assert served.scheduler.stop_agent_at_shutdown


class TestProgress:
    def test_is_taken_from_the_instance_itself_and_shown(self, served: ApiServer) -> None:
        uuid = served.submit()
        task = served.started(uuid)
        body = {"progress-sequence": 2, "progressPercent": 40, "progress_message": "on it"}
        reply = served.ask("POST", f"/progress/{task}", body, by=None, headers=secret_of(served, task))
        assert reply.status == 202
        assert reply.json == {"instance": task, "job": uuid, "message": "progress update accepted"}
        served.ask("POST", f"/progress/{task}", {"progress_sequence": 1, "progress_percent": 90})
        (instance,) = served.job(uuid)["instances"]
        assert (instance["progress"], instance["progress_message"]) == (40, "on it")

    @pytest.mark.parametrize("secret", ["none", "wrong", "not ASCII", "of another instance"])
    def test_is_not_taken_without_the_instances_own_secret(self, served: ApiServer, secret: str) -> None:
        task, other = (served.started(served.submit(user="ada")) for _ in range(2))
        body = {"progress_sequence": 1, "progress_percent": 40}
        headers = {
            "none": {},
            "wrong": {"Authorization": "Bearer " + 64 * "0"},
            "not ASCII": {"Authorization": "Bearer \xff"},
            "of another instance": secret_of(served, other),
        }[secret]
        assert served.ask("POST", f"/progress/{task}", body, by=None, headers=headers).status == 401
        assert served.ask("GET", f"/instances/{task}").json["progress"] == 0

    def test_is_taken_from_the_jobs_owner_and_from_nobody_else(self, served: ApiServer) -> None:
        task = served.started(served.submit(user="ada"))
        body = {"progress_sequence": 1, "progress_percent": 40}
        assert served.ask("POST", f"/progress/{task}", body, by="bob").status == 403
        assert served.ask("POST", f"/progress/{task}", body, by="ada").status == 202
        assert served.ask("POST", f"/progress/{task}", body, by=OWNER).status == 202

    def test_a_secret_opens_nothing_else(self, served: ApiServer) -> None:
        task = served.started(served.submit())
        for path in ("/pools", f"/instances/{task}", f"/v1/logs/{task}"):
            assert served.ask("GET", path, by=None, headers=secret_of(served, task)).status == 401

    @pytest.mark.parametrize(
        "body",
        [
            {"progress_sequence": 1},
            {"progress_percent": 1},
            {"progress_sequence": 1, "progress_percent": 0.1},
            {"progress_sequence": 1, "progress_message": 5},
        ],
    )
    def test_a_wrong_shape_is_refused(self, served: ApiServer, body: object) -> None:
        assert served.ask("POST", f"/progress/{uuid4()}", body).status == 400

    def test_a_jobs_uuid_is_not_a_task(self, served: ApiServer) -> None:
        body = {"progress_sequence": 1, "progress_percent": 1}
        assert served.ask("POST", f"/progress/{served.submit()}", body).status == 404


def test_an_unknown_route_is_404_in_html(served: ApiServer) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/nope"),
        ("POST", "/pools"),
        ("OPTIONS", "/jobs"),
        ("DELETE", "/jobs"),
    ):
        reply = served.ask(method, path, b"" if method == "POST" else None)
        assert (reply.status, reply.text) == (404, "<h1>Not a valid route</h1>"), path


def test_no_response_may_be_cached(served: ApiServer) -> None:
    for path in ("/pools", "/nope", "/jobs"):
        assert served.ask("GET", path).headers["Cache-control"] == "max-age=0"
