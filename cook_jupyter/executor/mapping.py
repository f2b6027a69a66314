"""`map`: many calls of one function, bundled into jobs that take about a second each.

Lives here: how many calls go into the next bundle, and giving the results out in order.
Not here: reading the arguments (`executor.arguments`), sending (`executor.session`), running a bundle
(`payload.calls`).

A bundle is sized by the run time of those before it, like guided self-scheduling (Polychronopoulos and Kuck,
1987): single calls to begin with, then up to a second's worth, and smaller ones again towards the end so that
all hosts end together.

A process that dies takes all calls of its bundle down, whichever of them was at fault. Such a bundle is sent
again in two halves, and so on, until the call that is at fault is alone in its job: only that one fails.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from cook_jupyter.errors import ExecutorClosed, Unpicklable
from cook_jupyter.executor import nested
from cook_jupyter.executor.arguments import Arguments
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.outcomes import may_be_of_one_call
from cook_jupyter.executor.sender import PendingJob
from cook_jupyter.executor.session import SchedulerSession
from cook_jupyter.payload.results import CallResult

TARGET_S = 1.0  # of a bundle
SHORTEST_S = 0.05  # below, the way there and back costs more than what a better balance gives
MOST_GROWTH = 64  # from one bundle to the next: the first call may have been a lucky one
MOST_CALLS = 250_000
MOST_BYTES = 16 * 1024 * 1024  # of the results, or the arguments, of one bundle
MOST_IN_FLIGHT = 10_000


@dataclass(frozen=True, slots=True)
class Divided:
    """The result of a bundle whose process died: the bundles that run its calls again, in order."""

    parts: Sequence[BundleFuture]


class BundleFuture(CookFuture):
    """A job of many calls.

    Its result is the verified `CallResult`, failures of single calls included; or `Divided`.
    """

    calls: int = 1
    columns: Sequence[Sequence[Any]] = ()  # the arguments, while the job may have to be divided
    divide: Callable[[BundleFuture], Divided | None] | None = None

    def resolve(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Set the result; a bundle that failed as a whole, perhaps by the fault of one call, is divided."""
        divided = None
        if self.divide is not None and self.calls > 1 and not self.done() and may_be_of_one_call(error):
            divided = self.divide(self)
        self.columns, self.divide = (), None
        return super().resolve(value, error) if divided is None else super().resolve(divided)

    def set_call_result(self, result: CallResult) -> bool:
        """Keep all of it: `MapRun` gives the calls' results out one by one."""
        if result.error is not None:
            return super().set_call_result(result)
        return self.resolve(result)


class BundleSizer:
    """Chooses bundle sizes from observed run times.

    Args:
        total: the number of calls known so far.
        slots: how many bundles run at once.
        fixed: the size of every bundle; None to choose.
        complete: whether no calls are added later.
    """

    def __init__(self, total: int, slots: int, fixed: int | None, *, complete: bool = True) -> None:
        self.total = total
        self.complete = complete
        self.begun = 0  # calls handed out
        self._slots = max(1, slots)
        self._fixed = fixed
        self._largest_done = 0
        self._seconds_per_call = 0.0
        self._bytes_per_call = 0.0

    @property
    def in_flight(self) -> int:
        """How many bundles to keep with the scheduler: one that runs and one that waits for each slot."""
        if self._fixed is not None:
            return max(MOST_IN_FLIGHT, 2 * self._slots)
        return self._slots if not self._largest_done else 2 * self._slots

    @property
    def unsent(self) -> int:
        """The number of calls that are known and in no bundle yet."""
        return self.total - self.begun

    def next(self) -> int:
        """The number of calls in the next bundle, 0 if none are known."""
        size = min(self.unsent, self._fixed if self._fixed is not None else self._measured())
        self.begun += size
        return size

    def observe(self, calls: int, seconds: float, size: int) -> None:
        """A bundle is done: so many calls took so long and gave back so many bytes."""
        self._largest_done = max(self._largest_done, calls)
        weight = 1.0 if not self._seconds_per_call else 0.5  # recent bundles tell more
        self._seconds_per_call += weight * (max(seconds, 1e-9) / calls - self._seconds_per_call)
        self._bytes_per_call += weight * (size / calls - self._bytes_per_call)

    def _measured(self) -> int:
        if not self._largest_done:
            return 1
        size = min(
            TARGET_S / self._seconds_per_call,
            MOST_BYTES / max(self._bytes_per_call, 1e-9),
            self._largest_done * MOST_GROWTH,
            MOST_CALLS,
        )
        if self.complete:
            balanced = -(-self.unsent // (2 * self._slots))
            size = min(size, max(balanced, SHORTEST_S / self._seconds_per_call))
        return max(1, int(size))


class MapRun:
    """One `map` under way.

    Args:
        session: the session that sends its bundles.
        make_future: makes the future of so many calls.
        encode: makes and signs the job of a future and of some columns of arguments.
        arguments: the arguments of the calls.
        sizes: the sizes of bundles.
        on_sent: called with this object once no more bundles will be made.
    """

    def __init__(
        self,
        session: SchedulerSession,
        make_future: Callable[[int], BundleFuture],
        encode: Callable[[BundleFuture, Sequence[Sequence[Any]]], PendingJob],
        arguments: Arguments,
        sizes: BundleSizer,
        on_sent: Callable[[MapRun], object] = lambda _: None,
    ) -> None:
        self._session = session
        self._make_future = make_future
        self._encode = encode
        self._arguments = arguments
        self._sizes = sizes
        self._on_sent = on_sent
        self.owner: object = None  # the mark of the executor whose shutdown waits for it
        self._order: deque[BundleFuture] = deque()
        self._more = threading.Condition()
        self._flying = 0
        self._yielded = 0
        self._stopped = False
        self._iterated = False
        self._cut_short = False  # by the end of its executor, with arguments unread
        self._stop_error: Callable[[], BaseException] | None = None

    def begin(self) -> None:
        """Read the first arguments and send the first bundles.

        Raises:
            Unpicklable: an argument of the first bundle cannot travel.
            Exception: an iterable raised it.
        """
        try:
            self._read()
        except BaseException:  # Ctrl-C, say
            self.stop()
            raise
        if self._arguments.error is not None:
            self.stop()
            raise self._arguments.error
        for job in self._fill():
            self._session.enqueue(job)
        for future in list(self._order)[:1]:
            if future.done() and isinstance(error := future.exception(), Unpicklable):
                self.stop()
                raise error

    @property
    def first(self) -> BundleFuture | None:
        """The first bundle whose results were not taken; None if there is none."""
        return next(iter(list(self._order)), None)

    def results(self, *, timeout: float | None, return_exceptions: bool) -> Iterator[Any]:
        """Yield what the calls returned, in order, each as soon as it and those before it are there."""
        end = None if timeout is None else time.monotonic() + timeout

        def give() -> Iterator[Any]:
            self._iterated = True
            try:
                while (future := self._next(end)) is not None:
                    calls = future.calls
                    try:
                        result: CallResult | Divided = future.result(_left(end))
                    except TimeoutError:
                        if not future.done():
                            raise
                        yield from self._failed(future, return_exceptions=return_exceptions)
                    except Exception:  # noqa: BLE001 - the job's own failure; raised again or given out
                        yield from self._failed(future, return_exceptions=return_exceptions)
                    else:
                        del future
                        if isinstance(result, Divided):
                            with self._more:
                                self._order.extendleft(reversed(result.parts))
                            calls = 0  # they are those of the parts
                        else:
                            yield from _values_of(result, return_exceptions=return_exceptions)
                        del result
                    self._yielded += calls
            finally:
                self.stop()

        return give()

    def stop(self) -> None:
        """Kill what is under way and send no more. Safe in a destructor: others do the work."""
        self._send_no_more()
        rest = [future for future in self._order if not future.done()]
        if rest:
            self._session.run_in_sender(lambda: self._cancel(rest))

    def abandon(self, error: Callable[[], BaseException]) -> None:
        """Send no more bundles; those under way go on.

        Args:
            error: makes what the iteration raises in place of the results of calls that were not sent.
        """
        with self._more:
            self._stop_error = self._stop_error or error
        self._send_no_more()

    def finish_sending(self) -> None:
        """Wait until all bundles are sent, for an executor that is shut down.

        A map whose results nobody iterates over reads all of its arguments here. One that somebody iterates
        over reads on while its results are taken: what it has not read by now is not called, as with
        `buffersize` in the standard library.
        """
        if not self._arguments.exhausted and (self._iterated or self._arguments.is_buffered):
            self._read_no_more()
        while not self._arguments.exhausted and not self._stopped:
            self._read()
            self._session.run_in_sender(self._fill)
            with self._more:
                self._more.wait_for(lambda: self._stopped or not self._sizes.unsent)
        with self._more:
            self._more.wait_for(lambda: self._stopped or not self._sizes.unsent)

    def unfinished(self) -> list[BundleFuture]:
        """Return the bundles that were sent and have not ended."""
        return [future for future in list(self._order) if not future.done()]

    def _read_no_more(self) -> None:
        """Let the iteration raise ExecutorClosed where it would read on; what was read is called."""
        self._arguments.close()
        with self._more:
            self._sizes.complete = True
            self._cut_short = True

    def _send_no_more(self) -> None:
        with self._more:
            self._stopped = True
            self._more.notify_all()
        self._on_sent(self)

    def _cancel(self, futures: list[BundleFuture]) -> Iterable[PendingJob]:
        self._session.cancel(futures)
        return ()

    def _failed(self, future: BundleFuture, *, return_exceptions: bool) -> Iterator[Any]:
        error = future.exception()
        if not return_exceptions and error is not None:
            raise error
        for _ in range(future.calls):
            yield error

    def _next(self, end: float | None) -> BundleFuture | None:
        """Return the next bundle in order, None after the last one; read further arguments before."""
        if not self._arguments.exhausted and not self._stopped and self._read():
            self._session.run_in_sender(self._fill)
        with self._more:
            while not self._order:
                if self._stopped or not self._is_unfinished:
                    break
                if not self._more.wait(_left(end)):
                    raise TimeoutError("the calls did not end in time; the rest of them is killed")
            else:
                return self._order.popleft()
            if self._stop_error is not None and self._is_unfinished:
                raise self._stop_error()
        if self._cut_short:
            raise _closed()
        if not self._stopped and self._arguments.error is not None:
            raise self._arguments.error
        return None

    @property
    def _is_unfinished(self) -> bool:
        return self._sizes.unsent > 0 or not self._arguments.exhausted

    def _read(self) -> int:
        """Read arguments as far ahead as is due, in the caller's thread; return how many calls were added."""
        count = self._arguments.read(self._sizes.begun, self._yielded)
        with self._more:
            self._sizes.total += count
            self._sizes.complete = self._arguments.exhausted
        return count

    def _fill(self) -> Iterable[PendingJob]:
        """Make bundles until enough are under way. At first in the caller's thread, then in the sender's."""
        while (bundle := self._reserve()) is not None:
            future, columns = bundle
            try:
                job = self._encode(future, columns)
            except BaseException as error:  # noqa: BLE001 - it belongs to these calls: Unpicklable, as a rule
                future.resolve(error=_as_exception(error))
                self._session.dismiss(future)
            else:
                yield job
        if self._arguments.exhausted and not self._sizes.unsent:
            self._on_sent(self)

    def _reserve(self) -> tuple[BundleFuture, Sequence[Sequence[Any]]] | None:
        """The next calls in order, and a future for them; None if enough are under way."""
        with self._more:
            if self._stopped or self._flying >= self._sizes.in_flight or not (count := self._sizes.next()):
                return None
            columns = self._arguments.take(count)
            future = self._make_future(count)
            self._order.append(future)
            self._flying += 1
            self._session.expect([future])  # shutdown waits for it while its job is still being made
            self._more.notify_all()
        future.columns = columns
        future.divide = self._divide
        future.on_resolved(self._done)
        return future, future.columns

    def _divide(self, future: BundleFuture) -> Divided | None:
        """Send the two halves of a bundle as bundles; None if nobody wants the results any more."""
        half = future.calls // 2
        with self._more:
            if self._stopped:
                return None
            parts = []
            for piece in (slice(0, half), slice(half, future.calls)):
                part = self._make_future(len(range(future.calls)[piece]))
                part.columns = [column[piece] for column in future.columns]
                part.divide = self._divide
                part.owner = future.owner
                parts.append(part)
            self._flying += len(parts)
            if future in self._order:  # else it is the one that is waited for
                place = self._order.index(future)
                del self._order[place]
                for part in reversed(parts):
                    self._order.insert(place, part)
        for part in parts:
            part.on_resolved(self._done)
        self._session.expect(parts)
        self._session.run_in_sender(lambda: self._encoded(parts))
        return Divided(parts)

    def _encoded(self, futures: Sequence[BundleFuture]) -> Iterable[PendingJob]:
        for future in futures:
            if future.done():
                continue
            try:
                job = self._encode(future, future.columns)
            except BaseException as error:  # noqa: BLE001 - as in _fill
                future.divide = None
                future.resolve(error=_as_exception(error))
                self._session.dismiss(future)
            else:
                yield job

    def _done(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is None:
            result: CallResult | Divided = future.result()
            if not isinstance(result, Divided):
                self._sizes.observe(future.calls, result.seconds, result.size)
        with self._more:
            self._flying -= 1
            more = self._sizes.unsent and not self._stopped
            self._more.notify_all()
        if more:
            self._session.run_in_sender(self._fill)


nested.add_wait(MapRun.finish_sending.__code__, lambda variables: variables["self"].unfinished())


def _values_of(result: CallResult, *, return_exceptions: bool) -> Iterator[Any]:
    """Return an iterator over what the calls of a bundle returned, in order; nothing it yields is kept."""
    values = result.value
    calls = len(values)
    values.reverse()
    if not result.errors:
        return map(values.pop, repeat(-1, calls))  # no Python frame for each of millions of values
    return _mixed(values, result.errors, return_exceptions=return_exceptions)


def _mixed(
    values: list[Any], errors: Mapping[int, BaseException], *, return_exceptions: bool
) -> Iterator[Any]:
    """Yield reversed values from the last to the first, with the errors in their places."""
    calls = len(values)
    while values:
        error = errors.get(calls - len(values))
        if error is None:
            yield values.pop()
        elif return_exceptions:
            values.pop()
            yield error
        else:
            raise error


def _as_exception(error: BaseException) -> Exception:
    """What a call's own pickling raised, as an error that does not end the process of whoever waits."""
    if isinstance(error, Exception):
        return error
    wrapped = Unpicklable(f"an argument cannot be sent: pickling it raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _closed() -> ExecutorClosed:
    return ExecutorClosed(
        "cannot schedule new futures after shutdown: the iterables of map() have elements that were not read"
    )


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())
