"""GET, PUT and POST /retry."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from tests.api.served import ApiServer, Reply, a_request
from tests.waiting import wait_until


def retry(served: ApiServer, method: str = "PUT", /, by: str = "owner", **body: Any) -> Reply:
    return served.ask(method, "/retry", body, by=by)


def failed(served: ApiServer, **fields: Any) -> str:
    uuid = served.submit(**fields)
    served.finish(uuid, exit_code=1)
    return uuid


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_failed_job_with_more_retries_waits_and_runs_again(served: ApiServer, method: str) -> None:
    uuid = failed(served)
    reply = retry(served, method, job=uuid, retries=3)
    assert (reply.status, reply.body) == (201, b"3")
    wait_until(lambda: len(served.job(uuid)["instances"]) == 2)
    assert served.ask("GET", f"/retry?job={uuid}").body == b"3"


def test_an_increment_adds(served: ApiServer) -> None:
    uuid = failed(served)
    assert retry(served, jobs=[uuid], increment=2).body == b"3"
    assert served.job(uuid)["max_retries"] == 3


def test_increments_at_one_moment_all_count(served: ApiServer) -> None:
    uuid = failed(served)
    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(lambda _: int(retry(served, job=uuid, increment=1).body), range(16)))

    assert sorted(totals) == list(range(2, 18))


def test_the_job_may_be_named_in_the_query(served: ApiServer) -> None:
    uuid = failed(served)
    assert served.ask("PUT", f"/retry?job={uuid}", {"increment": 1}).status == 201


@pytest.mark.parametrize("key", ["failed_only", "failed-only", "failedOnly"])
def test_failed_only_leaves_the_others(served: ApiServer, key: str) -> None:
    flag: dict[str, Any] = {key: True}
    waiting, broken = served.submit(cpus=1000), failed(served)
    assert retry(served, jobs=[waiting, broken], increment=1, **flag).status == 201
    assert served.job(waiting)["max_retries"] == 1
    assert served.job(broken)["max_retries"] == 2


def test_a_retry_of_no_jobs_returns_zero(served: ApiServer) -> None:
    reply = retry(served, jobs=[served.submit(cpus=1000)], retries=5, failed_only=True)
    assert (reply.status, reply.body) == (200, b"0")


def test_of_a_group_the_failed_ones_are_retried(served: ApiServer) -> None:
    group = str(uuid4())
    jobs = [a_request(group=group), a_request(group=group)]
    assert served.ask("POST", "/jobs", {"jobs": jobs}).status == 201
    served.finish(jobs[0]["uuid"])
    served.finish(jobs[1]["uuid"], exit_code=1)
    assert retry(served, groups=[group], increment=1).status == 201
    assert [served.job(job["uuid"])["max_retries"] for job in jobs] == [1, 2]


@pytest.mark.parametrize(
    "body",
    [
        {"retries": 2},
        {"jobs": [str(uuid4())]},
        {"jobs": [str(uuid4())], "retries": 2, "increment": 1},
        {"job": str(uuid4()), "jobs": [str(uuid4())], "retries": 2},
        {"job": "nonsense", "retries": 2},
        {"job": str(uuid4()), "retries": 0},
        {"job": str(uuid4()), "retries": "2"},
        {"job": str(uuid4()), "retries": 2, "other": 1},
    ],
)
def test_invalid_values_are_refused(served: ApiServer, body: dict[str, Any]) -> None:
    assert retry(served, **body).status == 400


def test_post_supports_no_groups(served: ApiServer) -> None:
    assert retry(served, "POST", groups=[str(uuid4())], retries=2).status == 400


def test_no_more_than_the_limit(served: ApiServer) -> None:
    uuid = served.submit(max_retries=20)
    assert retry(served, job=uuid, retries=21).status == 400
    assert retry(served, job=uuid, increment=1).status == 400


def test_not_fewer_than_were_used(served: ApiServer) -> None:
    uuid = served.submit(max_retries=2)
    served.finish(uuid, exit_code=1)
    wait_until(lambda: len(served.job(uuid)["instances"]) == 2)
    served.finish(uuid, exit_code=1)
    reply = retry(served, job=uuid, retries=1)
    assert (reply.status, reply.json) == (400, {"error": "Retries would be less than attempts-consumed"})


def test_a_total_that_changes_nothing_is_a_conflict_that_names_just_those(served: ApiServer) -> None:
    same, broken = served.submit(cpus=1000, max_retries=4), failed(served)
    reply = retry(served, jobs=[same, broken], retries=4)
    assert reply.status == 409
    assert same in reply.json["error"]
    assert broken not in reply.json["error"]
    assert served.job(broken)["max_retries"] == 1
    assert retry(served, job=broken, retries=1).status == 409


def test_unknown_and_foreign_ones(served: ApiServer) -> None:
    assert retry(served, job=str(uuid4()), retries=2).status == 404
    assert retry(served, groups=[str(uuid4())], retries=2).status == 404
    assert retry(served, by="bob", job=served.submit(user="ada"), retries=2).status == 403
