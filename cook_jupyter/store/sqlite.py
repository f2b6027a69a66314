"""SqliteStore: a store in one SQLite file, for a single scheduler process.

Lives here: the queue of commands, the threads, and the order of events. Commands wait in a queue; those that
arrive during a transaction share the next one. Callers resume on the event loop, after the listeners.
Not here: transactions (`store.sqlite_writer`), queries (`store.sqlite_reader`).

A small transaction that need not wait for the disk (`synchronous=NORMAL`) runs on the event loop, because
handing it to a thread costs more than the transaction itself (docs/decisions/0002-store.md). All others, and
every checkpoint, run in the writer thread, while new commands wait in the queue. So only one thread at a time
uses the writing connection.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Concatenate, TypeVar

import apsw

from cook_jupyter.errors import OutOfStep, SchedulerError
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import InstanceId, ResultPayload
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMITS, MeaCulpaLimits
from cook_jupyter.store.changeset import Changeset
from cook_jupyter.store.dispatch import Listeners, Params, Reply, StoreCommands
from cook_jupyter.store.sqlite_reader import (
    READ_ERRORS,
    SqliteReader,
    Synchronous,
    damage_error,
    translate_error,
)
from cook_jupyter.store.sqlite_writer import Command, CommitOutcome, SqliteWriter

T = TypeVar("T")

INLINE_WRITE_JOBS = 64  # largest transaction on the event loop; takes about 2 ms
INLINE_READ_JOBS = 64  # largest query on the event loop
MAX_TRANSACTION_JOBS = 10_000  # exceeded only by a single larger command
BUSY_TIMEOUT_MS = 4_000  # how long the writer thread waits for a lock of another program
CHECKPOINT_LOG_PAGES = 8_192  # 16 MiB: size of the log at which a checkpoint is due, even under load
IDLE_S = 0.5  # time without commands after which a checkpoint is due
OPEN_JOBS_BATCH = 2_000


class SqliteStore(StoreCommands):
    """A store in one SQLite file. See Store."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "NORMAL",
        free: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS,
        vfs: str | None = None,
    ) -> None:
        """Create a store for a file; `open` opens it.

        Args:
            path: the file; its log (`-wal`, `-shm`) and a `.lock` are beside it.
            synchronous: durability of commands: NORMAL survives the crash of any process, FULL also the loss
                of power.
            free: the mea-culpa failures that cost a job no retry.
            vfs: name of a registered SQLite VFS, for tests with failing disks.
        """
        super().__init__()
        if synchronous not in ("NORMAL", "FULL"):
            raise SchedulerError(f"synchronous is NORMAL or FULL, not {synchronous!r}")
        self._path = Path(path)
        self._synchronous: Synchronous = synchronous
        self._free = free
        self._vfs = vfs
        self._open: _Open | None = None

    async def open(self) -> None:
        """Open or create the store and migrate its schema to the newest version."""
        if self._open is not None:
            return
        with contextlib.ExitStack() as undo:
            lock = _lock(self._path)
            undo.callback(lock.close)
            writer = await asyncio.to_thread(
                SqliteWriter, self._path, synchronous=self._synchronous, vfs=self._vfs, free=self._free
            )
            undo.callback(writer.close)
            self._open = _Open(lock, writer, self._listeners, waits_for_disk=self._synchronous == "FULL")
            undo.pop_all()

    async def close(self) -> None:
        """Finish all pending commands, then close the store."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()
        self._listeners.clear()

    @property
    def store_id(self) -> str:
        """The unique id of the store."""
        return self._require_open().store_id

    def broken(self) -> str | None:
        """Return how the file or its log is broken (damaged, removed or replaced), else None."""
        return self._require_open().broken()

    async def get_text(self, key: str) -> str | None:
        """Return the text stored under a key, or None."""
        return self._require_open().read_inline(lambda rows: rows.text(key))

    async def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit, by kind, user, pool and name."""
        return await self._require_open().read_in_thread(SqliteReader.limits)

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the job with each id, or None."""
        return await self._require_open().read(len(job_ids), lambda rows: rows.jobs(job_ids))

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, or None."""
        return await self._require_open().read(
            len(instance_ids), lambda rows: rows.jobs_of_instances(instance_ids)
        )

    async def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match a query, newest first, in pages."""
        before = await self._require_open().read_in_thread(lambda rows: rows.end_of_list(query))
        remaining = query.limit
        while page := await self._require_open().read_in_thread(
            partial(_list_page, query=query, before=before)
        ):
            yield page[:remaining]
            before = (page[-1].submitted_ms, page[-1].seq)
            if remaining is not None:
                remaining -= len(page)
                if remaining <= 0:  # new matches during the iteration do not make the list longer
                    return

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the group with each id, or None."""
        return await self._require_open().read(len(group_ids), lambda rows: rows.groups(group_ids))

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the jobs of a group in the order of their creation."""
        return await self._require_open().read_in_thread(lambda rows: rows.jobs_of_group(group_id))

    async def result(self, instance_id: InstanceId) -> ResultPayload | None:
        """Return the result of an instance, or None."""
        return self._require_open().read_inline(lambda rows: rows.result(instance_id))

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        """Return the current state of a user's jobs that changed after a change number."""
        return await self._require_open().read_in_thread(lambda rows: rows.changed(user, after, label, limit))

    async def last_change(self) -> int:
        """Return the highest change number so far."""
        return self._require_open().last_change

    async def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that a restarted scheduler needs, in batches, by seq."""
        seq = 0
        while batch := await self._require_open().read_in_thread(partial(_unfinished, after_seq=seq)):
            yield batch
            seq = batch[-1].seq

    async def _execute(
        self,
        size: int,
        command: Callable[Concatenate[Changeset, Params], Reply],
        /,
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Reply:
        """Queue a command for the next transaction and wait until it is committed."""
        reply: Reply = await self._require_open().enqueue(
            size, lambda changeset: command(changeset, *args, **kwargs)
        )
        return reply

    def _require_open(self) -> "_Open":
        if self._open is None:
            raise SchedulerError(f"the store {self._path} is not open")
        return self._open


@dataclass(slots=True)
class _PendingCommand:
    """A command in the queue for the next transaction, and the future of its caller."""

    size: int
    command: Command
    future: asyncio.Future[Any]


class _Open:
    """An open store: the queue of commands, the writer and its thread, and two readers."""

    def __init__(
        self, lock: IO[str], writer: SqliteWriter, listeners: Listeners, *, waits_for_disk: bool
    ) -> None:
        self.store_id = writer.store_id
        self._damage: str | None = None
        self.last_change = writer.change
        self._inline_reader = writer.reader()
        self._thread_reader = writer.reader()
        self._lock = lock
        self._writer = writer
        self._listeners = listeners
        self._waits_for_disk = waits_for_disk
        self._loop = asyncio.get_running_loop()
        self._queue: list[_PendingCommand] = []
        self._queued = 0  # total size of the queued commands
        self._writer_is_busy = False  # the writer thread uses the writing connection
        self._is_scheduled = False  # the event loop is about to call `_process_queue`
        self._is_idle = True
        self._idle_timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._writer_thread = _WorkerThread("cook-store-writer", self._loop)
        self._reader_thread = _WorkerThread("cook-store-reader", self._loop)
        self._check = None if writer.is_checked() else _FileCheck(writer.reader(), self._note_damage)

    def broken(self) -> str | None:
        """Return how the file or its log is broken, else None."""
        return self._damage or self._writer.broken()

    def _note_damage(self, damage: str) -> None:
        self._damage = str(damage_error(self._writer.path, damage))

    def enqueue(self, size: int, command: Command) -> asyncio.Future[Any]:
        """Queue a command for the next transaction; return the future of its reply.

        Raises:
            OutOfStep: a listener has failed.
        """
        self._listeners.require_in_step()
        pending = _PendingCommand(size, command, self._loop.create_future())
        self._queue.append(pending)
        self._queued += size
        self._drained.clear()
        self._schedule_processing()
        return pending.future

    def read_inline(self, query: Callable[[SqliteReader], T]) -> T:
        """Run a query that takes a few microseconds on the event loop."""
        try:
            return query(self._inline_reader)
        except READ_ERRORS as error:
            raise translate_error(error, self._writer.path) from error

    async def read_in_thread(self, query: Callable[[SqliteReader], T]) -> T:
        """Run a query that may take long in the reader thread."""
        reply: asyncio.Future[T] = self._loop.create_future()
        self._reader_thread.do(lambda: query(self._thread_reader), partial(_settle, reply))
        try:
            return await reply
        except READ_ERRORS as error:
            raise translate_error(error, self._writer.path) from error

    async def read(self, size: int, query: Callable[[SqliteReader], T]) -> T:
        """Run a query for `size` items on the event loop if they are few, else in the reader thread."""
        return self.read_inline(query) if size <= INLINE_READ_JOBS else await self.read_in_thread(query)

    async def close(self) -> None:
        """Finish the queue, then end the threads, close the connections and release the lock."""
        await self._drained.wait()
        if self._check is not None:
            await asyncio.to_thread(self._check.end)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        try:
            await self._reader_thread.end(self._thread_reader.close)
            self._inline_reader.close()
            await self._writer_thread.end(self._writer.close)
        finally:
            self._lock.close()

    def _schedule_processing(self) -> None:
        if not self._is_scheduled and not self._writer_is_busy:
            self._is_scheduled = True
            self._loop.call_soon(self._process_queue)

    def _process_queue(self) -> None:
        """Start a checkpoint if one is due, else a transaction for the queued commands."""
        self._is_scheduled = False
        if self._writer_is_busy:
            return
        if self._writer.log_pages >= CHECKPOINT_LOG_PAGES:
            self._checkpoint()
            return
        if not self._queue:
            self._drained.set()
            return
        self._is_idle = False
        size = self._queued
        batch = self._next_batch()
        commands = [pending.command for pending in batch]
        if not self._waits_for_disk and size <= INLINE_WRITE_JOBS:
            try:
                committed = self._writer.commit(commands, busy_timeout_ms=0)
            except apsw.BusyError:
                pass  # another program locks the file: the writer thread can wait, the event loop cannot
            else:
                self._settle(batch, committed, None)
                return
        self._writer_is_busy = True
        self._writer_thread.do(
            lambda: self._writer.commit(commands, busy_timeout_ms=BUSY_TIMEOUT_MS),
            partial(self._settle, batch),
        )

    def _next_batch(self) -> Sequence[_PendingCommand]:
        """Remove the commands of the next transaction from the queue."""
        count = len(self._queue)
        if self._queued > MAX_TRANSACTION_JOBS:
            cumulative_sizes = accumulate(pending.size for pending in self._queue)
            count = max(1, sum(size <= MAX_TRANSACTION_JOBS for size in cumulative_sizes))
        batch, self._queue = self._queue[:count], self._queue[count:]
        self._queued = sum(pending.size for pending in self._queue)
        return batch

    def _settle(
        self, batch: Sequence[_PendingCommand], committed: CommitOutcome | None, error: BaseException | None
    ) -> None:
        """Notify the listeners of a commit, then resolve the futures of the callers."""
        self._writer_is_busy = False
        if committed is not None and committed.changes:
            self.last_change = committed.changes[-1].job.change
            self._listeners.notify(committed.changes)
        outcomes = [error] * len(batch) if committed is None else committed.outcomes
        for pending, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _settle(pending.future, None, outcome)
            else:
                _settle(pending.future, outcome, None)
        if self._listeners.failed.is_set():
            self._refuse_queue()
        if self._queue or self._writer.log_pages >= CHECKPOINT_LOG_PAGES:
            self._schedule_processing()
        else:
            self._drained.set()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_S, self._on_idle)

    def _refuse_queue(self) -> None:
        """Fail all queued commands, none of which was executed."""
        refused, self._queue, self._queued = self._queue, [], 0
        for pending in refused:
            try:
                self._listeners.require_in_step()
            except OutOfStep as error:
                _settle(pending.future, None, error)

    def _on_idle(self) -> None:
        """Start a checkpoint if no command has arrived for a while."""
        self._idle_timer = None
        if self._writer_is_busy or not self._is_idle:
            self._is_idle = True
            self._idle_timer = self._loop.call_later(IDLE_S, self._on_idle)
        elif self._writer.log_pages:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._writer_is_busy = True
        self._drained.clear()
        self._writer_thread.do(self._writer.checkpoint, self._on_checkpoint)

    def _on_checkpoint(self, _none: None, error: BaseException | None) -> None:
        self._writer_is_busy = False
        self._schedule_processing()
        if error is not None:  # a bug, since `checkpoint` handles errors of the disk; the event loop logs it
            raise error


class _FileCheck:
    """A thread that checks a large file for damage once, while the store is in use.

    Args:
        rows: a connection for the exclusive use of the thread.
        on_damage: callback for damage, called in the thread with SQLite's description.
    """

    def __init__(self, rows: SqliteReader, on_damage: Callable[[str], None]) -> None:
        self._rows = rows
        self._on_damage = on_damage
        self._thread = threading.Thread(target=self._run, name="cook-store-check", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the check if it is still running, and close its connection."""
        self._rows.interrupt()
        self._thread.join()
        self._rows.close()

    def _run(self) -> None:
        with contextlib.suppress(apsw.InterruptError):
            if (damage := self._rows.damage()) is not None:
                self._on_damage(damage)


class _WorkerThread:
    """A thread that runs functions one after the other and calls back on the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, Any], None]] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], T], on_done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `work` in the thread, then call `on_done` on the event loop with its reply or its error."""
        self._work.put((work, on_done))

    async def end(self, final_work: Callable[[], None]) -> None:
        """Run `final_work` in the thread, then end the thread."""
        done: asyncio.Future[None] = self._loop.create_future()
        self.do(final_work, partial(_settle, done))
        self._work.put(None)
        try:
            await done
        finally:
            self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, on_done = item
            reply, error = None, None
            try:
                reply = work()
            except BaseException as raised_error:  # noqa: BLE001 - passed on to the caller
                error = raised_error
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits any more
                self._loop.call_soon_threadsafe(on_done, reply, error)


def _list_page(rows: SqliteReader, *, query: JobQuery, before: tuple[int, int]) -> Sequence[Job]:
    return rows.list_page(query, before)


def _unfinished(rows: SqliteReader, *, after_seq: int) -> Sequence[Job]:
    return rows.unfinished_jobs(after_seq, OPEN_JOBS_BATCH)


def _settle(future: asyncio.Future[Any], reply: Any, error: BaseException | None) -> None:
    """Resolve a future with a reply or an error, unless it is done (its caller was cancelled)."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(reply)


def _lock(path: Path) -> IO[str]:
    """Acquire the lock file beside the store, which the kernel releases when this process ends.

    Raises:
        SchedulerError: another process, or another store of this one, holds it.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.fdopen(
            os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+", encoding="ascii"
        )
    except OSError as error:
        raise SchedulerError(f"cannot open the store {path}: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise SchedulerError(
            f"the store {path} is in use by another scheduler (process {owner}): stop that one, or talk to it"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
