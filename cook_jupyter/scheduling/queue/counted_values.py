"""Values that jobs share, stored once with a reference count.

Lives here: `CountedValues`. A million jobs of one submission need only four bytes each for a common value,
and a value is removed with the last job that has it.
Not here: the values (`scheduling.limits.run_times`, `scheduling.constraints.constraints`).
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V", bound=Hashable)


class CountedValues(Generic[V]):
    """Numbered values. Number 0 is the usual value, which is not counted.

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
        """Return whether any job has a value other than the usual one."""
        return bool(self._numbers)

    def __len__(self) -> int:
        """Return the number of values other than the usual one."""
        return len(self._numbers)

    def __getitem__(self, number: int) -> V:
        return self._values[number]

    def acquire(self, value: V) -> int:
        """Return the number of a value, and count one more job with the value."""
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
        """Count one job less with the value of this number."""
        if not number:
            return
        self._jobs[number] -= 1
        if not self._jobs[number]:
            del self._numbers[self._values[number]]
            self._values[number] = self._usual
            self._free.append(number)
