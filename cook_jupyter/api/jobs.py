"""Jobs and instances by HTTP: submitting, reading, listing, killing.

Lives here: /jobs, /rawscheduler, /instances, /list, /v1/cancel.
Not here: field names (`wire`), what depends on the present state of other jobs (`service.scheduler`).

Source: the REST specification, sections 4, 8 and 9.
"""

import os
import pwd
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from msgspec import UNSET

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.query import integer, milliseconds, require_found
from cook_jupyter.errors import Forbidden, InvalidRequest, TooLarge
from cook_jupyter.model.changes import JobQuery
from cook_jupyter.model.instance import Instance
from cook_jupyter.model.job import Job, JobSpec
from cook_jupyter.wire.shape import to_json
from cook_jupyter.wire.submission import (
    RawSubmission,
    group_of,
    job_spec,
    read_raw_submission,
    read_submission,
)
from cook_jupyter.wire.verbs import read_cancel

T = TypeVar("T")

DEFAULT_LIMIT = 150
DEFAULT_HOURS = 24
MOST_HOURS = 168
EVERY_VERB = frozenset({"GET", "POST", "PUT", "DELETE"})

_STATES: dict[str, frozenset[str]] = {
    "waiting": frozenset({"waiting"}),
    "running": frozenset({"running"}),
    "success": frozenset({"success"}),
    "failed": frozenset({"failed"}),
    "completed": frozenset({"success", "failed"}),
}
_NAME_FILTER = re.compile(r"\A[A-Za-z0-9.\-_*]*\Z")
_END_OF_TIME_MS = 10**18


class JobsHandler(CookHandler):
    """POST and GET /jobs."""

    impersonable = EVERY_VERB

    async def post(self) -> None:
        """Accept jobs; they are durable when this answers."""
        sent = read_submission(self.json_body())
        await self.submit(sent, None if sent.pool is UNSET else sent.pool)

    async def get(self) -> None:
        """Return the jobs named by uuid, or those of a user in a range of time."""
        if "uuid" in self.request.query_arguments:
            ids = self.uuids("uuid")
            found = await self.scheduler.jobs(ids)
            known = [job for job in found if job is not None]
            missing = [job_id for job_id, job in zip(ids, found, strict=True) if job is None]
            if missing and not (known and self.flag("partial")):
                require_found(missing, "a job")
            await self.answer_list(self._encoded(one_page(known)))
        else:
            await self.answer_list(self._encoded(self.scheduler.list_jobs(self._query())))

    async def submit(self, sent: RawSubmission, body_pool: str | None) -> None:
        """Check a submission in Cook's order, hand it on, and answer."""
        most = self.door.settings.jobs_per_submission
        if len(sent.jobs) > most:
            raise TooLarge(
                f"{len(sent.jobs)} jobs were sent, and one submission may have {most}: send fewer at once"
            )
        user = self.known_user(self.asker.user)
        named = body_pool or self.request.headers.get("X-Cook-Pool") or None
        pool = self._accepting_pool(named)
        _require_distinct([job.uuid.lower() for job in sent.jobs], "job")
        _require_distinct([group.uuid.lower() for group in sent.groups], "group")
        groups = [group_of(group) for group in sent.groups]
        docker_user = _unix_ids(user)
        specs = [
            job_spec(job, user=user, pool=pool, submit_pool=named, docker_user=docker_user)
            for job in sent.jobs
        ]
        for spec in specs:
            self._check(spec)
        touched = await self.scheduler.submit(
            specs,
            groups,
            override_group_immutability=sent.override_group_immutability,
            refuse_unsatisfiable=self.flag("refuse-unsatisfiable"),
        )
        text = "submitted jobs " + " ".join(spec.job_id for spec in specs)
        if touched:
            text += " submitted groups " + " ".join(touched)
        self.set_status(201)
        self.finish(text)

    async def _encoded(self, pages: AsyncIterator[Sequence[Job]]) -> AsyncIterator[Iterable[Any]]:
        """Yield pages of jobs as `/jobs` tells them."""
        teller, attempts = self.teller(), self.scheduler.attempts
        async for jobs in pages:
            groups = await self.groups_of(jobs)
            yield (teller.job(job, attempts=attempts(job), groups=groups) for job in jobs)

    def _accepting_pool(self, named: str | None) -> str:
        pool = named or self.scheduler.default_pool
        known = {pool.name: pool for pool in self.scheduler.pools()}
        if pool not in known:
            raise InvalidRequest(f"{pool} is not a valid pool name.")
        if not known[pool].active:
            raise InvalidRequest(f"{pool} is not accepting job submissions.")
        return pool

    def _check(self, spec: JobSpec) -> None:
        """Refuse a job that the settings do not allow."""
        settings = self.door.settings
        if spec.gpus:
            raise InvalidRequest("GPU support is not enabled")
        if "disk" in spec.extra:
            raise InvalidRequest(f"Disk specifications are not supported on pool {spec.pool}")
        for asked, most, what in (
            (spec.cpus, settings.max_cpus, "cpus"),
            (spec.mem_mb, settings.max_mem_mb, "MB of memory"),
            (spec.ports, settings.max_ports, "ports"),
            (spec.max_retries, settings.retry_limit, "retries"),
        ):
            if asked > most:
                raise InvalidRequest(f"Requested {asked} {what}, but only allowed to use {most}")
        if len(spec.command) > settings.command_length_limit:
            raise InvalidRequest(
                f"Job command length of {len(spec.command)} is greater than the maximum command length"
                f" ({settings.command_length_limit})"
            )

    def _query(self) -> JobQuery:
        user, states = self.required("user"), self.params("state")
        start, end = self.required("start"), self.required("end")
        if not states:
            self.required("state")
        limit = self.number("limit", DEFAULT_LIMIT)
        if limit <= 0:
            raise Forbidden(f"limit is above 0, not {limit}")
        return JobQuery(
            user=self.known_user(user),
            outcomes=_outcomes(states),
            start_ms=milliseconds(start, "start"),
            end_ms=milliseconds(end, "end"),
            name_glob=_name_glob(self.param("name")),
            pool=self.named_pool(),
            limit=limit,
        )


class JobHandler(CookHandler):
    """GET /jobs/:uuid."""

    impersonable = EVERY_VERB

    async def get(self, job_id: str) -> None:
        """Return one job."""
        job = await self.one_job(job_id)
        groups = await self.groups_of([job])
        self.answer(self.teller().job(job, attempts=self.scheduler.attempts(job), groups=groups))


class RawSchedulerHandler(JobsHandler):
    """The older face of the same: POST, GET and DELETE /rawscheduler."""

    async def post(self) -> None:
        """Accept jobs; the pool is named by the header alone."""
        sent = read_raw_submission(self.json_body())
        await self.submit(sent, None)

    async def get(self) -> None:
        """Return the jobs named by `job`, and those to which the instances named by `instance` belong."""
        job_ids, instance_ids = self._named()
        found = [*await self.scheduler.jobs(job_ids), *await self.scheduler.jobs_of_instances(instance_ids)]
        known = [job for job in found if job is not None]
        missing = [asked for asked, job in zip([*job_ids, *instance_ids], found, strict=True) if job is None]
        if missing and not (known and self.flag("partial")):
            require_found(missing, "a job or an instance")
        teller, attempts = self.teller(), self.scheduler.attempts
        await self.answer_list(one_page(teller.old_job(job, attempts=attempts(job)) for job in known))

    async def delete(self) -> None:
        """Kill jobs and instances: all that are named, or none."""
        job_ids, instance_ids = self._named()
        jobs = await self.scheduler.jobs(job_ids)
        parents = await self.scheduler.jobs_of_instances(instance_ids)
        for ids, found, what in ((job_ids, jobs, "jobs"), (instance_ids, parents, "instances")):
            foreign = [
                asked
                for asked, job in zip(ids, found, strict=True)
                if job is not None and not self.asker.may_act_on(job.spec.user)
            ]
            if foreign:
                raise Forbidden(f"You are not authorized to kill the following {what}: {', '.join(foreign)}")
        missing = [
            asked
            for asked, job in zip([*job_ids, *instance_ids], [*jobs, *parents], strict=True)
            if job is None
        ]
        require_found(missing, "a job or an instance")
        if job_ids:
            await self.scheduler.kill_jobs(job_ids)
        if instance_ids:
            await self.scheduler.cancel_instances(instance_ids)
        self.answer_empty()

    def _named(self) -> tuple[list[str], list[str]]:
        job_ids, instance_ids = self.uuids("job"), self.uuids("instance")
        if not job_ids and not instance_ids:
            raise InvalidRequest("name at least one job or instance: ?job=UUID or ?instance=UUID")
        return job_ids, instance_ids


class CancelHandler(CookHandler):
    """POST /v1/cancel."""

    async def post(self) -> None:
        """Complete those of the jobs that wait; return which they are."""
        job_ids = [job_id.lower() for job_id in read_cancel(self.json_body()).jobs]
        jobs = await self.scheduler.jobs(job_ids)
        foreign = [job.job_id for job in jobs if job is not None and not self.asker.may_act_on(job.spec.user)]
        if foreign:
            raise Forbidden(f"You are not authorized to kill the following jobs: {', '.join(foreign)}")
        self.answer({"cancelled": await self.scheduler.cancel_waiting(job_ids)})


class InstancesHandler(CookHandler):
    """GET /instances."""

    impersonable = EVERY_VERB

    async def get(self) -> None:
        """Return the instances named by uuid, each with its job in short."""
        ids = self.uuids("uuid")
        if not ids:
            raise InvalidRequest("name at least one instance: ?uuid=UUID")
        found = await self.scheduler.jobs_of_instances(ids)
        missing = [asked for asked, job in zip(ids, found, strict=True) if job is None]
        if missing and not (len(missing) < len(ids) and self.flag("partial")):
            require_found(missing, "an instance")
        teller = self.teller()
        await self.answer_list(
            one_page(
                teller.instance_with_job(instance_of(job, asked), job)
                for asked, job in zip(ids, found, strict=True)
                if job is not None
            )
        )


class InstanceHandler(CookHandler):
    """GET /instances/:uuid."""

    impersonable = EVERY_VERB

    async def get(self, instance_id: str) -> None:
        """Return one instance with its job in short."""
        job = await self.one_parent(instance_id)
        self.answer(self.teller().instance_with_job(instance_of(job, instance_id.lower()), job))


class ListHandler(CookHandler):
    """GET /list: the older listing; its refusals are bare text."""

    impersonable = EVERY_VERB
    wrong_method = 405
    text_errors = True

    async def get(self) -> None:
        """Return a user's jobs, newest first."""
        await self.answer_list(self._encoded(self.scheduler.list_jobs(self._query())))

    async def _encoded(self, pages: AsyncIterator[Sequence[Job]]) -> AsyncIterator[Iterable[Any]]:
        """Yield pages of jobs as `/list` tells them."""
        teller, attempts = self.teller(), self.scheduler.attempts
        async for jobs in pages:
            yield (teller.listed_job(job, attempts=attempts(job)) for job in jobs)

    def _query(self) -> JobQuery:
        user = self.known_user(self.required("user"))
        outcomes = _outcomes(re.split(r"[+ ]", self.required("state")))
        now_ms = self.scheduler.clock.now_ms()
        hours = self.number("since-hours-ago", DEFAULT_HOURS)
        if not 0 <= hours <= MOST_HOURS:
            raise InvalidRequest(f"since-hours-ago is from 0 to {MOST_HOURS}, not {hours}")
        end = self.param("end-ms")
        end_ms = now_ms + 1 if end is None else integer(end, "end-ms")
        start = self.param("start-ms")
        start_ms = end_ms - hours * 3_600_000 if start is None else integer(start, "start-ms")
        limit = self.param("limit")
        if limit is not None and integer(limit, "limit") <= 0:
            raise Forbidden(f"limit is above 0, not {limit}")
        return JobQuery(
            user=user,
            outcomes=outcomes,
            start_ms=start_ms,
            end_ms=end_ms,
            name_glob=_name_glob(self.param("name")),
            limit=None if limit is None else integer(limit, "limit"),
        )


async def one_page(page: T) -> AsyncIterator[T]:
    """Yield items that are there already as the only page."""
    yield page


def instance_of(job: Job, instance_id: str) -> Instance:
    """Return the instance of `job` with this id; it has one."""
    return next(instance for instance in job.instances if instance.instance_id == instance_id)


def _outcomes(states: Sequence[str]) -> frozenset[str]:
    unknown = [state for state in states if state not in _STATES]
    if unknown or not states:
        raise InvalidRequest(
            f"unsupported state in {' '.join(states)[:80]!r}: known are {', '.join(_STATES)}"
        )
    return frozenset().union(*(_STATES[state] for state in states))


def _name_glob(name: str | None) -> str | None:
    if name is not None and not _NAME_FILTER.match(name):
        raise InvalidRequest(f"a name filter has letters, digits, '.', '-', '_' and '*', not {name[:80]!r}")
    return name


def _require_distinct(uuids: Sequence[str], what: str) -> None:
    if len(set(uuids)) != len(uuids):
        twice = [uuid for uuid, times in Counter(uuids).items() if times > 1]
        raise InvalidRequest(f"Duplicate {what} uuids: {to_json(twice).decode()}")


@lru_cache(maxsize=256)
def _unix_ids(user: str) -> str:
    """`uid:gid` of a user of this host; of this process where there is no such user."""
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        return f"{os.getuid()}:{os.getgid()}"
    return f"{entry.pw_uid}:{entry.pw_gid}"
