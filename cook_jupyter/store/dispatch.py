"""The command methods that all stores share, and the listeners that they notify.

Lives here: `StoreCommands`, whose methods hand each command to the store for execution, and `Listeners`.
Not here: the commands themselves (`store.commands`), how they become durable and how queries are answered
(`store.memory`, `store.sqlite`).
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from cook_jupyter.errors import OutOfStep
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, StatusUpdate
from cook_jupyter.model.job import Group, GroupId, JobId, JobSpec
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.pool import PoolName
from cook_jupyter.store import commands
from cook_jupyter.store.base import CommitListener, Failure
from cook_jupyter.store.changeset import Changeset

log = logging.getLogger(__name__)

Params = ParamSpec("Params")
Reply = TypeVar("Reply")


class Listeners:
    """The listeners of one store.

    A listener that fails cannot catch up, because it has missed a commit. The commit stands and the other
    listeners still receive it, but from then on the store refuses commands. To recover, close the store and
    rebuild every view from it.

    Attributes:
        failed: set when a listener has failed.
    """

    def __init__(self) -> None:
        self.failed = asyncio.Event()
        self._listeners: list[CommitListener] = []
        self._error: Exception | None = None

    def add(self, listener: CommitListener) -> None:
        """Add a listener to call after every commit."""
        self._listeners.append(listener)

    def clear(self) -> None:
        """Remove all listeners and forget their failures."""
        self._listeners.clear()
        self._error = None
        self.failed.clear()

    def notify(self, changes: Sequence[JobChange]) -> None:
        """Call every listener with the changes of a commit; record the first failure."""
        for listener in self._listeners:
            try:
                listener(changes)
            except (
                Exception
            ) as error:  # recorded for `require_in_step` and for the tasks that wait for `failed`
                log.exception(
                    "a listener could not follow the commit of changes %d to %d;"
                    " the store takes no more commands",
                    changes[0].job.change,
                    changes[-1].job.change,
                )
                self._error = self._error or error
                self.failed.set()

    def require_in_step(self) -> None:
        """Return if every listener has followed every commit.

        Raises:
            OutOfStep: a listener has failed; its exception is the cause.
        """
        if self._error is not None:
            raise OutOfStep(
                "the scheduler's memory could not follow a commit"
                f" ({type(self._error).__name__}: {self._error}); nothing is lost, and a scheduler that is"
                " started again from the store goes on from there"
            ) from self._error


class StoreCommands(ABC):
    """The commands of `store.base.Store` as methods; see there for their contracts."""

    def __init__(self) -> None:
        self._listeners = Listeners()

    def listen(self, listener: CommitListener) -> None:
        """Call `listener` after every commit, until the store is closed."""
        self._listeners.add(listener)

    @property
    def is_in_step(self) -> bool:
        """Whether every listener has followed every commit."""
        return not self._listeners.failed.is_set()

    def require_in_step(self) -> None:
        """Raise OutOfStep if a listener has failed."""
        self._listeners.require_in_step()

    async def wait_out_of_step(self) -> None:
        """Wait until a listener fails."""
        await self._listeners.failed.wait()

    async def submit(
        self,
        specs: Sequence[JobSpec],
        groups: Sequence[Group] = (),
        *,
        now_ms: int,
        grow_groups: bool = False,
    ) -> Sequence[GroupId]:
        """Add jobs and their groups, all or none of them."""
        return await self._execute(
            len(specs), commands.submit, specs, groups, now_ms=now_ms, grow_groups=grow_groups
        )

    async def launch(self, instances: Sequence[Instance]) -> Sequence[tuple[JobSpec, Instance]]:
        """Add instances to the jobs that may still start."""
        return await self._execute(len(instances), commands.launch, instances)

    async def report(self, updates: Sequence[StatusUpdate]) -> Sequence[Verdict]:
        """Apply status updates of clusters."""
        return await self._execute(len(updates), commands.report, updates)

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Record progress."""
        return await self._execute(len(updates), commands.progress, updates)

    async def fail(self, failures: Sequence[Failure]) -> Sequence[bool]:
        """Fail open instances by decision of the scheduler."""
        return await self._execute(len(failures), commands.fail, failures)

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
        """Complete jobs immediately."""
        return await self._execute(len(job_ids), commands.kill_jobs, job_ids)

    async def cancel_waiting(self, job_ids: Sequence[JobId]) -> Sequence[JobId]:
        """Complete the jobs that are waiting."""
        return await self._execute(len(job_ids), commands.cancel_waiting, job_ids)

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
        """Mark instances as cancelled."""
        return await self._execute(len(instance_ids), commands.cancel_instances, instance_ids)

    async def retry(self, job_ids: Sequence[JobId], retries: Sequence[int], *, now_ms: int) -> None:
        """Set the total number of attempts of each job, of all or none."""
        await self._execute(len(job_ids), commands.retry, job_ids, retries, now_ms=now_ms)

    async def set_limits(self, entries: Sequence[LimitEntry]) -> None:
        """Store shares and quotas."""
        await self._execute(len(entries), commands.set_limits, entries)

    async def retract_limits(self, kind: str, user: str, pool: PoolName) -> None:
        """Remove all limits of a kind that a user has in a pool."""
        await self._execute(1, commands.retract_limits, kind, user, pool)

    async def set_text(self, key: str, value: str) -> None:
        """Store a short text under a key."""
        await self._execute(1, commands.set_text, key, value)

    @abstractmethod
    async def _execute(
        self,
        size: int,
        command: Callable[Concatenate[Changeset, Params], Reply],
        /,
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Reply:
        """Execute a command and return its reply once it is durable.

        Args:
            size: number of jobs, instances or other items that the command concerns.
            command: a function of `store.commands`.
            *args: arguments of the command.
            **kwargs: keyword arguments of the command.
        """
