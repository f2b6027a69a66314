"""Values that many jobs share, stored once and forgotten with the last job that has them.

Lives here: `CountedValues`, so that a million jobs of one submission cost four bytes each for what they have
in common, and jobs that each differ leave nothing behind.
Not here: the values (`scheduling.limits.run_times`, `scheduling.constraints.constraints`).
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V", bound=Hashable)


class CountedValues(Generic[V]):
    """Values by number. Number 0 is the usual value, which is not counted.

    Args:
        usual: the value that most jobs have.
    """

    def __init__(self, usual: V) -> None:
        self._usual = usual
        self._values: list[V] = [usual]
        self._jobs: list[int] = [0]
        self._numbers: dict[V, int] = {}
        self._free: list[int] = []

    def __bool__(self) -> bool:
        """Return whether any job has another value than the usual one."""
        return bool(self._numbers)

    def __len__(self) -> int:
        """Return how many other values there are."""
        return len(self._numbers)

    def __getitem__(self, number: int) -> V:
        return self._values[number]

    def acquire(self, value: V) -> int:
        """Return the number of a value, and count one more job that has it."""
        if value is self._usual or value == self._usual:
            return 0
        number = self._numbers.get(value)
        if number is None:
            if self._free:
                number = self._free.pop()
                self._values[number] = value
            else:
                number = len(self._values)
                self._values.append(value)
                self._jobs.append(0)
            self._numbers[value] = number
        self._jobs[number] += 1
        return number

    def release(self, number: int) -> None:
        """Count one job less that has the value of this number."""
        if not number:
            return
        self._jobs[number] -= 1
        if not self._jobs[number]:
            del self._numbers[self._values[number]]
            self._values[number] = self._usual
            self._free.append(number)
