"""What the scheduler asks of its memory: the `Store` protocol.

Lives here: the verbs by which jobs are written, the questions by which they are read, and the
values that go in and out. Not here: what a verb does to a life (`model.lifecycle`: every twin
calls those same pure functions inside its transaction), or any SQL (`store.sql`).

Promises that every twin keeps, and that one contract suite checks:

- A verb that returned is durable. Verbs that arrive while a transaction runs share the next one
  (group commit); each of them succeeds or fails alone.
- Verbs take effect in the order in which they were called. After each commit the listeners are
  called, on the event loop, once, with the changes in that order, before any caller resumes.
- No failure of a listener is passed over. The commit stands and its callers get their answers, but
  from then on every verb raises OutOfStep until the store was closed: a view with a hole must not
  be decided by.
- A verb re-checks what must hold (the job still waits, the uuid is new) and says what it did;
  it never overwrites a life that moved on.
- `change` numbers grow by at least one with each change, over all jobs, also across restarts.
- A store has an id from its beginning to its end, which no other store has: a change number counts
  in the store that gave it out, and in no other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import (
    Instance,
    InstanceId,
    ProgressUpdate,
    Result,
    StatusUpdate,
)
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import ReasonName

__all__ = ["Failure", "JobChange", "JobQuery", "Listener", "Store"]

LIST_PAGE_JOBS = 256

Listener = Callable[[Sequence[JobChange]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An open instance to be failed by our own decision; if it is preempted, `preempted_for` whom."""

    job_id: JobId
    instance_id: InstanceId
    reason: ReasonName
    at_ms: int
    preempted: bool = False
    preempted_for: str | None = None


class Store(Protocol):
    """Jobs, instances, groups, results and limits, remembered. See the module for the promises."""

    async def open(self) -> None:
        """Open or create the store and bring its schema up to date.

        Raises:
            SchedulerError: it was written by a newer cook_jupyter, or another process owns it.
        """

    async def close(self) -> None:
        """Finish what was asked, then let go, also of the listeners. Idempotent."""

    @property
    def store_id(self) -> str:
        """The id that was made with the store; the store must be open."""

    def broken(self) -> str | None:
        """Return why nothing can be durable any more (its files were taken away, say), else None.

        It stays so until the store is opened anew: every verb that writes raises SchedulerError.
        """

    def listen(self, listener: Listener) -> None:
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
        """Return once a listener has failed; wait until then."""

    # Verbs. Each raises StoreFull if the disk is full, and OutOfStep after a listener failed; nothing was
    # changed then.

    async def submit(
        self,
        specs: Sequence[JobSpec],
        groups: Sequence[Group] = (),
        *,
        now_ms: int,
        grow_groups: bool = False,
    ) -> Sequence[GroupId]:
        """Add jobs, and the groups they name, all or none of them.

        A group that is named by a job but neither given nor stored is created as
        "defaultgroup". A stored group may not grow unless `grow_groups`.

        Returns:
            the groups that were created or extended.

        Raises:
            Conflict: a uuid is in use; the message names all that are. Nothing was added.
            InvalidRequest: a given group is stored already, or a stored one would grow.
        """

    async def launch(self, instances: Sequence[Instance]) -> Sequence[tuple[JobSpec, Instance]]:
        """Add instances to the jobs that still may start (lifecycle.launch).

        Returns:
            spec and instance of those that were added, in the order given; others are left out.
        """

    async def report(self, updates: Sequence[StatusUpdate]) -> Sequence[Verdict]:
        """Apply what clusters report (lifecycle.report); keep results that count."""

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Note progress (lifecycle.progress); False where the instance is not known."""

    async def fail(self, failures: Sequence[Failure]) -> Sequence[bool]:
        """Fail open instances by our own decision (lifecycle.fail); True where it did."""

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
        """Complete jobs at once (lifecycle.kill).

        Returns:
            their instances that are still open: to be killed.

        Raises:
            NotFound: some are not known; nothing was changed.
        """

    async def cancel_waiting(self, job_ids: Sequence[JobId]) -> Sequence[JobId]:
        """Complete those of the jobs that wait (lifecycle.kill); what runs goes on.

        Returns:
            the jobs that were completed by this.

        Raises:
            NotFound: some are not known; nothing was changed.
        """

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
        """Mark instances to be killed (lifecycle.cancel); returns those still open.

        Raises:
            NotFound: some are not known; nothing was changed.
        """

    async def retry(self, job_ids: Sequence[JobId], retries: Sequence[int], *, now_ms: int) -> None:
        """Set the total attempts of each job (lifecycle.retry), all or none.

        Raises:
            NotFound: some are not known.
            Conflict: one has used more attempts than that.
        """

    async def set_limits(self, entries: Sequence[LimitEntry]) -> None:
        """Store shares and quotas, each replacing the one of the same kind, user, pool and name."""

    async def retract_limits(self, kind: str, user: str, pool: str) -> None:
        """Remove all limits of a kind that `user` has in `pool`."""

    async def remember(self, key: str, value: str) -> None:
        """Keep a small text under a key (framework id, settings that live in the database)."""

    # Questions. They see every verb that returned before they were asked.

    async def recall(self, key: str) -> str | None:
        """Return the text kept under `key`, or None."""

    async def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit."""

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the jobs in the order asked; None where there is none."""

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job that each instance belongs to, in the order asked."""

    def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match, newest first, in pages of a bounded size.

        However many match, one page is held at a time. A job that changes meanwhile is in the list as it was
        or as it is.
        """

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the groups in the order asked."""

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the group's jobs in the order of their creation."""

    async def result(self, instance_id: InstanceId) -> Result | None:
        """Return what an instance gave back, if it gave anything."""

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        """Return the user's jobs whose `change` is above `after`, in the order of change.

        `before` of these is None: what is told is where each job stands now, with the last
        finished instance and its result if it is completed. `label` keeps only the jobs that
        carry that label.
        """

    async def last_change(self) -> int:
        """Return the highest change number given out so far; 0 in a new store."""

    def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        """Yield what a restart needs, in batches, by seq.

        That is every job that waits, runs, or holds an open instance (killed, its end not heard).
        With a million jobs waiting this takes under 30 s and holds one batch at a time.
        """
