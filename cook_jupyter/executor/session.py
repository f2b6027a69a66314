"""A session: the calls of one process on their way to a scheduler, and their results on the way back.

Lives here: putting the parts together; stopping jobs; how a session ends: with its executors, its process, or
in a fork.

    executor, mapping ─► sender ──────► connection ──► scheduler
                            │               ▲              │
                         pending            │              ▼
    future ◄──────────── results ◄── listener, polled ◄── events

Not here: each of the parts; what a job asks for (`executor.options`), what users see of a call
(`executor.future`), bundles (`executor.mapping`).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from cook_jupyter.errors import CookError, JobKilled, NotFound, SchedulerUnreachable
from cook_jupyter.executor import nested
from cook_jupyter.executor.callbacks import CallbackThreads
from cook_jupyter.executor.connection import SchedulerConnection
from cook_jupyter.executor.functions import StoredFunctions
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.listener import Listener
from cook_jupyter.executor.locator import SchedulerLocator
from cook_jupyter.executor.options import SESSION_LABEL
from cook_jupyter.executor.pending import PendingFutures
from cook_jupyter.executor.polled import JobPoller
from cook_jupyter.executor.results import ResultDelivery
from cook_jupyter.executor.sender import PendingJob, Sender, SenderTask
from cook_jupyter.executor.unread_functions import UnreadFunctions
from cook_jupyter.model.counts import counted

if TYPE_CHECKING:
    from cook_jupyter.client.sync import JobClient
    from cook_jupyter.payload.encoding import FunctionReference

logger = logging.getLogger("cook_jupyter.executor")

EXIT_TIMEOUT_S = 5.0  # for what is unsent when the process ends

T = TypeVar("T")


class SchedulerSession:
    """The calls of one process at one scheduler.

    Args:
        locator: knows the scheduler, and finds it again when it no longer answers.
        everything: hear of all jobs of the user, not only of this session's.

    Attributes:
        scheduler: the connection; also its blob store and the user's key.
    """

    def __init__(self, locator: SchedulerLocator, *, everything: bool = False) -> None:
        self.session_id = uuid.uuid4().hex
        self.pid = os.getpid()
        self._pending = pending = PendingFutures()
        self.scheduler = SchedulerConnection(locator, awaits_results=lambda: len(pending) > 0)
        self._functions = StoredFunctions(self.scheduler)
        self._callbacks = CallbackThreads("cook-callbacks")
        unread = UnreadFunctions(self.scheduler, self._functions, self._callbacks.run)
        self._results = ResultDelivery(self.scheduler, pending, self._functions, unread)
        self._poller = JobPoller(self.scheduler, pending, self._results, self._callbacks.run)
        self._listener = Listener(
            self.scheduler,
            pending,
            {} if everything else {SESSION_LABEL: self.session_id},
            on_completed=self._results.complete,
            on_failed_attempt=self._results.on_failed_attempt,
            on_return=self._on_return,
        )
        self._sender = Sender(self.scheduler, pending, self._listener.subscribed)
        self._starting = threading.Lock()
        self._has_started = False
        self._is_retired = False
        _sessions.add(self)

    # --- what a call needs ---

    @property
    def client(self) -> JobClient:
        """The scheduler, as it was last found."""
        return self.scheduler.client

    def call(self, question: Callable[[JobClient], T], *, restart: bool = True) -> T:
        """Ask the scheduler something; see `SchedulerConnection.call`."""
        return self.scheduler.call(question, restart=restart)

    def send_function(self, function: Callable[..., Any]) -> FunctionReference:
        """Store a function unless it is stored, and return what calls name it by."""
        return self._functions.send(function)

    # --- sending ---

    def enqueue(self, job: PendingJob) -> None:
        """Send a job, soon. Returns at once."""
        self._pending.add(job.future)
        if not self._has_started:
            self._start()
        self._sender.put(job)

    def run_in_sender(self, task: SenderTask) -> None:
        """Let the sender do something, and send what it yields. Safe in a destructor."""
        self._sender.put(task)

    def expect(self, futures: Iterable[CookFuture]) -> None:
        """Count futures as not ended whose jobs a task of the sender will yield."""
        for future in futures:
            self._pending.add(future)

    def dismiss(self, future: CookFuture) -> None:
        """Count a future as ended whose job will not be sent after all."""
        self._pending.discard(future)

    def adopt(self, futures: Sequence[CookFuture]) -> None:
        """Wait for jobs that were submitted earlier, by whichever process of the user.

        Raises:
            SchedulerUnreachable: it gives no stream of events.
        """
        self._start()
        if not self._listener.subscribed.wait(self.scheduler.patience_s):
            raise SchedulerUnreachable(f"the scheduler at {self.client.url} gives no stream of events")
        self._pending.adopt(futures)
        self._poller.poll(futures)

    def futures(self) -> list[CookFuture]:
        """Return all that have not ended."""
        return self._pending.all()

    def run_in_background(self, function: Callable[[], object]) -> None:
        """Run in a thread of its own what may wait, for results of this session too."""
        self._callbacks.run(function)

    def _start(self) -> None:
        with self._starting:
            if self._has_started:
                return
            self._has_started = True
        nested.watch(self)
        self._sender.start()
        self._listener.start()

    def _on_return(self, is_other_store: bool) -> None:
        """Find out what the stream has missed during a break."""
        if is_other_store:
            self.scheduler.forget_store()
            self._functions.forget()
            self._sender.forget_store()
        self._poller.resync(is_other_store=is_other_store)

    # --- stopping ---

    def cancel(self, futures: Sequence[CookFuture]) -> int:
        """Kill jobs and forget about them.

        Returns:
            How many were cancelled by this; the others were over, or nobody took the request.
        """
        unsent = self._cancel_unsent(futures)
        rest = [future for future in futures if not future.done()]
        for future in rest:  # from now on it is ours to end: "killed" is not what its owner shall hear
            self._pending.discard(future)
        try:
            self.kill(rest)
        except CookError as error:
            logger.warning("could not cancel %s: %s", counted(len(rest), "job"), error)
            self.expect(rest)
            self._poller.resync()
            return unsent
        return unsent + sum(future.resolve_cancelled() for future in rest)

    def cancel_waiting(self, futures: Sequence[CookFuture]) -> int:
        """Cancel jobs that have not started; those that run go on.

        Args:
            futures: the futures of the jobs.

        Returns:
            How many were cancelled by this.
        """
        unsent = self._cancel_unsent(futures)
        self.delivered(futures, self.scheduler.patience_s)
        rest = {future.key: future for future in futures if not future.done()}
        if not rest:
            return unsent
        for future in rest.values():  # "killed" is not what the owner of a cancelled future shall hear
            self._pending.discard(future)
        cancelled: set[str] = set()
        try:
            cancelled.update(self.call(lambda client: _cancel_waiting(client, list(rest))))
        except CookError as error:
            logger.warning("could not cancel the jobs that wait among %d: %s", len(rest), error)
        going_on = [future for key, future in rest.items() if key not in cancelled]
        self.expect(going_on)
        if going_on:  # one may have ended while nobody here heard of it
            self._poller.poll_soon(going_on)
        return unsent + sum(rest[key].resolve_cancelled() for key in cancelled if key in rest)

    def give_up(self, future: CookFuture, error: BaseException) -> None:
        """Let a future raise an error and cancel its job, which waits."""
        self._pending.discard(future)
        if future.resolve(error=error):
            keys = [future.key]
            self._callbacks.run(lambda: self.call(lambda client: _cancel_waiting(client, keys)))

    def kill_all(self, futures: Sequence[CookFuture]) -> None:
        """Kill jobs, waiting or running; those that are not sent yet stay here.

        Raises:
            SchedulerUnreachable: nobody took the request.
        """
        for future in self._pending.withdraw(futures):
            future.resolve(
                error=JobKilled(
                    f"job {future.key}: executor.kill() was called before it was sent.", job_id=future.key
                )
            )
        self.kill([future for future in futures if not future.done()], by="executor.kill()")

    def kill(self, futures: Sequence[CookFuture], *, by: str = "future.kill()") -> None:
        """Ask for jobs to be killed; those on their way are waited for.

        Args:
            futures: the futures of the jobs.
            by: what the user called, for the error that the futures raise.

        Raises:
            SchedulerUnreachable: nobody took the request.
        """
        self.delivered(futures, self.scheduler.patience_s)
        killed = [future for future in futures if not future.done()]
        for future in killed:
            future.killed_by = by
        if killed:
            self.call(lambda client: client.kill([future.key for future in killed]))

    def delivered(self, futures: Sequence[CookFuture], timeout_s: float) -> bool:
        """Wait until jobs have reached the scheduler, or are over; return whether they have."""
        return self._pending.wait_until_delivered(futures, timeout_s)

    def _cancel_unsent(self, futures: Sequence[CookFuture]) -> int:
        """Cancel what the sender has not taken yet; return how many that were."""
        return sum(future.resolve_cancelled() for future in self._pending.withdraw(futures))

    # --- the end ---

    @property
    def is_closed(self) -> bool:
        """Whether its threads have ended, or are about to."""
        return self.scheduler.closed.is_set()

    def flush(self, timeout_s: float) -> None:
        """Wait until nothing is unsent."""
        self._pending.wait_until_all_sent(timeout_s)

    def retire(self) -> None:
        """No executor is left: end as soon as nobody waits for a result. Safe in a destructor."""
        if self._has_started:
            self.run_in_sender(self._retire)

    def _retire(self) -> Iterable[PendingJob]:
        self._is_retired = True
        for future in self.futures():
            future.on_resolved(self._end_if_idle)
        self._end_if_idle(None)
        return ()

    def _end_if_idle(self, _: object) -> None:
        if self._is_retired and all(future.done() for future in self.futures()):
            self.close()

    def close(self) -> None:
        """End the threads; what was sent goes on at the scheduler."""
        self._sender.close()
        self.scheduler.closed.set()
        self._listener.close()
        self._results.close()
        self._callbacks.close()

    def forked(self) -> None:
        """In a child process: nobody here will ever hear of these jobs."""
        self._pending.fail_in_fork(
            SchedulerUnreachable(
                "this future belongs to the process that this one was forked from; attach(its key) gives it"
                " back"
            )
        )


_sessions: weakref.WeakSet[SchedulerSession] = weakref.WeakSet()


def _at_exit() -> None:
    """What was submitted is sent; what shall not outlive this process is killed; nothing is waited for."""
    for session in list(_sessions):
        if session.pid != os.getpid():
            continue
        session.flush(EXIT_TIMEOUT_S)
        attached = [
            future
            for future in session.futures()
            if future.options is not None and not future.options.detached
        ]
        if attached:
            session.cancel(attached)
        session.close()


def _after_fork() -> None:
    for session in list(_sessions):
        session.forked()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)


def _cancel_waiting(client: JobClient, keys: Sequence[str]) -> Sequence[str]:
    """Cancel those of the jobs that wait, and return which they are."""
    try:
        return client.cancel_waiting(keys)
    except NotFound:  # an original Cook, or jobs that the scheduler has forgotten
        waiting = [job.uuid for job in client.jobs(keys, partial=True) if job.status == "waiting"]
        if waiting:
            client.kill(waiting)
        return waiting
