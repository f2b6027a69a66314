"""Clusters that place jobs themselves: number of jobs per cycle, interval of cycles, and buffered offers.

Lives here: the number of jobs that a cycle considers, the interval at which pools are matched, and offers
that wait for their match cycle.
Not here: which cluster a job is sent to (`scheduling.growth.cluster_choice`).

Source: Cook's `scheduler.clj` (`prepare-match-trigger-chan`, `receive-offers`), as described in the
fair-share specification, sections 5 and 14.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

from cook_jupyter.scheduling.growth.cluster_choice import ClusterName

Offered = TypeVar("Offered")

MAX_BATCHES: Final = 100
MAX_CONSIDERED: Final = 500


def considered_within(capacity: Mapping[ClusterName, int], max_considered: int = MAX_CONSIDERED) -> int:
    """Return the number of jobs that a cycle considers if clusters place jobs themselves."""
    return min(max_considered, sum(capacity.values()))


def match_interval_ms(pools: int, *, target_per_pool_ms: int = 3000, min_ms: int = 100) -> int:
    """Return the time from one pool's match cycle to the next pool's; pools take turns."""
    return max(min_ms, target_per_pool_ms // max(1, pools))


class OfferBuffer(Generic[Offered]):
    """Batches of offers of one pool that wait for its match cycle.

    Args:
        most: maximum number of batches; offers that arrive when the buffer is full must be declined.
    """

    def __init__(self, max_batches: int = MAX_BATCHES) -> None:
        self._max_batches = max_batches
        self._batches: list[Sequence[Offered]] = []

    def add(self, batch: Sequence[Offered]) -> bool:
        """Add a batch; return False if the buffer is full and the batch must be declined."""
        if len(self._batches) >= self._max_batches:
            return False
        self._batches.append(batch)
        return True

    def drain(self) -> list[Offered]:
        """Remove and return all offers."""
        offers = [offer for batch in self._batches for offer in batch]
        self._batches.clear()
        return offers
