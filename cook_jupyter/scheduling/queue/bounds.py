"""Bounds of a changing collection of amounts.

Lives here: `AmountBounds`. It counts amounts that agree in their first eight binary digits together, so that
there are never many to compare, whatever the number of jobs. The lower bound of amounts such as 0.5, 1 or 64
is exact.
Not here: the jobs with these amounts (`scheduling.queue.queue_index`).
"""

from typing import Any, Final, cast

import numpy as np

from cook_jupyter.scheduling.arrays import Counts, Floats, Integers

_DROPPED_BITS: Final = 44  # low-order bits of an amount that are ignored


class AmountBounds:
    """Counts non-negative amounts, given as bits. A change takes a third of a microsecond."""

    __slots__ = ("_counts", "_maximum", "_minimum")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._minimum: float | None = 0.0  # None: to be computed
        self._maximum: float | None = 0.0

    def add(self, bits: int) -> None:
        """Add an amount."""
        key = bits >> _DROPPED_BITS
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        if not count:
            self._minimum = self._maximum = None

    def add_many(self, amounts: Floats) -> None:
        """Add many amounts."""
        keys, numbers = np.unique(_bits(amounts) >> _DROPPED_BITS, return_counts=True)
        for key, number in zip(keys.tolist(), numbers.tolist(), strict=True):
            self._counts[key] = self._counts.get(key, 0) + number
        self._minimum = self._maximum = None

    def remove(self, bits: int) -> None:
        """Remove an amount."""
        key = bits >> _DROPPED_BITS
        remaining = self._counts[key] - 1
        if remaining:
            self._counts[key] = remaining
        else:
            del self._counts[key]
            self._minimum = self._maximum = None

    @property
    def minimum(self) -> float:
        """A lower bound of all amounts; 0 if there are none."""
        if self._minimum is None:
            self._minimum = _amount(min(self._counts, default=0))
        return self._minimum

    @property
    def maximum(self) -> float:
        """An exclusive upper bound of all amounts; 0 if there are none."""
        if self._maximum is None:
            self._maximum = _amount(max(self._counts) + 1) if self._counts else 0.0
        return self._maximum


def bits(column: Floats) -> Counts:
    """Return the bits of amounts as integers, in the same order as the amounts."""
    return cast("Counts", memoryview(cast("Any", _bits(column))))


def _bits(column: Floats) -> Integers:
    return column.view(np.int64)


def _amount(key: int) -> float:
    return float(np.int64(key << _DROPPED_BITS).view(np.float64))
