"""Nested jobs: which running jobs wait for children that can never start.

Lives here: `deadlocked`, a pure function of waiting parents, queued children and hosts. Not here: reports of
waiting parents (`service.requests.nested_waits`), how a job notices that it waits (`executor.nested`).

The result contains no false positives: a parent is deadlocked only if none of its children would find room
even if every job ended that is not deadlocked itself. Other obstacles to a start (launch rates, placements of
groups, kept room) count as temporary.

Source: detection by reduction of the resource graph, Holt, "Some Deadlock Properties of Computer Systems",
1972.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Quota, Usage
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import Demand, attributes_equal


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingParent:
    """A running job that only waits for its children, without a time limit.

    Attributes:
        host: cluster and name of its host.
        resources: resources that it holds there.
        children: jobs that it waits for; none of them has ended.
    """

    instance_id: InstanceId
    job_id: JobId
    user: str
    pool: PoolName
    host: tuple[str, str]
    resources: Resources
    started_ms: int
    children: frozenset[JobId]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedChild:
    """A child that has not started.

    Attributes:
        demands: required attributes of its host.
    """

    job_id: JobId
    user: str
    pool: PoolName
    resources: Resources
    demands: tuple[Demand, ...] = ()


def deadlocked(
    parents: Collection[WaitingParent],
    queued: Mapping[JobId, QueuedChild],
    capacity: Sequence[Offer],
    *,
    quota_of: Callable[[str, PoolName], Quota],
    is_preempted: Callable[[PoolName], bool],
) -> tuple[WaitingParent, ...]:
    """Return the parents whose children can never start, in descending order of their start.

    Args:
        parents: waiting parents.
        queued: children that have not started, by id; a child that is missing runs or has ended.
        capacity: offers of the empty hosts, one for each pool of a host.
        quota_of: returns the quota of a user in a pool.
        is_preempted: returns whether tasks of a pool may be preempted.
    """
    stuck = {parent.job_id: parent for parent in parents}
    while True:
        moving = [
            parent
            for parent in stuck.values()
            if not parent.children
            or not all(
                child in stuck
                if child not in queued
                else not _can_start(queued[child], stuck.values(), capacity, quota_of, is_preempted)
                for child in parent.children
            )
        ]
        if not moving:
            return tuple(
                sorted(stuck.values(), key=lambda parent: (parent.started_ms, parent.job_id), reverse=True)
            )
        for parent in moving:
            del stuck[parent.job_id]


def _can_start(
    child: QueuedChild,
    stuck: Collection[WaitingParent],
    capacity: Sequence[Offer],
    quota_of: Callable[[str, PoolName], Quota],
    is_preempted: Callable[[PoolName], bool],
) -> bool:
    """Return whether a child may start once every job has ended that is not stuck."""
    held_by_host: dict[tuple[str, str], Resources] = defaultdict(Resources)
    usage = Usage(
        count=1, cpus=child.resources.cpus, mem_mb=child.resources.mem_mb, gpus=child.resources.gpus
    )
    child_usage = usage
    for parent in stuck:
        held_by_host[parent.host] += parent.resources
        if (parent.user, parent.pool) == (child.user, child.pool):
            usage += _usage(parent)
    suitable = [
        offer
        for offer in capacity
        if offer.pool == child.pool
        and attributes_equal(child.demands, offer.attributes)
        and child.resources.fits_in(offer.room + offer.running)
    ]
    quota = quota_of(child.user, child.pool)
    if not suitable or not quota.allows(child_usage):
        return True  # what prevents its start is not the room that these parents hold
    if is_preempted(child.pool) and any(parent.user != child.user for parent in stuck):
        return True  # one of them may be preempted
    return quota.allows(usage) and any(
        child.resources.fits_in(offer.room + offer.running - held_by_host[(offer.cluster, offer.host)])
        for offer in suitable
    )


def _usage(parent: WaitingParent) -> Usage:
    resources = parent.resources
    return Usage(count=1, cpus=resources.cpus, mem_mb=resources.mem_mb, gpus=resources.gpus)
