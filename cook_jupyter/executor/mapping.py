"""`map`: many calls of one function, bundled into jobs that take about a second each.

Lives here: how many calls go into the next bundle, and yielding the results in order.
Not here: reading the arguments (`executor.arguments`), sending (`executor.session`), running a bundle
(`payload.calls`).

The size of a bundle depends on the run time of earlier ones, like guided self-scheduling (Polychronopoulos
and Kuck, 1987): single calls at first, then up to a second's worth, and smaller ones again towards the end,
so that all hosts finish together.

If a process dies, all calls of its bundle are lost, whichever of them caused it. Such a bundle is sent again
in two halves, and so on, until the call that caused it is alone in its job: only that one fails.
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

TARGET_S = 1.0  # run time of a bundle
MIN_BUNDLE_S = 0.05  # below that, the overhead outweighs a better balance
MAX_GROWTH = 64  # factor between consecutive bundles, as the first call may have been unusually fast
MAX_CALLS = 250_000
MAX_BYTES = 16 * 1024 * 1024  # of the results of one bundle
MAX_IN_FLIGHT = 10_000


@dataclass(frozen=True, slots=True)
class Divided:
    """Result of a bundle whose process died: the bundles that run its calls again, in order."""

    parts: Sequence[BundleFuture]


class BundleFuture(CookFuture):
    """The future of a job with many calls.

    Its result is the verified `CallResult`, including failures of single calls; or `Divided`.
    """

    calls: int = 1
    columns: Sequence[Sequence[Any]] = ()  # the arguments, as long as the job may have to be divided
    divide: Callable[[BundleFuture], Divided | None] | None = None

    def resolve(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Set the result; a bundle that failed as a whole, perhaps because of one call, is divided."""
        divided = None
        if self.divide is not None and self.calls > 1 and not self.done() and may_be_of_one_call(error):
            divided = self.divide(self)
        self.columns, self.divide = (), None
        return super().resolve(value, error) if divided is None else super().resolve(divided)

    def set_call_result(self, result: CallResult) -> bool:
        """Set the whole `CallResult`; `MapRun` yields the results of its calls one by one."""
        if result.error is not None:
            return super().set_call_result(result)
        return self.resolve(result)


class BundleSizer:
    """Chooses bundle sizes from observed run times.

    Args:
        total: number of calls known so far.
        slots: number of bundles that run at once.
        fixed: size of every bundle; None to choose it.
        complete: whether no calls are added later.
    """

    def __init__(self, total: int, slots: int, fixed: int | None, *, complete: bool = True) -> None:
        self.total = total
        self.complete = complete
        self.begun = 0  # calls put in bundles
        self._slots = max(1, slots)
        self._fixed = fixed
        self._largest_observed = 0
        self._seconds_per_call = 0.0
        self._bytes_per_call = 0.0

    @property
    def in_flight(self) -> int:
        """Number of bundles to keep at the scheduler: one running and one waiting for each slot."""
        if self._fixed is not None:
            return max(MAX_IN_FLIGHT, 2 * self._slots)
        return self._slots if not self._largest_observed else 2 * self._slots

    @property
    def unsent(self) -> int:
        """Number of known calls that are in no bundle yet."""
        return self.total - self.begun

    def next(self) -> int:
        """Return the number of calls in the next bundle, or 0 if none are known."""
        size = min(self.unsent, self._fixed if self._fixed is not None else self._measured_size())
        self.begun += size
        return size

    def observe(self, calls: int, seconds: float, size: int) -> None:
        """Record the run time and result size of a finished bundle."""
        self._largest_observed = max(self._largest_observed, calls)
        weight = 1.0 if not self._seconds_per_call else 0.5  # recent bundles are more relevant
        self._seconds_per_call += weight * (max(seconds, 1e-9) / calls - self._seconds_per_call)
        self._bytes_per_call += weight * (size / calls - self._bytes_per_call)

    def _measured_size(self) -> int:
        if not self._largest_observed:
            return 1
        size = min(
            TARGET_S / self._seconds_per_call,
            MAX_BYTES / max(self._bytes_per_call, 1e-9),
            self._largest_observed * MAX_GROWTH,
            MAX_CALLS,
        )
        if self.complete:
            balanced = -(-self.unsent // (2 * self._slots))
            size = min(size, max(balanced, MIN_BUNDLE_S / self._seconds_per_call))
        return max(1, int(size))


class MapRun:
    """One running `map`.

    Args:
        session: session that sends the bundles.
        make_future: function that creates the future of a number of calls.
        encode: function that encodes and signs a job for a future and columns of arguments.
        arguments: arguments of the calls.
        sizes: sizes of bundles.
        on_sent: callback with this object once no more bundles will be created.
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
        self.owner: object = None  # token of the executor whose shutdown waits for it
        self._order: deque[BundleFuture] = deque()
        self._changed = threading.Condition()
        self._in_flight = 0
        self._yielded = 0
        self._stopped = False
        self._iterated = False
        self._is_cut_short = False  # whether the executor was shut down with arguments unread
        self._stop_error: Callable[[], BaseException] | None = None

    def begin(self) -> None:
        """Read the first arguments and send the first bundles.

        Raises:
            Unpicklable: an argument of the first bundle cannot be sent.
            Exception: an iterable raised it.
        """
        try:
            self._read()
        except BaseException:  # for instance Ctrl-C
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
        """The first bundle whose results were not consumed; None if there is none."""
        return next(iter(list(self._order)), None)

    def results(self, *, timeout: float | None, return_exceptions: bool) -> Iterator[Any]:
        """Yield the return values of the calls in order, each as soon as possible."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def iterate() -> Iterator[Any]:
            self._iterated = True
            try:
                while (future := self._next(deadline)) is not None:
                    calls = future.calls
                    try:
                        result: CallResult | Divided = future.result(_remaining_s(deadline))
                    except TimeoutError:
                        if not future.done():
                            raise
                        yield from self._yield_failure(future, return_exceptions=return_exceptions)
                    except Exception:  # noqa: BLE001 - the job's own failure, which is raised again or yielded
                        yield from self._yield_failure(future, return_exceptions=return_exceptions)
                    else:
                        del future
                        if isinstance(result, Divided):
                            with self._changed:
                                self._order.extendleft(reversed(result.parts))
                            calls = 0  # they are counted with the parts
                        else:
                            yield from _values_of(result, return_exceptions=return_exceptions)
                        del result
                    self._yielded += calls
            finally:
                self.stop()

        return iterate()

    def stop(self) -> None:
        """Kill unfinished jobs and send no more. Safe in a destructor: other threads do the work."""
        self._send_no_more()
        rest = [future for future in self._order if not future.done()]
        if rest:
            self._session.run_in_sender(lambda: self._cancel(rest))

    def abandon(self, error: Callable[[], BaseException]) -> None:
        """Send no more bundles; those already sent continue.

        Args:
            error: function that creates the exception to raise instead of the results of unsent calls.
        """
        with self._changed:
            self._stop_error = self._stop_error or error
        self._send_no_more()

    def finish_sending(self) -> None:
        """Wait until all bundles are sent, for an executor that is shut down.

        If the results are not iterated over, all arguments are read here. Otherwise reading continues while
        results are consumed: calls that have not been read by now are not made, as with `buffersize` in the
        standard library.
        """
        if not self._arguments.exhausted and (self._iterated or self._arguments.is_buffered):
            self._read_no_more()
        while not self._arguments.exhausted and not self._stopped:
            self._read()
            self._session.run_in_sender(self._fill)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or not self._sizes.unsent)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._sizes.unsent)

    def unfinished(self) -> list[BundleFuture]:
        """Return the bundles that were sent and have not ended."""
        return [future for future in list(self._order) if not future.done()]

    def _read_no_more(self) -> None:
        """Let the iteration raise ExecutorClosed where it would read more; calls already read are made."""
        self._arguments.close()
        with self._changed:
            self._sizes.complete = True
            self._is_cut_short = True

    def _send_no_more(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._on_sent(self)

    def _cancel(self, futures: list[BundleFuture]) -> Iterable[PendingJob]:
        self._session.cancel(futures)
        return ()

    def _yield_failure(self, future: BundleFuture, *, return_exceptions: bool) -> Iterator[Any]:
        error = future.exception()
        if not return_exceptions and error is not None:
            raise error
        for _ in range(future.calls):
            yield error

    def _next(self, deadline: float | None) -> BundleFuture | None:
        """Return the next bundle in order, or None after the last; read further arguments first."""
        if not self._arguments.exhausted and not self._stopped and self._read():
            self._session.run_in_sender(self._fill)
        with self._changed:
            while not self._order:
                if self._stopped or not self._is_unfinished:
                    break
                if not self._changed.wait(_remaining_s(deadline)):
                    raise TimeoutError("map() timed out; the remaining calls were killed")
            else:
                return self._order.popleft()
            if self._stop_error is not None and self._is_unfinished:
                raise self._stop_error()
        if self._is_cut_short:
            raise _closed_error()
        if not self._stopped and self._arguments.error is not None:
            raise self._arguments.error
        return None

    @property
    def _is_unfinished(self) -> bool:
        return self._sizes.unsent > 0 or not self._arguments.exhausted

    def _read(self) -> int:
        """Read arguments far enough ahead, in the caller's thread; return the number of new calls."""
        count = self._arguments.read(self._sizes.begun, self._yielded)
        with self._changed:
            self._sizes.total += count
            self._sizes.complete = self._arguments.exhausted
        return count

    def _fill(self) -> Iterable[PendingJob]:
        """Create bundles until enough are in flight; first in the caller's thread, then in the sender's."""
        while (bundle := self._reserve()) is not None:
            future, columns = bundle
            try:
                job = self._encode(future, columns)
            except BaseException as error:  # noqa: BLE001 - an error of these calls, usually Unpicklable
                future.resolve(error=_as_exception(error))
                self._session.dismiss(future)
            else:
                yield job
        if self._arguments.exhausted and not self._sizes.unsent:
            self._on_sent(self)

    def _reserve(self) -> tuple[BundleFuture, Sequence[Sequence[Any]]] | None:
        """Return a future for the next calls in order, with their arguments; None if enough are in flight."""
        with self._changed:
            if self._stopped or self._in_flight >= self._sizes.in_flight or not (count := self._sizes.next()):
                return None
            columns = self._arguments.pop(count)
            future = self._make_future(count)
            self._order.append(future)
            self._in_flight += 1
            self._session.expect([future])  # so that shutdown waits for it while its job is being encoded
            self._changed.notify_all()
        future.columns = columns
        future.divide = self._divide
        future.on_resolved(self._on_bundle_done)
        return future, future.columns

    def _divide(self, future: BundleFuture) -> Divided | None:
        """Send the two halves of a bundle as bundles; None if the results are no longer needed."""
        half = future.calls // 2
        with self._changed:
            if self._stopped:
                return None
            parts = []
            for half_slice in (slice(0, half), slice(half, future.calls)):
                part = self._make_future(len(range(future.calls)[half_slice]))
                part.columns = [column[half_slice] for column in future.columns]
                part.divide = self._divide
                part.owner = future.owner
                parts.append(part)
            self._in_flight += len(parts)
            if future in self._order:  # otherwise it is the one being waited for
                position = self._order.index(future)
                del self._order[position]
                for part in reversed(parts):
                    self._order.insert(position, part)
        for part in parts:
            part.on_resolved(self._on_bundle_done)
        self._session.expect(parts)
        self._session.run_in_sender(lambda: self._encode_parts(parts))
        return Divided(parts)

    def _encode_parts(self, futures: Sequence[BundleFuture]) -> Iterable[PendingJob]:
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

    def _on_bundle_done(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is None:
            result: CallResult | Divided = future.result()
            if not isinstance(result, Divided):
                self._sizes.observe(future.calls, result.seconds, result.size)
        with self._changed:
            self._in_flight -= 1
            more = self._sizes.unsent and not self._stopped
            self._changed.notify_all()
        if more:
            self._session.run_in_sender(self._fill)


nested.add_wait(MapRun.finish_sending.__code__, lambda variables: variables["self"].unfinished())


def _values_of(result: CallResult, *, return_exceptions: bool) -> Iterator[Any]:
    """Return an iterator over the return values of a bundle, which keeps no value after yielding it."""
    values = result.value
    calls = len(values)
    values.reverse()
    if not result.errors:
        return map(values.pop, repeat(-1, calls))  # without a Python frame for each of millions of values
    return _values_and_errors(values, result.errors, return_exceptions=return_exceptions)


def _values_and_errors(
    values: list[Any], errors: Mapping[int, BaseException], *, return_exceptions: bool
) -> Iterator[Any]:
    """Yield reversed values from last to first, with the errors in their positions."""
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
    """Convert an exception raised by pickling arguments to one that does not end the waiting process."""
    if isinstance(error, Exception):
        return error
    wrapped = Unpicklable(f"an argument cannot be sent: pickling it raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _closed_error() -> ExecutorClosed:
    return ExecutorClosed(
        "cannot schedule new futures after shutdown: the iterables of map() have elements that were not read"
    )


def _remaining_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
