"""Jobs and instances: submission, queries, lists and kills.

Lives here: /jobs, /rawscheduler, /instances, /list, /v1/cancel.
Not here: field names (`wire`), checks that depend on other jobs (`service.scheduler`).

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
from cook_jupyter.api.query import parse_integer, parse_time_ms, require_found
from cook_jupyter.errors import Forbidden, InvalidRequest, TooLarge
from cook_jupyter.model.changes import JobQuery
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import Job, JobId, JobSpec
from cook_jupyter.model.pool import PoolName
from cook_jupyter.wire.actions import read_cancel
from cook_jupyter.wire.submission import (
    RawSubmission,
    group_of,
    job_spec,
    read_raw_submission,
    read_submission,
)
from cook_jupyter.wire.validation import to_json

T = TypeVar("T")

DEFAULT_LIMIT = 150
DEFAULT_HOURS = 24
MAX_HOURS = 168
ALL_METHODS = frozenset({"GET", "POST", "PUT", "DELETE"})

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

    impersonable = ALL_METHODS

    async def post(self) -> None:
        """Submit jobs; they are durable when the response is sent."""
        body = read_submission(self.json_body())
        await self.submit(body, None if body.pool is UNSET else body.pool)

    async def get(self) -> None:
        """Return the jobs with the uuids of the query, or those of a user in a range of time."""
        if "uuid" in self.request.query_arguments:
            ids = self.uuids("uuid", JobId)
            jobs = await self.scheduler.jobs(ids)
            existing = [job for job in jobs if job is not None]
            missing = [job_id for job_id, job in zip(ids, jobs, strict=True) if job is None]
            if missing and not (existing and self.flag("partial")):
                require_found(missing, "a job")
            await self.send_json_list(self._encoded(one_page(existing)))
        else:
            await self.send_json_list(self._encoded(self.scheduler.list_jobs(self._query())))

    async def submit(self, body: RawSubmission, body_pool: PoolName | None) -> None:
        """Check a submission in Cook's order, submit it, and send the response."""
        max_jobs = self.context.settings.server.jobs_per_submission
        if len(body.jobs) > max_jobs:
            raise TooLarge(
                f"a submission may have at most {max_jobs} jobs, not {len(body.jobs)}: send fewer at once"
            )
        user = self.require_user(self.identity.user)
        requested_pool = body_pool or self.header_pool()
        pool = self._accepting_pool(requested_pool)
        _require_distinct([job.uuid.lower() for job in body.jobs], "job")
        _require_distinct([group.uuid.lower() for group in body.groups], "group")
        groups = [group_of(group) for group in body.groups]
        docker_user = _unix_ids(user)
        specs = [
            job_spec(job, user=user, pool=pool, submit_pool=requested_pool, docker_user=docker_user)
            for job in body.jobs
        ]
        for spec in specs:
            self._check(spec)
        touched = await self.scheduler.submit(
            specs,
            groups,
            override_group_immutability=body.override_group_immutability,
            refuse_unsatisfiable=self.flag("refuse-unsatisfiable"),
        )
        text = "submitted jobs " + " ".join(spec.job_id for spec in specs)
        if touched:
            text += " submitted groups " + " ".join(touched)
        self.set_status(201)
        self.finish(text)

    async def _encoded(self, pages: AsyncIterator[Sequence[Job]]) -> AsyncIterator[Iterable[Any]]:
        """Encode pages of jobs in the format of `/jobs`."""
        encoder, attempts = self.job_encoder(), self.scheduler.attempts
        async for jobs in pages:
            groups = await self.groups_of(jobs)
            yield (encoder.encode_job(job, attempts=attempts(job), groups=groups) for job in jobs)

    def _accepting_pool(self, requested_pool: PoolName | None) -> PoolName:
        pool_name = requested_pool or self.scheduler.default_pool
        pools = {pool.name: pool for pool in self.scheduler.pools()}
        if pool_name not in pools:
            raise InvalidRequest(f"{pool_name} is not a valid pool name.")
        if not pools[pool_name].active:
            raise InvalidRequest(f"{pool_name} is not accepting job submissions.")
        return pool_name

    def _check(self, spec: JobSpec) -> None:
        """Refuse a job that the settings do not allow.

        Raises:
            InvalidRequest: the job requests something unsupported, or more than is allowed.
        """
        settings = self.context.settings
        if spec.gpus and not settings.has_gpus:
            raise InvalidRequest("GPU support is not enabled")
        if "disk" in spec.extra:
            raise InvalidRequest(f"Disk specifications are not supported on pool {spec.pool}")
        for requested, limit, name in (
            (spec.cpus, settings.jobs.max_cpus, "cpus"),
            (spec.mem_mb, settings.jobs.max_mem_mb, "MB of memory"),
            (spec.ports, settings.jobs.max_ports, "ports"),
            (spec.max_retries, settings.jobs.retry_limit, "retries"),
        ):
            if requested > limit:
                raise InvalidRequest(f"Requested {requested} {name}, but only allowed to use {limit}")
        if len(spec.command) > settings.jobs.command_length_limit:
            raise InvalidRequest(
                f"Job command length of {len(spec.command)} is greater than the maximum command length"
                f" ({settings.jobs.command_length_limit})"
            )

    def _query(self) -> JobQuery:
        user, states = self.required("user"), self.params("state")
        start, end = self.required("start"), self.required("end")
        if not states:
            self.required("state")
        limit = self.number("limit", DEFAULT_LIMIT)
        if limit <= 0:
            raise Forbidden(f"limit must be above 0, not {limit}")
        return JobQuery(
            user=self.require_user(user),
            outcomes=_outcomes(states),
            start_ms=parse_time_ms(start, "start"),
            end_ms=parse_time_ms(end, "end"),
            name_glob=_name_glob(self.param("name")),
            pool=self.requested_pool(),
            limit=limit,
        )


class JobHandler(CookHandler):
    """GET /jobs/:uuid."""

    impersonable = ALL_METHODS

    async def get(self, uuid: str) -> None:
        """Return a job."""
        job = await self.require_job(uuid)
        groups = await self.groups_of([job])
        self.send_json(
            self.job_encoder().encode_job(job, attempts=self.scheduler.attempts(job), groups=groups)
        )


class RawSchedulerHandler(JobsHandler):
    """POST, GET and DELETE /rawscheduler, the older equivalent of /jobs."""

    async def post(self) -> None:
        """Submit jobs; only the header can set the pool."""
        body = read_raw_submission(self.json_body())
        await self.submit(body, None)

    async def get(self) -> None:
        """Return the jobs with the uuids in `job`, and the jobs of the instances in `instance`."""
        job_ids, instance_ids = self._requested_ids()
        jobs = [*await self.scheduler.jobs(job_ids), *await self.scheduler.jobs_of_instances(instance_ids)]
        existing = [job for job in jobs if job is not None]
        missing = [uuid for uuid, job in zip([*job_ids, *instance_ids], jobs, strict=True) if job is None]
        if missing and not (existing and self.flag("partial")):
            require_found(missing, "a job or an instance")
        encoder, attempts = self.job_encoder(), self.scheduler.attempts
        await self.send_json_list(
            one_page(encoder.encode_raw_job(job, attempts=attempts(job)) for job in existing)
        )

    async def delete(self) -> None:
        """Kill the jobs in `job` and the instances in `instance`, all or none."""
        job_ids, instance_ids = self._requested_ids()
        jobs = await self.scheduler.jobs(job_ids)
        parents = await self.scheduler.jobs_of_instances(instance_ids)
        for ids, owners, kind in ((job_ids, jobs, "jobs"), (instance_ids, parents, "instances")):
            foreign = [
                uuid
                for uuid, job in zip(ids, owners, strict=True)
                if job is not None and not self.identity.may_act_on(job.spec.user)
            ]
            if foreign:
                raise Forbidden(f"You are not authorized to kill the following {kind}: {', '.join(foreign)}")
        missing = [
            uuid
            for uuid, job in zip([*job_ids, *instance_ids], [*jobs, *parents], strict=True)
            if job is None
        ]
        require_found(missing, "a job or an instance")
        if job_ids:
            await self.scheduler.kill_jobs(job_ids)
        if instance_ids:
            await self.scheduler.cancel_instances(instance_ids)
        self.send_empty()

    def _requested_ids(self) -> tuple[list[JobId], list[InstanceId]]:
        job_ids, instance_ids = self.uuids("job", JobId), self.uuids("instance", InstanceId)
        if not job_ids and not instance_ids:
            raise InvalidRequest("name at least one job or instance: ?job=UUID or ?instance=UUID")
        return job_ids, instance_ids


class CancelHandler(CookHandler):
    """POST /v1/cancel."""

    async def post(self) -> None:
        """Complete the jobs that are waiting, and return their ids."""
        job_ids = [JobId(uuid.lower()) for uuid in read_cancel(self.json_body()).jobs]
        jobs = await self.scheduler.jobs(job_ids)
        foreign = [
            job.job_id for job in jobs if job is not None and not self.identity.may_act_on(job.spec.user)
        ]
        if foreign:
            raise Forbidden(f"You are not authorized to kill the following jobs: {', '.join(foreign)}")
        self.send_json({"cancelled": await self.scheduler.cancel_waiting(job_ids)})


class InstancesHandler(CookHandler):
    """GET /instances."""

    impersonable = ALL_METHODS

    async def get(self) -> None:
        """Return the instances with the uuids of the query, each with a summary of its job."""
        ids = self.uuids("uuid", InstanceId)
        if not ids:
            raise InvalidRequest("name at least one instance: ?uuid=UUID")
        jobs = await self.scheduler.jobs_of_instances(ids)
        missing = [uuid for uuid, job in zip(ids, jobs, strict=True) if job is None]
        if missing and not (len(missing) < len(ids) and self.flag("partial")):
            require_found(missing, "an instance")
        encoder = self.job_encoder()
        await self.send_json_list(
            one_page(
                encoder.encode_instance_with_job(instance_of(job, uuid), job)
                for uuid, job in zip(ids, jobs, strict=True)
                if job is not None
            )
        )


class InstanceHandler(CookHandler):
    """GET /instances/:uuid."""

    impersonable = ALL_METHODS

    async def get(self, uuid: str) -> None:
        """Return an instance with a summary of its job."""
        job = await self.require_job_of_instance(uuid)
        self.send_json(
            self.job_encoder().encode_instance_with_job(instance_of(job, InstanceId(uuid.lower())), job)
        )


class ListHandler(CookHandler):
    """GET /list, the older list of jobs, whose errors are plain text."""

    impersonable = ALL_METHODS
    wrong_method = 405
    text_errors = True

    async def get(self) -> None:
        """Return the jobs of a user, newest first."""
        await self.send_json_list(self._encoded(self.scheduler.list_jobs(self._query())))

    async def _encoded(self, pages: AsyncIterator[Sequence[Job]]) -> AsyncIterator[Iterable[Any]]:
        """Encode pages of jobs in the format of `/list`."""
        encoder, attempts = self.job_encoder(), self.scheduler.attempts
        async for jobs in pages:
            yield (encoder.encode_list_job(job, attempts=attempts(job)) for job in jobs)

    def _query(self) -> JobQuery:
        user = self.require_user(self.required("user"))
        outcomes = _outcomes(re.split(r"[+ ]", self.required("state")))
        now_ms = self.scheduler.clock.now_ms()
        hours = self.number("since-hours-ago", DEFAULT_HOURS)
        if not 0 <= hours <= MAX_HOURS:
            raise InvalidRequest(f"since-hours-ago must be from 0 to {MAX_HOURS}, not {hours}")
        end = self.param("end-ms")
        end_ms = now_ms + 1 if end is None else parse_integer(end, "end-ms")
        start = self.param("start-ms")
        start_ms = end_ms - hours * 3_600_000 if start is None else parse_integer(start, "start-ms")
        limit = self.param("limit")
        if limit is not None and parse_integer(limit, "limit") <= 0:
            raise Forbidden(f"limit must be above 0, not {limit}")
        return JobQuery(
            user=user,
            outcomes=outcomes,
            start_ms=start_ms,
            end_ms=end_ms,
            name_glob=_name_glob(self.param("name")),
            limit=None if limit is None else parse_integer(limit, "limit"),
        )


async def one_page(page: T) -> AsyncIterator[T]:
    """Yield one page of items."""
    yield page


def instance_of(job: Job, instance_id: InstanceId) -> Instance:
    """Return the instance of a job with this id, which must exist."""
    return next(instance for instance in job.instances if instance.instance_id == instance_id)


def _outcomes(states: Sequence[str]) -> frozenset[str]:
    unknown = [state for state in states if state not in _STATES]
    if unknown or not states:
        raise InvalidRequest(
            f"unsupported state in {' '.join(states)[:80]!r}: valid states are {', '.join(_STATES)}"
        )
    return frozenset().union(*(_STATES[state] for state in states))


def _name_glob(name: str | None) -> str | None:
    if name is not None and not _NAME_FILTER.match(name):
        raise InvalidRequest(
            f"a name filter may have letters, digits, '.', '-', '_' and '*', not {name[:80]!r}"
        )
    return name


def _require_distinct(uuids: Sequence[str], kind: str) -> None:
    if len(set(uuids)) != len(uuids):
        duplicates = [uuid for uuid, occurrences in Counter(uuids).items() if occurrences > 1]
        raise InvalidRequest(f"Duplicate {kind} uuids: {to_json(duplicates).decode()}")


@lru_cache(maxsize=256)
def _unix_ids(user: str) -> str:
    """Return `uid:gid` of a user of this host, or of this process if there is no such user."""
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        return f"{os.getuid()}:{os.getgid()}"
    return f"{entry.pw_uid}:{entry.pw_gid}"
