"""Uncommitted jobs: jobs of a request that was never completed.

Lives here: which of them a store should remove. The stores of cook_jupyter write a request in one transaction
and have none; a store that accepts large requests in parts, as Cook's does, must clean up.
Not here: the removal (`store`).

Source: Cook's `tools.clj` (`clear-uncommitted-jobs`), as described in the fair-share specification, section
7.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from cook_jupyter.model.job import JobId

KEEP_MS: Final = 7 * 24 * 3_600_000


class Submitted(NamedTuple):
    """A stored job, and whether its request was completed."""

    job_id: JobId
    submitted_ms: int
    committed: bool


def to_forget(jobs: Iterable[Submitted], now_ms: int, keep_ms: int = KEEP_MS) -> list[JobId]:
    """Return the jobs that were submitted longer than `keep_ms` ago and never committed."""
    return [job.job_id for job in jobs if not job.committed and now_ms - job.submitted_ms > keep_ms]
