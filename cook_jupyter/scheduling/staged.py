"""Choices that fall by the id of a job: the same job always gets the same, and of many each gets its portion.

Lives here: the hash, and the choices that Cook makes by it: a value of a staged configuration, which jobs the
pool mover moves, which of several clusters a job is sent to.
Not here: what is chosen from (`service.config`), which clusters a job accepts (`scheduling.clusters`).

Source: Cook's `config_incremental.clj` and `plugins/pool_mover.clj`, as told in the fair-share specification,
section 9. The hash is that of Java for a UUID.
"""

from collections.abc import Sequence
from typing import Final, TypeVar
from uuid import UUID

from cook_jupyter.model.job import JobId

Value = TypeVar("Value")

_LARGEST: Final = 2**31 - 1


def hash_of(job_id: JobId) -> int:
    """Return the 128 bits of a uuid folded into 32, with their sign."""
    bits = UUID(job_id).int
    halves = (bits >> 64) ^ bits
    folded = ((halves >> 32) ^ halves) & 0xFFFFFFFF
    return folded - (1 << 32) if folded >> 31 else folded


def position_of(job_id: JobId) -> float:
    """Return where a job stands between 0 and 1."""
    return abs(hash_of(job_id)) / _LARGEST


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


def is_among(job_id: JobId, portion: float) -> bool:
    """Tell whether a job is among this portion of all jobs, in steps of a hundredth."""
    return hash_of(job_id) % 100 < 100 * portion


def chosen(job_id: JobId, choices: Sequence[Value]) -> Value:
    """Return the one of several equal choices that falls to a job."""
    return choices[hash_of(job_id) % len(choices)]
