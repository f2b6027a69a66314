"""The arguments of a `map`: its iterables, read side by side up to the end of the shortest.

Lives here: `Arguments`, and how far ahead of the calls iterables are read.
Not here: bundles and results (`executor.mapping`), pickling (`payload.encoding`).

Iterables are read as `zip` reads them, always in a thread of the caller's, and far enough ahead to keep all
hosts busy. What fits in the read-ahead is read before the first call is sent, as by `Executor.map`; the rest
while results are taken, as with `buffersize` of Python 3.14, so that iterables may be endless.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

MAX_READ_AHEAD = 1_000_000  # calls
MAX_READ_AHEAD_BYTES = 64 * 1024 * 1024  # as far as sys.getsizeof tells
_MAX_BATCH = 4096


class Arguments:
    """The arguments of a map's calls.

    Lists, tuples and ranges are not read but sliced: a range travels as three numbers.

    Args:
        iterables: the iterables, one for each parameter.
        buffersize: the most calls that may be read and not yet yielded; None for the default read-ahead.

    Attributes:
        exhausted: whether there is nothing left to read.
        error: what an iterable raised; the calls before it are made.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]], buffersize: int | None = None) -> None:
        self.exhausted = False
        self.error: Exception | None = None
        self._buffersize = buffersize
        self._columns: list[Sequence[Any]] | None = None
        self._known = 0  # how many calls of the columns may be made
        self._begin = 0
        self._lock = threading.Lock()  # of the rows and their bytes: the sender takes while the caller reads
        self._rows: deque[Any] = deque()
        self._bytes = 0
        self._is_single = len(iterables) == 1
        if all(type(iterable) in _SLICEABLE for iterable in iterables):
            total = min((len(iterable) for iterable in iterables), default=0)  # type: ignore[arg-type]
            self._columns = [_snapshot(iterable, total) for iterable in iterables]
            self._total = total
            return
        copies = [list(iterable) if type(iterable) is list else iterable for iterable in iterables]
        self._iterator: Iterator[Any] = iter(copies[0]) if self._is_single else zip(*copies, strict=False)

    def read(self, begun: int, yielded: int) -> int:
        """Read as far ahead as is due; the caller's iterables run in this thread.

        Args:
            begun: how many calls were taken for bundles.
            yielded: how many results were given out.

        Returns:
            The number of calls that can be taken now and could not before.
        """
        if self.exhausted:
            return 0
        if self._columns is not None:
            return self._uncover(begun, yielded)
        limit = MAX_READ_AHEAD if self._buffersize is None else self._buffersize
        count = 0
        while not self.exhausted:
            held = len(self._rows) if self._buffersize is None else begun + len(self._rows) - yielded
            room = limit - held
            if room <= 0 or (self._bytes >= MAX_READ_AHEAD_BYTES and self._rows):
                break
            count += self._read_batch(min(room, self._batch_size()))
        return count

    def take(self, count: int) -> Sequence[Sequence[Any]]:
        """Take the arguments of the next calls, as columns."""
        if self._columns is not None:
            begin, self._begin = self._begin, self._begin + count
            return [column[begin : begin + count] for column in self._columns]
        with self._lock:
            self._bytes -= self._bytes * count // len(self._rows)
            rows = [self._rows.popleft() for _ in range(count)]
        return [rows] if self._is_single else list(zip(*rows, strict=True))

    @property
    def is_buffered(self) -> bool:
        """Whether no more is read than the caller said, before results are taken."""
        return self._buffersize is not None

    def close(self) -> None:
        """Read no more."""
        self.exhausted = True

    def _uncover(self, begun: int, yielded: int) -> int:
        """Return how many more calls of the columns may be made: all without a buffer size."""
        known = self._known
        allowed = self._total if self._buffersize is None else min(self._total, yielded + self._buffersize)
        self._known = max(known, allowed)
        self.exhausted = self._known >= self._total
        return self._known - known

    def _batch_size(self) -> int:
        """Return how many rows to read at once, so that large ones exceed the bytes allowed by little."""
        with self._lock:
            rows, held = len(self._rows), self._bytes
        if not rows:
            return 1
        row_bytes = max(1, held // rows)
        return max(1, min(_MAX_BATCH, rows, (MAX_READ_AHEAD_BYTES - held) // row_bytes))

    def _read_batch(self, size: int) -> int:
        """Read up to `size` rows; note the end, and what an iterable raises."""
        batch: list[Any] = []
        try:
            batch.extend(islice(self._iterator, size))  # keeps what it has read when the iterator raises
        except Exception as error:  # noqa: BLE001 - the iterable's own: raised after the results before it
            self.error = error
            self.exhausted = True
        else:
            self.exhausted = len(batch) < size
        size = _size_of(batch if self._is_single else chain.from_iterable(batch))
        with self._lock:
            self._bytes += size
            self._rows.extend(batch)
        return len(batch)


_SLICEABLE = (list, tuple, range)


def _snapshot(iterable: Any, total: int) -> Sequence[Any]:
    """Return the first elements; a list may be changed by its owner while calls are still sent."""
    column: Sequence[Any] = iterable[:total] if isinstance(iterable, list) else iterable
    return column


def _size_of(values: Iterable[Any]) -> int:
    """Return about how many bytes values take."""
    try:
        return sum(map(sys.getsizeof, values))
    except Exception:  # noqa: BLE001 - a caller's own __sizeof__: the number of calls is still bounded
        return 0
