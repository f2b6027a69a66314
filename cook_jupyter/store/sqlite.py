"""SqliteStore: the store in one SQLite file, for a scheduler that runs alone.

Lives here: who does what when. Verbs wait in a queue; what has come together by the time the last
transaction is done shares the next one. Callers resume on the event loop after the listeners.
Not here: the transaction (`store.sqlite_book`), the reading (`store.sqlite_rows`).

A small transaction that need not wait for the disk (`synchronous=NORMAL`) is done on the event
loop: handing it to a thread costs more than the transaction (docs/decisions/0002-store.md). All
others, and every checkpoint, go to the writer thread; while it works, verbs wait in the queue. So
the writing connection is used by one thread at a time.
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
from cook_jupyter.model.instance import InstanceId, Result
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import FREE_FAILURES, FreeFailures
from cook_jupyter.store.door import Answer, Listeners, P, VerbDoor
from cook_jupyter.store.draft import Draft
from cook_jupyter.store.sqlite_book import Carried, SqliteBook, Verb
from cook_jupyter.store.sqlite_rows import READ_ERRORS, Rows, Synchronous, damaged, said_of

T = TypeVar("T")

SMALL = 64  # so many jobs are written in some 2 ms: a pause the event loop can bear
QUICK = 64  # so many jobs are read at once on the event loop
LARGEST_GROUP = 10_000  # jobs in one transaction, unless one verb alone brings more
PATIENCE_MS = 4_000  # how long the writer thread waits for another program that locks the file
LONG_LOG_PAGES = 8_192  # 16 MiB: then a checkpoint is due, even in the midst of work
IDLE_S = 0.5  # without verbs for this long, the log is carried into the file
RESTART_BATCH = 2_000


class SqliteStore(VerbDoor):
    """Jobs, instances, groups, results and limits in one file. See Store."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "NORMAL",
        free: FreeFailures = FREE_FAILURES,
        vfs: str | None = None,
    ) -> None:
        """Name the file; `open` opens it.

        Args:
            path: the file; beside it lie its log (`-wal`, `-shm`) and a `.lock`.
            synchronous: with NORMAL what a verb has done survives the end of any process, with
                FULL also the loss of power.
            free: how many failures of ours cost a job no retry.
            vfs: the name of a registered SQLite VFS; for tests of failing disks.
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
        """Open or create the store and bring its schema up to date."""
        if self._open is not None:
            return
        with contextlib.ExitStack() as undo:
            lock = _lock(self._path)
            undo.callback(lock.close)
            book = await asyncio.to_thread(
                SqliteBook, self._path, synchronous=self._synchronous, vfs=self._vfs, free=self._free
            )
            undo.callback(book.close)
            self._open = _Open(lock, book, self._listeners, waits_for_disk=self._synchronous == "FULL")
            undo.pop_all()

    async def close(self) -> None:
        """Finish what was asked, then let go."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()
        self._listeners.clear()

    @property
    def store_id(self) -> str:
        """The id that was made with the file."""
        return self._now().store_id

    def broken(self) -> str | None:
        """Return what has become of the file or its log: damaged, removed or replaced."""
        return self._now().broken()

    async def recall(self, key: str) -> str | None:
        """Return the text kept under a key."""
        return self._now().quickly(lambda rows: rows.text(key))

    async def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit, by kind, user, pool and name."""
        return await self._now().slowly(Rows.limits)

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the jobs in the order asked."""
        return await self._now().ask(len(job_ids), lambda rows: rows.jobs(job_ids))

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job that each instance belongs to."""
        return await self._now().ask(len(instance_ids), lambda rows: rows.jobs_of_instances(instance_ids))

    async def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match, newest first, in pages."""
        before = await self._now().slowly(lambda rows: rows.end_of_list(query))
        left = query.limit
        while page := await self._now().slowly(partial(_list_page, query=query, before=before)):
            yield page[:left]
            before = (page[-1].submitted_ms, page[-1].seq)
            if left is not None:
                left -= len(page)
                if left <= 0:  # jobs that came to match meanwhile do not make the list longer
                    return

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the groups in the order asked."""
        return await self._now().ask(len(group_ids), lambda rows: rows.groups(group_ids))

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the group's jobs in the order of their creation."""
        return await self._now().slowly(lambda rows: rows.jobs_of_group(group_id))

    async def result(self, instance_id: InstanceId) -> Result | None:
        """Return what an instance gave back."""
        return self._now().quickly(lambda rows: rows.result(instance_id))

    async def changed(
        self, user: str, after: int, *, label: tuple[str, str] | None = None, limit: int = 1000
    ) -> Sequence[JobChange]:
        """Return the user's jobs that changed after a change number."""
        return await self._now().slowly(lambda rows: rows.changed(user, after, label, limit))

    async def last_change(self) -> int:
        """Return the highest change number given out so far."""
        return self._now().last_change

    async def open_jobs(self) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that a restart needs, in batches, by seq."""
        seq = 0
        while batch := await self._now().slowly(partial(_unfinished, after_seq=seq)):
            yield batch
            seq = batch[-1].seq

    async def _do(
        self, size: int, verb: Callable[Concatenate[Draft, P], Answer], /, *args: P.args, **kwargs: P.kwargs
    ) -> Answer:
        """Queue a verb for the next transaction, and wait for it."""
        answer: Answer = await self._now().enqueue(size, lambda draft: verb(draft, *args, **kwargs))
        return answer

    def _now(self) -> "_Open":
        if self._open is None:
            raise SchedulerError(f"the store {self._path} is not open")
        return self._open


@dataclass(slots=True)
class _Wish:
    """A verb that waits for the next transaction, and the caller that waits for it."""

    size: int
    verb: Verb
    future: asyncio.Future[Any]


class _Open:
    """An open store: the queue of verbs, the writer thread, and two readers."""

    def __init__(
        self, lock: IO[str], book: SqliteBook, listeners: Listeners, *, waits_for_disk: bool
    ) -> None:
        self.store_id = book.store_id
        self._damage: str | None = None
        self.last_change = book.change
        self._quick = book.reader()
        self._slow = book.reader()
        self._lock = lock
        self._book = book
        self._listeners = listeners
        self._waits_for_disk = waits_for_disk
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Wish] = []
        self._queued = 0  # the size of all of them
        self._is_lent = False  # the book is in the writer thread's hands
        self._is_called = False  # a turn is due in this round of the event loop
        self._is_idle = True
        self._idle_timer: asyncio.TimerHandle | None = None
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._writer = _Hand("cook-store-writer", self._loop)
        self._reader = _Hand("cook-store-reader", self._loop)
        self._check = None if book.is_checked() else _FileCheck(book.reader(), self._note_damage)

    def broken(self) -> str | None:
        """See Store."""
        return self._damage or self._book.broken()

    def _note_damage(self, damage: str) -> None:
        self._damage = str(damaged(self._book.path, damage))

    def enqueue(self, size: int, verb: Verb) -> asyncio.Future[Any]:
        """Let a verb take part in the next transaction.

        Raises:
            OutOfStep: a listener has failed.
        """
        self._listeners.require_in_step()
        wish = _Wish(size, verb, self._loop.create_future())
        self._queue.append(wish)
        self._queued += size
        self._at_rest.clear()
        self._call_turn()
        return wish.future

    def quickly(self, question: Callable[[Rows], T]) -> T:
        """Answer on the event loop what takes some microseconds."""
        try:
            return question(self._quick)
        except READ_ERRORS as error:
            raise said_of(error, self._book.path) from error

    async def slowly(self, question: Callable[[Rows], T]) -> T:
        """Answer in the reader thread what may take long."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._reader.do(lambda: question(self._slow), partial(_settle, answer))
        try:
            return await answer
        except READ_ERRORS as error:
            raise said_of(error, self._book.path) from error

    async def ask(self, size: int, question: Callable[[Rows], T]) -> T:
        """Answer a question about `size` things where that is best."""
        return self.quickly(question) if size <= QUICK else await self.slowly(question)

    async def close(self) -> None:
        """Finish the queue, then let go of the threads, the connections and the lock."""
        await self._at_rest.wait()
        if self._check is not None:
            await asyncio.to_thread(self._check.end)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        try:
            await self._reader.end(self._slow.close)
            self._quick.close()
            await self._writer.end(self._book.close)
        finally:
            self._lock.close()

    def _call_turn(self) -> None:
        if not self._is_called and not self._is_lent:
            self._is_called = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Do what is due: a checkpoint, or the verbs that wait."""
        self._is_called = False
        if self._is_lent:
            return
        if self._book.log_pages >= LONG_LOG_PAGES:
            self._checkpoint()
            return
        if not self._queue:
            self._at_rest.set()
            return
        self._is_idle = False
        size = self._queued
        group = self._next_group()
        verbs = [wish.verb for wish in group]
        if not self._waits_for_disk and size <= SMALL:
            try:
                carried = self._book.carry_out(verbs, patience_ms=0)
            except apsw.BusyError:
                pass  # another program locks the file: the writer thread can wait, the loop cannot
            else:
                self._settle(group, carried, None)
                return
        self._is_lent = True
        self._writer.do(
            lambda: self._book.carry_out(verbs, patience_ms=PATIENCE_MS), partial(self._settle, group)
        )

    def _next_group(self) -> Sequence[_Wish]:
        """Take from the queue what the next transaction shall carry."""
        cut = len(self._queue)
        if self._queued > LARGEST_GROUP:
            so_far = accumulate(wish.size for wish in self._queue)
            cut = max(1, sum(size <= LARGEST_GROUP for size in so_far))
        group, self._queue = self._queue[:cut], self._queue[cut:]
        self._queued = sum(wish.size for wish in self._queue)
        return group

    def _settle(self, group: Sequence[_Wish], carried: Carried | None, error: BaseException | None) -> None:
        """Tell the listeners what was committed, then let the callers resume."""
        self._is_lent = False
        if carried is not None and carried.changes:
            self.last_change = carried.changes[-1].job.change
            self._listeners.notify(carried.changes)
        outcomes = [error] * len(group) if carried is None else carried.outcomes
        for wish, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _settle(wish.future, None, outcome)
            else:
                _settle(wish.future, outcome, None)
        if self._listeners.failed.is_set():
            self._refuse_queue()
        if self._queue or self._book.log_pages >= LONG_LOG_PAGES:
            self._call_turn()
        else:
            self._at_rest.set()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_S, self._rested)

    def _refuse_queue(self) -> None:
        """Fail the verbs that wait: nothing of them was done."""
        refused, self._queue, self._queued = self._queue, [], 0
        for wish in refused:
            try:
                self._listeners.require_in_step()
            except OutOfStep as error:
                _settle(wish.future, None, error)

    def _rested(self) -> None:
        """Carry the log into the file if no verb came for a while."""
        self._idle_timer = None
        if self._is_lent or not self._is_idle:
            self._is_idle = True
            self._idle_timer = self._loop.call_later(IDLE_S, self._rested)
        elif self._book.log_pages:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._is_lent = True
        self._at_rest.clear()
        self._writer.do(self._book.checkpoint, self._checkpointed)

    def _checkpointed(self, _none: None, error: BaseException | None) -> None:
        self._is_lent = False
        self._call_turn()
        if error is not None:  # no error of the disk: `checkpoint` handles those. The event loop reports it.
            raise error


class _FileCheck:
    """A thread that looks through a large file once, while the store is in use.

    Args:
        rows: a connection for this alone.
        on_damage: called, in the thread, with what SQLite found.
    """

    def __init__(self, rows: Rows, on_damage: Callable[[str], None]) -> None:
        self._rows = rows
        self._on_damage = on_damage
        self._thread = threading.Thread(target=self._run, name="cook-store-check", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Break the check off if it is still under way, and close its connection."""
        self._rows.interrupt()
        self._thread.join()
        self._rows.close()

    def _run(self) -> None:
        with contextlib.suppress(apsw.InterruptError):
            if (damage := self._rows.damage()) is not None:
                self._on_damage(damage)


class _Hand:
    """A thread that does one piece of work after the other and says so on the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, Any], None]] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], T], then: Callable[[T | None, BaseException | None], None]) -> None:
        """Do `work` in the thread, then call `then` on the loop with its answer or its error."""
        self._work.put((work, then))

    async def end(self, last: Callable[[], None]) -> None:
        """Do a last piece of work and end the thread."""
        done: asyncio.Future[None] = self._loop.create_future()
        self.do(last, partial(_settle, done))
        self._work.put(None)
        try:
            await done
        finally:
            self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, then = item
            answer, error = None, None
            try:
                answer = work()
            except BaseException as raised:  # noqa: BLE001 it is raised where it was asked for
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is gone, and all who waited with it
                self._loop.call_soon_threadsafe(then, answer, error)


def _list_page(rows: Rows, *, query: JobQuery, before: tuple[int, int]) -> Sequence[Job]:
    return rows.list_page(query, before)


def _unfinished(rows: Rows, *, after_seq: int) -> Sequence[Job]:
    return rows.unfinished_jobs(after_seq, RESTART_BATCH)


def _settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    """Let the one who waits resume, unless they have gone."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)


def _lock(path: Path) -> IO[str]:
    """Take the lock beside the file, which the kernel lets go of when this process ends.

    Raises:
        SchedulerError: another process, or another store of this one, holds it.
    """
    beside = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.fdopen(
            os.open(beside, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+", encoding="ascii"
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
