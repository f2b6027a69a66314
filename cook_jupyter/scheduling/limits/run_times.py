"""Run times: the expected and the maximum run time of jobs.

Lives here: `RunTime`.
Not here: the storage of equal values (`scheduling.queue.counted_values`), decisions that use run times
(`scheduling.matching.head_room`), the end of overlong tasks (`scheduling.limits.lingering`).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, GroupId, JobSpec


class RunTime(NamedTuple):
    """The expected and the maximum run time of a job.

    Attributes:
        expected_ms: run time that the job's user expects; None if unknown.
        longest_ms: run time after which the job is killed; None if not limited.
        group: group of the job, whose jobs are expected to have similar run times.
    """

    expected_ms: int | None = None
    longest_ms: int | None = None
    group: GroupId | None = None

    @classmethod
    def of(cls, spec: JobSpec) -> "RunTime":
        """Return the run time of a job; `UNKNOWN_RUN_TIME` itself if nothing is specified."""
        limited = spec.max_runtime_ms < UNLIMITED_RUNTIME_MS
        if spec.expected_runtime_ms is None and spec.group is None and not limited:
            return UNKNOWN_RUN_TIME
        return cls(
            spec.expected_runtime_ms or None, spec.max_runtime_ms if limited else None, spec.group or None
        )

    def expectation_ms(self, of_group: Callable[[GroupId], int | None]) -> int | None:
        """Return the expected run time: the user's, else that of the job's group; None if unknown.

        Args:
            of_group: returns the observed run time of a group's jobs.
        """
        if self.expected_ms is not None or self.group is None:
            return self.expected_ms
        return of_group(self.group)

    def bound_ms(self, of_group: Callable[[GroupId], int | None]) -> int | None:
        """Return the run time by which the job should have ended; None if unknown."""
        expected = self.expectation_ms(of_group)
        if expected is None or self.longest_ms is None:
            return self.longest_ms if expected is None else expected
        return min(expected, self.longest_ms)


UNKNOWN_RUN_TIME: Final = RunTime()
