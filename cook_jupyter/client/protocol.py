"""What to ask a scheduler and how to read its replies, without I/O.

Lives here: an `Ask` per verb of Cook's REST API and of ours under `/v1`: the requests to send, in order,
and the function that makes a value (`client.answers`) of their replies. Long lists of uuids are split over
several requests (a URL may have 32 KiB), and so are large submissions (a body may have 8 MiB).
Not here: sockets (`client.connections`), the verbs as methods (`client.sync`), the stream of events
(`client.events`).

Source: sans-io as in h11; Cook's REST API as told in its specification.
"""

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec

from cook_jupyter.client.answers import (
    CancelAnswer,
    GroupAnswer,
    InstanceAnswer,
    JobAnswer,
    QuotaAnswer,
    RebalancerAnswer,
    ShareAnswer,
    UnscheduledAnswer,
    UsageAnswer,
    WaitsAnswer,
    WhyAnswer,
)
from cook_jupyter.client.submission import GroupSubmission, JobSubmission
from cook_jupyter.errors import CookError, InvalidRequest, SchedulerError, TooLarge
from cook_jupyter.wire import errors as wire

T = TypeVar("T")

UUIDS_PER_URL = 100  # as Cook's own command line; about 5 kB
BODY_LIMIT_BYTES = 8 * 1024 * 1024
JOBS_PER_SUBMISSION = 10_000
ALL_STATES = ("waiting", "running", "completed")

_ERROR_HEADER = wire.ERROR_HEADER.lower()
_ENVELOPE_BYTES = 4096  # room in a submission for all but its jobs and groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request.

    Attributes:
        target: path and query, already quoted.
        idempotent: sending it twice changes nothing more, so that it may be sent again when a
            connection turns out to be dead.
    """

    method: str
    target: str
    body: bytes | memoryview = b""
    content_type: str = "application/json"
    idempotent: bool = True
    patience_s: float = 0.0  # how long the scheduler was asked to hold the answer back


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """What to send, in order, and how to read the replies as one value.

    A reply that is an error raises before `read` is called, unless its status is in `tolerated`.
    """

    requests: tuple[Request, ...]
    read: Callable[[Sequence[Reply]], T]
    tolerated: frozenset[int] = frozenset()


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


# --- jobs ---


def submit(
    jobs: Iterable[Mapping[str, object] | JobSubmission],
    groups: Sequence[Mapping[str, object] | GroupSubmission] = (),
    *,
    pool: str | None = None,
    override_group_immutability: bool = False,
) -> Ask[list[str]]:
    """POST /jobs: one request for all jobs, or as many as their size asks for.

    Args:
        jobs: submissions, mappings under Cook's field names; each must have its uuid.
        groups: the groups they name. They travel with the first request; the later ones extend them.
        pool: for jobs and user alike; None means the scheduler's default.
        override_group_immutability: let jobs join groups of earlier submissions.

    Raises:
        InvalidRequest: one job alone is too large, or it cannot be said in JSON.
    """
    uuids: list[str] = []
    parts: list[list[bytes]] = [[]]
    groups_json = _to_json(list(groups))
    size = len(groups_json) + _ENVELOPE_BYTES
    for job in jobs:
        text = _to_json(job)
        uuid = job.uuid if isinstance(job, JobSubmission) else job["uuid"]
        if len(text) + _ENVELOPE_BYTES > BODY_LIMIT_BYTES:
            raise TooLarge(
                f"job {uuid} has {len(text):,} bytes, a submission may have {BODY_LIMIT_BYTES:,}; "
                "put large data in a file or a blob and give the job its name"
            )
        if parts[-1] and (size + len(text) > BODY_LIMIT_BYTES or len(parts[-1]) >= JOBS_PER_SUBMISSION):
            parts.append([])
            size = _ENVELOPE_BYTES
        parts[-1].append(text)
        size += len(text) + 1
        uuids.append(str(uuid))

    requests = []
    for number, part in enumerate(parts):
        body = [b'{"jobs":[', b",".join(part), b"]"]
        if groups and number == 0:
            body += [b',"groups":', groups_json]
        if pool is not None:
            body += [b',"pool":', _to_json(pool)]
        if override_group_immutability or number > 0:
            body.append(b',"override-group-immutability":true')
        body.append(b"}")
        requests.append(Request(method="POST", target="/jobs", body=b"".join(body)))
    return Ask(tuple(requests) if uuids else (), lambda _: uuids)


class _SubmittedJob(msgspec.Struct):
    uuid: str


class _SubmittedJobs(msgspec.Struct):
    jobs: list[_SubmittedJob]


def submitted_uuids(request: Request) -> list[str]:
    """Return the uuids of the jobs in one request of a submission."""
    return [job.uuid for job in msgspec.json.decode(request.body, type=_SubmittedJobs).jobs]


def jobs(uuids: Sequence[str], *, partial: bool = False) -> Ask[list[JobAnswer]]:
    """GET /jobs by uuid, in the order asked. With `partial`, unknown ones are left out."""
    return _by_uuid("/jobs", "uuid", uuids, JobAnswer, partial=partial)


def job(uuid: str) -> Ask[JobAnswer]:
    """GET /jobs/:uuid."""
    return get_json(f"/jobs/{_checked(uuid)}", JobAnswer)


def instances(uuids: Sequence[str], *, partial: bool = False) -> Ask[list[InstanceAnswer]]:
    """GET /instances by uuid, each with its `job`."""
    return _by_uuid("/instances", "uuid", uuids, InstanceAnswer, partial=partial)


def list_jobs(
    *,
    user: str,
    start_ms: int,
    end_ms: int,
    states: Sequence[str] = ALL_STATES,
    limit: int = 150,
    name: str | None = None,
    pool: str | None = None,
) -> Ask[list[JobAnswer]]:
    """GET /jobs of a user, submitted from `start_ms` up to before `end_ms`, newest first.

    When there are more than `limit`, Cook gives the *oldest* ones of the range.
    """
    query: list[tuple[str, str]] = [("user", user)]
    query += [("state", state) for state in states]
    query += [("start", str(start_ms)), ("end", str(end_ms)), ("limit", str(limit))]
    query += _given(name=name, pool=pool)
    return Ask((_get("/jobs", query),), _reader(list[JobAnswer]))


def kill(uuids: Sequence[str]) -> Ask[None]:
    """DELETE /rawscheduler: the jobs are completed at once."""
    return _kill("/rawscheduler", "job", uuids)


def kill_instances(uuids: Sequence[str]) -> Ask[None]:
    """DELETE /rawscheduler: the instances end; their jobs may try again."""
    return _kill("/rawscheduler", "instance", uuids)


def kill_groups(uuids: Sequence[str]) -> Ask[None]:
    """DELETE /group: all unfinished jobs of the groups."""
    return _kill("/group", "uuid", uuids)


def retry(
    uuids: Sequence[str],
    *,
    retries: int | None = None,
    increment: int | None = None,
    failed_only: bool = False,
) -> Ask[int]:
    """PUT /retry: give jobs more attempts. One of `retries` (a new total) and `increment` is due.

    Returns:
        The number that Cook answers: the total of the first job touched, 0 if none was.
    """
    if (retries is None) == (increment is None):
        raise InvalidRequest("say either retries (the new total) or increment, not both")
    body: dict[str, object] = {"jobs": [_checked(uuid) for uuid in uuids], "failed_only": failed_only}
    body.update({"retries": retries} if retries is not None else {"increment": increment})
    request = _with_body("PUT", "/retry", body, idempotent=increment is None)
    return Ask((request,), _reader(int))


def groups(uuids: Sequence[str], *, detailed: bool = False, partial: bool = False) -> Ask[list[GroupAnswer]]:
    """GET /group by uuid; `detailed` adds how many jobs wait, run and are completed."""
    extra = (("detailed", "true"),) if detailed else ()
    return _by_uuid("/group", "uuid", uuids, GroupAnswer, partial=partial, extra=extra)


# --- limits, pools, the scheduler itself ---


def usage(
    user: str | None = None, *, pool: str | None = None, group_breakdown: bool = False
) -> Ask[UsageAnswer]:
    """GET /usage of a user."""
    query = _given(user=user, pool=pool, group_breakdown="true" if group_breakdown else None)
    return Ask((_get("/usage", query),), _reader(UsageAnswer))


def share(user: str, *, pool: str | None = None) -> Ask[ShareAnswer]:
    """GET /share of a user."""
    return get_json("/share", ShareAnswer, user=user, pool=pool)


def quota(user: str, *, pool: str | None = None) -> Ask[QuotaAnswer]:
    """GET /quota of a user."""
    return get_json("/quota", QuotaAnswer, user=user, pool=pool)


def set_share(
    user: str, values: Mapping[str, float], *, reason: str, pool: str | None = None
) -> Ask[ShareAnswer]:
    """POST /share: values that are not named stay as they are."""
    return Ask((_set_limit("share", user, values, reason, pool),), _reader(ShareAnswer))


def set_quota(
    user: str, values: Mapping[str, float], *, reason: str, pool: str | None = None
) -> Ask[QuotaAnswer]:
    """POST /quota: values that are not named stay as they are."""
    return Ask((_set_limit("quota", user, values, reason, pool),), _reader(QuotaAnswer))


def _set_limit(kind: str, user: str, values: Mapping[str, float], reason: str, pool: str | None) -> Request:
    body: dict[str, object] = {"user": user, "reason": reason, kind: dict(values)}
    if pool is not None:
        body["pool"] = pool
    return _with_body("POST", f"/{kind}", body)


def reset_limit(kind: str, user: str, *, reason: str, pool: str | None = None) -> Ask[None]:
    """DELETE /share or /quota (`kind`): the user has the default's again."""
    request = Request(
        method="DELETE", target=_target(f"/{kind}", _given(user=user, reason=reason, pool=pool))
    )
    return Ask((request,), _nothing)


def get_json(path: str, answer: type[T], **query: str | None) -> Ask[T]:
    """GET a path whose answer is JSON: /pools, /queue, /running, /info, /settings ...

    Args:
        path: the path.
        answer: the type of the answer.
        query: the query; None leaves a name out.
    """
    return Ask((_get(path, _given(**query)),), _reader(answer))


def unscheduled(uuids: Sequence[str], *, partial: bool = False) -> Ask[list[UnscheduledAnswer]]:
    """GET /unscheduled_jobs: Cook's reasons why each job waits."""
    return _by_uuid("/unscheduled_jobs", "job", uuids, UnscheduledAnswer, partial=partial)


# --- ours, under /v1 ---


def why(uuid: str) -> Ask[WhyAnswer]:
    """GET /v1/why: why a job waits, in sentences."""
    return get_json(f"/v1/why/{_checked(uuid)}", WhyAnswer)


def set_rebalancer(parameters: Mapping[str, float | None]) -> Ask[RebalancerAnswer]:
    """PUT /v1/rebalancer: parameters that are not named stay as they are."""
    return Ask((_with_body("PUT", "/v1/rebalancer", dict(parameters)),), _reader(RebalancerAnswer))


def cancel_waiting(uuids: Sequence[str]) -> Ask[list[str]]:
    """POST /v1/cancel: complete those of the jobs that wait; returns which they are."""
    requests = tuple(
        _with_body("POST", "/v1/cancel", {"jobs": part}) for part in _split(uuids, JOBS_PER_SUBMISSION)
    )

    def read(replies: Sequence[Reply]) -> list[str]:
        return [uuid for reply in replies for uuid in _decode(reply, CancelAnswer).cancelled]

    return Ask(requests, read)


def report_waits(instance: str, uuids: Sequence[str]) -> Ask[WaitsAnswer]:
    """POST /v1/waits: what a running instance waits for; no jobs if it goes on."""
    body = {"instance": _checked(instance), "jobs": list(map(_checked, uuids))}
    return Ask((_with_body("POST", "/v1/waits", body),), _reader(WaitsAnswer))


def result(uuid: str) -> Ask[bytes]:
    """GET /v1/results: the signed bytes that the job gave back."""
    return Ask((_get(f"/v1/results/{_checked(uuid)}"),), _bytes)


def logs(
    uuid: str, *, stream: str = "stdout", offset: int = 0, length: int = 1024 * 1024, wait_s: float = 0.0
) -> Ask[LogPiece]:
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
    request = Request(method="GET", target=_target(f"/v1/logs/{_checked(uuid)}", query), patience_s=wait_s)

    def read(replies: Sequence[Reply]) -> LogPiece:
        (reply,) = replies
        start = int(reply.headers.get("x-cook-offset", offset))
        return LogPiece(
            data=reply.body,
            offset=start,
            size=int(reply.headers.get("x-cook-size", start + len(reply.body))),
            ended=reply.headers.get("x-cook-ended") == "true",
        )

    return Ask((request,), read)


def put_blob(name: str, data: bytes | memoryview) -> Ask[None]:
    """PUT /v1/blobs/NAME."""
    target = f"/v1/blobs/{quote(name)}"
    content_type = "application/octet-stream"
    return Ask((Request(method="PUT", target=target, body=data, content_type=content_type),), _nothing)


def get_blob(name: str) -> Ask[bytes]:
    """GET /v1/blobs/NAME."""
    return Ask((_get(f"/v1/blobs/{quote(name)}"),), _bytes)


def blob_size(name: str) -> Ask[int | None]:
    """HEAD /v1/blobs/NAME: its size in bytes; None if it is not there."""
    request = Request(method="HEAD", target=f"/v1/blobs/{quote(name)}")
    return Ask((request,), _size_of, frozenset({404}))


def _size_of(replies: Sequence[Reply]) -> int | None:
    (reply,) = replies
    return int(reply.headers["content-length"]) if reply.status < 400 else None


def shutdown(*, stop_agent: bool = False) -> Ask[None]:
    """POST /v1/shutdown: end the embedded scheduler; with `stop_agent` also what it runs."""
    return Ask((_with_body("POST", "/v1/shutdown", {"stop_agent": stop_agent}),), _nothing)


def events_target(cursor: int | None, labels: Mapping[str, str], store: str | None = None) -> str:
    """The target of the stream of events after `cursor` (None: from now), of jobs with these labels.

    Args:
        cursor: the number of a change.
        labels: what the jobs must carry.
        store: the id of the store that gave the cursor out; None if it is not known.
    """
    query = [] if cursor is None else [("cursor", str(cursor))]
    query += [] if store is None else [("store", store)]
    query += [("label", f"{key}={value}") for key, value in labels.items()]
    return _target("/v1/events", query)


# --- errors ---


def error_of(reply: Reply) -> CookError:
    """The error that a reply stands for: the very class that the scheduler raised, if it says which."""
    return wire.error_of(reply.status, reply.body, reply.headers.get(_ERROR_HEADER))


# --- small parts ---


def _to_json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_plain_number)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"this cannot be said in JSON: {error}") from error


def _plain_number(value: object) -> int | float:
    """Return a number of another library (numpy, fractions) as JSON has it."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _checked(uuid: str) -> str:
    """The uuid in lower case, so that a typing error ends here and not as an unknown route."""
    try:
        return str(UUID(uuid))
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequest(f"not a uuid: {uuid!r}") from None


def _target(path: str, query: Iterable[tuple[str, str]] = ()) -> str:
    text = urlencode(list(query))
    return f"{path}?{text}" if text else path


def _given(**values: str | None) -> list[tuple[str, str]]:
    return [(key, value) for key, value in values.items() if value is not None]


def _get(path: str, query: Iterable[tuple[str, str]] = ()) -> Request:
    return Request(method="GET", target=_target(path, query))


def _with_body(method: str, path: str, body: object, *, idempotent: bool = True) -> Request:
    return Request(method=method, target=path, body=_to_json(body), idempotent=idempotent)


def _split(uuids: Sequence[str], size: int = UUIDS_PER_URL) -> Iterator[list[str]]:
    checked = [_checked(uuid) for uuid in uuids]
    for start in range(0, len(checked), size):
        yield checked[start : start + size]


def _by_uuid(
    path: str,
    key: str,
    uuids: Sequence[str],
    answer: type[T],
    *,
    partial: bool,
    extra: tuple[tuple[str, str], ...] = (),
) -> Ask[list[T]]:
    tail = (*extra, ("partial", "true")) if partial else extra
    requests = tuple(_get(path, [*((key, uuid) for uuid in part), *tail]) for part in _split(uuids))

    def read(replies: Sequence[Reply]) -> list[T]:
        answers: list[T] = []
        for reply in replies:
            if reply.status < 400:
                answers += _decode(reply, list[answer])  # type: ignore[valid-type]
        return answers

    # With `partial`, Cook answers 404 where it knows none at all.
    return Ask(requests, read, frozenset({404}) if partial else frozenset())


def _kill(path: str, key: str, uuids: Sequence[str]) -> Ask[None]:
    requests = tuple(
        Request(method="DELETE", target=_target(path, [(key, uuid) for uuid in part]))
        for part in _split(uuids)
    )
    return Ask(requests, _nothing)


def _decode(reply: Reply, answer: type[T]) -> T:
    """Return the value of a reply.

    Raises:
        SchedulerError: it is no JSON, or not of this type.
    """
    try:
        return cast(T, _decoder(answer).decode(reply.body))
    except msgspec.ValidationError as error:
        raise SchedulerError(f"the scheduler's answer has another form than expected: {error}") from error
    except (ValueError, RecursionError) as error:
        start = reply.body[:80].decode("utf-8", "replace")
        raise SchedulerError(f"JSON was expected, and the answer begins {start!r}") from error


_decoders: dict[object, msgspec.json.Decoder[object]] = {}  # by the type of the answer


def _decoder(answer: type[T]) -> msgspec.json.Decoder[object]:
    """Return the decoder of a type, made when it is first needed."""
    if answer not in _decoders:
        _decoders[answer] = msgspec.json.Decoder(answer)
    return _decoders[answer]


def _reader(answer: type[T]) -> Callable[[Sequence[Reply]], T]:
    """Return the function that makes a value of the one reply to a request."""
    return lambda replies: _decode(replies[0], answer)


def _bytes(replies: Sequence[Reply]) -> bytes:
    return replies[0].body


def _nothing(_: Sequence[Reply]) -> None:
    return None
