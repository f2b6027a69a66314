"""Requests as they are written and replies as they are read; no socket."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.client import protocol
from cook_jupyter.client.answers import PoolAnswer
from cook_jupyter.client.protocol import BODY_LIMIT_BYTES, Reply, Request
from cook_jupyter.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SchedulerError,
    StoreFull,
    TooLarge,
    Unsatisfiable,
)


def a_submission(**fields: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "command": "true", "cpus": 1, "mem": 64, "max_retries": 1, **fields}


def a_job_answer(**fields: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "status": "waiting", "state": "waiting", **fields}


def a_reply(body: object, status: int = 200, **headers: str) -> Reply:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=text,
    )


def json_of(request: Request) -> Any:
    return json.loads(bytes(request.body))


def query_of(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.target).query)


def test_a_submission_is_one_request_with_jobs_groups_and_pool() -> None:
    job, group = a_submission(), {"uuid": str(uuid4()), "name": "sweep"}

    (request,) = protocol.submit([job], [group], pool="gpu").requests

    assert (request.method, request.target) == ("POST", "/jobs")
    assert json_of(request) == {"jobs": [job], "groups": [group], "pool": "gpu"}


def test_nothing_to_submit_is_no_request() -> None:
    ask = protocol.submit([])

    assert ask.requests == ()
    assert ask.read(()) == []


def test_a_large_submission_is_split_and_later_parts_may_extend_its_groups() -> None:
    jobs = [a_submission(env={"X": "x" * 3_000_000}) for _ in range(5)]

    first, *others = protocol.submit(jobs, [{"uuid": str(uuid4())}]).requests

    assert len(first.body) <= BODY_LIMIT_BYTES
    assert "override-group-immutability" not in json_of(first)
    assert others
    for request in others:
        assert len(request.body) <= BODY_LIMIT_BYTES
        assert json_of(request)["override-group-immutability"] is True
        assert "groups" not in json_of(request)


@given(sizes=st.lists(st.integers(min_value=0, max_value=4_000_000), max_size=8))
def test_splitting_keeps_every_job_and_their_order(sizes: list[int]) -> None:
    jobs = [a_submission(command="x" * size) for size in sizes]

    ask = protocol.submit(jobs)

    assert [job["uuid"] for request in ask.requests for job in json_of(request)["jobs"]] == ask.read(())
    assert ask.read(()) == [job["uuid"] for job in jobs]
    assert all(len(request.body) <= BODY_LIMIT_BYTES for request in ask.requests)


def test_a_job_too_large_for_any_request_is_refused_by_name() -> None:
    job = a_submission(command="x" * BODY_LIMIT_BYTES)

    with pytest.raises(TooLarge, match=job["uuid"]):
        protocol.submit([job])


def test_numbers_of_numpy_are_numbers_in_every_request() -> None:
    two: Any = np.float32(2)
    three: Any = np.int64(3)
    job = {"uuid": str(uuid4()), "cpus": np.float64(0.5), "mem": np.int64(64), "priority": np.int8(5)}
    for ask, sent in (
        (protocol.submit([job]), b'"mem":64'),
        (protocol.set_share("ada", {"cpus": two}, reason="r"), b'"cpus":2.0'),
        (protocol.retry([str(uuid4())], retries=three), b'"retries":3'),
    ):
        assert sent in bytes(ask.requests[0].body)


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        protocol.submit([a_submission(env={"X": object()})])


def test_many_uuids_are_asked_for_a_hundred_at_a_time_in_order() -> None:
    uuids = [str(uuid4()) for _ in range(250)]

    ask = protocol.jobs(uuids)

    assert [len(query_of(request)["uuid"]) for request in ask.requests] == [100, 100, 50]
    assert [uuid for request in ask.requests for uuid in query_of(request)["uuid"]] == uuids
    assert all(len(request.target) < 32 * 1024 for request in ask.requests)


def test_the_parts_of_a_long_answer_are_joined() -> None:
    ask = protocol.jobs([str(uuid4()) for _ in range(150)])

    found = ask.read([a_reply([a_job_answer(name="a")]), a_reply([a_job_answer(name="b")])])

    assert [job.name for job in found] == ["a", "b"]


def test_a_partial_question_takes_unknown_for_nothing() -> None:
    ask = protocol.jobs([str(uuid4())], partial=True)

    assert 404 in ask.tolerated
    assert ask.read([a_reply({"error": "unknown"}, 404)]) == []


def test_a_typing_error_in_a_uuid_is_found_before_anybody_is_asked() -> None:
    for ask in (protocol.job, protocol.result, protocol.why, protocol.logs):
        with pytest.raises(InvalidRequest, match="not a uuid: 'abc'"):
            ask("abc")
    with pytest.raises(InvalidRequest, match="not a uuid"):
        protocol.kill(["abc"])


def test_uuids_of_any_letter_case_travel_in_lower_case() -> None:
    uuid = uuid4()

    (request,) = protocol.kill([str(uuid).upper()]).requests

    assert query_of(request)["job"] == [str(uuid)]


def test_a_retry_says_a_total_or_an_increment_and_only_the_total_may_be_sent_twice() -> None:
    uuid = str(uuid4())

    (total,) = protocol.retry([uuid], retries=3).requests
    (more,) = protocol.retry([uuid], increment=1).requests

    assert total.idempotent
    assert not more.idempotent
    with pytest.raises(InvalidRequest):
        protocol.retry([uuid])
    with pytest.raises(InvalidRequest):
        protocol.retry([uuid], retries=1, increment=1)


def test_a_question_for_logs_may_wait_and_the_client_waits_longer() -> None:
    uuid = str(uuid4())

    ask = protocol.logs(uuid, stream="stderr", offset=7, wait_s=15)
    piece = ask.read([a_reply(b"abc", x_cook_offset="7", x_cook_size="12", x_cook_ended="true")])

    assert query_of(ask.requests[0])["wait"] == ["15"]
    assert ask.requests[0].patience_s == 15
    assert (piece.data, piece.next_offset, piece.size, piece.ended) == (b"abc", 10, 12, True)


def test_an_error_is_of_the_class_that_the_scheduler_raised() -> None:
    error = protocol.error_of(a_reply({"error": "no host has 900 cpus"}, 400, x_cook_error="Unsatisfiable"))

    assert type(error) is Unsatisfiable
    assert str(error) == "no host has 900 cpus"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, TooLarge),
        (500, SchedulerError),
        (507, StoreFull),
    ],
)
def test_without_a_class_the_status_decides(status: int, kind: type[Exception]) -> None:
    assert type(protocol.error_of(a_reply({"error": "so"}, status))) is kind


def test_a_wrong_shape_names_the_place() -> None:
    error = protocol.error_of(a_reply({"errors": {"jobs": [None, {"cpus": "missing-required-key"}]}}, 400))

    assert isinstance(error, InvalidRequest)
    assert "jobs[1].cpus: missing-required-key" in str(error)
    assert error.tree == {"jobs": [None, {"cpus": "missing-required-key"}]}


def test_a_not_found_tells_what_was_missing() -> None:
    uuid = str(uuid4())
    error = protocol.error_of(a_reply({"error": f"The following jobs are unknown: {uuid}"}, 404))

    assert isinstance(error, NotFound)
    assert error.missing == (uuid,)


def test_an_answer_that_is_not_json_is_the_schedulers_fault() -> None:
    ask = protocol.get_json("/pools", list[PoolAnswer])

    with pytest.raises(SchedulerError, match="JSON was expected"):
        ask.read([a_reply(b"<html>")])


@pytest.mark.parametrize(("body", "place"), [([{}], "name"), ([{"name": 3}], "name"), ({"a": 1}, "array")])
def test_an_answer_of_another_form_names_the_place(body: object, place: str) -> None:
    ask = protocol.get_json("/pools", list[PoolAnswer])

    with pytest.raises(SchedulerError, match=f"another form than expected.*{place}"):
        ask.read([a_reply(body)])
