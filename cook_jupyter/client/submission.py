"""Submissions: jobs and groups as values, and the exchange that submits them, without I/O.

Lives here: the fields that calls and cells use (a job with other fields of Cook's, such as a container or
uris, is submitted as a mapping with Cook's names instead); splitting large submissions; resolving a conflict
when a request was sent twice.
Not here: how the scheduler reads a submission (`wire.submission`), against which tests/client/test_answers.py
checks these structs.

Source: the REST specification, sections 4 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import uuid4

from msgspec import Struct, field
from msgspec.structs import replace

from cook_jupyter.client.exchange import Exchange, Request, get_by_uuid, reply_error, to_json
from cook_jupyter.errors import Conflict, TooLarge

BODY_LIMIT_BYTES = 8 * 1024 * 1024
JOBS_PER_SUBMISSION = 10_000

_ENVELOPE_BYTES = 4096  # room in a submission for everything except its jobs and groups


class JobSubmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job to submit; fields at their default are omitted.

    Attributes:
        uuid: uuid of the job; if empty, `JobClient.submit` creates one.
        max_retries: total number of attempts, the first included.
        group: uuid of the group that the job joins.
        constraints: host attribute, operator (`EQUALS`) and value of each.
    """

    command: str
    cpus: float
    mem_mb: float = field(name="mem")
    max_retries: int
    uuid: str = ""
    name: str | None = None
    priority: int | None = None
    gpus: int = 0
    max_runtime_ms: int | None = field(name="max_runtime", default=None)
    expected_runtime_ms: int | None = field(name="expected_runtime", default=None)
    group: str | None = None
    constraints: tuple[tuple[str, str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


class PlacementParameters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parameters of a placement: a host attribute, and for `balanced` the minimum number of its values."""

    attribute: str | None = None
    minimum: int | None = None


class HostPlacement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rule for the hosts of a group's jobs; `type` is all, unique, balanced or attribute-equals."""

    type: str
    parameters: PlacementParameters | None = None


class StragglerParameters(Struct, frozen=True, kw_only=True):
    """Definition of a straggler in a group."""

    quantile: float
    multiplier: float


class StragglerHandling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Handling of a group's stragglers; `type` is none or quantile-deviation."""

    type: str
    parameters: StragglerParameters | None = None


class GroupSubmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A group to submit with its jobs; fields at their default are omitted."""

    uuid: str
    name: str | None = None
    host_placement: HostPlacement | None = None
    straggler_handling: StragglerHandling | None = None


def discard(_: Sequence[str]) -> None:
    """Ignore the uuids of accepted jobs."""


Job: TypeAlias = Mapping[str, object] | JobSubmission
Encoded: TypeAlias = tuple[str, bytes]  # the uuid of a job and its JSON


def submit(
    jobs: Iterable[Job],
    groups: Sequence[Mapping[str, object] | GroupSubmission] = (),
    *,
    pool: str | None = None,
    override_group_immutability: bool = False,
    refuse_unsatisfiable: bool = False,
    may_have_arrived: bool = False,
    on_accepted: Callable[[Sequence[str]], object] = discard,
) -> Exchange[list[str]]:
    """POST /jobs: one request for all jobs, or several if they are large.

    Args:
        jobs: submissions; a mapping has Cook's field names. A job without a uuid gets one.
        groups: groups that the jobs join. They are sent with the first request; later ones extend them.
        pool: pool of the jobs; None for the scheduler's default.
        override_group_immutability: whether jobs may join groups of earlier submissions.
        refuse_unsatisfiable: whether jobs that no host could ever run are refused; an original Cook ignores
            this and lets them wait.
        may_have_arrived: whether the jobs were sent before and the reply was lost, so that existing ones are
            not a conflict.
        on_accepted: callback with the uuids of each part once the scheduler has it.

    Returns:
        An exchange with the uuids, in order.

    Raises:
        InvalidRequest: a single job is too large, or cannot be encoded as JSON.
    """
    exchange = _Submission(
        groups=to_json(list(groups)) if groups else b"",
        pool=b"" if pool is None else to_json(pool),
        override=override_group_immutability,
        target="/jobs?refuse-unsatisfiable=true" if refuse_unsatisfiable else "/jobs",
        may_have_arrived=may_have_arrived,
        on_accepted=on_accepted,
    )
    return exchange.submit([_encode(job) for job in jobs])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submission:
    """A submission in progress; groups and pool are JSON, or empty."""

    groups: bytes
    pool: bytes
    override: bool
    target: str
    may_have_arrived: bool
    on_accepted: Callable[[Sequence[str]], object]

    def submit(self, jobs: Sequence[Encoded]) -> Exchange[list[str]]:
        """Submit jobs in as many parts as their size requires."""
        for number, part in enumerate(_split(jobs, len(self.groups))):
            yield from self._submit_part(part, is_first=number == 0)
        return [uuid for uuid, _ in jobs]

    def _submit_part(self, part: Sequence[Encoded], *, is_first: bool) -> Exchange[None]:
        """Submit jobs that fit in one request, which is accepted or refused as a whole.

        A request that was sent twice conflicts with its own jobs: these are accepted, and missing ones sent
        again.
        """
        reply = yield self._request(part, is_first=is_first)
        if reply.status >= 400:
            error = reply_error(reply)
            may_be_own = self.may_have_arrived or reply.sent_twice
            if not (may_be_own and isinstance(error, Conflict) and reply.status == 409):
                raise error
            arrived = yield from _existing_uuids([uuid for uuid, _ in part])
            rest = [job for job in part if job[0].lower() not in arrived]
            if not arrived or (rest and not self.may_have_arrived):
                raise error
            self.on_accepted([uuid for uuid, _ in part if uuid.lower() in arrived])
            if rest:
                yield from self._submit_part(rest, is_first=False)
            return
        self.on_accepted([uuid for uuid, _ in part])

    def _request(self, part: Sequence[Encoded], *, is_first: bool) -> Request:
        body = [b'{"jobs":[', b",".join([text for _, text in part]), b"]"]
        if self.groups and is_first:
            body += [b',"groups":', self.groups]
        if self.pool:
            body += [b',"pool":', self.pool]
        if self.override or not is_first:
            body.append(b',"override-group-immutability":true')
        body.append(b"}")
        return Request(method="POST", target=self.target, body=b"".join(body))


class _JobUuid(Struct):
    uuid: str


def _existing_uuids(uuids: Sequence[str]) -> Exchange[set[str]]:
    """Return those of the uuids whose jobs the scheduler has."""
    jobs = yield from get_by_uuid("/jobs", "uuid", uuids, _JobUuid, partial=True)
    return {job.uuid for job in jobs}


def _encode(job: Job) -> Encoded:
    """Return the uuid of a job, created if it has none, and its JSON."""
    if isinstance(job, JobSubmission):
        job = job if job.uuid else replace(job, uuid=str(uuid4()))
        uuid = job.uuid
    else:
        if not job.get("uuid"):
            job = {**job, "uuid": str(uuid4())}
        uuid = str(job["uuid"])
    text = to_json(job)
    if len(text) + _ENVELOPE_BYTES > BODY_LIMIT_BYTES:
        raise TooLarge(
            f"job {uuid} has {len(text):,} bytes; the limit of a submission is {BODY_LIMIT_BYTES:,}: "
            "put large data in a file or a blob and give the job its name"
        )
    return uuid, text


def _split(jobs: Sequence[Encoded], groups_size: int) -> Iterator[Sequence[Encoded]]:
    """Yield jobs in lists that fit in one request each."""
    part: list[Encoded] = []
    size = groups_size + _ENVELOPE_BYTES
    for uuid, text in jobs:
        if part and (size + len(text) > BODY_LIMIT_BYTES or len(part) >= JOBS_PER_SUBMISSION):
            yield part
            part, size = [], _ENVELOPE_BYTES
        part.append((uuid, text))
        size += len(text) + 1
    if part:
        yield part
