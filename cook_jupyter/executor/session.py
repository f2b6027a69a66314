"""A session: the calls of one process that are sent to a scheduler, and their results.

Lives here: connecting the parts; stopping jobs; the end of a session: with its executors, its process, or in
a fork.

    executor, mapping ─► sender ──────► connection ──► scheduler
                            │               ▲              │
                         pending            │              ▼
    future ◄──────────── results ◄── listener, polled ◄── events

Not here: each of the parts; options of a job (`executor.options`), the interface of a call
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

EXIT_TIMEOUT_S = 5.0  # for sending jobs when the process ends

T = TypeVar("T")


class SchedulerSession:
    """The calls of one process at one scheduler.

    Args:
        locator: locator that finds the scheduler, and finds it again when it no longer answers.
        all_jobs: whether to receive events of all jobs of the user, not only of this session's.

    Attributes:
        scheduler: the connection, with the blob store and the user's key.
    """

    def __init__(self, locator: SchedulerLocator, *, all_jobs: bool = False) -> None:
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
            {} if all_jobs else {SESSION_LABEL: self.session_id},
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
        """Client of the scheduler as it was last found."""
        return self.scheduler.client

    def call(self, request: Callable[[JobClient], T], *, restart: bool = True) -> T:
        """Send a request to the scheduler; see `SchedulerConnection.call`."""
        return self.scheduler.call(request, restart=restart)

    def send_function(self, function: Callable[..., Any]) -> FunctionReference:
        """Store a function unless it is stored already; return the reference by which calls name it."""
        return self._functions.send(function)

    # --- sending ---

    def enqueue(self, job: PendingJob) -> None:
        """Enqueue a job, and return immediately."""
        self._pending.add(job.future)
        if not self._has_started:
            self._start()
        self._sender.put(job)

    def run_in_sender(self, task: SenderTask) -> None:
        """Run a task in the sender's thread, and send the jobs that it yields. Safe in a destructor."""
        self._sender.put(task)

    def expect(self, futures: Iterable[CookFuture]) -> None:
        """Add unfinished futures whose jobs a task of the sender will yield."""
        for future in futures:
            self._pending.add(future)

    def dismiss(self, future: CookFuture) -> None:
        """Remove a future whose job will not be sent after all."""
        self._pending.discard(future)

    def adopt(self, futures: Sequence[CookFuture]) -> None:
        """Add futures of jobs that were submitted earlier, by any process of the user.

        Raises:
            SchedulerUnreachable: the scheduler provides no event stream.
        """
        self._start()
        if not self._listener.subscribed.wait(self.scheduler.request_timeout_s):
            raise SchedulerUnreachable(f"the scheduler at {self.client.url} provides no event stream")
        self._pending.adopt(futures)
        self._poller.poll(futures)

    def futures(self) -> list[CookFuture]:
        """Return all unfinished futures."""
        return self._pending.all()

    def run_in_background(self, function: Callable[[], object]) -> None:
        """Run a function that may block, even for results of this session, in another thread."""
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
        """Check for events that were missed during an interruption of the stream."""
        if is_other_store:
            self.scheduler.forget_store()
            self._functions.forget()
            self._sender.forget_store()
        self._poller.resync(is_other_store=is_other_store)

    # --- stopping ---

    def cancel(self, futures: Sequence[CookFuture]) -> int:
        """Kill jobs and cancel their futures.

        Returns:
            The number of futures that this has cancelled; the others had ended, or the request failed.
        """
        unsent = self._cancel_unsent(futures)
        remaining = [future for future in futures if not future.done()]
        for future in remaining:  # its end is set here, so that it is not reported as killed
            self._pending.discard(future)
        try:
            self.kill(remaining)
        except CookError as error:
            logger.warning("could not cancel %s: %s", counted(len(remaining), "job"), error)
            self.expect(remaining)
            self._poller.resync()
            return unsent
        return unsent + sum(future.resolve_cancelled() for future in remaining)

    def cancel_waiting(self, futures: Sequence[CookFuture]) -> int:
        """Cancel jobs that have not started; running ones continue.

        Args:
            futures: futures of the jobs.

        Returns:
            The number of futures that this has cancelled.
        """
        unsent = self._cancel_unsent(futures)
        self.wait_until_delivered(futures, self.scheduler.request_timeout_s)
        remaining = {future.key: future for future in futures if not future.done()}
        if not remaining:
            return unsent
        for future in remaining.values():  # so that a cancelled future is not reported as killed
            self._pending.discard(future)
        cancelled: set[str] = set()
        try:
            cancelled.update(self.call(lambda client: _cancel_waiting(client, list(remaining))))
        except CookError as error:
            logger.warning("could not cancel the waiting jobs among %d: %s", len(remaining), error)
        continuing = [future for key, future in remaining.items() if key not in cancelled]
        self.expect(continuing)
        if continuing:  # some may have ended in the meantime
            self._poller.poll_soon(continuing)
        return unsent + sum(remaining[key].resolve_cancelled() for key in cancelled if key in remaining)

    def give_up(self, future: CookFuture, error: BaseException) -> None:
        """Raise an error from a future, and cancel its job, which waits."""
        self._pending.discard(future)
        if future.resolve(error=error):
            keys = [future.key]
            self._callbacks.run(lambda: self.call(lambda client: _cancel_waiting(client, keys)))

    def kill_all(self, futures: Sequence[CookFuture]) -> None:
        """Kill jobs, waiting or running; unsent ones are withdrawn.

        Raises:
            SchedulerUnreachable: the scheduler did not get the request.
        """
        for future in self._pending.withdraw(futures):
            future.resolve(
                error=JobKilled(
                    f"job {future.key}: executor.kill() was called before it was sent.", job_id=future.key
                )
            )
        self.kill([future for future in futures if not future.done()], by="executor.kill()")

    def kill(self, futures: Sequence[CookFuture], *, by: str = "future.kill()") -> None:
        """Request that jobs are killed, after waiting for those being sent.

        Args:
            futures: futures of the jobs.
            by: function that the user called, for the error that the futures raise.

        Raises:
            SchedulerUnreachable: the scheduler did not get the request.
        """
        self.wait_until_delivered(futures, self.scheduler.request_timeout_s)
        killed = [future for future in futures if not future.done()]
        for future in killed:
            future.killed_by = by
        if killed:
            self.call(lambda client: client.kill([future.key for future in killed]))

    def wait_until_delivered(self, futures: Sequence[CookFuture], timeout_s: float) -> bool:
        """Wait until jobs have reached the scheduler or ended; return whether they have."""
        return self._pending.wait_until_delivered(futures, timeout_s)

    def _cancel_unsent(self, futures: Sequence[CookFuture]) -> int:
        """Cancel jobs that are not being sent yet; return their number."""
        return sum(future.resolve_cancelled() for future in self._pending.withdraw(futures))

    # --- the end ---

    @property
    def is_closed(self) -> bool:
        """Whether its threads have ended, or are about to."""
        return self.scheduler.closed.is_set()

    def flush(self, timeout_s: float) -> None:
        """Wait until all jobs are sent, or the time is up."""
        self._pending.wait_until_all_sent(timeout_s)

    def retire(self) -> None:
        """End the session as soon as no result is awaited: no executor is left. Safe in a destructor."""
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
        """End the threads; submitted jobs continue."""
        self._sender.close()
        self.scheduler.closed.set()
        self._listener.close()
        self._results.close()
        self._callbacks.close()

    def on_fork(self) -> None:
        """Fail all futures in a forked child, which will never receive events of these jobs."""
        self._pending.fail_in_fork(
            SchedulerUnreachable("this future belongs to the parent process; use attach(future.key) here")
        )


_sessions: weakref.WeakSet[SchedulerSession] = weakref.WeakSet()


def _at_exit() -> None:
    """Send enqueued jobs and kill those that must not outlive the process, without waiting for any to end."""
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
        session.on_fork()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)


def _cancel_waiting(client: JobClient, keys: Sequence[str]) -> Sequence[str]:
    """Cancel those of the jobs that wait; return their uuids."""
    try:
        return client.cancel_waiting(keys)
    except NotFound:  # an original Cook, or jobs that the scheduler no longer knows
        waiting = [job.uuid for job in client.jobs(keys, partial=True) if job.status == "waiting"]
        if waiting:
            client.kill(waiting)
        return waiting
