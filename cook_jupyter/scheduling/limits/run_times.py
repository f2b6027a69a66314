"""Run times: how long a job is likely to run, and the longest it may.

Lives here: `RunTime`, what is stated of one job.
Not here: where equal ones are stored once (`scheduling.queue.counted_values`), what run times decide
(`scheduling.matching.head_room`), the end of overlong tasks (`scheduling.limits.lingering`).
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
