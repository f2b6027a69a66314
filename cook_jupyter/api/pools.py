"""Pools, their waiting and running jobs, and the reasons why jobs wait.

Lives here: /pools, /queue, /running, /unscheduled_jobs, and /v1/why.
Not here: the reasons themselves (`scheduling.explaining.wait_reasons`).

Source: the REST specification, sections 13 and 15.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from cook_jupyter.api.handler import PAGE_JOBS, CookHandler, encode_list
from cook_jupyter.api.jobs import ALL_METHODS, instance_of
from cook_jupyter.api.query import require_found
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.wire.jobs import encode_queue_entry
from cook_jupyter.wire.validation import to_json

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000  # ranking this many jobs blocks the event loop for about 40 ms


class PoolsHandler(CookHandler):
    """GET /pools."""

    async def get(self) -> None:
        """Return every pool, including inactive ones."""
        self.send_json(
            [
                {
                    "name": pool.name,
                    "purpose": pool.purpose,
                    "state": "active" if pool.active else "inactive",
                }
                for pool in self.scheduler.pools()
            ]
        )


class QueueHandler(CookHandler):
    """GET /queue."""

    wrong_method = 405

    async def get(self) -> None:
        """Return the waiting jobs of each pool in the order of their launch."""
        limit = _limit(self)
        self.require_admin("access the queue")
        await self.send_fragments(self._encoded(self.scheduler.queue(limit), limit))

    async def _encoded(self, queues: Mapping[PoolName, Sequence[JobId]], limit: int) -> AsyncIterator[bytes]:
        """Encode the queues of all pools in fragments of JSON."""
        separator = b"{"
        for pool, job_ids in queues.items():
            yield separator + to_json(pool) + b":"
            separator = b","
            async for fragment in encode_list(self._entries(job_ids[:limit])):
                yield fragment
        yield b"{}" if separator == b"{" else b"}"

    async def _entries(self, job_ids: Sequence[JobId]) -> AsyncIterator[Iterable[Any]]:
        """Encode the entries of a queue in pages."""
        async for jobs in self.jobs_in_pages(job_ids):
            groups = await self.groups_of(jobs)
            yield (encode_queue_entry(job, _group_of(job, groups)) for job in jobs)


class RunningHandler(CookHandler):
    """GET /running."""

    wrong_method = 405

    async def get(self) -> None:
        """Return the running instances."""
        limit = _limit(self)
        self.require_admin("access the running instances")
        await self.send_json_list(self._encoded(self.scheduler.running(limit)))

    async def _encoded(self, instance_ids: Sequence[InstanceId]) -> AsyncIterator[Iterable[Any]]:
        """Encode running instances in pages."""
        encoder = self.job_encoder()
        for begin in range(0, len(instance_ids), PAGE_JOBS):
            ids = instance_ids[begin : begin + PAGE_JOBS]
            jobs = await self.scheduler.jobs_of_instances(ids)
            yield (
                encoder.encode_instance(instance_of(job, instance_id), job)
                for instance_id, job in zip(ids, jobs, strict=True)
                if job is not None
            )


class UnscheduledHandler(CookHandler):
    """GET /unscheduled_jobs."""

    impersonable = ALL_METHODS

    async def get(self) -> None:
        """Return why jobs wait, in Cook's format."""
        ids = self.uuids("job", JobId)
        if not ids:
            raise InvalidRequest("name at least one job: ?job=UUID")
        jobs = await self.scheduler.jobs(ids)
        missing = [uuid for uuid, job in zip(ids, jobs, strict=True) if job is None]
        if missing and not (len(missing) < len(ids) and self.flag("partial")):
            require_found(missing, "a job")
        await self.send_json_list(self._encoded([job.job_id for job in jobs if job is not None]))

    async def _encoded(self, job_ids: Sequence[JobId]) -> AsyncIterator[Iterable[Any]]:
        """Encode the reasons why jobs wait, one job at a time."""
        for job_id in job_ids:
            reasons = await self.scheduler.why(job_id)
            encoded = [{"reason": reason.text, "data": reason.data} for reason in reasons]
            yield [{"uuid": job_id, "reasons": encoded}]


class WhyHandler(CookHandler):
    """GET /v1/why/:uuid."""

    impersonable = ALL_METHODS

    async def get(self, uuid: str) -> None:
        """Return why a job waits, in sentences with amounts and advice."""
        job = await self.require_job(uuid)
        job_id = job.job_id
        reasons = await self.scheduler.why(job_id)
        self.send_json(
            {
                "uuid": job_id,
                "state": job.outcome,
                "sentences": await self.scheduler.explain(job_id),
                "reasons": [{"reason": reason.text, "data": reason.data} for reason in reasons],
            }
        )


def _group_of(job: Job, groups: Mapping[GroupId, Group]) -> Group | None:
    return None if job.spec.group is None else groups.get(job.spec.group)


def _limit(handler: CookHandler) -> int:
    limit = handler.number("limit", DEFAULT_LIMIT)
    if limit < 1:
        raise InvalidRequest(f"limit must be at least 1, not {limit}")
    return min(limit, MAX_LIMIT)
