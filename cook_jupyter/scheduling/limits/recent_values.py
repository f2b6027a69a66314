"""Values that are kept up for as long as somebody asks for them.

Lives here: `RecentValues`. Not here: the values (`scheduling.hosts.hosts`, `scheduling.hosts.columns`).

Users choose the constraints of their jobs, so what is derived from a constraint may be as manifold as jobs:
it must neither stay for good nor cost anything once the jobs are gone.
"""

from collections.abc import Callable, Hashable, ValuesView
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEPT_ROUNDS: Final = 16
FEW: Final = 32  # so many are kept in any case


class RecentValues(Generic[K, V]):
    """Values by key. A value that nobody asked for during some rounds is forgotten."""

    __slots__ = ("_round", "_used", "_values")

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._used: dict[K, int] = {}  # in which round it was last asked for
        self._round = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key, which is made if it is not there."""
        self._used[key] = self._round
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = make()
        return value

    def replace(self, key: K, value: V) -> None:
        """Replace the value of a key; nobody has asked for it by that."""
        self._values[key] = value

    def items(self) -> list[tuple[K, V]]:
        """Return keys and values."""
        return list(self._values.items())

    def values(self) -> ValuesView[V]:
        """Return the values."""
        return self._values.values()

    def next_round(self) -> bool:
        """Begin a round; returns whether values were forgotten."""
        self._round += 1
        if len(self._values) <= FEW or self._round % KEPT_ROUNDS:
            return False
        old = [key for key, used in self._used.items() if used < self._round - KEPT_ROUNDS]
        for key in old:
            del self._values[key], self._used[key]
        return bool(old)

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
        self._used.clear()
