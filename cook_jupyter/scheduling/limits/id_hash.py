"""Choices by a hash of job ids: stable for each job, in given portions over many jobs.

Lives here: the hash, and the choice of the jobs that the pool mover moves.
Not here: other uses of the hash in Cook (`scheduling.growth.cluster_choice`,
`scheduling.planned.staged_values`).

Source: Cook's `config_incremental.clj` and `plugins/pool_mover.clj`, as described in the fair-share
specification, section 9. The hash is that of Java for a UUID.
"""

from typing import Final
from uuid import UUID

from cook_jupyter.model.job import JobId

_LARGEST: Final = 2**31 - 1


def hash_of(job_id: JobId) -> int:
    """Return the signed 32-bit hash of a uuid."""
    bits = UUID(job_id).int
    halves = (bits >> 64) ^ bits
    folded = ((halves >> 32) ^ halves) & 0xFFFFFFFF
    return folded - (1 << 32) if folded >> 31 else folded


def position_of(job_id: JobId) -> float:
    """Return the position of a job between 0 and 1."""
    return abs(hash_of(job_id)) / _LARGEST


def is_among(job_id: JobId, portion: float) -> bool:
    """Return whether a job belongs to a portion of all jobs, in steps of a hundredth."""
    return hash_of(job_id) % 100 < 100 * portion
