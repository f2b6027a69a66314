"""MemoryStore: a store in dictionaries, for tests, simulations and temporary schedulers.

Lives here: an implementation with all guarantees of `store.base`, except that its content is lost when the
process ends. Closing and opening the same object again stands for a restart.
Not here: the commands (`store.dispatch`, `store.commands`).
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Concatenate

from cook_jupyter.errors import SchedulerError
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import InstanceId, ResultPayload
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMITS, MeaCulpaLimits
from cook_jupyter.store.base import LIST_PAGE_JOBS
from cook_jupyter.store.changeset import Changeset, LimitKey, finished_instance, is_unfinished
from cook_jupyter.store.dispatch import Params, Reply, StoreCommands

OPEN_JOBS_BATCH = 1000


class MemoryStore(StoreCommands):
    """A store in dictionaries. See Store."""

    def __init__(self, *, free: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS) -> None:
        """Create an empty store.

        Args:
            free: the mea-culpa failures that cost a job no retry.
        """
        super().__init__()
        self._state = _MemoryState(free)
        self._store_id = uuid.uuid4().hex
        self._is_open = False

    async def open(self) -> None:
        """Open the store with the content that it had when it was closed."""
        self._is_open = True

    async def close(self) -> None:
        """Refuse commands and queries until the store is opened again."""
        self._is_open = False
        self._listeners.clear()

    @property
    def store_id(self) -> str:
        """The unique id of the store."""
        self._read()
        return self._store_id

    def broken(self) -> str | None:
        """Return None: a store in memory has no files that could break."""
        return None

    async def get_text(self, key: str) -> str | None:
        """Return the text stored under a key, or None."""
        return self._read().texts.get(key)

    async def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit, by kind, user, pool and name."""
        return [entry for _, entry in sorted(self._read().limits.items())]

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the job with each id, or None."""
        state = self._read()
        return [state.job(i) for i in job_ids]

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, or None."""
        state = self._read()
        return [state.job_of(i) for i in instance_ids]

    async def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match a query, newest first, in pages."""
        name_matches = _name_test(query.name_glob)
        matching = [
            job
            for job in self._read().jobs.values()
            if job.spec.user == query.user
            and query.start_ms <= job.submitted_ms < query.end_ms
            and job.outcome in query.outcomes
            and name_matches(job.spec.name)
            and query.pool in (None, job.spec.pool, job.spec.submit_pool)
        ]
        matching.sort(key=lambda job: (job.submitted_ms, job.seq))
        listed = matching[: query.limit][::-1]
        for begin in range(0, len(listed), LIST_PAGE_JOBS):
            yield listed[begin : begin + LIST_PAGE_JOBS]

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the group with each id, or None."""
        state = self._read()
        return [state.groups.get(i) for i in group_ids]

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the jobs of a group in the order of their creation."""
        return tuple(self._read().members.get(group_id, ()))

    async def result(self, instance_id: InstanceId) -> ResultPayload | None:
        """Return the result of an instance, or None."""
        return self._read().results.get(instance_id)

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        """Return the current state of a user's jobs that changed after a change number."""
        state = self._read()
        newer = [
            job
            for job in state.jobs.values()
            if job.spec.user == user
            and job.change > after
            and (label is None or job.spec.labels.get(label[0]) == label[1])
        ]
        newer.sort(key=lambda job: job.change)
        return [state.current_change(job) for job in newer[:limit]]

    async def last_change(self) -> int:
        """Return the highest change number so far."""
        return self._read().change

    async def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that a restarted scheduler needs, in batches, by seq."""
        unfinished = (job for job in tuple(self._read().jobs.values()) if is_unfinished(job))
        while batch := tuple(islice(unfinished, OPEN_JOBS_BATCH)):
            yield batch
            await asyncio.sleep(0)

    def _read(self) -> "_MemoryState":
        if not self._is_open:
            raise SchedulerError("the store is not open")
        return self._state

    async def _execute(
        self,
        size: int,
        command: Callable[Concatenate[Changeset, Params], Reply],
        /,
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Reply:
        """Execute a command immediately, and notify the listeners."""
        changeset = Changeset(self._read())
        self._listeners.require_in_step()
        reply = command(changeset, *args, **kwargs)
        self._state.apply(changeset)
        if changeset.changes:
            self._listeners.notify(changeset.changes)
        return reply


class _MemoryState:
    """The state of a MemoryStore. Jobs are in the order of their creation."""

    def __init__(self, free: MeaCulpaLimits) -> None:
        self.free = free
        self.seq = 0
        self.change = 0
        self.jobs: dict[JobId, Job] = {}
        self.instance_jobs: dict[InstanceId, JobId] = {}
        self.results: dict[InstanceId, ResultPayload] = {}
        self.groups: dict[GroupId, Group] = {}
        self.members: dict[GroupId, list[JobId]] = {}
        self.limits: dict[LimitKey, LimitEntry] = {}
        self.texts: dict[str, str] = {}

    def job(self, job_id: JobId) -> Job | None:
        return self.jobs.get(job_id)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        job_id = self.instance_jobs.get(instance_id)
        return None if job_id is None else self.jobs[job_id]

    def existing_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        return {i for i in job_ids if i in self.jobs}

    def has_instance(self, instance_id: InstanceId) -> bool:
        return instance_id in self.instance_jobs

    def existing_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        return {i for i in group_ids if i in self.groups}

    def current_change(self, job: Job) -> JobChange:
        """Return the current state of a job as a change, with its result if it is completed."""
        finished = finished_instance(job)
        result = None if finished is None else self.results.get(finished.instance_id)
        return JobChange(before=None, job=job, instance=finished, result=result)

    def apply(self, changeset: Changeset) -> None:
        """Apply a changeset; this cannot fail."""
        self.seq, self.change = changeset.seq, changeset.change
        self.jobs.update(changeset.created)
        self.jobs.update(changeset.altered)
        for job_id, job in changeset.created.items():
            if job.spec.group is not None:
                self.members.setdefault(job.spec.group, []).append(job_id)
        self.instance_jobs.update(changeset.instance_jobs)
        self.results.update((i, result) for i, (_, result) in changeset.results.items())
        self.groups.update(changeset.groups)
        self.texts.update(changeset.texts)
        for limit_change in changeset.limits:
            if isinstance(limit_change, LimitEntry):
                self.limits[limit_change.kind, limit_change.user, limit_change.pool, limit_change.name] = (
                    limit_change
                )
            else:
                for key in [k for k in self.limits if k[:3] == limit_change]:
                    del self.limits[key]


def _name_test(glob: str | None) -> Callable[[str], bool]:
    """Return a predicate for names that match a pattern, in which `*` stands for any characters."""
    if glob is None:
        return lambda name: True
    pattern = re.compile(".*".join(re.escape(part) for part in glob.split("*")), re.DOTALL)
    return lambda name: pattern.fullmatch(name) is not None
