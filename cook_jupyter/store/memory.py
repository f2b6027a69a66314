"""MemoryStore: the store in dictionaries, for tests, simulation and throw-away sessions.

Lives here: the twin that keeps every promise of `store.base` but surviving its process. Closing
and opening the same object again is its restart.
Not here: the verbs (`store.door`, `store.verbs`).
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Concatenate

from cook_jupyter.errors import SchedulerError
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import InstanceId, Result
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import FREE_FAILURES, FreeFailures
from cook_jupyter.store.base import LIST_PAGE_JOBS
from cook_jupyter.store.door import Answer, P, VerbDoor
from cook_jupyter.store.draft import Draft, LimitKey, finished_instance, is_unfinished

OPEN_JOBS_BATCH = 1000


class MemoryStore(VerbDoor):
    """Jobs, instances, groups, results and limits in dictionaries. See Store."""

    def __init__(self, *, free: FreeFailures = FREE_FAILURES) -> None:
        """Begin empty; `free` says how many failures of ours cost a job no retry."""
        super().__init__()
        self._book = _Dictionaries(free)
        self._store_id = uuid.uuid4().hex
        self._is_open = False

    async def open(self) -> None:
        """Begin, or begin again with what was there at close."""
        self._is_open = True

    async def close(self) -> None:
        """Answer nothing more until opened again."""
        self._is_open = False
        self._listeners.clear()

    @property
    def store_id(self) -> str:
        """The id that was made with the store."""
        self._read()
        return self._store_id

    def broken(self) -> str | None:
        """Return None: dictionaries cannot be taken away."""
        return None

    async def recall(self, key: str) -> str | None:
        """Return the text kept under a key."""
        return self._read().texts.get(key)

    async def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit, by kind, user, pool and name."""
        return [entry for _, entry in sorted(self._read().limits.items())]

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the jobs in the order asked."""
        book = self._read()
        return [book.job(i) for i in job_ids]

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job that each instance belongs to."""
        book = self._read()
        return [book.job_of(i) for i in instance_ids]

    async def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match, newest first, in pages."""
        is_named = _name_test(query.name_glob)
        matching = [
            job
            for job in self._read().jobs.values()
            if job.spec.user == query.user
            and query.start_ms <= job.submitted_ms < query.end_ms
            and job.outcome in query.outcomes
            and is_named(job.spec.name)
            and query.pool in (None, job.spec.pool, job.spec.submit_pool)
        ]
        matching.sort(key=lambda job: (job.submitted_ms, job.seq))
        listed = matching[: query.limit][::-1]
        for begin in range(0, len(listed), LIST_PAGE_JOBS):
            yield listed[begin : begin + LIST_PAGE_JOBS]

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the groups in the order asked."""
        book = self._read()
        return [book.groups.get(i) for i in group_ids]

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the group's jobs in the order of their creation."""
        return tuple(self._read().members.get(group_id, ()))

    async def result(self, instance_id: InstanceId) -> Result | None:
        """Return what an instance gave back."""
        return self._read().results.get(instance_id)

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        """Return the user's jobs that changed after a change number."""
        book = self._read()
        newer = [
            job
            for job in book.jobs.values()
            if job.spec.user == user
            and job.change > after
            and (label is None or job.spec.labels.get(label[0]) == label[1])
        ]
        newer.sort(key=lambda job: job.change)
        return [book.told(job) for job in newer[:limit]]

    async def last_change(self) -> int:
        """Return the highest change number given out so far."""
        return self._read().change

    async def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that a restart needs, in batches, by seq."""
        unfinished = (job for job in tuple(self._read().jobs.values()) if is_unfinished(job))
        while batch := tuple(islice(unfinished, OPEN_JOBS_BATCH)):
            yield batch
            await asyncio.sleep(0)

    def _read(self) -> "_Dictionaries":
        if not self._is_open:
            raise SchedulerError("the store is not open")
        return self._book

    async def _do(
        self, size: int, verb: Callable[Concatenate[Draft, P], Answer], /, *args: P.args, **kwargs: P.kwargs
    ) -> Answer:
        """Carry out a verb at once, and tell the listeners."""
        draft = Draft(self._read())
        self._listeners.require_in_step()
        answer = verb(draft, *args, **kwargs)
        self._book.take(draft)
        if draft.changes:
            self._listeners.notify(draft.changes)
        return answer


class _Dictionaries:
    """The book of a MemoryStore. Jobs stand in the order of their creation."""

    def __init__(self, free: FreeFailures) -> None:
        self.free = free
        self.seq = 0
        self.change = 0
        self.jobs: dict[JobId, Job] = {}
        self.placed: dict[InstanceId, JobId] = {}
        self.results: dict[InstanceId, Result] = {}
        self.groups: dict[GroupId, Group] = {}
        self.members: dict[GroupId, list[JobId]] = {}
        self.limits: dict[LimitKey, LimitEntry] = {}
        self.texts: dict[str, str] = {}

    def job(self, job_id: JobId) -> Job | None:
        return self.jobs.get(job_id)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        job_id = self.placed.get(instance_id)
        return None if job_id is None else self.jobs[job_id]

    def known_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        return {i for i in job_ids if i in self.jobs}

    def knows_instance(self, instance_id: InstanceId) -> bool:
        return instance_id in self.placed

    def known_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        return {i for i in group_ids if i in self.groups}

    def told(self, job: Job) -> JobChange:
        """Where the job stands now, with what came back if it is completed."""
        last = finished_instance(job)
        result = None if last is None else self.results.get(last.instance_id)
        return JobChange(before=None, job=job, instance=last, result=result)

    def take(self, draft: Draft) -> None:
        """Write a draft; nothing here can fail."""
        self.seq, self.change = draft.seq, draft.change
        self.jobs.update(draft.created)
        self.jobs.update(draft.altered)
        for job_id, job in draft.created.items():
            if job.spec.group is not None:
                self.members.setdefault(job.spec.group, []).append(job_id)
        self.placed.update(draft.placed)
        self.results.update((i, result) for i, (_, result) in draft.results.items())
        self.groups.update(draft.groups)
        self.texts.update(draft.texts)
        for wish in draft.limits:
            if isinstance(wish, LimitEntry):
                self.limits[wish.kind, wish.user, wish.pool, wish.name] = wish
            else:
                for key in [k for k in self.limits if k[:3] == wish]:
                    del self.limits[key]


def _name_test(glob: str | None) -> Callable[[str], bool]:
    """A whole-name test where `*` is any run of characters."""
    if glob is None:
        return lambda name: True
    pattern = re.compile(".*".join(re.escape(part) for part in glob.split("*")), re.DOTALL)
    return lambda name: pattern.fullmatch(name) is not None
