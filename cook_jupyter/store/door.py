"""The verbs of a store as its users call them.

Lives here: the methods that every store has alike; each is handed to the store as one piece of work. And
`Listeners`, which pass a commit on.
Not here: what they do (`store.verbs`), how it becomes durable and how questions are answered (the stores).
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
from cook_jupyter.store import verbs
from cook_jupyter.store.base import Failure, Listener
from cook_jupyter.store.draft import Draft

log = logging.getLogger(__name__)

P = ParamSpec("P")
Answer = TypeVar("Answer")


class Listeners:
    """The listeners of one store.

    A listener that fails cannot catch up: a view built from commits now has a hole. The commit stands and the
    other listeners still receive it, but from then on the store takes no commands. Only closing the store and
    building every view again from it helps.

    Attributes:
        failed: set when a listener has failed.
    """

    def __init__(self) -> None:
        self.failed = asyncio.Event()
        self._listeners: list[Listener] = []
        self._error: Exception | None = None

    def add(self, listener: Listener) -> None:
        """Call `listener` after every commit."""
        self._listeners.append(listener)

    def clear(self) -> None:
        """Remove all listeners, and with them the failure of any."""
        self._listeners.clear()
        self._error = None
        self.failed.clear()

    def notify(self, changes: Sequence[JobChange]) -> None:
        """Pass a commit to every listener, and remember the first that fails."""
        for listener in self._listeners:
            try:
                listener(changes)
            except Exception as error:  # recorded for `require_in_step` and whoever waits for `failed`
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


class VerbDoor(ABC):
    """The verbs of `store.base.Store`; see there for what each promises."""

    def __init__(self) -> None:
        self._listeners = Listeners()

    def listen(self, listener: Listener) -> None:
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
        """Return once a listener has failed."""
        await self._listeners.failed.wait()

    async def submit(
        self,
        specs: Sequence[JobSpec],
        groups: Sequence[Group] = (),
        *,
        now_ms: int,
        grow_groups: bool = False,
    ) -> Sequence[GroupId]:
        """Add jobs and the groups they name, all or none of them."""
        return await self._do(len(specs), verbs.submit, specs, groups, now_ms=now_ms, grow_groups=grow_groups)

    async def launch(self, instances: Sequence[Instance]) -> Sequence[tuple[JobSpec, Instance]]:
        """Add instances to the jobs that still may start."""
        return await self._do(len(instances), verbs.launch, instances)

    async def report(self, updates: Sequence[StatusUpdate]) -> Sequence[Verdict]:
        """Apply what clusters report."""
        return await self._do(len(updates), verbs.report, updates)

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Note progress."""
        return await self._do(len(updates), verbs.progress, updates)

    async def fail(self, failures: Sequence[Failure]) -> Sequence[bool]:
        """Fail open instances by our own decision."""
        return await self._do(len(failures), verbs.fail, failures)

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
        """Complete jobs at once."""
        return await self._do(len(job_ids), verbs.kill_jobs, job_ids)

    async def cancel_waiting(self, job_ids: Sequence[JobId]) -> Sequence[JobId]:
        """Complete those of the jobs that wait."""
        return await self._do(len(job_ids), verbs.cancel_waiting, job_ids)

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
        """Mark instances to be killed."""
        return await self._do(len(instance_ids), verbs.cancel_instances, instance_ids)

    async def retry(self, job_ids: Sequence[JobId], retries: Sequence[int], *, now_ms: int) -> None:
        """Set the total attempts of each job, all or none."""
        await self._do(len(job_ids), verbs.retry, job_ids, retries, now_ms=now_ms)

    async def set_limits(self, entries: Sequence[LimitEntry]) -> None:
        """Store shares and quotas."""
        await self._do(len(entries), verbs.set_limits, entries)

    async def retract_limits(self, kind: str, user: str, pool: str) -> None:
        """Remove all limits of a kind that a user has in a pool."""
        await self._do(1, verbs.retract_limits, kind, user, pool)

    async def remember(self, key: str, value: str) -> None:
        """Keep a small text under a key."""
        await self._do(1, verbs.remember, key, value)

    @abstractmethod
    async def _do(
        self, size: int, verb: Callable[Concatenate[Draft, P], Answer], /, *args: P.args, **kwargs: P.kwargs
    ) -> Answer:
        """Carry out a verb that is about `size` jobs or other things, and return when it is durable."""
