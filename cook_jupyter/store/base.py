"""The `Store` protocol: durable jobs, instances, groups, results and limits.

Lives here: the commands that write, the queries that read, and their arguments and results. Not here: how
a command changes a job (`model.lifecycle`: every implementation calls the same pure functions inside its
transaction), or any SQL (`store.sql`).

Guarantees of every implementation, checked by one contract suite:

- A command that has returned is durable. Commands that arrive during a transaction share the next one (group
  commit); each of them succeeds or fails alone.
- Commands take effect in the order in which they were called. After each commit, and before any caller
  resumes, the listeners are called once on the event loop, with the changes in that order.
- A failing listener is never ignored. The commit stands and its callers get their replies, but from then on
  every command raises OutOfStep until the store is closed, because a view that missed a commit must not be
  used for decisions.
- A command checks its preconditions again (the job still waits, the uuid is new) and returns what it did; it
  never overwrites a job that has changed in the meantime.
- `change` numbers increase with each change, over all jobs and across restarts.
- The id of a store is unique and never changes. A change number is only meaningful within its store.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import (
    Instance,
    InstanceId,
    ProgressUpdate,
    ResultPayload,
    StatusUpdate,
)
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import ReasonName

__all__ = ["CommitListener", "Failure", "JobChange", "JobQuery", "Store"]

LIST_PAGE_JOBS = 256

CommitListener = Callable[[Sequence[JobChange]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The decision of the scheduler to fail an open instance.

    Attributes:
        job_id: the job of the instance.
        instance_id: the instance to fail.
        reason: why it fails.
        at_ms: time of the decision.
        preempted: whether the instance is preempted.
        preempted_for: user for whom it is preempted, if any.
    """

    job_id: JobId
    instance_id: InstanceId
    reason: ReasonName
    at_ms: int
    preempted: bool = False
    preempted_for: str | None = None


class Store(Protocol):
    """Durable storage of jobs, instances, groups, results and limits. See the module for its guarantees."""

    async def open(self) -> None:
        """Open or create the store and migrate its schema to the newest version.

        Raises:
            SchedulerError: the store was written by a newer cook_jupyter, or is in use by another process.
        """

    async def close(self) -> None:
        """Finish all pending commands, then close the store and remove all listeners. Idempotent."""

    @property
    def store_id(self) -> str:
        """The unique id of the store; the store must be open."""

    def broken(self) -> str | None:
        """Return why nothing can be durable any more (for example, its files were removed), else None.

        A broken store stays broken until it is opened again: every command that writes raises SchedulerError.
        """

    def listen(self, listener: CommitListener) -> None:
        """Call `listener` after every commit, in commit order, on the event loop, until `close`."""

    @property
    def is_in_step(self) -> bool:
        """Whether every listener has followed every commit."""

    def require_in_step(self) -> None:
        """Return if every listener has followed every commit.

        Raises:
            OutOfStep: a listener has failed.
        """

    async def wait_out_of_step(self) -> None:
        """Wait until a listener fails."""

    # Commands. Each raises StoreFull if the disk is full, and OutOfStep after a listener failed; nothing has
    # changed then.

    async def submit(
        self,
        specs: Sequence[JobSpec],
        groups: Sequence[Group] = (),
        *,
        now_ms: int,
        grow_groups: bool = False,
    ) -> Sequence[GroupId]:
        """Add jobs and their groups, all or none of them.

        A group that is named by a job, but is neither in `groups` nor in the store, is created with the name
        "defaultgroup".

        Args:
            specs: the jobs to add.
            groups: the groups to add.
            now_ms: time of submission.
            grow_groups: whether jobs may be added to groups that are already stored.

        Returns:
            The groups that were created or extended.

        Raises:
            Conflict: uuids are in use; the message names them all. Nothing was added.
            InvalidRequest: a group in `groups` is already stored, or a stored group may not grow.
        """

    async def launch(self, instances: Sequence[Instance]) -> Sequence[tuple[JobSpec, Instance]]:
        """Add instances to the jobs that may still start (`lifecycle.launch`).

        Returns:
            Spec and instance of each added instance, in the order given; the others are left out.
        """

    async def report(self, updates: Sequence[StatusUpdate]) -> Sequence[Verdict]:
        """Apply status updates of clusters (`lifecycle.report`); store the results that count."""

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Record progress (`lifecycle.progress`); return False for each unknown instance."""

    async def fail(self, failures: Sequence[Failure]) -> Sequence[bool]:
        """Fail open instances by decision of the scheduler (`lifecycle.fail`).

        Returns:
            Whether each instance was failed; False if it was unknown or no longer open.
        """

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
        """Complete jobs immediately (`lifecycle.kill`).

        Returns:
            Their instances that are still open, which have to be killed.

        Raises:
            NotFound: some jobs are unknown; nothing was changed.
        """

    async def cancel_waiting(self, job_ids: Sequence[JobId]) -> Sequence[JobId]:
        """Complete the jobs that are waiting (`lifecycle.kill`); running jobs continue.

        Returns:
            The jobs that this completed.

        Raises:
            NotFound: some jobs are unknown; nothing was changed.
        """

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
        """Mark instances as cancelled (`lifecycle.cancel`); return those that are still open.

        Raises:
            NotFound: some instances are unknown; nothing was changed.
        """

    async def retry(self, job_ids: Sequence[JobId], retries: Sequence[int], *, now_ms: int) -> None:
        """Set the total number of attempts of each job (`lifecycle.retry`), of all or none.

        Args:
            job_ids: the jobs.
            retries: total number of attempts of each job, the first included.
            now_ms: current time.

        Raises:
            NotFound: some jobs are unknown.
            Conflict: a job has already used more attempts than that.
        """

    async def set_limits(self, entries: Sequence[LimitEntry]) -> None:
        """Store shares and quotas; each replaces the one with the same kind, user, pool and name."""

    async def retract_limits(self, kind: str, user: str, pool: PoolName) -> None:
        """Remove all limits of a kind that `user` has in `pool`."""

    async def set_text(self, key: str, value: str) -> None:
        """Store a short text under a key, such as a framework id or a setting."""

    # Queries. They see the effect of every command that returned before.

    async def get_text(self, key: str) -> str | None:
        """Return the text stored under `key`, or None."""

    async def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit."""

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the job with each id, or None, in the order of the ids."""

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, or None, in the order of the ids."""

    def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match a query, newest first, in pages of bounded size.

        Only one page is held in memory at a time. A job that changes during the iteration appears in its old
        or its new state.
        """

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the group with each id, or None, in the order of the ids."""

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the jobs of a group in the order of their creation."""

    async def result(self, instance_id: InstanceId) -> ResultPayload | None:
        """Return the result of an instance, or None."""

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        """Return the current state of the jobs of a user that changed after a change number, in that order.

        Args:
            user: the owner of the jobs.
            after: the change number.
            label: label that the jobs must carry, if given.
            limit: maximum number of jobs.

        Returns:
            Changes whose `before` is None. A completed job comes with its last finished instance and its
            result.
        """

    async def last_change(self) -> int:
        """Return the highest change number so far; 0 in a new store."""

    def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that a restarted scheduler needs, in batches, by seq.

        These are the jobs that wait, run, or have an open instance (killed, but not yet reported as ended).
        With a million waiting jobs this takes under 30 s, and only one batch is held in memory at a time.
        """
