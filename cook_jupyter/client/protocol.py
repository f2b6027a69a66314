"""What to ask a scheduler, as exchanges without I/O.

Lives here: an exchange per verb of Cook's REST API and of ours under `/v1`, paging included.
Not here: submitting (`client.submission`), the parts of exchanges (`client.exchange`), the verbs as methods
(`client.sync`, `client.aio`), the stream of events (`client.events`).

A function that takes a caller asks about the caller's own jobs unless it is given another user.

Source: Cook's REST API as described in its specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from cook_jupyter.client.answers import (
    CancelAnswer,
    CookInfo,
    FailureReason,
    GroupAnswer,
    InstanceAnswer,
    JobAnswer,
    MonitorAnswer,
    PoolAnswer,
    QueueEntry,
    QuotaAnswer,
    RebalancerAnswer,
    SchedulerInfo,
    ShareAnswer,
    SummaryAnswer,
    UnscheduledAnswer,
    UsageAnswer,
    WaitsAnswer,
    WhyAnswer,
)
from cook_jupyter.client.caller import Caller
from cook_jupyter.client.exchange import (
    Exchange,
    Reply,
    Request,
    ask,
    ask_each,
    checked,
    decode,
    get,
    get_by_uuid,
    get_json,
    given,
    read_bytes,
    read_nothing,
    reader,
    split,
    target,
    with_body,
)
from cook_jupyter.client.submission import JOBS_PER_SUBMISSION
from cook_jupyter.errors import InvalidRequest, NotFound

T = TypeVar("T")

ALL_STATES = ("waiting", "running", "completed")

_FAR_AHEAD_MS = 2**53
_MINUTE_MS = 60_000
_DAY_MS = 24 * 60 * _MINUTE_MS
_MIN_PAGE_JOBS, _MAX_PAGE_JOBS = 40, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """A piece of what an instance wrote.

    Attributes:
        offset: where in the stream `data` begins, in bytes.
        size: bytes in the stream when it was read.
        ended: the instance is over, so that nothing will follow after `size`.
    """

    data: bytes
    offset: int
    size: int
    ended: bool

    @property
    def next_offset(self) -> int:
        """Where to go on reading."""
        return self.offset + len(self.data)


# --- the caller ---


def info_v1(caller: Caller) -> Exchange[SchedulerInfo]:
    """GET /v1/info; the caller learns whom the scheduler knows it as."""
    info = yield from get_json("/v1/info", SchedulerInfo)
    caller.user = caller.user or info.user
    return info


def owner(caller: Caller, user: str | None = None) -> Exchange[str]:
    """Return the user, or the caller's own name, asked for if it is not known."""
    if user:
        return user
    if caller.user is None:
        yield from info_v1(caller)
    return caller.user or ""


def _of_owner(caller: Caller, user: str | None, question: Callable[[str], Exchange[T]]) -> Exchange[T]:
    """Ask something of a user's, None for the caller's own."""
    name = yield from owner(caller, user)
    return (yield from question(name))


# --- jobs ---


def jobs(uuids: Sequence[str], *, partial: bool = False) -> Exchange[list[JobAnswer]]:
    """GET /jobs by uuid, in the order asked. With `partial`, unknown ones are left out."""
    return get_by_uuid("/jobs", "uuid", uuids, JobAnswer, partial=partial)


def job(uuid: str) -> Exchange[JobAnswer]:
    """GET /jobs/:uuid."""
    return get_json(f"/jobs/{checked(uuid)}", JobAnswer)


def instances(uuids: Sequence[str], *, partial: bool = False) -> Exchange[list[InstanceAnswer]]:
    """GET /instances by uuid, each with its `job`."""
    return get_by_uuid("/instances", "uuid", uuids, InstanceAnswer, partial=partial)


def list_jobs(  # noqa: PLR0913 - the filters of a listing
    caller: Caller,
    *,
    now_ms: int,
    user: str | None = None,
    states: Sequence[str] = ALL_STATES,
    start_ms: int | None = None,
    end_ms: int | None = None,
    limit: int = 150,
    name: str | None = None,
    pool: str | None = None,
) -> Exchange[list[JobAnswer]]:
    """GET /jobs of a user, submitted from `start_ms` up to before `end_ms`, newest first.

    When there are more than `limit`, Cook gives the *oldest* ones of the range.
    """
    # The scheduler's clock need not be this one: what was submitted last must not seem to lie ahead.
    end = _FAR_AHEAD_MS if end_ms is None else end_ms
    start = min(end, now_ms) - _DAY_MS if start_ms is None else start_ms
    states_query = [("state", state) for state in states]
    range_query = [("start", str(start)), ("end", str(end)), ("limit", str(limit))]
    query = [*states_query, *range_query, *given(name=name, pool=pool)]
    return _of_owner(
        caller, user, lambda of: ask(get("/jobs", [("user", of), *query]), reader(list[JobAnswer]))
    )


def recent_jobs(
    caller: Caller,
    count: int,
    *,
    now_ms: int,
    user: str | None = None,
    states: Sequence[str] = ALL_STATES,
    name: str | None = None,
    since_ms: int | None = None,
) -> Exchange[list[JobAnswer]]:
    """GET /jobs of a user as often as the last `count` need it, newest first.

    Cook's listing gives the oldest jobs of a range; so ever longer ranges before now are asked for, until one
    holds enough.
    """
    end = max(now_ms, (yield from _scheduler_now_ms(caller))) + _MINUTE_MS
    oldest = end - 7 * _DAY_MS if since_ms is None else since_ms
    newest: list[JobAnswer] = []
    span, upto = 5 * _MINUTE_MS, end
    page_size = min(_MAX_PAGE_JOBS, max(_MIN_PAGE_JOBS, 2 * count))  # a job's JSON may be large
    while len(newest) < count and upto > oldest:
        start = max(oldest, upto - span)
        page = yield from list_jobs(
            caller,
            now_ms=now_ms,
            user=user,
            states=states,
            start_ms=start,
            end_ms=upto,
            limit=page_size,
            name=name,
        )
        if len(page) >= page_size and upto - start > 1:  # its newest are missing: look closer
            span = max(1, (upto - start) // 8)
            continue
        newest += page
        upto, span = start, span * 8
    return newest[:count]


def _scheduler_now_ms(caller: Caller) -> Exchange[int]:
    """Ask for the time by the scheduler's clock, which need not be this one; 0 if it does not tell."""
    try:
        info = yield from info_v1(caller)
    except NotFound:  # an original Cook
        return 0
    return info.time_ms


def kill(uuids: Sequence[str]) -> Exchange[None]:
    """DELETE /rawscheduler: the jobs are completed at once."""
    return _kill("/rawscheduler", "job", uuids)


def kill_instances(uuids: Sequence[str]) -> Exchange[None]:
    """DELETE /rawscheduler: the instances end; their jobs may try again."""
    return _kill("/rawscheduler", "instance", uuids)


def kill_groups(uuids: Sequence[str]) -> Exchange[None]:
    """DELETE /group: all unfinished jobs of the groups."""
    return _kill("/group", "uuid", uuids)


def _kill(path: str, key: str, uuids: Sequence[str]) -> Exchange[None]:
    requests = [
        Request(method="DELETE", target=target(path, [(key, uuid) for uuid in part])) for part in split(uuids)
    ]

    def kill_all() -> Exchange[None]:
        for request in requests:
            yield from ask(request, read_nothing)

    return kill_all()


def cancel_waiting(uuids: Sequence[str]) -> Exchange[list[str]]:
    """POST /v1/cancel: complete those of the jobs that wait; returns which they are."""
    requests = [with_body("POST", "/v1/cancel", {"jobs": part}) for part in split(uuids, JOBS_PER_SUBMISSION)]
    return ask_each(requests, lambda reply: decode(reply, CancelAnswer).cancelled)


def retry(
    uuids: Sequence[str],
    *,
    retries: int | None = None,
    increment: int | None = None,
    failed_only: bool = False,
) -> Exchange[int]:
    """PUT /retry: give jobs more attempts. One of `retries` (a new total) and `increment` is due.

    Returns:
        An exchange that gives Cook's answer: the total of the first job touched, 0 if none was.
    """
    if (retries is None) == (increment is None):
        raise InvalidRequest("say either retries (the new total) or increment, not both")
    body: dict[str, object] = {"jobs": [checked(uuid) for uuid in uuids], "failed_only": failed_only}
    body.update({"retries": retries} if retries is not None else {"increment": increment})
    return ask(with_body("PUT", "/retry", body, idempotent=increment is None), reader(int))


def groups(
    uuids: Sequence[str], *, detailed: bool = False, partial: bool = False
) -> Exchange[list[GroupAnswer]]:
    """GET /group by uuid; `detailed` adds how many jobs wait, run and are completed."""
    extra = (("detailed", "true"),) if detailed else ()
    return get_by_uuid("/group", "uuid", uuids, GroupAnswer, partial=partial, extra=extra)


# --- limits ---


def usage(
    caller: Caller, user: str | None = None, *, pool: str | None = None, group_breakdown: bool = False
) -> Exchange[UsageAnswer]:
    """GET /usage of a user."""
    breakdown = "true" if group_breakdown else None
    return _of_owner(
        caller,
        user,
        lambda of: get_json("/usage", UsageAnswer, user=of, pool=pool, group_breakdown=breakdown),
    )


def share(caller: Caller, user: str | None = None, *, pool: str | None = None) -> Exchange[ShareAnswer]:
    """GET /share of a user."""
    return _of_owner(caller, user, lambda of: get_json("/share", ShareAnswer, user=of, pool=pool))


def quota(caller: Caller, user: str | None = None, *, pool: str | None = None) -> Exchange[QuotaAnswer]:
    """GET /quota of a user."""
    return _of_owner(caller, user, lambda of: get_json("/quota", QuotaAnswer, user=of, pool=pool))


def set_share(
    user: str, values: Mapping[str, float], *, reason: str, pool: str | None = None
) -> Exchange[ShareAnswer]:
    """POST /share: values that are not named stay as they are."""
    return ask(_set_limit("share", user, values, reason, pool), reader(ShareAnswer))


def set_quota(
    user: str, values: Mapping[str, float], *, reason: str, pool: str | None = None
) -> Exchange[QuotaAnswer]:
    """POST /quota: values that are not named stay as they are."""
    return ask(_set_limit("quota", user, values, reason, pool), reader(QuotaAnswer))


def _set_limit(kind: str, user: str, values: Mapping[str, float], reason: str, pool: str | None) -> Request:
    body: dict[str, object] = {"user": user, "reason": reason, kind: dict(values)}
    if pool is not None:
        body["pool"] = pool
    return with_body("POST", f"/{kind}", body)


def reset_limit(kind: str, user: str, *, reason: str, pool: str | None = None) -> Exchange[None]:
    """DELETE /share or /quota (`kind`): the user has the default's again."""
    query = given(user=user, reason=reason, pool=pool)
    return ask(Request(method="DELETE", target=target(f"/{kind}", query)), read_nothing)


# --- pools, the scheduler itself ---


def pools() -> Exchange[list[PoolAnswer]]:
    """GET /pools."""
    return get_json("/pools", list[PoolAnswer])


def queue(*, limit: int | None = None) -> Exchange[dict[str, list[QueueEntry]]]:
    """GET /queue."""
    return get_json("/queue", dict[str, list[QueueEntry]], limit=_text(limit))


def running(*, limit: int | None = None) -> Exchange[list[InstanceAnswer]]:
    """GET /running."""
    return get_json("/running", list[InstanceAnswer], limit=_text(limit))


def unscheduled(uuids: Sequence[str], *, partial: bool = False) -> Exchange[list[UnscheduledAnswer]]:
    """GET /unscheduled_jobs: Cook's reasons why each job waits."""
    return get_by_uuid("/unscheduled_jobs", "job", uuids, UnscheduledAnswer, partial=partial)


def info() -> Exchange[CookInfo]:
    """GET /info."""
    return get_json("/info", CookInfo)


def settings() -> Exchange[dict[str, object]]:
    """GET /settings."""
    return get_json("/settings", dict[str, object])


def failure_reasons() -> Exchange[list[FailureReason]]:
    """GET /failure_reasons."""
    return get_json("/failure_reasons", list[FailureReason])


# --- cook_jupyter's own, under /v1 ---


def summary() -> Exchange[SummaryAnswer]:
    """GET /v1/summary."""
    return get_json("/v1/summary", SummaryAnswer)


def monitor() -> Exchange[MonitorAnswer]:
    """GET /v1/monitor."""
    return get_json("/v1/monitor", MonitorAnswer)


def rebalancer() -> Exchange[RebalancerAnswer]:
    """GET /v1/rebalancer."""
    return get_json("/v1/rebalancer", RebalancerAnswer)


def dump(pool: str | None = None, uuids: Sequence[str] = ()) -> Exchange[bytes]:
    """GET /v1/debug/dump: all that the decisions about a pool read, and jobs that are asked about."""
    query = [*given(pool=pool), *(("job", checked(uuid)) for uuid in uuids)]
    return ask(get("/v1/debug/dump", query), read_bytes)


def set_rebalancer(parameters: Mapping[str, float | None]) -> Exchange[RebalancerAnswer]:
    """PUT /v1/rebalancer: parameters that are not named stay as they are."""
    return ask(with_body("PUT", "/v1/rebalancer", dict(parameters)), reader(RebalancerAnswer))


def why(uuid: str) -> Exchange[WhyAnswer]:
    """GET /v1/why: why a job waits, in sentences."""
    return get_json(f"/v1/why/{checked(uuid)}", WhyAnswer)


def report_waits(instance: str, uuids: Sequence[str]) -> Exchange[WaitsAnswer]:
    """POST /v1/waits: what a running instance waits for; no jobs if it goes on."""
    body = {"instance": checked(instance), "jobs": list(map(checked, uuids))}
    return ask(with_body("POST", "/v1/waits", body), reader(WaitsAnswer))


def result(uuid: str) -> Exchange[bytes]:
    """GET /v1/results: the signed bytes that the job gave back."""
    return ask(get(f"/v1/results/{checked(uuid)}"), read_bytes)


def logs(
    uuid: str, *, stream: str = "stdout", offset: int = 0, length: int = 1024 * 1024, wait_s: float = 0.0
) -> Exchange[LogPiece]:
    """GET /v1/logs of an instance, or of a job's latest instance.

    Args:
        uuid: of an instance or a job.
        stream: "stdout" or "stderr".
        offset: in bytes.
        length: at most so many bytes.
        wait_s: hold the answer back until there is something past `offset`, at most 20 s.
    """
    query = [("stream", stream), ("offset", str(offset)), ("length", str(length))]
    if wait_s > 0:
        query.append(("wait", f"{wait_s:g}"))

    def read(reply: Reply) -> LogPiece:
        start = int(reply.headers.get("x-cook-offset", offset))
        return LogPiece(
            data=reply.body,
            offset=start,
            size=int(reply.headers.get("x-cook-size", start + len(reply.body))),
            ended=reply.headers.get("x-cook-ended") == "true",
        )

    path = target(f"/v1/logs/{checked(uuid)}", query)
    return ask(Request(method="GET", target=path, patience_s=wait_s), read)


def put_blob(name: str, data: bytes | memoryview) -> Exchange[None]:
    """PUT /v1/blobs/NAME."""
    path, content_type = f"/v1/blobs/{quote(name)}", "application/octet-stream"
    return ask(Request(method="PUT", target=path, body=data, content_type=content_type), read_nothing)


def get_blob(name: str) -> Exchange[bytes]:
    """GET /v1/blobs/NAME."""
    return ask(get(f"/v1/blobs/{quote(name)}"), read_bytes)


def blob_size(name: str) -> Exchange[int | None]:
    """HEAD /v1/blobs/NAME: its size in bytes; None if it is not there."""
    request = Request(method="HEAD", target=f"/v1/blobs/{quote(name)}")
    return ask(
        request,
        lambda reply: int(reply.headers["content-length"]) if reply.status < 400 else None,
        tolerated=(404,),
    )


def shutdown(*, stop_agent: bool = False) -> Exchange[None]:
    """POST /v1/shutdown: end the embedded scheduler; with `stop_agent` also what it runs."""
    return ask(with_body("POST", "/v1/shutdown", {"stop_agent": stop_agent}), read_nothing)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
