"""Staged values: a setting that changes for a portion of jobs, chosen by job id.

Lives here: the value of a job. Not here: the hash of an id (`scheduling.limits.id_hash`).

Source: Cook's `config_incremental.clj`, as described in the fair-share specification, section 9.
"""

from collections.abc import Sequence
from typing import TypeVar

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.limits.id_hash import position_of

Value = TypeVar("Value")


def staged_value(job_id: JobId, values: Sequence[tuple[Value, float]]) -> Value:
    """Return the value that applies to a job.

    Args:
        job_id: the job to choose for.
        values: the values, each with its portion of jobs. The portions add up to 1; what is missing to that
            because of rounding, as with thirds, goes to the last value.
    """
    position, cumulative = position_of(job_id), 0.0
    for value, portion in values[:-1]:
        cumulative += portion
        if position <= cumulative:
            return value
    return values[-1][0]


def staged_value_or(
    job_id: JobId, values: Sequence[tuple[Value, float]] | object, fallback: Value
) -> tuple[Value, bool]:
    """Return the value that applies to a job, and whether it was chosen by the job's id.

    Args:
        job_id: the job to choose for.
        values: as in `staged_value`; no values, or a constant in their place, select the fallback.
        fallback: the value to return otherwise.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return fallback, False
    return staged_value(job_id, values), True
