"""Calls that submit calls: reporting which calls only wait for their own jobs, and ending deadlocks.

Lives here: `NestedWaits`, a thread that runs only inside a call; which futures a thread is blocked on.
Not here: whether those jobs can ever start (`scheduling.explaining.nested`, requested by `POST /v1/waits`).

A waiting call keeps its cpu. If all cpus are held by such calls, none of their jobs ever starts. The
scheduler can detect that for certain if it knows which calls do nothing but wait, so that is reported.
Whether a call waits is determined from the stacks of all its threads: each must be inside a wait of
`concurrent.futures` (or of this package) without a timeout, or run an asyncio event loop that is idle:
without a due callback, a timer, or a file or socket to listen to. Such a loop only continues when a future
ends that is awaited or has a done-callback. If there is anything else, a computing thread or a timer, nothing
is reported: that call may continue by itself.
"""

from __future__ import annotations

import concurrent.futures._base as futures_module
import concurrent.futures.thread as pool_module
import logging
import selectors
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from cook_jupyter.errors import CookError, NestedDeadlock, NotFound
from cook_jupyter.executor.callbacks import CallbackThreads
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.stages import Stage
from cook_jupyter.payload.running_call import RunningCall, current_call

if TYPE_CHECKING:
    from cook_jupyter.executor.session import SchedulerSession

logger = logging.getLogger("cook_jupyter.executor")

REPORT_INTERVAL_S = 1.0
MAX_CHILDREN = 1_000
OWN_THREADS = "cook-"  # prefix of the names of this package's threads


class NestedWaits:
    """Reports what one call waits for, in a thread that ends with the call.

    Args:
        call: the call that this process runs.
    """

    def __init__(self, call: RunningCall) -> None:
        self.call = call
        self._sessions: weakref.WeakSet[SchedulerSession] = weakref.WeakSet()
        self._has_reported = False
        self._has_started = False

    def add(self, session: SchedulerSession) -> None:
        """Include the futures of a session."""
        self._sessions.add(session)
        if not self._has_started:
            self._has_started = True
            threading.Thread(target=self._run, name=f"{OWN_THREADS}nested", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(REPORT_INTERVAL_S) and current_call() == self.call:
            try:
                if not self._report():
                    return
            except CookError as error:  # the scheduler is away; the next report is due soon
                logger.info("what the call waits for could not be reported: %s", error)

    def _report(self) -> bool:
        """Report what the call waits for, and end a deadlock; return whether to continue."""
        sessions = [session for session in self._sessions if not session.is_closed]
        if not sessions:
            return True
        pending = [future for session in sessions for future in session.futures()]
        blocked = blocked_on(threading.enumerate(), pending)
        has_timer = signal.getitimer(signal.ITIMER_REAL)[0] > 0  # its signal handler may raise
        if has_timer or any(future.stage is not Stage.ACCEPTED for future in blocked):
            blocked = set()
        keys = sorted(future.key for future in blocked if not future.done())
        if len(keys) > MAX_CHILDREN or (not keys and not self._has_reported):
            return True
        self._has_reported = bool(keys)
        try:
            answer = sessions[0].call(
                lambda client: client.report_waits(self.call.instance_id, keys), restart=False
            )
        except NotFound:  # an original Cook, which does not support this
            return False
        if answer.deadlocked:
            _raise_deadlock(blocked, answer.parents)
        return True


_current: NestedWaits | None = None
_lock = threading.Lock()


def watch(session: SchedulerSession) -> None:
    """Report waits for the futures of a session, if this process runs a call."""
    global _current  # noqa: PLW0603 - a process runs one call at a time
    call = current_call()
    if call is None:
        return
    with _lock:
        if _current is None or _current.call != call:
            _current = NestedWaits(call)
        _current.add(session)


def blocked_on(threads: Iterable[threading.Thread], pending: Iterable[CookFuture] = ()) -> set[CookFuture]:
    """Return the futures that threads wait for without a timeout; empty if any thread does something else.

    Args:
        threads: all threads of this process.
        pending: all unfinished futures; an idle event loop may wait for those that are listened to.
    """
    blocked: set[CookFuture] = set()
    frames = sys._current_frames()  # noqa: SLF001 - documented for this purpose: finding deadlocks
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        if _is_own_thread(thread, frame) or _is_monitor(thread):
            continue
        if frame is not None and _is_idle_loop(frame):
            awaited: Iterable[CookFuture] | None = [future for future in pending if future.is_listened_to]
        else:
            awaited = None if frame is None else _awaited_in(frame)
        if awaited is None:
            return set()
        blocked.update(awaited)
    return blocked


def _awaited_in(frame: FrameType) -> Iterable[CookFuture] | None:
    """Return the CookFutures that a stack waits for without a timeout; None if it does something else."""
    innermost: FrameType | None = frame
    while innermost is not None and innermost.f_code.co_filename == threading.__file__:
        if innermost.f_code is threading.Thread.join.__code__:
            return () if innermost.f_locals["timeout"] is None else None
        innermost = innermost.f_back
    if innermost is None:
        return None
    code, variables = innermost.f_code, innermost.f_locals
    if code is pool_module._worker.__code__:  # noqa: SLF001 - an idle thread of a pool
        return ()
    if code not in _WAITS or variables.get("timeout") is not None:
        return None
    return [
        future for future in _WAITS[code](variables) if isinstance(future, CookFuture) and not future.done()
    ]


def _is_idle_loop(frame: FrameType) -> bool:
    """Return whether a stack is an asyncio event loop that only another thread can wake."""
    caller = frame.f_back
    if frame.f_code.co_filename != selectors.__file__ or caller is None:
        return False
    base_events: Any = sys.modules.get("asyncio.base_events")
    if base_events is None or caller.f_code is not base_events.BaseEventLoop._run_once.__code__:  # noqa: SLF001
        return False
    variables = caller.f_locals
    # The only file that each loop always listens to is its own, by which other threads wake it.
    listens_to: Mapping[Any, Any] | None = variables["self"]._selector.get_map()  # noqa: SLF001
    return variables.get("timeout", 0) is None and listens_to is not None and len(listens_to) <= 1


Variables = Mapping[str, Any]

# Code that waits, with a function from its local variables to the futures that it waits for.
_WAITS: dict[CodeType, Callable[[Variables], Iterable[Any]]] = {
    futures_module.Future.result.__code__: lambda variables: (variables["self"],),
    futures_module.Future.exception.__code__: lambda variables: (variables["self"],),
    futures_module.wait.__code__: lambda variables: variables["fs"],
    futures_module.as_completed.__code__: lambda variables: variables["pending"],
}


def add_wait(code: CodeType, futures: Callable[[Variables], Iterable[Any]]) -> None:
    """Register a function of this package as a wait without a timeout.

    Args:
        code: code of the function.
        futures: function that returns the futures it waits for, from its local variables.
    """
    _WAITS[code] = futures


def _is_own_thread(thread: threading.Thread, frame: FrameType | None) -> bool:
    """Return whether a thread belongs to this package; a thread for user callbacks only while it is idle."""
    if not thread.name.startswith(OWN_THREADS):
        return False
    runs_callbacks = thread.name.startswith(f"{OWN_THREADS}callbacks")
    return not runs_callbacks or frame is None or frame.f_code is CallbackThreads.work.__code__


def _is_monitor(thread: threading.Thread) -> bool:
    """Return whether a thread only updates a progress bar."""
    return type(thread).__module__.partition(".")[0] == "tqdm"


def _raise_deadlock(futures: Iterable[CookFuture], parents: int) -> None:
    """Raise NestedDeadlock from futures; their jobs, which have not started, are cancelled."""
    running = "1 running job that waits" if parents == 1 else f"{parents} running jobs that wait"
    for future in futures:
        future.give_up(
            NestedDeadlock(
                f"job {future.key} can never start: all room that it could use is held by {running} for "
                "jobs of their own, this one among them. It was cancelled. Submit such jobs from the "
                "notebook, run fewer of the jobs that wait for them, or compute here what the job was to do.",
                job_id=future.key,
            )
        )
