"""Bounds of the work of a match cycle that an operator may change.

Lives here: `CycleLimits`, and the defaults of bounds that other settings contain. Each is stated here only;
the settings of decisions, of the service and of the simulation contain it.
Not here: what a cycle does with them (`scheduling.matching.cycle`, `scheduling.ranking.ranking`).
"""

from dataclasses import dataclass
from typing import Final

GOOD_ENOUGH: Final = 0.8  # fitness of a host from which on no further hosts are compared
MAX_OVER_QUOTA_JOBS: Final = 100  # tasks beyond the quota that each user keeps in the queue


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleLimits:
    """The number of jobs that a match cycle considers.

    Attributes:
        max_considered: number of jobs that a cycle considers at most.
        scaleback: factor by which that number is multiplied when the head of the queue finds no host.
    """

    max_considered: int = 1000
    scaleback: float = 0.95
