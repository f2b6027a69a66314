"""Run times: how long a job is likely to run, and the longest it may.

Lives here: `RunTime`, what is stated of one job, and `RunTimeTable`, which stores equal ones once, so that a
million jobs of one submission cost four bytes each.
Not here: what run times decide (`scheduling.head_room`), the end of overlong tasks (`scheduling.lingering`).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, GroupId, JobSpec


class RunTime(NamedTuple):
    """What is stated about the run time of a job.

    Attributes:
        expected_ms: run time that the job's user expects; None if unknown.
        longest_ms: run time after which the job is ended; None if it is not limited.
        group: group of the job; its jobs are expected to run alike.
    """

    expected_ms: int | None = None
    longest_ms: int | None = None
    group: GroupId | None = None

    @classmethod
    def of(cls, spec: JobSpec) -> "RunTime":
        """Return what a job states; `UNKNOWN_RUN_TIME` itself if it states nothing."""
        limited = spec.max_runtime_ms < UNLIMITED_RUNTIME_MS
        if spec.expected_runtime_ms is None and spec.group is None and not limited:
            return UNKNOWN_RUN_TIME
        return cls(
            spec.expected_runtime_ms or None, spec.max_runtime_ms if limited else None, spec.group or None
        )

    def expectation_ms(self, of_group: Callable[[GroupId], int | None]) -> int | None:
        """Return the expected run time: the user's, else that of the job's group; None if unknown.

        Args:
            of_group: run time that jobs of a group have shown so far.
        """
        if self.expected_ms is not None or self.group is None:
            return self.expected_ms
        return of_group(self.group)

    def bound_ms(self, of_group: Callable[[GroupId], int | None]) -> int | None:
        """Return the run time after which the job will have ended, as far as known; None if unknown."""
        expected = self.expectation_ms(of_group)
        if expected is None or self.longest_ms is None:
            return self.longest_ms if expected is None else expected
        return min(expected, self.longest_ms)


UNKNOWN_RUN_TIME: Final = RunTime()


class RunTimeTable:
    """Run times by number. Number 0 is `UNKNOWN_RUN_TIME`; a value that no job has is forgotten."""

    def __init__(self) -> None:
        self._values: list[RunTime] = [UNKNOWN_RUN_TIME]
        self._jobs: list[int] = [0]
        self._numbers: dict[RunTime, int] = {}
        self._free: list[int] = []

    def __bool__(self) -> bool:
        """Return whether anything is stated about any job."""
        return bool(self._numbers)

    def __getitem__(self, number: int) -> RunTime:
        return self._values[number]

    def acquire(self, value: RunTime) -> int:
        """Return the number of a value, and count one more job that has it."""
        if value is UNKNOWN_RUN_TIME or value == UNKNOWN_RUN_TIME:
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
            self._values[number] = UNKNOWN_RUN_TIME
            self._free.append(number)
