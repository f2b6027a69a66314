"""Several clusters under one pool: which of them a job may go to, and the one that falls to it.

Lives here: the clusters that a job accepts, and the choice of one where it is not a host that decides.
Not here: hosts (`scheduling.matching.matching`), speaking to a cluster (`clusters`), clusters that place jobs
themselves (`scheduling.planned.clusters`).

Source: Cook's `scheduler.clj` (`job->acceptable-compute-clusters`, `distribute-jobs-to-compute-clusters`), as
told in the fair-share specification, section 5.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from cook_jupyter.model.job import Job, JobId
from cook_jupyter.scheduling.constraints.job_constraints import checkpoint_location
from cook_jupyter.scheduling.limits.id_hash import hash_of

Value = TypeVar("Value")
ClusterName = str


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


def chosen(job_id: JobId, choices: Sequence[Value]) -> Value:
    """Return the one of several equal choices that falls to a job."""
    return choices[hash_of(job_id) % len(choices)]
