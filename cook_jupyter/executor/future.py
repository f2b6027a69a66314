"""`CookFuture`: a `concurrent.futures.Future` whose work is a Cook job.

Lives here: the interface for one call: its key, its state, its logs, why it waits; killing it, replaying it
here.
Not here: sending and receiving (`executor.session`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import html
import logging
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from cook_jupyter.errors import Conflict, InvalidRequest, JobFailed
from cook_jupyter.executor.stages import Stage, step
from cook_jupyter.model.counts import counted
from cook_jupyter.model.printable import printable
from cook_jupyter.payload import encoding
from cook_jupyter.payload.requirements import is_call

if TYPE_CHECKING:
    from cook_jupyter.client.events import JobEvent
    from cook_jupyter.executor.options import Options
    from cook_jupyter.executor.session import SchedulerSession
    from cook_jupyter.payload.keys import Key
    from cook_jupyter.payload.results import CallResult

logger = logging.getLogger("cook_jupyter.executor")

Status = Literal["unsent", "waiting", "running", "success", "failed", "cancelled"]

_LOG_PIECE_BYTES = 1024 * 1024
_DELIVERY_TIMEOUT_S = 2.0  # for `why` immediately after the submission
_DOTS = {
    "unsent": "var(--jp-ui-font-color3, gray)",
    "waiting": "var(--jp-warn-color1, darkorange)",
    "running": "var(--jp-info-color1, royalblue)",
    "success": "var(--jp-success-color1, seagreen)",
    "failed": "var(--jp-error-color1, firebrick)",
    "cancelled": "var(--jp-ui-font-color3, gray)",
}


class CookFuture(concurrent.futures.Future[Any]):
    """The future result of one call, which is one job.

    All functions of `concurrent.futures` work with it; `await future` does too. Preemption or the loss of a
    host is not a failure: the future keeps waiting while its job has attempts left.
    """

    def __init__(self, session: SchedulerSession, key: str, name: str, options: Options | None) -> None:
        super().__init__()
        self._session = session
        self._key = key
        self._name = name
        self.options = options
        self._event: JobEvent | None = None
        self._preempted: set[str] = set()  # instances
        self.stage = Stage.QUEUED
        self.killed_by: str | None = None  # function of this process that was called to kill the job
        self.unread: set[str] = set()  # instances that could not read the function; each was given back
        self.call_in_store = False  # whether the call is a blob, which is useless after a success
        self.signing_key: Key | None = None  # key of the call; None if it was submitted earlier
        self.owner: object = None  # token of the executor whose shutdown waits for this future
        self._callbacks: list[Callable[[Any], object]] | None = None  # user callbacks; None before the first
        self._is_awaited = False  # whether a coroutine awaits it

    @property
    def key(self) -> str:
        """Uuid of the job. `attach(key)` returns the future again, even after a restart of the kernel."""
        return self._key

    @property
    def name(self) -> str:
        """Name of the job."""
        return self._name

    @property
    def status(self) -> Status:
        """Latest known status: unsent, waiting, running, success, failed or cancelled."""
        if self.cancelled():
            return "cancelled"
        if self.done():
            return "success" if self._exception is None else "failed"
        if self._event is not None and self._event.status == "running":
            return "running"
        return "waiting" if self.stage is Stage.ACCEPTED else "unsent"

    @property
    def attempts(self) -> int:
        """Latest known number of instances of the job."""
        return 0 if self._event is None else self._event.attempts

    @property
    def preempted(self) -> int:
        """Latest known number of preemptions, which cost no retries."""
        return len(self._preempted)

    @property
    def host(self) -> str | None:
        """Latest known host of the latest instance."""
        instance = None if self._event is None else self._event.instance
        return instance.host or None if instance is not None else None

    @property
    def is_listened_to(self) -> bool:
        """Whether its end has an effect: a coroutine awaits it, or it has a done-callback."""
        return self._is_awaited or bool(self._callbacks)

    def running(self) -> bool:
        """Return whether an instance is running, as far as is known."""
        return self.status == "running"

    def cancel(self) -> bool:
        """Kill the job, waiting or running. Return True if that was accepted: there will be no result."""
        return self._session.cancel([self]) == 1 or self.cancelled()

    def kill(self) -> None:
        """Kill the job; the future then raises JobKilled.

        Raises:
            SchedulerUnreachable: the scheduler did not get the request.
        """
        if not self.done():
            self._session.kill([self])

    def logs(self, stream: str = "stdout", *, attempt: int | None = None) -> str:
        """Return what the job has written so far, by default in its latest instance.

        Args:
            stream: "stdout" or "stderr".
            attempt: number of the attempt, from 1; None for the latest.

        Example: `print(future.logs("stderr"))`
        """
        client = self._session.client
        uuid = self._key
        if attempt is not None:
            instances = client.job(self._key).instances_by_start
            if not 1 <= attempt <= len(instances):
                raise InvalidRequest(
                    f"job {self._key} has had {counted(len(instances), 'attempt')}, so there is no attempt "
                    f"{attempt}"
                )
            uuid = instances[attempt - 1].uuid
        elif self.attempts == 0 and not self.done():
            return ""
        pieces = []
        offset = 0
        while True:
            piece = client.logs(uuid, stream=stream, offset=offset, length=_LOG_PIECE_BYTES)
            pieces.append(piece.data)
            offset = piece.next_offset
            if not piece.data or offset >= piece.size:
                return b"".join(pieces).decode("utf-8", "replace")

    def why(self) -> str:
        """Return why the job waits, in plain words, with numbers and the next step."""
        delivered = self._session.wait_until_delivered([self], _DELIVERY_TIMEOUT_S)
        if self.done():
            return f"The job is not waiting; it has ended ({self.status})."
        if not delivered:
            return "It has not reached the scheduler yet."
        return "\n".join(self._session.client.why(self._key).sentences)

    def replay(self) -> Any:
        """Run the same call here, in this process: for `%debug`.

        Raises:
            Conflict: the job is not a call, or its arguments are gone.
        """
        environment = self._session.client.job(self._key).env
        if not is_call(environment):
            raise Conflict(f"job {self._key} is not a call of a function, so it cannot be replayed")
        from cook_jupyter.payload import pickling
        from cook_jupyter.payload.envelope import unseal

        store, key = self._session.scheduler.store, self._session.scheduler.signing_key
        opened = encoding.open_call(environment, store=store, key=key, job_id=self._key)
        blob = store.get(f"functions/{opened.header['function']}")
        encoding.check_digest(blob, opened.header["function"])
        function_frames = unseal(blob, direction="function", key=None, private=True).frames
        function, arguments = pickling.call_from_frames(
            function_frames, opened.frames, shared=opened.header.get("shares", True), keep_classes=True
        )
        if opened.header["kind"] == "bundle":
            return [function(*args) for args in zip(*arguments, strict=True)]
        args, kwargs = arguments
        return function(*args, **kwargs)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` with this future when it is done; immediately, in this thread, if it is already done.

        Callbacks of one future are called in the order in which they were added, in a thread of their own: a
        callback may wait, even for other futures, without delaying results. Exceptions are logged.
        """
        with self._condition:
            if not self.done():
                if self._callbacks is None:
                    self._callbacks = []
                    self.on_resolved(self._dispatch_callbacks)
                self._callbacks.append(fn)
                return
        self._call(fn)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait without blocking the event loop. Cancelling the waiting task kills the job.

        A StopIteration raised by the call becomes the cause of a RuntimeError, as a coroutine cannot raise
        it.
        """
        import asyncio  # 30 ms, and not needed by most programs

        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake_loop(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, so nothing waits any more
                loop.call_soon_threadsafe(wake)

        self._is_awaited = True
        self.on_resolved(wake_loop)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self._session.run_in_background(self.cancel)  # sends a request, which must not block the loop
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    def __repr__(self) -> str:
        parts = [f"CookFuture {self._key}", self._name, self._state_text()]
        return printable(f"<{' · '.join(parts)}>")

    def _repr_html_(self) -> str:
        status = self.status
        return (
            '<span style="font-family: var(--jp-code-font-family, monospace)">'
            f'<span aria-hidden="true" style="color: {_DOTS[status]}">●</span> '
            f"{html.escape(self._name)} <b>{html.escape(self._state_text())}</b> "
            f'<span style="opacity: 0.7">{html.escape(self._key)}</span></span>'
        )

    def _state_text(self) -> str:
        status = self.status
        text: str = status
        if status == "failed":
            text = f"failed: {type(self._exception).__name__}"
        if status in ("running", "success", "failed") and self.host:
            text += f" on {self.host}"
        elif status == "waiting" and self.attempts:
            text += " again"
        if self._preempted:
            text += f", preempted {'once' if self.preempted == 1 else f'{self.preempted} times'}"
        if self.attempts - self.preempted > 1:
            text += f", attempt {self.attempts - self.preempted}"
        return text

    # --- for the session only ---

    def on_event(self, event: JobEvent, preempted: Iterable[str] = ()) -> None:
        """Record the latest event; the session handles its effect on the result.

        Args:
            event: the present state of the job, with its latest instance.
            preempted: all preempted instances of the job, if known.
        """
        self._preempted.update(preempted)
        if self._event is None or event.change >= self._event.change:
            self._event = event if event.result is None else msgspec.structs.replace(event, result=None)
        if event.instance is not None and event.instance.preempted:
            self._preempted.add(event.instance.uuid)
        if self.stage is not Stage.ACCEPTED:
            self.advance(Stage.ACCEPTED)

    def advance(self, target: Stage) -> None:
        """Record the next stage on the way to the scheduler."""
        self.stage = step(self.stage, target)

    def set_call_result(self, result: CallResult) -> bool:
        """Set the verified result of the job. Return False if the future had already ended."""
        error = result.error
        if error is None and result.errors:
            failed = [e for e in result.errors.values() if isinstance(e, Exception)]
            error = ExceptionGroup(f"{len(result.errors)} of {len(result.value)} calls failed", failed)
        if isinstance(error, JobFailed):
            error.attempts = self.attempts
        return self.resolve(result.value, error)

    def resolve(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Set result or exception, unless the future has already ended; return whether it was set."""
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)
        except concurrent.futures.InvalidStateError:
            return False
        return True

    def resolve_cancelled(self) -> bool:
        """End as cancelled and notify waiters, unless the future has already ended."""
        if not super().cancel():
            return False
        with contextlib.suppress(RuntimeError):  # they were notified already
            self.set_running_or_notify_cancel()
        return True

    def give_up(self, error: BaseException) -> None:
        """Raise an error, unless the future has already ended; the job, which waits, is cancelled."""
        self._session.give_up(self, error)

    def on_resolved(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` with this future in the thread that delivers results; it must not block."""
        super().add_done_callback(fn)

    def _dispatch_callbacks(self, _: object) -> None:
        self._session.run_in_background(self._run_callbacks)

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks or [], None
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(_for_callback(callback, self))
        except Exception:
            logger.exception("a callback of %r failed", self)

    def fail_in_fork(self, error: BaseException) -> None:
        """Fail in a forked child, which lacks the parent's threads, and whose locks may be held forever."""
        self._condition = threading.Condition()
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._callbacks = None
        self.resolve(error=error)


def _for_callback(callback: Callable[[Any], object], future: CookFuture) -> concurrent.futures.Future[Any]:
    """Return the future, or a substitute if a callback could not handle its exception.

    Before Python 3.13, asyncio (`wrap_future`, `run_in_executor`) cannot set a StopIteration and would wait
    forever; it gets a RuntimeError, as in later versions.
    """
    if getattr(callback, "__module__", None) != "asyncio.futures":
        return future
    error = None if future.cancelled() else future.exception()
    if not isinstance(error, StopIteration):
        return future
    substitute: concurrent.futures.Future[Any] = concurrent.futures.Future()
    replacement = RuntimeError("the call raised StopIteration, which cannot be raised into an asyncio future")
    replacement.__cause__ = error
    substitute.set_exception(replacement)
    return substitute
