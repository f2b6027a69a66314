"""POST /v1/waits, and what /v1/why says of jobs that wait for jobs of their own."""

from typing import Any
from uuid import uuid4

from cook_jupyter.model.job import PARENT_LABEL
from tests.api.served import ApiServer


def report(served: ApiServer, instance: str, *jobs: str, by: str | None = None) -> Any:
    body = {"instance": instance, "jobs": list(jobs)}
    return (
        served.ask("POST", "/v1/waits", body) if by is None else served.ask("POST", "/v1/waits", body, by=by)
    )


def why(served: ApiServer, job: str) -> str:
    return " ".join(served.ask("GET", f"/v1/why/{job}").json["sentences"])


def test_the_last_parent_to_start_gives_up_when_nothing_can_move(served: ApiServer) -> None:
    parents = [served.submit(cpus=2), served.submit(cpus=2)]
    instances = [served.started(parent) for parent in parents]
    children = [served.submit(cpus=2, labels={PARENT_LABEL: parent}) for parent in parents]

    first = report(served, instances[0], children[0]).json
    assert first == {"deadlocked": False, "parents": 0}
    assert "It waits for 1 job of its own: 1 waiting, 0 running." in why(served, parents[0])
    assert f"It was submitted by the job {parents[0]}" in why(served, children[0])
    assert "Nothing can move" not in why(served, children[0])

    second = report(served, instances[1].upper(), children[1].upper()).json
    assert second == {"deadlocked": True, "parents": 2}


def test_a_parent_that_does_not_run_is_not_reported(served: ApiServer) -> None:
    child = served.submit(cpus=1000, labels={PARENT_LABEL: str(uuid4())})

    assert "submitted by" not in why(served, child)


def test_reports_for_jobs_of_other_users_or_unknown_jobs_are_refused(served: ApiServer) -> None:
    instance = served.started(served.submit(user="ada"))

    assert report(served, instance, by="bob").status == 403
    assert report(served, str(uuid4())).status == 404
    assert report(served, instance, *[str(uuid4()) for _ in range(1001)], by="ada").status == 400
