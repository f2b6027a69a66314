"""Requests as they are written and replies as they are read; no socket."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.client import protocol
from cook_jupyter.client.answers import PoolAnswer
from cook_jupyter.client.exchange import Exchange, Reply, Request, get_json, reply_error
from cook_jupyter.client.submission import BODY_LIMIT_BYTES, submit
from cook_jupyter.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    SchedulerError,
    StoreFull,
    TooLarge,
    Unsatisfiable,
)

T = TypeVar("T")


def a_submission(**fields: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "command": "true", "cpus": 1, "mem": 64, "max_retries": 1, **fields}


def a_job_answer(**fields: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "status": "waiting", "state": "waiting", **fields}


def a_reply(body: object, status: int = 200, *, sent_twice: bool = False, **headers: str) -> Reply:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=text,
        sent_twice=sent_twice,
    )


def carry_out(exchange: Exchange[T], replies: Iterable[Reply]) -> tuple[list[Request], T]:
    """Give an exchange its replies; return what it asked, and its answer."""
    requests = []
    remaining: Iterator[Reply] = iter(replies)
    try:
        request = next(exchange)
        while True:
            requests.append(request)
            request = exchange.send(next(remaining))
    except StopIteration as end:
        return requests, end.value


def request_of(exchange: Exchange[Any]) -> Request:
    """Return the first request of an exchange."""
    return next(exchange)


ACCEPTED = Reply(status=201, headers={}, body=b"submitted jobs")


def json_of(request: Request) -> Any:
    return json.loads(bytes(request.body))


def query_of(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.target).query)


def test_a_submission_is_one_request_with_jobs_groups_and_pool() -> None:
    job, group = a_submission(), {"uuid": str(uuid4()), "name": "sweep"}

    (request,), uuids = carry_out(submit([job], [group], pool="gpu"), [ACCEPTED])

    assert uuids == [job["uuid"]]
    assert (request.method, request.target) == ("POST", "/jobs")
    assert json_of(request) == {"jobs": [job], "groups": [group], "pool": "gpu"}


def test_nothing_to_submit_is_no_request() -> None:
    assert carry_out(submit([]), []) == ([], [])


def test_a_job_without_a_uuid_is_given_one_and_keeps_its_own() -> None:
    named = a_submission()
    nameless = {key: value for key, value in named.items() if key != "uuid"}

    (request,), uuids = carry_out(submit([named, nameless]), [ACCEPTED])

    assert [job["uuid"] for job in json_of(request)["jobs"]] == uuids
    assert uuids[0] == named["uuid"]
    assert "uuid" not in nameless


def test_a_large_submission_is_split_and_later_parts_may_extend_its_groups() -> None:
    jobs = [a_submission(env={"X": "x" * 3_000_000}) for _ in range(5)]

    (first, *others), _ = carry_out(submit(jobs, [{"uuid": str(uuid4())}]), [ACCEPTED] * 5)

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

    requests, uuids = carry_out(submit(jobs), [ACCEPTED] * 8)

    assert [job["uuid"] for request in requests for job in json_of(request)["jobs"]] == uuids
    assert uuids == [job["uuid"] for job in jobs]
    assert all(len(request.body) <= BODY_LIMIT_BYTES for request in requests)


def test_a_job_too_large_for_any_request_is_refused_by_name() -> None:
    job = a_submission(command="x" * BODY_LIMIT_BYTES)

    with pytest.raises(TooLarge, match=job["uuid"]):
        submit([job])


CONFLICT = a_reply({"error": "in use"}, 409)


@pytest.mark.parametrize("sent_twice", [True, False], ids=["resent below", "resent by the caller"])
def test_a_conflict_of_jobs_that_had_arrived_is_none(sent_twice: bool) -> None:
    jobs = [a_submission(), a_submission()]
    uuids = [job["uuid"] for job in jobs]
    accepted: list[str] = []
    exchange = submit(jobs, may_have_arrived=not sent_twice, on_accepted=accepted.extend)

    conflict = a_reply({"error": "in use"}, 409, sent_twice=sent_twice)
    known = a_reply([a_job_answer(uuid=uuid) for uuid in uuids])
    requests, answer = carry_out(exchange, [conflict, known])

    assert [request.method for request in requests] == ["POST", "GET"]
    assert answer == accepted == uuids


def test_of_jobs_that_had_arrived_in_part_the_rest_is_sent_and_joins_the_groups() -> None:
    jobs = [a_submission(), a_submission()]
    accepted: list[str] = []
    exchange = submit(jobs, [{"uuid": str(uuid4())}], may_have_arrived=True, on_accepted=accepted.extend)

    known = a_reply([a_job_answer(uuid=jobs[0]["uuid"])])
    requests, _ = carry_out(exchange, [CONFLICT, known, ACCEPTED])

    assert json_of(requests[2]) == {"jobs": [jobs[1]], "override-group-immutability": True}
    assert accepted == [job["uuid"] for job in jobs]


def test_a_refusal_of_the_rest_leaves_accepted_what_had_arrived() -> None:
    jobs = [a_submission(), a_submission()]
    accepted: list[str] = []
    exchange = submit(jobs, may_have_arrived=True, on_accepted=accepted.extend)

    known = a_reply([a_job_answer(uuid=jobs[0]["uuid"])])
    with pytest.raises(QuotaExceeded):
        carry_out(exchange, [CONFLICT, known, a_reply({"error": "quota"}, 422)])

    assert accepted == [jobs[0]["uuid"]]


@pytest.mark.parametrize(
    ("replies", "may_have_arrived"),
    [
        ([CONFLICT], False),
        ([CONFLICT, a_reply({"error": "unknown"}, 404)], True),
        ([a_reply({"error": "slow down"}, 429)], True),
    ],
    ids=["never sent before", "the scheduler has none of them", "not a conflict of uuids"],
)
def test_any_other_conflict_is_raised(replies: list[Reply], may_have_arrived: bool) -> None:
    with pytest.raises(Conflict):
        carry_out(submit([a_submission()], may_have_arrived=may_have_arrived), replies)


def test_a_part_of_which_only_some_are_known_was_in_use_before_it_was_sent_twice() -> None:
    jobs = [a_submission(), a_submission()]
    conflict = a_reply({"error": "in use"}, 409, sent_twice=True)

    with pytest.raises(Conflict):
        carry_out(submit(jobs), [conflict, a_reply([a_job_answer(uuid=jobs[0]["uuid"])])])


def test_numbers_of_numpy_are_numbers_in_every_request() -> None:
    two: Any = np.float32(2)
    three: Any = np.int64(3)
    job = {"uuid": str(uuid4()), "cpus": np.float64(0.5), "mem": np.int64(64), "priority": np.int8(5)}
    for exchange, sent in (
        (submit([job]), b'"mem":64'),
        (protocol.set_share("ada", {"cpus": two}, reason="r"), b'"cpus":2.0'),
        (protocol.retry([str(uuid4())], retries=three), b'"retries":3'),
    ):
        assert sent in bytes(request_of(exchange).body)


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        submit([a_submission(env={"X": object()})])


def test_many_uuids_are_asked_for_a_hundred_at_a_time_in_order() -> None:
    uuids = [str(uuid4()) for _ in range(250)]

    requests, _ = carry_out(protocol.jobs(uuids), [a_reply([])] * 3)

    assert [len(query_of(request)["uuid"]) for request in requests] == [100, 100, 50]
    assert [uuid for request in requests for uuid in query_of(request)["uuid"]] == uuids
    assert all(len(request.target) < 32 * 1024 for request in requests)


def test_the_parts_of_a_long_answer_are_joined() -> None:
    exchange = protocol.jobs([str(uuid4()) for _ in range(150)])

    _, found = carry_out(exchange, [a_reply([a_job_answer(name=name)]) for name in "ab"])

    assert [job.name for job in found] == ["a", "b"]


def test_a_partial_question_takes_unknown_for_nothing() -> None:
    exchange = protocol.jobs([str(uuid4())], partial=True)

    assert carry_out(exchange, [a_reply({"error": "unknown"}, 404)])[1] == []


def test_a_typing_error_in_a_uuid_is_found_before_anybody_is_asked() -> None:
    for question in (protocol.job, protocol.result, protocol.why, protocol.logs):
        with pytest.raises(InvalidRequest, match="not a uuid: 'abc'"):
            question("abc")
    with pytest.raises(InvalidRequest, match="not a uuid"):
        protocol.kill(["abc"])


def test_uuids_of_any_letter_case_travel_in_lower_case() -> None:
    uuid = uuid4()

    assert query_of(request_of(protocol.kill([str(uuid).upper()])))["job"] == [str(uuid)]


def test_a_retry_says_a_total_or_an_increment_and_only_the_total_may_be_sent_twice() -> None:
    uuid = str(uuid4())

    assert request_of(protocol.retry([uuid], retries=3)).idempotent
    assert not request_of(protocol.retry([uuid], increment=1)).idempotent
    with pytest.raises(InvalidRequest):
        protocol.retry([uuid])
    with pytest.raises(InvalidRequest):
        protocol.retry([uuid], retries=1, increment=1)


def test_a_question_for_logs_may_wait_and_the_client_waits_longer() -> None:
    uuid = str(uuid4())

    exchange = protocol.logs(uuid, stream="stderr", offset=7, wait_s=15)
    reply = a_reply(b"abc", x_cook_offset="7", x_cook_size="12", x_cook_ended="true")
    (request,), piece = carry_out(exchange, [reply])

    assert query_of(request)["wait"] == ["15"]
    assert request.wait_s == 15
    assert (piece.data, piece.next_offset, piece.size, piece.ended) == (b"abc", 10, 12, True)


def test_an_error_is_of_the_class_that_the_scheduler_raised() -> None:
    error = reply_error(a_reply({"error": "no host has 900 cpus"}, 400, x_cook_error="Unsatisfiable"))

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
    assert type(reply_error(a_reply({"error": "so"}, status))) is kind


def test_a_wrong_shape_names_the_place() -> None:
    error = reply_error(a_reply({"errors": {"jobs": [None, {"cpus": "missing-required-key"}]}}, 400))

    assert isinstance(error, InvalidRequest)
    assert "jobs[1].cpus: missing-required-key" in str(error)
    assert error.tree == {"jobs": [None, {"cpus": "missing-required-key"}]}


def test_a_not_found_tells_what_was_missing() -> None:
    uuid = str(uuid4())
    error = reply_error(a_reply({"error": f"The following jobs are unknown: {uuid}"}, 404))

    assert isinstance(error, NotFound)
    assert error.missing == (uuid,)


def test_an_answer_that_is_not_json_is_the_schedulers_fault() -> None:
    with pytest.raises(SchedulerError, match="expected JSON"):
        carry_out(protocol.pools(), [a_reply(b"<html>")])


@pytest.mark.parametrize(("body", "place"), [([{}], "name"), ([{"name": 3}], "name"), ({"a": 1}, "array")])
def test_an_answer_of_another_form_names_the_place(body: object, place: str) -> None:
    exchange = get_json("/pools", list[PoolAnswer])

    with pytest.raises(SchedulerError, match=f"unexpected form.*{place}"):
        carry_out(exchange, [a_reply(body)])
