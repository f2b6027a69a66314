"""Choices that fall by the id of a job: the same job always gets the same, and of many each gets its portion.

Lives here: the hash, and which jobs the pool mover moves by it.
Not here: what else Cook chooses by the hash (`scheduling.growth.cluster_choice`,
`scheduling.planned.staged_values`).

Source: Cook's `config_incremental.clj` and `plugins/pool_mover.clj`, as told in the fair-share specification,
section 9. The hash is that of Java for a UUID.
"""

from typing import Final
from uuid import UUID

from cook_jupyter.model.job import JobId

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


def is_among(job_id: JobId, portion: float) -> bool:
    """Tell whether a job is among this portion of all jobs, in steps of a hundredth."""
    return hash_of(job_id) % 100 < 100 * portion
