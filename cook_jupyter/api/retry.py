"""More attempts for jobs: GET, PUT and POST /retry.

Lives here: which jobs a request means, what it asks for, and when nothing of it may be done.
Not here: what a new total does to a job's life (`model.lifecycle`).

Source: the REST specification, section 10.
"""

from collections.abc import Sequence

from msgspec import UNSET

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import EVERY_VERB
from cook_jupyter.api.query import require_found, uuid_of
from cook_jupyter.errors import Conflict, Forbidden, InvalidRequest
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.wire.verbs import OldRetry, Retry, read_old_retry, read_retry


class RetryHandler(CookHandler):
    """GET, PUT and POST /retry."""

    impersonable = EVERY_VERB

    async def get(self) -> None:
        """Return the total attempts that a job may have."""
        job = await self.one_job(self.required("job"))
        self.answer(job.max_retries)

    async def put(self) -> None:
        """Set or raise the total attempts of jobs, or of all jobs of groups."""
        sent = read_retry(self.json_body())
        groups = [] if sent.groups is UNSET else [group.lower() for group in sent.groups]
        failed_only = bool(groups) if sent.failed_only is UNSET else sent.failed_only
        async with self.scheduler.retrying:
            await self._retry(sent, groups, failed_only=failed_only)

    async def post(self) -> None:
        """The older spelling of the same."""
        async with self.scheduler.retrying:
            await self._retry(read_old_retry(self.json_body()), [], failed_only=False)

    async def _retry(self, sent: Retry | OldRetry, group_ids: Sequence[str], *, failed_only: bool) -> None:
        named = self._named(sent)
        if not named and not group_ids:
            raise InvalidRequest("Need to specify at least 1 job or group to retry")
        if (sent.retries is UNSET) == (sent.increment is UNSET):
            raise InvalidRequest("Need to specify either retries or increment, and not both")
        jobs = await self._jobs(named, group_ids)
        most = self.door.settings.retry_limit
        totals = {job.job_id: _total(job, sent) for job in jobs}
        if any(total > most for total in totals.values()):
            raise InvalidRequest(f"That would exceed the maximum retry limit of {most}")
        foreign = [job.job_id for job in jobs if not self.asker.may_act_on(job.spec.user)]
        if foreign:
            raise Forbidden(f"You are not authorized to retry the following jobs: {', '.join(foreign)}")
        chosen = [job for job in jobs if not failed_only or job.outcome == "failed"]
        attempts = self.scheduler.attempts
        if any(attempts(job) > totals[job.job_id] for job in chosen if job.job_id in named):
            raise InvalidRequest("Retries would be less than attempts-consumed")
        # Of a group's jobs, those that used up more than that are left as they are.
        chosen = [job for job in chosen if attempts(job) <= totals[job.job_id]]
        if sent.retries is not UNSET:
            self._require_change(chosen, sent.retries)
        if not chosen:
            self.answer(0)
            return
        await self.scheduler.set_retries(
            [job.job_id for job in chosen], [totals[job.job_id] for job in chosen]
        )
        self.answer(totals[chosen[0].job_id], 201)

    def _named(self, sent: Retry | OldRetry) -> list[str]:
        job = self.param("job") if sent.job is UNSET else sent.job
        if job is not None and sent.jobs is not UNSET:
            raise InvalidRequest("Can't specify both job and jobs")
        jobs = [job] if job is not None else [] if sent.jobs is UNSET else sent.jobs
        return list(dict.fromkeys(uuid_of(each) for each in jobs))

    async def _jobs(self, named: Sequence[str], group_ids: Sequence[str]) -> list[Job]:
        groups = await self.groups_by_id(group_ids)
        require_found([each for each in group_ids if each not in groups], "a group")
        members = [job_id for each in groups for job_id in await self.scheduler.jobs_of_group(each)]
        ids = list(dict.fromkeys([*named, *members]))
        found = await self.scheduler.jobs(ids)
        require_found([each for each, job in zip(ids, found, strict=True) if job is None], "a job")
        return [job for job in found if job is not None]

    def _require_change(self, jobs: Sequence[Job], retries: int) -> None:
        attempts = self.scheduler.attempts
        idle = [
            job.job_id
            for job in jobs
            if (attempts(job) == retries if job.state is JobState.COMPLETED else job.max_retries == retries)
        ]
        if idle:
            raise Conflict(f"These jobs would not be retried by {retries} retries:\n" + "\n".join(idle))


def _total(job: Job, sent: Retry | OldRetry) -> int:
    if sent.retries is not UNSET:
        return sent.retries
    return job.max_retries + (0 if sent.increment is UNSET else sent.increment)
