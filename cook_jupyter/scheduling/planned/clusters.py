"""Several clusters under one pool: which of them a job may go to, and how work comes to and from them.

Lives here: the clusters that a job accepts, the one it is sent to where clusters place jobs themselves, how
often each pool is matched, offers that wait for their match cycle.
Not here: hosts (`scheduling.matching`), speaking to a cluster (`clusters`).

Source: Cook's `scheduler.clj` (`job->acceptable-compute-clusters`, `distribute-jobs-to-compute-clusters`,
`prepare-match-trigger-chan`, `receive-offers`), as told in the fair-share specification, sections 5 and 14.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from cook_jupyter.model.job import Job, JobId
from cook_jupyter.scheduling.particulars import checkpoint_location
from cook_jupyter.scheduling.staged import hash_of

Offered = TypeVar("Offered")
Value = TypeVar("Value")
ClusterName = str

MOST_BATCHES: Final = 100
MOST_CONSIDERED: Final = 500


def acceptable(job: Job, locations: Mapping[ClusterName, str | None]) -> list[ClusterName]:
    """Return the clusters that a job may go to: where its checkpoint lies, or any if it has none.

    Args:
        job: with its instances so far.
        locations: cluster -> where it is.
    """
    kept_at = checkpoint_location(job, locations.get)
    return [name for name, location in locations.items() if kept_at is None or location == kept_at]


def distributed(
    jobs: Iterable[Job],
    locations: Mapping[ClusterName, str | None],
    capacity: Mapping[ClusterName, int] | None = None,
) -> dict[ClusterName, list[JobId]]:
    """Return which jobs each cluster is to be sent; those that none may take now are left out.

    Of several clusters a job's id chooses one, so that the same job is always sent to the same.

    Args:
        jobs: in the order of the queue.
        locations: cluster -> where it is.
        capacity: cluster -> how many jobs it takes now; None: any number.
    """
    left = None if capacity is None else dict(capacity)
    sent: dict[ClusterName, list[JobId]] = {}
    for job in jobs:
        open_to_it = [name for name in acceptable(job, locations) if left is None or left.get(name, 0) > 0]
        if open_to_it:
            name = chosen(job.job_id, open_to_it)
            sent.setdefault(name, []).append(job.job_id)
            if left is not None:
                left[name] -= 1
    return sent


def considered_within(capacity: Mapping[ClusterName, int], most: int = MOST_CONSIDERED) -> int:
    """Return how many jobs a cycle considers where clusters place jobs themselves."""
    return min(most, sum(capacity.values()))


def match_interval_ms(pools: int, *, target_per_pool_ms: int = 3000, least_ms: int = 100) -> int:
    """Return the time from one pool's match cycle to the next pool's; pools take turns."""
    return max(least_ms, target_per_pool_ms // max(1, pools))


def chosen(job_id: JobId, choices: Sequence[Value]) -> Value:
    """Return the one of several equal choices that falls to a job."""
    return choices[hash_of(job_id) % len(choices)]


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
