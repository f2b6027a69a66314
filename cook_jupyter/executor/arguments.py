"""The arguments of a `map`: its iterables, read in parallel up to the end of the shortest.

Lives here: `Arguments`, and how far ahead of the calls iterables are read.
Not here: bundles and results (`executor.mapping`), pickling (`payload.encoding`).

Iterables are read like by `zip`, always in a thread of the caller, and far enough ahead to keep all hosts
busy. Whatever fits in the read-ahead is read before the first call is sent, as by `Executor.map`; the rest is
read while results are consumed, as with `buffersize` in Python 3.14, so that iterables may be endless.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

MAX_READ_AHEAD = 1_000_000  # calls
MAX_READ_AHEAD_BYTES = 64 * 1024 * 1024  # as measured by sys.getsizeof
_MAX_BATCH = 4096


class Arguments:
    """The arguments of the calls of a `map`.

    Lists, tuples and ranges are sliced instead of read, so that a range is sent as three numbers.

    Args:
        iterables: the iterables, one for each parameter.
        buffersize: maximum number of calls that are read before their results are yielded; None for the
            default.

    Attributes:
        exhausted: whether there is nothing left to read.
        error: exception that an iterable raised, after the calls before it.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]], buffersize: int | None = None) -> None:
        self.exhausted = False
        self.error: Exception | None = None
        self._buffersize = buffersize
        self._columns: list[Sequence[Any]] | None = None
        self._available = 0  # number of calls that may be made from the columns
        self._begin = 0
        self._lock = threading.Lock()  # for rows and their bytes: the sender removes while the caller reads
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
        """Read as far ahead as necessary; the caller's iterables run in this thread.

        Args:
            begun: number of calls that were put in bundles.
            yielded: number of results that were yielded.

        Returns:
            The number of calls that have become available.
        """
        if self.exhausted:
            return 0
        if self._columns is not None:
            return self._advance_columns(begun, yielded)
        limit = MAX_READ_AHEAD if self._buffersize is None else self._buffersize
        count = 0
        while not self.exhausted:
            buffered = len(self._rows) if self._buffersize is None else begun + len(self._rows) - yielded
            room = limit - buffered
            if room <= 0 or (self._bytes >= MAX_READ_AHEAD_BYTES and self._rows):
                break
            count += self._read_batch(min(room, self._batch_size()))
        return count

    def pop(self, count: int) -> Sequence[Sequence[Any]]:
        """Remove the arguments of the next calls, and return them as columns."""
        if self._columns is not None:
            begin, self._begin = self._begin, self._begin + count
            return [column[begin : begin + count] for column in self._columns]
        with self._lock:
            self._bytes -= self._bytes * count // len(self._rows)
            rows = [self._rows.popleft() for _ in range(count)]
        return [rows] if self._is_single else list(zip(*rows, strict=True))

    @property
    def is_buffered(self) -> bool:
        """Whether the caller has limited how much is read before results are consumed."""
        return self._buffersize is not None

    def close(self) -> None:
        """Stop reading."""
        self.exhausted = True

    def _advance_columns(self, begun: int, yielded: int) -> int:
        """Return how many more calls of the columns are available: all, if there is no buffer size."""
        available = self._available
        allowed = self._total if self._buffersize is None else min(self._total, yielded + self._buffersize)
        self._available = max(available, allowed)
        self.exhausted = self._available >= self._total
        return self._available - available

    def _batch_size(self) -> int:
        """Return how many rows to read at once without exceeding the byte limit by much."""
        with self._lock:
            rows, held_bytes = len(self._rows), self._bytes
        if not rows:
            return 1
        row_bytes = max(1, held_bytes // rows)
        return max(1, min(_MAX_BATCH, rows, (MAX_READ_AHEAD_BYTES - held_bytes) // row_bytes))

    def _read_batch(self, size: int) -> int:
        """Read up to `size` rows; record the end, and the exception of an iterable."""
        batch: list[Any] = []
        try:
            batch.extend(islice(self._iterator, size))  # keeps what was read before the iterator raises
        except Exception as error:  # noqa: BLE001 - the iterable's own, raised after the results before it
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
    """Return the first elements of an iterable; a list is copied, as its owner may change it."""
    column: Sequence[Any] = iterable[:total] if isinstance(iterable, list) else iterable
    return column


def _size_of(values: Iterable[Any]) -> int:
    """Return the approximate size of values in bytes."""
    try:
        return sum(map(sys.getsizeof, values))
    except Exception:  # noqa: BLE001 - a user's own __sizeof__; the number of calls is still limited
        return 0
