"""The verbs of a store as its users call them.

Lives here: the methods that every twin has alike; each is handed to the twin as one piece of work.
And how listeners are told what a commit changed.
Not here: what they do (`store.verbs`), how it becomes durable (the twins), questions (the twins).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, StatusUpdate
from cook_jupyter.model.job import Group, GroupId, JobId, JobSpec
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.store import verbs
from cook_jupyter.store.base import Failure, Listener
from cook_jupyter.store.draft import Draft

P = ParamSpec("P")
Answer = TypeVar("Answer")


def tell(listeners: Iterable[Listener], changes: Sequence[JobChange]) -> None:
    """Tell all listeners what a commit changed.

    What is committed must reach each of them, and the callers: one that raises is reported to the
    event loop's exception handler, and the next is told.
    """
    for listener in listeners:
        try:
            listener(changes)
        except Exception as error:  # noqa: BLE001 see above
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a listener of the store failed", "exception": error})


class VerbDoor(ABC):
    """The verbs of `store.base.Store`; see there for what each promises."""

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
