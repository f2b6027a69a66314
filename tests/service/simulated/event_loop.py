"""A deterministic event loop with virtual time, and processes that can be killed between two callbacks.

Lives here: `SimulatedEventLoop`, on which unmodified asyncio code runs, and `Process`, which tells the loop
whose callbacks vanish when a process is killed.
Not here: what the processes are (`simulation`), what is done to them (`faults`).

The next callback is drawn from all that are ready, by a seeded generator: asyncio would take them in the
order in which they became ready, which is one schedule of many that threads and sockets can bring about. Time
stands still while callbacks are ready, but for some drawn steps, and jumps to the next timer when none is.
"""

import asyncio
import contextlib
import itertools
import sys
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any

MAX_CLOSES = 5  # of a coroutine that awaits in its `finally`


class ProcessDied(BaseException):
    """A process that was killed has tried to act. No code of the product catches it."""


class Process:
    """What runs together and dies together: a scheduler, or the world around it.

    Attributes:
        name: name in the trace.
        is_alive: whether its callbacks still run.
        steps: number of its callbacks that have run.
        dies_at: number of callbacks after which the process is killed; None lets it live.
        on_death: function that the loop calls right after the process was killed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.steps = 0
        self.dies_at: int | None = None
        self.on_death: Callable[[], None] = lambda: None
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)

    def kill(self) -> None:
        """Kill the process as `kill -9` does: no `finally` runs, no task learns of it."""
        if self.is_alive:
            self.is_alive = False
            self.on_death()

    def free(self) -> None:
        """Release the coroutines of a killed process. Whatever they touch must refuse them by now."""
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if not task.done() and isinstance(coroutine, Coroutine):
                for _ in range(MAX_CLOSES):
                    try:
                        coroutine.close()
                    except RuntimeError:
                        continue  # it awaited something in a `finally`, and is closed there next
                    except BaseException:  # noqa: BLE001 - a refusal of what it touched: nobody is left to hear it
                        pass
                    break
        self.tasks.clear()


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that sets of tasks have the same order in every run."""

    def __init__(self, coroutine: Any, *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose hash is its number."""

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SimulatedEventLoop(asyncio.BaseEventLoop):
    """Runs callbacks in an order, and at virtual times, that follow from a seed.

    Args:
        rng: source of every choice.
        haste: probability, before each callback, that time moves to the next timer although others are ready:
            a slow machine.

    Attributes:
        steps: number of callbacks that have run.
        hasty_steps: number of times that time moved though callbacks were ready.
        errors: exceptions that no task or future took.
    """

    def __init__(self, rng: Random, *, haste: float = 0.0) -> None:
        self._is_running = False
        super().__init__()
        self._rng = rng
        self._haste = haste
        self._callbacks: list[tuple[asyncio.Handle, Process | None]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process | None]] = []
        self._time_s = 0.0
        self._numbers = itertools.count(1)
        self.steps = 0
        self.hasty_steps = 0
        self.errors: list[dict[str, Any]] = []

    # --- running

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Run callbacks until `is_over` returns True after one of them.

        Raises:
            RuntimeError: nothing is left to run.
        """
        self._is_running = True
        try:
            with _as_running_loop(self):
                while not is_over():
                    self._run_next()
        finally:
            self._is_running = False

    def _run_next(self) -> None:
        if not self._callbacks or (self._timers and self._haste and self._rng.random() < self._haste):
            self.hasty_steps += bool(self._callbacks)
            self._advance()
        ready = self._callbacks
        choice = int(self._rng.random() * len(ready))
        ready[choice], ready[-1] = ready[-1], ready[choice]
        handle, process = ready.pop()
        if handle.cancelled() or (process is not None and not process.is_alive):
            return
        self.steps += 1
        handle._run()
        if process is not None:
            process.steps += 1
            if process.dies_at is not None and process.steps >= process.dies_at:
                process.kill()

    def _advance(self) -> None:
        """Move time to the next timer, and make ready all that is due then."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if not timers:
            if self._callbacks:
                return
            raise RuntimeError("the simulation stands still: nothing is ready and no timer is set")
        self._time_s = max(self._time_s, timers[0][0])
        while timers and timers[0][0] <= self._time_s:
            _, _, handle, process = heappop(timers)
            if not handle.cancelled():
                self._callbacks.append((handle, process))

    @property
    def timer_count(self) -> int:
        """Number of timers that are set in living processes."""
        return sum(
            not handle.cancelled() and (process is None or process.is_alive)
            for _, _, handle, process in self._timers
        )

    # --- what asyncio asks of a loop

    def time(self) -> float:
        return self._time_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_closed():
            self._callbacks.append((handle, context.get(_PROCESS)))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.is_closed():
            heappush(self._timers, (when, next(self._numbers), handle, context.get(_PROCESS)))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return SimulatedFuture(number=next(self._numbers), loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        context = copy_context() if context is None else context
        task = SimulatedTask(coro, number=next(self._numbers), loop=self, name=name, context=context)
        process = context.get(_PROCESS)
        if process is not None:
            process.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a blocking function as a step of its own."""
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def close(self) -> None:
        super().close()
        self._callbacks.clear()
        self._timers.clear()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by a timer that is cancelled; it is passed over when its time comes."""


@contextlib.contextmanager
def _as_running_loop(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    before, hooks = events._get_running_loop(), sys.get_asyncgen_hooks()
    events._set_running_loop(loop)
    sys.set_asyncgen_hooks(
        firstiter=_ignore, finalizer=_ignore
    )  # a generator of a killed process just vanishes
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)
        events._set_running_loop(before)


def _ignore(_: object) -> None:
    """Leave an asynchronous generator alone."""
