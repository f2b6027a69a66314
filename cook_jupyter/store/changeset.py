"""The changes of a store command, collected before they are written.

Lives here: `StoreState`, the lookups that a command may make, and `Changeset`, the changes that it makes. If
a command raises, its changeset is dropped and the store stays as it was; otherwise the changeset is merged
into that of the transaction.
Not here: what a command changes (`store.commands`), how a changeset becomes durable (`store.memory`,
`store.sqlite_writer`).
"""

from collections.abc import Sequence
from typing import Protocol

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import Instance, InstanceId, ResultPayload
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState, set_change
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import MeaCulpaLimits

LimitKey = tuple[str, str, str, str]  # kind, user, pool, name

_job, _change = fast_constructor(Job), fast_constructor(JobChange)


def finished_instance(job: Job) -> Instance | None:
    """Return the last finished instance of a completed job; None if the job is not completed or never ran."""
    if job.state is not JobState.COMPLETED:
        return None
    return next((i for i in reversed(job.instances) if not i.status.is_open), None)


def is_unfinished(job: Job) -> bool:
    """Return whether a restarted scheduler needs the job: it is not completed, or has an open instance."""
    return job.state is not JobState.COMPLETED or job.open_instance is not None


class StoreState(Protocol):
    """The state of a store, as far as commands can look it up.

    Attributes:
        seq: sequence number of the newest job, in the order of creation.
        change: the highest change number.
        free: the mea-culpa failures that cost a job no retry.
    """

    seq: int
    change: int
    free: MeaCulpaLimits

    def job(self, job_id: JobId) -> Job | None:
        """Return a job in its current state, or None."""

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an instance, or None."""

    def existing_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that are in use."""

    def has_instance(self, instance_id: InstanceId) -> bool:
        """Return whether an instance with this id exists."""

    def existing_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return those of the groups that are stored."""


class Changeset:
    """Changes on top of a base state, which may itself be a changeset.

    Attributes:
        created: new jobs by id, in the order of their creation.
        altered: changed jobs of the base by id, in their new state.
        instance_jobs: id of the job of each new instance.
        results: new results by instance, each with the seq of the job.
        groups: new groups by id.
        limits: limits to store, and (kind, user, pool) of limits to remove, in order.
        texts: texts to store, by key.
        changes: changes to notify the listeners of, in order.
    """

    __slots__ = (
        "altered",
        "base",
        "change",
        "changes",
        "created",
        "free",
        "groups",
        "instance_jobs",
        "limits",
        "results",
        "seq",
        "texts",
    )

    def __init__(self, base: StoreState) -> None:
        """Create an empty changeset on top of a base state."""
        self.base = base
        self.seq = base.seq
        self.change = base.change
        self.free = base.free
        self.created: dict[JobId, Job] = {}
        self.altered: dict[JobId, Job] = {}
        self.instance_jobs: dict[InstanceId, JobId] = {}
        self.results: dict[InstanceId, tuple[int, ResultPayload]] = {}
        self.groups: dict[GroupId, Group] = {}
        self.limits: list[LimitEntry | tuple[str, str, str]] = []
        self.texts: dict[str, str] = {}
        self.changes: list[JobChange] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.changes or self.groups or self.limits or self.texts)

    def job(self, job_id: JobId) -> Job | None:
        """Return a job with the changes of this changeset, or None."""
        return self.altered.get(job_id) or self.created.get(job_id) or self.base.job(job_id)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an instance with the changes of this changeset, or None."""
        if self.instance_jobs and (job_id := self.instance_jobs.get(instance_id)) is not None:
            return self.job(job_id)
        job = self.base.job_of(instance_id)
        return None if job is None else self.altered.get(job.spec.job_id, job)

    def existing_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return the ids that are in use, in this changeset or its base."""
        existing = self.base.existing_jobs(job_ids)
        return existing.union(i for i in job_ids if i in self.created) if self.created else existing

    def has_instance(self, instance_id: InstanceId) -> bool:
        """Return whether an instance with this id exists in this changeset or its base."""
        return instance_id in self.instance_jobs or self.base.has_instance(instance_id)

    def existing_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return the ids of the groups that exist in this changeset or its base."""
        existing = self.base.existing_groups(group_ids)
        return existing.union(i for i in group_ids if i in self.groups) if self.groups else existing

    def add(self, spec: JobSpec, *, now_ms: int) -> None:
        """Add a new job in the state waiting."""
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
        self,
        before: Job,
        after: Job,
        *,
        instance: Instance | None = None,
        result: ResultPayload | None = None,
    ) -> None:
        """Record the new state of a job.

        Args:
            before: the job before the command.
            after: the job after the command; it gets its change number here, so nothing else may hold it yet.
            instance: the instance that changed, if any.
            result: the result of that instance, if any.
        """
        self.change += 1
        set_change(after, self.change)
        job_id = after.spec.job_id
        (self.created if job_id in self.created else self.altered)[job_id] = after
        if instance is not None and result is not None:
            self.results[instance.instance_id] = (after.seq, result)
        self.changes.append(_change(before=before.state, job=after, instance=instance, result=result))

    def merge(self, later: "Changeset") -> None:
        """Add the changes of a changeset whose base is this one."""
        self.seq = later.seq
        self.change = later.change
        self.created.update(later.created)
        for job_id, job in later.altered.items():
            (self.created if job_id in self.created else self.altered)[job_id] = job
        self.instance_jobs.update(later.instance_jobs)
        self.results.update(later.results)
        self.groups.update(later.groups)
        self.limits.extend(later.limits)
        self.texts.update(later.texts)
        self.changes.extend(later.changes)
