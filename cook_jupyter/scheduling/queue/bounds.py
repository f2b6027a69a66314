"""The least and the most of amounts that come and go.

Lives here: `AmountBounds`. It counts amounts that are alike, to eight binary digits, together: so there are
never many to look through, however many jobs come and go. Amounts such as 0.5, 1 or 64 it tells exactly.
Not here: whose amounts they are (`scheduling.queue.queue_index`).
"""

from typing import Any, Final, cast

import numpy as np

from cook_jupyter.scheduling.arrays import Counts, Floats, Integers

_LEFT_OUT: Final = 44  # binary digits of an amount that are not looked at


class AmountBounds:
    """Counts amounts, none of them below zero, given by their bits. Changes take a third of a microsecond."""

    __slots__ = ("_counts", "_least", "_most")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._least: float | None = 0.0  # None: to be found anew
        self._most: float | None = 0.0

    def add(self, bits: int) -> None:
        """Count one amount in."""
        key = bits >> _LEFT_OUT
        known = self._counts.get(key, 0)
        self._counts[key] = known + 1
        if not known:
            self._least = self._most = None

    def add_many(self, amounts: Floats) -> None:
        """Count many amounts in."""
        keys, numbers = np.unique(_bits(amounts) >> _LEFT_OUT, return_counts=True)
        for key, number in zip(keys.tolist(), numbers.tolist(), strict=True):
            self._counts[key] = self._counts.get(key, 0) + number
        self._least = self._most = None

    def remove(self, bits: int) -> None:
        """Count one amount out."""
        key = bits >> _LEFT_OUT
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]
            self._least = self._most = None

    @property
    def least(self) -> float:
        """What no amount is below; 0 if there are none."""
        if self._least is None:
            self._least = _amount(min(self._counts, default=0))
        return self._least

    @property
    def most(self) -> float:
        """What every amount is below; 0 if there are none."""
        if self._most is None:
            self._most = _amount(max(self._counts) + 1) if self._counts else 0.0
        return self._most


def bits(column: Floats) -> Counts:
    """Return the bits of amounts, to be read one at a time. Their order is that of amounts."""
    return cast("Counts", memoryview(cast("Any", _bits(column))))


def _bits(column: Floats) -> Integers:
    return column.view(np.int64)


def _amount(key: int) -> float:
    return float(np.int64(key << _LEFT_OUT).view(np.float64))
