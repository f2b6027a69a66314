"""Clusters that place jobs themselves: how many jobs they are sent, how often, and what they offer meanwhile.

Lives here: how many jobs a cycle considers, how often each pool is matched, offers that wait for their match
cycle.
Not here: which cluster a job is sent to (`scheduling.growth.cluster_choice`).

Source: Cook's `scheduler.clj` (`prepare-match-trigger-chan`, `receive-offers`), as told in the fair-share
specification, sections 5 and 14.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

from cook_jupyter.scheduling.growth.cluster_choice import ClusterName

Offered = TypeVar("Offered")

MOST_BATCHES: Final = 100
MOST_CONSIDERED: Final = 500


def considered_within(capacity: Mapping[ClusterName, int], most: int = MOST_CONSIDERED) -> int:
    """Return how many jobs a cycle considers where clusters place jobs themselves."""
    return min(most, sum(capacity.values()))


def match_interval_ms(pools: int, *, target_per_pool_ms: int = 3000, least_ms: int = 100) -> int:
    """Return the time from one pool's match cycle to the next pool's; pools take turns."""
    return max(least_ms, target_per_pool_ms // max(1, pools))


class OfferBuffer(Generic[Offered]):
    """Batches of offers of one pool that wait for its match cycle.

    Args:
        most: how many batches it holds; what comes when it is full must be declined.
    """

    def __init__(self, most: int = MOST_BATCHES) -> None:
        self._most = most
        self._batches: list[Sequence[Offered]] = []

    def take(self, batch: Sequence[Offered]) -> bool:
        """Hold a batch. False: it was not taken, decline it; True: it is time for a match cycle."""
        if len(self._batches) >= self._most:
            return False
        self._batches.append(batch)
        return True

    def drain(self) -> list[Offered]:
        """Return all offers that are held, and hold none any more."""
        offers = [offer for batch in self._batches for offer in batch]
        self._batches.clear()
        return offers
