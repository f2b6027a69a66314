"""The requests to a scheduler, as exchanges without I/O.

Lives here: one exchange for each action of Cook's REST API and of the routes under `/v1`, including paging.
Not here: submitting (`client.submission`), the building blocks of exchanges (`client.exchange`), the client
classes (`client.sync`, `client.aio`), the event stream (`client.events`).

A function with a caller requests the caller's own data unless it gets another user.

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
    checked_uuid,
    decode,
    get,
    get_by_uuid,
    get_json,
    query_pairs,
    read_bytes,
    read_nothing,
    reader,
    send_request,
    send_requests,
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
    """A piece of an instance's output.

    Attributes:
        offset: position of `data` in the stream, in bytes.
        size: size of the stream when it was read, in bytes.
        ended: whether the instance has ended, so that nothing will follow.
    """

    data: bytes
    offset: int
    size: int
    ended: bool

    @property
    def next_offset(self) -> int:
        """Offset of the next piece."""
        return self.offset + len(self.data)


# --- the caller ---


def info_v1(caller: Caller) -> Exchange[SchedulerInfo]:
    """GET /v1/info; also records the user name of the caller."""
    info = yield from get_json("/v1/info", SchedulerInfo)
    caller.user = caller.user or info.user
    return info


def owner(caller: Caller, user: str | None = None) -> Exchange[str]:
    """Return the user, or the caller's own name, which is requested if unknown."""
    if user:
        return user
    if caller.user is None:
        yield from info_v1(caller)
    return caller.user or ""


def _of_owner(caller: Caller, user: str | None, make_request: Callable[[str], Exchange[T]]) -> Exchange[T]:
    """Make a request about a user; None for the caller."""
    name = yield from owner(caller, user)
    return (yield from make_request(name))


# --- jobs ---


def jobs(uuids: Sequence[str], *, partial: bool = False) -> Exchange[list[JobAnswer]]:
    """GET /jobs by uuid, in order. With `partial`, unknown ones are omitted."""
    return get_by_uuid("/jobs", "uuid", uuids, JobAnswer, partial=partial)


def job(uuid: str) -> Exchange[JobAnswer]:
    """GET /jobs/:uuid."""
    return get_json(f"/jobs/{checked_uuid(uuid)}", JobAnswer)


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
    """GET /jobs of a user, submitted from `start_ms` to before `end_ms`, newest first.

    If there are more than `limit`, Cook returns the *oldest* ones of the range.
    """
    # The scheduler's clock may differ: the latest submissions must not seem to be in the future.
    end = _FAR_AHEAD_MS if end_ms is None else end_ms
    start = min(end, now_ms) - _DAY_MS if start_ms is None else start_ms
    states_query = [("state", state) for state in states]
    range_query = [("start", str(start)), ("end", str(end)), ("limit", str(limit))]
    query = [*states_query, *range_query, *query_pairs(name=name, pool=pool)]
    return _of_owner(
        caller,
        user,
        lambda owner_name: send_request(
            get("/jobs", [("user", owner_name), *query]), reader(list[JobAnswer])
        ),
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
    """GET /jobs of a user as often as necessary for the last `count` jobs, newest first.

    Because Cook lists the oldest jobs of a range, increasing ranges before now are requested until one has
    enough.
    """
    end = max(now_ms, (yield from _scheduler_now_ms(caller))) + _MINUTE_MS
    oldest = end - 7 * _DAY_MS if since_ms is None else since_ms
    newest: list[JobAnswer] = []
    span, range_end = 5 * _MINUTE_MS, end
    page_size = min(_MAX_PAGE_JOBS, max(_MIN_PAGE_JOBS, 2 * count))  # a job's JSON may be large
    while len(newest) < count and range_end > oldest:
        start = max(oldest, range_end - span)
        page = yield from list_jobs(
            caller,
            now_ms=now_ms,
            user=user,
            states=states,
            start_ms=start,
            end_ms=range_end,
            limit=page_size,
            name=name,
        )
        if len(page) >= page_size and range_end - start > 1:  # the newest are missing: use a shorter range
            span = max(1, (range_end - start) // 8)
            continue
        newest += page
        range_end, span = start, span * 8
    return newest[:count]


def _scheduler_now_ms(caller: Caller) -> Exchange[int]:
    """Return the time of the scheduler's clock; 0 if it does not report it."""
    try:
        info = yield from info_v1(caller)
    except NotFound:  # an original Cook
        return 0
    return info.time_ms


def kill(uuids: Sequence[str]) -> Exchange[None]:
    """DELETE /rawscheduler: complete the jobs immediately."""
    return _kill("/rawscheduler", "job", uuids)


def kill_instances(uuids: Sequence[str]) -> Exchange[None]:
    """DELETE /rawscheduler: end the instances; their jobs may try again."""
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
            yield from send_request(request, read_nothing)

    return kill_all()


def cancel_waiting(uuids: Sequence[str]) -> Exchange[list[str]]:
    """POST /v1/cancel: complete those of the jobs that wait; returns their uuids."""
    requests = [with_body("POST", "/v1/cancel", {"jobs": part}) for part in split(uuids, JOBS_PER_SUBMISSION)]
    return send_requests(requests, lambda reply: decode(reply, CancelAnswer).cancelled)


def retry(
    uuids: Sequence[str],
    *,
    retries: int | None = None,
    increment: int | None = None,
    failed_only: bool = False,
) -> Exchange[int]:
    """PUT /retry: give jobs more attempts, by exactly one of `retries` (a new total) and `increment`.

    Returns:
        An exchange with Cook's answer: the total of the first job that was changed, or 0.
    """
    if (retries is None) == (increment is None):
        raise InvalidRequest("specify either retries (the new total) or increment, not both")
    body: dict[str, object] = {"jobs": [checked_uuid(uuid) for uuid in uuids], "failed_only": failed_only}
    body.update({"retries": retries} if retries is not None else {"increment": increment})
    return send_request(with_body("PUT", "/retry", body, idempotent=increment is None), reader(int))


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
        lambda owner_name: get_json(
            "/usage", UsageAnswer, user=owner_name, pool=pool, group_breakdown=breakdown
        ),
    )


def share(caller: Caller, user: str | None = None, *, pool: str | None = None) -> Exchange[ShareAnswer]:
    """GET /share of a user."""
    return _of_owner(
        caller, user, lambda owner_name: get_json("/share", ShareAnswer, user=owner_name, pool=pool)
    )


def quota(caller: Caller, user: str | None = None, *, pool: str | None = None) -> Exchange[QuotaAnswer]:
    """GET /quota of a user."""
    return _of_owner(
        caller, user, lambda owner_name: get_json("/quota", QuotaAnswer, user=owner_name, pool=pool)
    )


def set_share(
    user: str, values: Mapping[str, float], *, reason: str, pool: str | None = None
) -> Exchange[ShareAnswer]:
    """POST /share: omitted values do not change."""
    return send_request(_set_limit("share", user, values, reason, pool), reader(ShareAnswer))


def set_quota(
    user: str, values: Mapping[str, float], *, reason: str, pool: str | None = None
) -> Exchange[QuotaAnswer]:
    """POST /quota: omitted values do not change."""
    return send_request(_set_limit("quota", user, values, reason, pool), reader(QuotaAnswer))


def _set_limit(kind: str, user: str, values: Mapping[str, float], reason: str, pool: str | None) -> Request:
    body: dict[str, object] = {"user": user, "reason": reason, kind: dict(values)}
    if pool is not None:
        body["pool"] = pool
    return with_body("POST", f"/{kind}", body)


def reset_limit(kind: str, user: str, *, reason: str, pool: str | None = None) -> Exchange[None]:
    """DELETE /share or /quota (`kind`): reset a user's limit to the default."""
    query = query_pairs(user=user, reason=reason, pool=pool)
    return send_request(Request(method="DELETE", target=target(f"/{kind}", query)), read_nothing)


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
    """GET /v1/debug/dump: everything that decisions about a pool read, with jobs to explain."""
    query = [*query_pairs(pool=pool), *(("job", checked_uuid(uuid)) for uuid in uuids)]
    return send_request(get("/v1/debug/dump", query), read_bytes)


def set_rebalancer(parameters: Mapping[str, float | None]) -> Exchange[RebalancerAnswer]:
    """PUT /v1/rebalancer: omitted parameters do not change."""
    return send_request(with_body("PUT", "/v1/rebalancer", dict(parameters)), reader(RebalancerAnswer))


def why(uuid: str) -> Exchange[WhyAnswer]:
    """GET /v1/why: why a job waits, in sentences."""
    return get_json(f"/v1/why/{checked_uuid(uuid)}", WhyAnswer)


def report_waits(instance: str, uuids: Sequence[str]) -> Exchange[WaitsAnswer]:
    """POST /v1/waits: the jobs that a running instance waits for; none if it continues."""
    body = {"instance": checked_uuid(instance), "jobs": list(map(checked_uuid, uuids))}
    return send_request(with_body("POST", "/v1/waits", body), reader(WaitsAnswer))


def result(uuid: str) -> Exchange[bytes]:
    """GET /v1/results: the signed result of a job."""
    return send_request(get(f"/v1/results/{checked_uuid(uuid)}"), read_bytes)


def logs(
    uuid: str, *, stream: str = "stdout", offset: int = 0, length: int = 1024 * 1024, wait_s: float = 0.0
) -> Exchange[LogPiece]:
    """GET /v1/logs of an instance, or of a job's latest instance.

    Args:
        uuid: uuid of an instance or a job.
        stream: "stdout" or "stderr".
        offset: offset in bytes.
        length: maximum size of the piece, in bytes.
        wait_s: how long the scheduler waits for data after `offset`, at most 20 s.
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

    path = target(f"/v1/logs/{checked_uuid(uuid)}", query)
    return send_request(Request(method="GET", target=path, wait_s=wait_s), read)


def put_blob(name: str, data: bytes | memoryview) -> Exchange[None]:
    """PUT /v1/blobs/NAME."""
    path, content_type = f"/v1/blobs/{quote(name)}", "application/octet-stream"
    return send_request(
        Request(method="PUT", target=path, body=data, content_type=content_type), read_nothing
    )


def get_blob(name: str) -> Exchange[bytes]:
    """GET /v1/blobs/NAME."""
    return send_request(get(f"/v1/blobs/{quote(name)}"), read_bytes)


def blob_size(name: str) -> Exchange[int | None]:
    """HEAD /v1/blobs/NAME: size of a blob in bytes; None if it does not exist."""
    request = Request(method="HEAD", target=f"/v1/blobs/{quote(name)}")
    return send_request(
        request,
        lambda reply: int(reply.headers["content-length"]) if reply.status < 400 else None,
        tolerated=(404,),
    )


def shutdown(*, stop_agent: bool = False) -> Exchange[None]:
    """POST /v1/shutdown: stop the embedded scheduler; with `stop_agent` also all running instances."""
    return send_request(with_body("POST", "/v1/shutdown", {"stop_agent": stop_agent}), read_nothing)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
