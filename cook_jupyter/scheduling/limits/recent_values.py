"""A cache of values that expire when they are no longer used.

Lives here: `RecentValues`. Not here: the values (`scheduling.hosts.hosts`, `scheduling.hosts.columns`).

Users choose the constraints of their jobs, so there may be as many values derived from constraints as jobs.
They must not stay for good, nor cost anything once the jobs are gone.
"""

from collections.abc import Callable, Hashable, ValuesView
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_UNUSED_ROUNDS: Final = 16
FEW: Final = 32  # values that are kept in any case


class RecentValues(Generic[K, V]):
    """Values by key. A value that was not read during some rounds is removed."""

    __slots__ = ("_round", "_used", "_values")

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._used: dict[K, int] = {}  # the round of the last access
        self._round = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key, created by `make` if it is missing."""
        self._used[key] = self._round
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = make()
        return value

    def replace(self, key: K, value: V) -> None:
        """Replace the value of a key; this does not count as an access."""
        self._values[key] = value

    def items(self) -> list[tuple[K, V]]:
        """Return keys and values."""
        return list(self._values.items())

    def values(self) -> ValuesView[V]:
        """Return the values."""
        return self._values.values()

    def next_round(self) -> bool:
        """Begin a round, and return whether values were removed."""
        self._round += 1
        if len(self._values) <= FEW or self._round % MAX_UNUSED_ROUNDS:
            return False
        old = [key for key, used in self._used.items() if used < self._round - MAX_UNUSED_ROUNDS]
        for key in old:
            del self._values[key], self._used[key]
        return bool(old)

    def clear(self) -> None:
        """Remove all values."""
        self._values.clear()
        self._used.clear()
