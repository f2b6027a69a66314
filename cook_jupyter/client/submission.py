"""Submitting: jobs and groups as values, and the exchange that submits them, without I/O.

Lives here: the fields that calls and cells use (a job that needs another field of Cook's, a container or
uris, is submitted as a mapping under Cook's names instead); the split of large submissions; what a conflict
means when a request was sent twice.
Not here: how the scheduler reads a submission (`wire.submission`), to which tests/client/test_answers.py
holds these structs.

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

_ENVELOPE_BYTES = 4096  # room in a submission for all but its jobs and groups


class JobSubmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job to submit; fields at their default are omitted.

    Attributes:
        uuid: empty to be given one by `JobClient.submit`.
        max_retries: attempts in all, the first included.
        group: the uuid of the group that the job joins.
        constraints: attribute of hosts, operator (`EQUALS`) and value.
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
    """What a placement is by: an attribute of hosts, and for `balanced` the least number of its values."""

    attribute: str | None = None
    minimum: int | None = None


class HostPlacement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the jobs of a group may run; `type` is all, unique, balanced or attribute-equals."""

    type: str
    parameters: PlacementParameters | None = None


class StragglerParameters(Struct, frozen=True, kw_only=True):
    """When a job of a group counts as a straggler."""

    quantile: float
    multiplier: float


class StragglerHandling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of stragglers of a group; `type` is none or quantile-deviation."""

    type: str
    parameters: StragglerParameters | None = None


class GroupSubmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A group to submit with its jobs; fields at their default are omitted."""

    uuid: str
    name: str | None = None
    host_placement: HostPlacement | None = None
    straggler_handling: StragglerHandling | None = None


def discard(_: Sequence[str]) -> None:
    """Do nothing with the uuids of jobs that were accepted."""


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
    """POST /jobs: one request for all jobs, or as many as their size asks for.

    Args:
        jobs: submissions; a mapping has Cook's field names. One without a uuid is given one.
        groups: the groups they name. They travel with the first request; the later ones extend them.
        pool: for jobs and user alike; None means the scheduler's default.
        override_group_immutability: let jobs join groups of earlier submissions.
        refuse_unsatisfiable: ask that jobs are refused which no host could ever take; an original Cook does
            not know this and lets them wait.
        may_have_arrived: the jobs were sent before and the answer was lost: those that the scheduler has by
            now are no conflict.
        on_accepted: called with the uuids of each part once the scheduler has it.

    Returns:
        An exchange that gives the uuids, in order.

    Raises:
        InvalidRequest: one job alone is too large, or it has no form in JSON.
    """
    sending = _Sending(
        groups=to_json(list(groups)) if groups else b"",
        pool=b"" if pool is None else to_json(pool),
        override=override_group_immutability,
        target="/jobs?refuse-unsatisfiable=true" if refuse_unsatisfiable else "/jobs",
        may_have_arrived=may_have_arrived,
        on_accepted=on_accepted,
    )
    return sending.submit([_encode(job) for job in jobs])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    """One submission under way; groups and pool are JSON, or empty."""

    groups: bytes
    pool: bytes
    override: bool
    target: str
    may_have_arrived: bool
    on_accepted: Callable[[Sequence[str]], object]

    def submit(self, jobs: Sequence[Encoded]) -> Exchange[list[str]]:
        """Submit jobs in as many parts as their size asks for."""
        for number, part in enumerate(_split(jobs, len(self.groups))):
            yield from self._submit_part(part, is_first=number == 0)
        return [uuid for uuid, _ in jobs]

    def _submit_part(self, part: Sequence[Encoded], *, is_first: bool) -> Exchange[None]:
        """Submit jobs that fit in one request, which is accepted or refused as a whole.

        A request that is sent twice meets its own jobs: they are accepted, and what is missing is sent again.
        """
        reply = yield self._request(part, is_first=is_first)
        if reply.status >= 400:
            error = reply_error(reply)
            may_be_own = self.may_have_arrived or reply.sent_twice
            if not (may_be_own and isinstance(error, Conflict) and reply.status == 409):
                raise error
            arrived = yield from _known([uuid for uuid, _ in part])
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


class _Known(Struct):
    uuid: str


def _known(uuids: Sequence[str]) -> Exchange[set[str]]:
    """Ask which of these jobs the scheduler has."""
    found = yield from get_by_uuid("/jobs", "uuid", uuids, _Known, partial=True)
    return {job.uuid for job in found}


def _encode(job: Job) -> Encoded:
    """Return the uuid of a job, made if it has none, and its JSON."""
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
            f"job {uuid} has {len(text):,} bytes, a submission may have {BODY_LIMIT_BYTES:,}; "
            "put large data in a file or a blob and give the job its name"
        )
    return uuid, text


def _split(jobs: Sequence[Encoded], groups_size: int) -> Iterator[Sequence[Encoded]]:
    """Yield as many jobs at a time as one request may have."""
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
