"""`CookFuture`: a `concurrent.futures.Future` whose work is a Cook job.

Lives here: what a user may ask of one call: its key, its state, its logs, why it waits; killing it, running
it again here.
Not here: sending and receiving (`executor.session`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import html
import logging
import sys
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
_DELIVERY_S = 2.0  # who submits and asks why in one breath wants the answer, not that it is too early
_DOTS = {
    "unsent": "var(--jp-ui-font-color3, gray)",
    "waiting": "var(--jp-warn-color1, darkorange)",
    "running": "var(--jp-info-color1, royalblue)",
    "success": "var(--jp-success-color1, seagreen)",
    "failed": "var(--jp-error-color1, firebrick)",
    "cancelled": "var(--jp-ui-font-color3, gray)",
}


class CookFuture(concurrent.futures.Future[Any]):
    """The result to come of one call, which is one job.

    All that `concurrent.futures` does with futures works; `await future` does too. Being preempted or losing
    a host is no failure: the future goes on waiting while its job has attempts left.
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
        self.killed_by: str | None = None  # what this process called to kill the job
        self.unread: set[str] = set()  # instances that could not read the function; each was given back
        self.call_in_store = False  # in a blob, which nobody needs after a success
        self.signing_key: Key | None = None  # of the call; None for one that was submitted earlier
        self.owner: object = None  # the mark of the executor whose shutdown waits for it
        self._callbacks: list[Callable[[Any], object]] | None = None  # of users; None before the first
        self._is_awaited = False  # by a coroutine

    @property
    def key(self) -> str:
        """The job's uuid. `attach(key)` gives the future back, also after a restart of the kernel."""
        return self._key

    @property
    def name(self) -> str:
        """The job's name."""
        return self._name

    @property
    def status(self) -> Status:
        """unsent, waiting, running, success, failed or cancelled, as last heard."""
        if self.cancelled():
            return "cancelled"
        if self.done():
            return "success" if self._exception is None else "failed"
        if self._event is not None and self._event.status == "running":
            return "running"
        return "waiting" if self.stage is Stage.ACCEPTED else "unsent"

    @property
    def attempts(self) -> int:
        """How many instances the job has had so far, as last heard."""
        return 0 if self._event is None else self._event.attempts

    @property
    def preempted(self) -> int:
        """How often it had to make way for somebody else's job, as heard; that costs no retry."""
        return len(self._preempted)

    @property
    def host(self) -> str | None:
        """Where the latest instance runs or ran, as last heard."""
        instance = None if self._event is None else self._event.instance
        return instance.host or None if instance is not None else None

    @property
    def is_listened_to(self) -> bool:
        """Whether its end will call something: a coroutine that awaits it, or a done-callback."""
        return self._is_awaited or bool(self._callbacks)

    def running(self) -> bool:
        """Whether an instance runs at this moment, as last heard."""
        return self.status == "running"

    def cancel(self) -> bool:
        """Kill the job, waiting or running. True if that was accepted: the result will not come."""
        return self._session.cancel([self]) == 1 or self.cancelled()

    def kill(self) -> None:
        """Kill the job; the future then raises JobKilled.

        Raises:
            SchedulerUnreachable: nobody took the request.
        """
        if not self.done():
            self._session.kill([self])

    def logs(self, stream: str = "stdout", *, attempt: int | None = None) -> str:
        """What the job has written so far, of its latest instance.

        Args:
            stream: "stdout" or "stderr".
            attempt: of an earlier instance: 1 is the first.

        Example: `print(future.logs("stderr"))`
        """
        client = self._session.client
        wanted = self._key
        if attempt is not None:
            instances = client.job(self._key).instances_by_start
            if not 1 <= attempt <= len(instances):
                raise InvalidRequest(
                    f"job {self._key} has had {counted(len(instances), 'attempt')}, so there is no attempt "
                    f"{attempt}"
                )
            wanted = instances[attempt - 1].uuid
        elif self.attempts == 0 and not self.done():
            return ""
        pieces = []
        offset = 0
        while True:
            piece = client.logs(wanted, stream=stream, offset=offset, length=_LOG_PIECE_BYTES)
            pieces.append(piece.data)
            offset = piece.next_offset
            if not piece.data or offset >= piece.size:
                return b"".join(pieces).decode("utf-8", "replace")

    def why(self) -> str:
        """Why the job waits, in plain words, with numbers and the next step."""
        delivered = self._session.delivered([self], _DELIVERY_S)
        if self.done():
            return f"It does not wait: it is over ({self.status})."
        if not delivered:
            return "It has not reached the scheduler yet."
        return "\n".join(self._session.client.why(self._key).sentences)

    def replay(self) -> Any:
        """Run the very same call here, in this process: for `%debug`.

        Raises:
            Conflict: the job is no call, or its arguments are gone.
        """
        environment = self._session.client.job(self._key).env
        if not is_call(environment):
            raise Conflict(f"job {self._key} is no call of a function; there is nothing to replay")
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
        """Call `fn` with this future when it is done; at once, in this thread, if it is done already.

        Callbacks of one future are called in the order in which they were added, in a thread of their own: a
        callback may wait, for other futures too, and holds up nobody's result. What it raises is logged.
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
        """Wait without blocking the event loop. Cancelling the task that waits kills the job.

        A StopIteration that the call raised is the cause of a RuntimeError then: a coroutine cannot raise it.
        """
        import asyncio  # 30 ms, and most programs that submit do without

        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake_loop(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(wake)

        self._is_awaited = True
        self.on_resolved(wake_loop)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self._session.run_in_background(self.cancel)  # which asks the scheduler; the loop must not wait
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    def __repr__(self) -> str:
        words = [f"CookFuture {self._key}", self._name, self._state_in_words()]
        return printable(f"<{' · '.join(words)}>")

    def _repr_html_(self) -> str:
        status = self.status
        return (
            '<span style="font-family: var(--jp-code-font-family, monospace)">'
            f'<span aria-hidden="true" style="color: {_DOTS[status]}">●</span> '
            f"{html.escape(self._name)} <b>{html.escape(self._state_in_words())}</b> "
            f'<span style="opacity: 0.7">{html.escape(self._key)}</span></span>'
        )

    def _state_in_words(self) -> str:
        status = self.status
        words: str = status
        if status == "failed":
            words = f"failed: {type(self._exception).__name__}"
        if status in ("running", "success", "failed") and self.host:
            words += f" on {self.host}"
        elif status == "waiting" and self.attempts:
            words += " again"
        if self._preempted:
            words += f", preempted {'once' if self.preempted == 1 else f'{self.preempted} times'}"
        if self.attempts - self.preempted > 1:
            words += f", attempt {self.attempts - self.preempted}"
        return words

    # --- for the session alone ---

    def on_event(self, event: JobEvent, preempted: Iterable[str] = ()) -> None:
        """Note the latest event; what it means for the result is the session's affair.

        Args:
            event: the job as it is now, with its latest instance.
            preempted: which of all its instances were, if that was asked for.
        """
        self._preempted.update(preempted)
        if self._event is None or event.change >= self._event.change:
            self._event = event if event.result is None else msgspec.structs.replace(event, result=None)
        if event.instance is not None and event.instance.preempted:
            self._preempted.add(event.instance.uuid)
        if self.stage is not Stage.ACCEPTED:
            self.advance(Stage.ACCEPTED)

    def advance(self, target: Stage) -> None:
        """Take a step on the way to the scheduler."""
        self.stage = step(self.stage, target)

    def set_call_result(self, result: CallResult) -> bool:
        """The job's result is here. Returns False if nobody waits for it any more."""
        error = result.error
        if error is None and result.errors:
            failed = [each for each in result.errors.values() if isinstance(each, Exception)]
            error = ExceptionGroup(f"{len(result.errors)} of {len(result.value)} calls failed", failed)
        if isinstance(error, JobFailed):
            error.attempts = self.attempts
        return self.resolve(result.value, error)

    def resolve(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Set the result, unless the future is over already."""
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)
        except concurrent.futures.InvalidStateError:
            return False
        return True

    def resolve_cancelled(self) -> bool:
        """End as cancelled, unless the future is over already; waiters are told."""
        if not super().cancel():
            return False
        with contextlib.suppress(RuntimeError):  # somebody else has told them
            self.set_running_or_notify_cancel()
        return True

    def give_up(self, error: BaseException) -> None:
        """Raise an error, unless the future is over already; the job, which waits, is cancelled."""
        self._session.give_up(self, error)

    def on_resolved(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` with this future in the thread that delivers results: it must not wait."""
        super().add_done_callback(fn)

    def _dispatch_callbacks(self, _: object) -> None:
        self._session.run_in_background(self._run_callbacks)

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks or [], None
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(_seen_by(callback, self))
        except Exception:
            logger.exception("a callback of %r failed", self)

    def fail_in_fork(self, error: BaseException) -> None:
        """In a forked child: the parent's threads are not here, and its locks may be held for ever."""
        self._condition = threading.Condition()
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._callbacks = None
        self.resolve(error=error)


def _seen_by(callback: Callable[[Any], object], future: CookFuture) -> concurrent.futures.Future[Any]:
    """The future as a callback may take it.

    Before Python 3.12 asyncio (`wrap_future`, `run_in_executor`) cannot hold a StopIteration and waits until
    cancelled; it is given the RuntimeError that later versions make of it.
    """
    if sys.version_info >= (3, 12) or getattr(callback, "__module__", None) != "asyncio.futures":
        return future
    error = None if future.cancelled() else future.exception()
    if not isinstance(error, StopIteration):
        return future
    substitute: concurrent.futures.Future[Any] = concurrent.futures.Future()
    instead = RuntimeError("the call raised StopIteration, which cannot be raised into an asyncio future")
    instead.__cause__ = error
    substitute.set_exception(instead)
    return substitute
