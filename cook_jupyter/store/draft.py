"""What one verb wants written, before it is written.

Lives here: `Book`, the few things that a verb may look up, and `Draft`, the changes that a verb
collects while it decides. A verb that raises leaves its draft behind and the book as it was; a
draft that is complete is merged into the group that shares a transaction.
Not here: what a verb decides (`store.verbs`), how a draft becomes durable (`store.memory`,
`store.sqlite_book`).
"""

from collections.abc import Sequence
from typing import Protocol

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import Instance, InstanceId, Result
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState, number
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.quick import maker
from cook_jupyter.model.reason import FreeFailures

LimitKey = tuple[str, str, str, str]  # kind, user, pool, name

_job, _change = maker(Job), maker(JobChange)


def finished_instance(job: Job) -> Instance | None:
    """Return the instance whose end a completed job is told with: the last that ended."""
    if job.state is not JobState.COMPLETED:
        return None
    return next((i for i in reversed(job.instances) if not i.status.is_open), None)


def is_unfinished(job: Job) -> bool:
    """Tell whether a restart needs the job: it may go on, or an instance of it is still open."""
    return job.state is not JobState.COMPLETED or job.open_instance is not None


class Book(Protocol):
    """What is written so far, as a verb may look at it.

    Attributes:
        seq: the place of the newest job in the order of creation.
        change: the highest change number given out.
        free: how many failures of ours cost a job no retry.
    """

    seq: int
    change: int
    free: FreeFailures

    def job(self, job_id: JobId) -> Job | None:
        """Return the job as it is now, or None."""

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job that the instance belongs to, or None."""

    def known_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that are in use."""

    def knows_instance(self, instance_id: InstanceId) -> bool:
        """Tell whether the id is in use."""

    def known_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return those of the groups that are stored."""


class Draft:
    """Changes in the making over a book. It is itself a book, so drafts can be laid over drafts.

    Attributes:
        created: jobs that the draft adds, by id, in the order of their creation.
        altered: jobs of the book that it changes, by id, as they are to be.
        placed: the jobs of new instances, by instance.
        results: what came back, by instance, with the seq of the job.
        groups: groups that it adds.
        limits: in order, limits to store, and (kind, user, pool) of those to remove.
        texts: small texts to keep.
        changes: what listeners will be told, in order.
    """

    __slots__ = (
        "altered",
        "book",
        "change",
        "changes",
        "created",
        "free",
        "groups",
        "limits",
        "placed",
        "results",
        "seq",
        "texts",
    )

    def __init__(self, book: Book) -> None:
        """Begin where the book stands."""
        self.book = book
        self.seq = book.seq
        self.change = book.change
        self.free = book.free
        self.created: dict[JobId, Job] = {}
        self.altered: dict[JobId, Job] = {}
        self.placed: dict[InstanceId, JobId] = {}
        self.results: dict[InstanceId, tuple[int, Result]] = {}
        self.groups: dict[GroupId, Group] = {}
        self.limits: list[LimitEntry | tuple[str, str, str]] = []
        self.texts: dict[str, str] = {}
        self.changes: list[JobChange] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be written."""
        return not (self.changes or self.groups or self.limits or self.texts)

    def job(self, job_id: JobId) -> Job | None:
        """Return the job as the draft has it, else as the book has it."""
        return self.altered.get(job_id) or self.created.get(job_id) or self.book.job(job_id)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an instance as the draft has it, else as the book has it."""
        if self.placed and (job_id := self.placed.get(instance_id)) is not None:
            return self.job(job_id)
        job = self.book.job_of(instance_id)
        return None if job is None else self.altered.get(job.spec.job_id, job)

    def known_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that the draft adds or the book has."""
        known = self.book.known_jobs(job_ids)
        return known.union(i for i in job_ids if i in self.created) if self.created else known

    def knows_instance(self, instance_id: InstanceId) -> bool:
        """Tell whether the draft adds the instance or the book has it."""
        return instance_id in self.placed or self.book.knows_instance(instance_id)

    def known_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return those of the groups that the draft adds or the book has."""
        known = self.book.known_groups(group_ids)
        return known.union(i for i in group_ids if i in self.groups) if self.groups else known

    def add(self, spec: JobSpec, *, now_ms: int) -> None:
        """Add a new job, waiting."""
        self.seq += 1
        self.change += 1
        job = _job(
            spec=spec,
            seq=self.seq,
            state=JobState.WAITING,
            submitted_ms=now_ms,
            last_waiting_ms=now_ms,
            max_retries=spec.max_retries,
            change=self.change,
        )
        self.created[spec.job_id] = job
        self.changes.append(_change(before=None, job=job))

    def alter(
        self, before: Job, after: Job, *, instance: Instance | None = None, result: Result | None = None
    ) -> None:
        """Note that a job became another by a verb that touched `instance`.

        `after` was made by that verb and nobody holds it yet: it is numbered here.
        """
        self.change += 1
        number(after, self.change)
        job_id = after.spec.job_id
        (self.created if job_id in self.created else self.altered)[job_id] = after
        if instance is not None and result is not None:
            self.results[instance.instance_id] = (after.seq, result)
        self.changes.append(_change(before=before.state, job=after, instance=instance, result=result))

    def merge(self, later: "Draft") -> None:
        """Take over a draft that was laid over this one."""
        self.seq = later.seq
        self.change = later.change
        self.created.update(later.created)
        for job_id, job in later.altered.items():
            (self.created if job_id in self.created else self.altered)[job_id] = job
        self.placed.update(later.placed)
        self.results.update(later.results)
        self.groups.update(later.groups)
        self.limits.extend(later.limits)
        self.texts.update(later.texts)
        self.changes.extend(later.changes)
