"""Pools by HTTP: which there are, what waits and runs in them, and why jobs wait.

Lives here: /pools, /queue, /running, /unscheduled_jobs, and our /v1/why.
Not here: the reasons themselves (`scheduling.explain`).

Source: the REST specification, sections 13 and 15.
"""

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import EVERY_VERB, instance_of
from cook_jupyter.api.query import require_found
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.wire.jobs import queue_entry

DEFAULT_LIMIT = 1000


class PoolsHandler(CookHandler):
    """GET /pools."""

    async def get(self) -> None:
        """Return every pool, the inactive ones too."""
        self.answer(
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
        """Return each pool's waiting jobs, first to be launched first."""
        limit = _limit(self)
        self.require_admin("access the queue")
        queues = self.scheduler.queue(limit)
        told = {}
        for pool, job_ids in queues.items():
            jobs = [job for job in await self.scheduler.jobs(job_ids[:limit]) if job is not None]
            groups = await self.groups_of(jobs)
            told[pool] = [queue_entry(job, groups.get(job.spec.group or "")) for job in jobs]
        self.answer(told)


class RunningHandler(CookHandler):
    """GET /running."""

    wrong_method = 405

    async def get(self) -> None:
        """Return running instances."""
        limit = _limit(self)
        self.require_admin("access the running instances")
        ids = self.scheduler.running(limit)
        teller = self.teller()
        found = await self.scheduler.jobs_of_instances(ids)
        self.answer(
            [
                teller.instance(instance_of(job, instance_id), job)
                for instance_id, job in zip(ids, found, strict=True)
                if job is not None
            ]
        )


class UnscheduledHandler(CookHandler):
    """GET /unscheduled_jobs."""

    impersonable = EVERY_VERB

    async def get(self) -> None:
        """Say why jobs wait, in Cook's words."""
        ids = self.uuids("job")
        if not ids:
            raise InvalidRequest("name at least one job: ?job=UUID")
        found = await self.scheduler.jobs(ids)
        missing = [asked for asked, job in zip(ids, found, strict=True) if job is None]
        if missing and not (len(missing) < len(ids) and self.flag("partial")):
            require_found(missing, "a job")
        self.answer(
            [
                {
                    "uuid": job.job_id,
                    "reasons": [
                        {"reason": reason.text, "data": reason.data}
                        for reason in await self.scheduler.why(job.job_id)
                    ],
                }
                for job in found
                if job is not None
            ]
        )


class WhyHandler(CookHandler):
    """GET /v1/why/:uuid."""

    impersonable = EVERY_VERB

    async def get(self, job_id: str) -> None:
        """Say why a job waits, in sentences with numbers and what to do next."""
        job = await self.one_job(job_id)
        job_id = job.job_id
        reasons = await self.scheduler.why(job_id)
        self.answer(
            {
                "uuid": job_id,
                "state": job.outcome,
                "sentences": await self.scheduler.explain(job_id),
                "reasons": [{"reason": reason.text, "data": reason.data} for reason in reasons],
            }
        )


def _limit(handler: CookHandler) -> int:
    limit = handler.number("limit", DEFAULT_LIMIT)
    if limit < 1:
        raise InvalidRequest(f"limit is at least 1, not {limit}")
    return min(limit, 1_000_000)
