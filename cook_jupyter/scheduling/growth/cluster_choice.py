"""Pools with several clusters: which clusters a job may use, and which of them it is sent to.

Lives here: the clusters that a job accepts, and the choice of one if no host was chosen.
Not here: hosts (`scheduling.matching.matching`), communication with clusters (`clusters`), clusters that
place jobs themselves (`scheduling.planned.clusters`).

Source: Cook's `scheduler.clj` (`job->acceptable-compute-clusters`, `distribute-jobs-to-compute-clusters`), as
described in the fair-share specification, section 5.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from cook_jupyter.model.job import Job, JobId
from cook_jupyter.scheduling.constraints.job_constraints import checkpoint_location
from cook_jupyter.scheduling.limits.id_hash import hash_of

Value = TypeVar("Value")
ClusterName = str


def acceptable_clusters(job: Job, locations: Mapping[ClusterName, str | None]) -> list[ClusterName]:
    """Return the clusters that a job may use: those at the location of its checkpoint, or all if it has none.

    Args:
        job: the job, with its instances so far.
        locations: cluster -> its location.
    """
    checkpoint_at = checkpoint_location(job, locations.get)
    return [
        name for name, location in locations.items() if checkpoint_at is None or location == checkpoint_at
    ]


def distribute_jobs(
    jobs: Iterable[Job],
    locations: Mapping[ClusterName, str | None],
    capacity: Mapping[ClusterName, int] | None = None,
) -> dict[ClusterName, list[JobId]]:
    """Return the jobs to send to each cluster, without jobs that no cluster can take now.

    The id of a job chooses among several clusters, so that a job is always sent to the same one.

    Args:
        jobs: jobs in queue order.
        locations: cluster -> its location.
        capacity: cluster -> number of jobs that it takes now; None if not limited.
    """
    remaining = None if capacity is None else dict(capacity)
    job_ids: dict[ClusterName, list[JobId]] = {}
    for job in jobs:
        candidates = [
            name
            for name in acceptable_clusters(job, locations)
            if remaining is None or remaining.get(name, 0) > 0
        ]
        if candidates:
            name = choose_for(job.job_id, candidates)
            job_ids.setdefault(name, []).append(job.job_id)
            if remaining is not None:
                remaining[name] -= 1
    return job_ids


def choose_for(job_id: JobId, choices: Sequence[Value]) -> Value:
    """Return one of several equal choices by the id of a job."""
    return choices[hash_of(job_id) % len(choices)]
