"""Staged values: a setting that changes for a portion of jobs, which the id of a job decides.

Lives here: the value that falls to a job. Not here: the hash of an id (`scheduling.limits.id_hash`).

Source: Cook's `config_incremental.clj`, as told in the fair-share specification, section 9.
"""

from collections.abc import Sequence
from typing import TypeVar

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.limits.id_hash import position_of

Value = TypeVar("Value")


def staged(job_id: JobId, values: Sequence[tuple[Value, float]]) -> Value:
    """Return the value that falls to a job.

    Args:
        job_id: whose.
        values: each with the portion of jobs it is for. Together the portions make 1; what is missing to
            that, as with thirds, goes to the last.
    """
    place, reached = position_of(job_id), 0.0
    for value, portion in values[:-1]:
        reached += portion
        if place <= reached:
            return value
    return values[-1][0]


def staged_or(
    job_id: JobId, values: Sequence[tuple[Value, float]] | object, fallback: Value
) -> tuple[Value, bool]:
    """Return the value that falls to a job, and whether it was picked.

    Args:
        job_id: the job to choose for.
        values: as in `staged`. Where there are none, or a constant stands in their place, nothing is picked.
        fallback: the value then.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return fallback, False
    return staged(job_id, values), True
