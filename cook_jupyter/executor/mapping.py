"""`map`: many calls of one function, bundled into jobs that take about a second each.

Lives here: how many calls go into the next bundle, and giving the results out in order.
Not here: sending (`executor.session`), running a bundle (`payload.calls`).

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from cook_jupyter.errors import Unpicklable
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.outcomes import may_be_of_one_call
from cook_jupyter.executor.session import Parcel, Session
from cook_jupyter.payload.results import Result

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

    Its result is the verified `Result`, failures of single calls included; or `Divided`.
    """

    calls: int = 1
    columns: Sequence[Sequence[Any]] = ()  # the arguments, while the job may have to be divided
    divide: Callable[[BundleFuture], Divided | None] | None = None

    def settle(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Set the result; a bundle that failed as a whole, perhaps by the fault of one call, is divided."""
        divided = None
        if self.divide is not None and self.calls > 1 and not self.done() and may_be_of_one_call(error):
            divided = self.divide(self)
        self.columns, self.divide = (), None
        return super().settle(value, error) if divided is None else super().settle(divided)

    def take(self, result: Result) -> bool:
        """Keep all of it: `Mapping` gives the calls' results out one by one."""
        if result.error is not None:
            return super().take(result)
        return self.settle(result)


class Sizes:
    """How large the next bundle is. Pure but for what it is told."""

    def __init__(self, total: int, slots: int, fixed: int | None) -> None:
        self.total = total
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

    def next(self) -> int:
        """The number of calls in the next bundle, 0 at the end."""
        rest = self.total - self.begun
        size = min(rest, self._fixed if self._fixed is not None else self._measured(rest))
        self.begun += size
        return size

    def observe(self, calls: int, seconds: float, size: int) -> None:
        """A bundle is done: so many calls took so long and gave back so many bytes."""
        self._largest_done = max(self._largest_done, calls)
        weight = 1.0 if not self._seconds_per_call else 0.5  # recent bundles tell more
        self._seconds_per_call += weight * (max(seconds, 1e-9) / calls - self._seconds_per_call)
        self._bytes_per_call += weight * (size / calls - self._bytes_per_call)

    def _measured(self, rest: int) -> int:
        if not self._largest_done:
            return 1
        wanted = min(
            TARGET_S / self._seconds_per_call,
            MOST_BYTES / max(self._bytes_per_call, 1e-9),
            self._largest_done * MOST_GROWTH,
            MOST_CALLS,
        )
        balanced = max(-(-rest // (2 * self._slots)), SHORTEST_S / self._seconds_per_call)
        return max(1, int(min(wanted, balanced)))


class Mapping:
    """One `map` under way.

    Args:
        make_future: makes the future of so many calls.
        encode: makes and signs the job of a future and of some columns of arguments.
        columns: the arguments, one sequence for each parameter, all of the same length.
    """

    def __init__(
        self,
        session: Session,
        make_future: Callable[[int], BundleFuture],
        encode: Callable[[BundleFuture, Sequence[Sequence[Any]]], Parcel],
        columns: Sequence[Sequence[Any]],
        sizes: Sizes,
    ) -> None:
        self._session = session
        self._make_future = make_future
        self._encode = encode
        self._columns = columns
        self._sizes = sizes
        self._order: deque[BundleFuture] = deque()
        self._more = threading.Condition()
        self._flying = 0
        self._stopped = False

    def begin(self) -> None:
        """Send the first bundles. What cannot be pickled among them is raised here."""
        for parcel in self._fill():
            self._session.post(parcel)
        for future in list(self._order)[:1]:
            if future.done() and isinstance(error := future.exception(), Unpicklable):
                self.stop()
                raise error

    def results(self, *, timeout: float | None, return_exceptions: bool) -> Iterator[Any]:
        """Yield what the calls returned, in order, each as soon as it and those before it are there."""
        end = None if timeout is None else time.monotonic() + timeout

        def give() -> Iterator[Any]:
            try:
                while (future := self._next(end)) is not None:
                    try:
                        result: Result | Divided = future.result(_left(end))
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
                        else:
                            yield from _values_of(result, return_exceptions=return_exceptions)
                        del result
            finally:
                self.stop()

        return give()

    def stop(self) -> None:
        """Kill what is under way and send no more. Safe in a destructor: others do the work."""
        self._stopped = True
        rest = [future for future in self._order if not future.done()]
        if rest:
            self._session.errand(lambda: self._cancel(rest))

    def _cancel(self, futures: list[BundleFuture]) -> Iterable[Parcel]:
        self._session.cancel(futures)
        return ()

    def _failed(self, future: BundleFuture, *, return_exceptions: bool) -> Iterator[Any]:
        error = future.exception()
        if not return_exceptions and error is not None:
            raise error
        for _ in range(future.calls):
            yield error

    def _next(self, end: float | None) -> BundleFuture | None:
        with self._more:
            while not self._order:
                if self._stopped or self._sizes.begun >= self._sizes.total:
                    return None
                if not self._more.wait(_left(end)):
                    raise TimeoutError("the calls did not end in time; the rest of them is killed")
            return self._order.popleft()

    def _fill(self) -> Iterable[Parcel]:
        """Make bundles until enough are under way. At first in the caller's thread, then in the sender's."""
        while (bundle := self._reserve()) is not None:
            future, columns = bundle
            try:
                parcel = self._encode(future, columns)
            except BaseException as error:  # noqa: BLE001 - it belongs to these calls: Unpicklable, as a rule
                future.settle(error=_as_exception(error))
            else:
                yield parcel

    def _reserve(self) -> tuple[BundleFuture, list[Sequence[Any]]] | None:
        """The next calls in order, and a future for them; None if enough are under way."""
        with self._more:
            begin = self._sizes.begun
            if self._stopped or self._flying >= self._sizes.in_flight or not (count := self._sizes.next()):
                return None
            future = self._make_future(count)
            self._order.append(future)
            self._flying += 1
            self._more.notify_all()
        future.columns = [column[begin : begin + count] for column in self._columns]
        future.divide = self._divide
        future.on_settled(self._done)
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
            part.on_settled(self._done)
        self._session.expect(parts)
        self._session.errand(lambda: self._encoded(parts))
        return Divided(parts)

    def _encoded(self, futures: Sequence[BundleFuture]) -> Iterable[Parcel]:
        for future in futures:
            if future.done():
                continue
            try:
                parcel = self._encode(future, future.columns)
            except BaseException as error:  # noqa: BLE001 - as in _fill
                future.divide = None
                future.settle(error=_as_exception(error))
                self._session.dismiss(future)
            else:
                yield parcel

    def _done(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is None:
            result: Result | Divided = future.result()
            if not isinstance(result, Divided):
                self._sizes.observe(future.calls, result.seconds, result.size)
        with self._more:
            self._flying -= 1
            more = self._sizes.begun < self._sizes.total and not self._stopped
            self._more.notify_all()
        if more:
            self._session.errand(self._fill)


def columns_of(iterables: Sequence[Iterable[Any]]) -> tuple[list[Sequence[Any]], int]:
    """The arguments as sequences of one length, that of the shortest, and this length.

    Lists, tuples and ranges are used as they are; all else is read to its end, as `Executor.map` does.
    """
    columns: list[Sequence[Any]] = [
        each if isinstance(each, list | tuple | range) else list(each) for each in iterables
    ]
    total = min(map(len, columns), default=0)
    # A list may be changed by its owner while calls are still to be sent.
    return [column if not isinstance(column, list) else column[:total] for column in columns], total


def _values_of(result: Result, *, return_exceptions: bool) -> Iterator[Any]:
    """Return an iterator over what the calls of a bundle returned, in order; nothing it yields is kept."""
    values = result.value
    calls = len(values)
    values.reverse()
    if not result.errors:
        return map(values.pop, repeat(-1, calls))  # no Python frame for each of millions of values
    return _mixed(values, result.errors, return_exceptions=return_exceptions)


def _mixed(
    values: list[Any], errors: MappingOf[int, BaseException], *, return_exceptions: bool
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


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())
