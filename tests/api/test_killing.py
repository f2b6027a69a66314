"""DELETE /rawscheduler and /group."""

from uuid import uuid4

import pytest

from tests.api.served import ApiServer, a_request
from tests.waiting import wait_until


def test_a_killed_job_is_completed_immediately_and_its_instance_is_killed(served: ApiServer) -> None:
    uuid = served.submit(max_retries=5)
    served.started(uuid)
    reply = served.ask("DELETE", f"/rawscheduler?job={uuid}")
    assert (reply.status, reply.body) == (204, b"")
    told = served.job(uuid)
    assert (told["status"], told["state"]) == ("completed", "failed")
    wait_until(lambda: served.job(uuid)["instances"][0]["status"] == "failed")
    (instance,) = served.job(uuid)["instances"]
    assert (instance["reason_code"], instance["reason_string"]) == (1001, "Killed by user")
    assert "end_time" in instance


def test_a_killed_instance_lets_its_job_try_again(served: ApiServer) -> None:
    uuid = served.submit(max_retries=2)
    task = served.started(uuid)
    assert served.ask("DELETE", f"/rawscheduler?instance={task}").status == 204
    wait_until(lambda: len(served.job(uuid)["instances"]) == 2)
    first = served.job(uuid)["instances"][0]
    assert (first["cancelled"], first["reason_code"]) == (True, 1001)


def test_cancelling_completes_waiting_jobs_and_spares_running_ones(served: ApiServer) -> None:
    running = served.submit()
    served.started(running)
    waiting = served.submit(cpus=1000)

    reply = served.ask("POST", "/v1/cancel", {"jobs": [running, waiting.upper()]})

    assert (reply.status, reply.json) == (200, {"cancelled": [waiting]})
    assert served.job(waiting)["state"] == "failed"
    assert served.job(running)["status"] == "running"
    assert served.ask("POST", "/v1/cancel", {"jobs": [running, waiting]}).json == {"cancelled": []}


def test_nobody_cancels_the_job_of_somebody_else_or_one_that_is_unknown(served: ApiServer) -> None:
    uuid = served.submit(user="ada", cpus=1000)

    assert served.ask("POST", "/v1/cancel", {"jobs": [uuid]}, by="bob").status == 403
    assert served.ask("POST", "/v1/cancel", {"jobs": [uuid, str(uuid4())]}, by="ada").status == 404
    assert served.job(uuid)["status"] == "waiting"


def test_killing_twice_is_no_error(served: ApiServer) -> None:
    uuid = served.submit()
    for _ in range(2):
        assert served.ask("DELETE", f"/rawscheduler?job={uuid}").status == 204


@pytest.mark.parametrize("path", ["/rawscheduler", "/group"])
def test_killing_nothing_is_refused(served: ApiServer, path: str) -> None:
    assert served.ask("DELETE", path).status == 400


def test_nothing_is_killed_if_one_is_unknown(served: ApiServer) -> None:
    uuid = served.submit(cpus=1000)
    stranger = str(uuid4())
    reply = served.ask("DELETE", "/rawscheduler", job=[uuid, stranger])
    assert reply.status == 404
    assert stranger in reply.json["error"]
    assert served.job(uuid)["status"] == "waiting"


def test_nobody_kills_the_job_of_somebody_else(served: ApiServer) -> None:
    uuid = served.submit(user="ada", cpus=1000)
    reply = served.ask("DELETE", f"/rawscheduler?job={uuid}", by="bob")
    assert reply.status == 403
    assert reply.json == {"error": f"You are not authorized to kill the following jobs: {uuid}"}
    assert served.job(uuid)["status"] == "waiting"
    assert served.ask("DELETE", f"/rawscheduler?job={uuid}").status == 204  # the owner of it all may


def test_a_group_is_killed_whole(served: ApiServer) -> None:
    group = str(uuid4())
    jobs = [a_request(group=group), a_request(group=group, cpus=1000)]
    assert served.ask("POST", "/jobs", {"jobs": jobs}, by="ada").status == 201
    served.finish(jobs[0]["uuid"])
    assert served.ask("DELETE", f"/group?uuid={group}", by="bob").status == 403
    for _ in range(2):
        assert served.ask("DELETE", f"/group?uuid={group}", by="ada").status == 204
    assert [served.job(job["uuid"])["state"] for job in jobs] == ["success", "failed"]
    assert served.ask("DELETE", f"/group?uuid={uuid4()}").status == 404
