"""The number of attempts of jobs: GET, PUT and POST /retry.

Lives here: the selection of jobs by a request, and its checks.
Not here: the effect of a new total on a job (`model.lifecycle`).

Source: the REST specification, section 10.
"""

from collections.abc import Sequence

from msgspec import UNSET

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import ALL_METHODS
from cook_jupyter.api.query import parse_uuid, require_found
from cook_jupyter.errors import Conflict, Forbidden, InvalidRequest
from cook_jupyter.model.job import GroupId, Job, JobId, JobState
from cook_jupyter.wire.actions import PostRetry, PutRetry, read_post_retry, read_put_retry


class RetryHandler(CookHandler):
    """GET, PUT and POST /retry."""

    impersonable = ALL_METHODS

    async def get(self) -> None:
        """Return the total number of attempts that a job may have."""
        job = await self.require_job(self.required("job"))
        self.send_json(job.max_retries)

    async def put(self) -> None:
        """Set or increment the total number of attempts of jobs, or of all jobs of groups."""
        body = read_put_retry(self.json_body())
        groups = [] if body.groups is UNSET else [GroupId(uuid.lower()) for uuid in body.groups]
        failed_only = bool(groups) if body.failed_only is UNSET else body.failed_only
        async with self.scheduler.retry_lock:
            await self._retry(body, groups, failed_only=failed_only)

    async def post(self) -> None:
        """Set or increment the total number of attempts of jobs, with the older body."""
        async with self.scheduler.retry_lock:
            await self._retry(read_post_retry(self.json_body()), [], failed_only=False)

    async def _retry(
        self, body: PutRetry | PostRetry, group_ids: Sequence[GroupId], *, failed_only: bool
    ) -> None:
        requested = self._requested_jobs(body)
        if not requested and not group_ids:
            raise InvalidRequest("Need to specify at least 1 job or group to retry")
        if (body.retries is UNSET) == (body.increment is UNSET):
            raise InvalidRequest("Need to specify either retries or increment, and not both")
        jobs = await self._jobs(requested, group_ids)
        max_total = self.context.settings.jobs.retry_limit
        totals = {job.job_id: _total(job, body) for job in jobs}
        if any(total > max_total for total in totals.values()):
            raise InvalidRequest(f"That would exceed the maximum retry limit of {max_total}")
        foreign = [job.job_id for job in jobs if not self.identity.may_act_on(job.spec.user)]
        if foreign:
            raise Forbidden(f"You are not authorized to retry the following jobs: {', '.join(foreign)}")
        chosen = [job for job in jobs if not failed_only or job.outcome == "failed"]
        attempts = self.scheduler.attempts
        if any(attempts(job) > totals[job.job_id] for job in chosen if job.job_id in requested):
            raise InvalidRequest("Retries would be less than attempts-consumed")
        # Jobs of a group that have already used more attempts stay as they are.
        chosen = [job for job in chosen if attempts(job) <= totals[job.job_id]]
        if body.retries is not UNSET:
            self._require_change(chosen, body.retries)
        if not chosen:
            self.send_json(0)
            return
        await self.scheduler.set_retries(
            [job.job_id for job in chosen], [totals[job.job_id] for job in chosen]
        )
        self.send_json(totals[chosen[0].job_id], 201)

    def _requested_jobs(self, body: PutRetry | PostRetry) -> list[JobId]:
        job = self.param("job") if body.job is UNSET else body.job
        if job is not None and body.jobs is not UNSET:
            raise InvalidRequest("Can't specify both job and jobs")
        jobs = [job] if job is not None else [] if body.jobs is UNSET else body.jobs
        return list(dict.fromkeys(parse_uuid(uuid, JobId) for uuid in jobs))

    async def _jobs(self, requested: Sequence[JobId], group_ids: Sequence[GroupId]) -> list[Job]:
        groups = await self.groups_by_id(group_ids)
        require_found([uuid for uuid in group_ids if uuid not in groups], "a group")
        members = [job_id for uuid in groups for job_id in await self.scheduler.jobs_of_group(uuid)]
        ids = list(dict.fromkeys([*requested, *members]))
        jobs = await self.scheduler.jobs(ids)
        require_found([uuid for uuid, job in zip(ids, jobs, strict=True) if job is None], "a job")
        return [job for job in jobs if job is not None]

    def _require_change(self, jobs: Sequence[Job], retries: int) -> None:
        attempts = self.scheduler.attempts
        unchanged = [
            job.job_id
            for job in jobs
            if (attempts(job) == retries if job.state is JobState.COMPLETED else job.max_retries == retries)
        ]
        if unchanged:
            raise Conflict(f"These jobs would not be retried by {retries} retries:\n" + "\n".join(unchanged))


def _total(job: Job, body: PutRetry | PostRetry) -> int:
    if body.retries is not UNSET:
        return body.retries
    return job.max_retries + (0 if body.increment is UNSET else body.increment)
