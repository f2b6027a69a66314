"""The in-memory store with the timing of one on disk.

Lives here: `Disk`, what outlives a scheduler, and `SimulatedStore`, one process's connection to it. A
command waits for the transaction before it, is committed, and only some time later do listeners and callers
hear of it, as in `store.sqlite`: a scheduler may die in between, and a question may be answered in between.
Not here: what commands do (`store.memory`), when the store is slow or refuses (`faults`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate

from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import InstanceId, ResultPayload
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import MeaCulpaLimits
from cook_jupyter.store.changeset import Changeset
from cook_jupyter.store.dispatch import Params, Reply
from cook_jupyter.store.memory import MemoryStore, _MemoryState
from tests.service.simulated.event_loop import Process, ProcessDied
from tests.service.simulated.faults import Faults
from tests.service.simulated.invariants import Invariants
from tests.service.simulated.trace import Trace


class Disk:
    """What is stored, whoever is connected.

    Attributes:
        state: jobs, instances, groups, limits and results.
        store_id: id of the store.
    """

    def __init__(self, free: MeaCulpaLimits, store_id: str) -> None:
        self.state = _MemoryState(free)
        self.store_id = store_id


@dataclass(slots=True)
class _Command:
    """A command that waits for its transaction, and the caller that waits for it."""

    name: str
    command: Callable[[Changeset], Any]
    future: asyncio.Future[Any]
    allowance: object  # what the invariants allow it, as of the moment when it was given
    answer: Any = None
    error: Exception | None = None


class SimulatedStore(MemoryStore):
    """The connection of one process to the disk."""

    def __init__(
        self, disk: Disk, process: Process, faults: Faults, invariants: Invariants, trace: Trace
    ) -> None:
        super().__init__(free=disk.state.free)
        self._state = disk.state
        self._store_id = disk.store_id
        self._process = process
        self._faults = faults
        self._invariants = invariants
        self._trace = trace
        self._queue: list[_Command] = []
        self._is_writing = False
        self._is_settling = False
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    async def close(self) -> None:
        """Finish what was asked, then let go."""
        await self._at_rest.wait()
        await super().close()

    @property
    def queue_length(self) -> int:
        """Number of commands that wait."""
        return len(self._queue)

    @property
    def is_settling(self) -> bool:
        """Whether something is committed that listeners have not heard of."""
        return self._is_settling

    # --- questions

    async def get_text(self, key: str) -> str | None:
        await self._pause()
        return await super().get_text(key)

    async def limits(self) -> Sequence[LimitEntry]:
        await self._pause()
        return await super().limits()

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        await self._pause()
        jobs = await super().jobs(job_ids)
        await self._pause()
        return jobs

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        await self._pause()
        return await super().jobs_of_instances(instance_ids)

    async def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        await self._pause()
        async for page in super().list_jobs(query):
            yield page
            await self._pause()

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        await self._pause()
        groups = await super().groups(group_ids)
        await self._pause()
        return groups

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        await self._pause()
        return await super().jobs_of_group(group_id)

    async def result(self, instance_id: InstanceId) -> ResultPayload | None:
        await self._pause()
        return await super().result(instance_id)

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        await self._pause()
        changes = await super().changed(user, after, label=label, limit=limit)
        await self._pause()
        return changes

    async def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        async for batch in super().open_jobs():
            for first in range(0, len(batch), 5):
                await self._pause()
                yield batch[first : first + 5]

    async def _pause(self) -> None:
        self._read()
        delay_s = self._faults.store_delay_s()
        if delay_s:
            await asyncio.sleep(delay_s)

    # --- commands

    def _read(self) -> _MemoryState:
        if not self._process.is_alive:
            raise ProcessDied
        return super()._read()

    async def _execute(
        self,
        size: int,
        command: Callable[Concatenate[Changeset, Params], Reply],
        /,
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Reply:
        """Queue a command for the next transaction, and wait for it."""
        self._read()
        self._listeners.require_in_step()
        loop = asyncio.get_running_loop()
        name = command.__name__
        self._queue.append(
            _Command(
                name,
                lambda changeset: command(changeset, *args, **kwargs),
                loop.create_future(),
                self._invariants.allowance(name, args),
            )
        )
        self._at_rest.clear()
        pending = self._queue[-1]
        self._write_next()
        reply: Reply = await pending.future
        return reply

    def _write_next(self) -> None:
        if self._is_writing or not self._queue:
            return
        self._is_writing = True
        loop, delay_s = asyncio.get_running_loop(), self._faults.store_delay_s()
        if delay_s:
            loop.call_later(delay_s, self._commit)
        else:
            loop.call_soon(self._commit)

    def _commit(self) -> None:
        """Commit all commands that wait, in their order, in one transaction."""
        group, self._queue = self._queue, []
        refusal = self._faults.store_refusal()
        changes: list[JobChange] = []
        for command in group:
            if refusal is not None:
                command.error = refusal
                continue
            changeset = Changeset(self._state)
            try:
                self._listeners.require_in_step()
                command.answer = command.command(changeset)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                command.error = error
                continue
            self._state.apply(changeset)
            changes += changeset.changes
            if self._trace.is_kept:
                self._note(command.name, changeset.changes)
            self._invariants.committed(command.name, changeset.changes, command.allowance)
        loop, delay_s = asyncio.get_running_loop(), self._faults.store_delay_s()
        self._is_settling = True
        if delay_s:
            loop.call_later(delay_s, self._settle, group, changes)
        else:
            self._settle(group, changes)

    def _note(self, command: str, changes: Sequence[JobChange]) -> None:
        for change in changes:
            job, instance = change.job, change.instance
            self._trace.note("commit", command, job.job_id, job.state.value, job.spec.user, job.spec.pool)
            if instance is not None:
                self._trace.note(
                    "", instance.instance_id, instance.status.value, instance.host, instance.reason or ""
                )

    def _settle(self, group: Sequence[_Command], changes: Sequence[JobChange]) -> None:
        """Tell the listeners what was committed, then let the callers resume."""
        self._is_settling = False
        if changes:
            self._listeners.notify(changes)
            if self._listeners._listeners:  # a scheduler that is ending has no views any more
                self._invariants.notified(changes)
        for command in group:
            if command.future.done():
                continue
            if command.error is not None:
                command.future.set_exception(command.error)
            else:
                command.future.set_result(command.answer)
        self._is_writing = False
        if self._queue:
            self._write_next()
        else:
            self._at_rest.set()
