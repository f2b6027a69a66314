"""The cycles of a scheduler: match and rebalance. Each is: look, decide, commit, act.

Lives here: one cycle of each kind, over all pools. They do not wait for any clock: a simulator calls them by
hand, `service.cycles.loops` by event and timer.
Not here: any decision (`scheduling.decisions`), what it is made by (`service.snapshots`,
`service.state.queues`).
"""

import logging
from collections import defaultdict

from cook_jupyter.clusters.base import Launch
from cook_jupyter.model.decisions import Matching
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.decisions import (
    decide_growth,
    decide_heads,
    decide_match,
    decide_nothing,
    decide_reserved,
    might_start,
)
from cook_jupyter.scheduling.snapshot import PoolSnapshot
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)

_instance = fast_constructor(Instance)


async def match_all(scheduler: Scheduler) -> int:
    """Run one match cycle of each active pool; returns how many jobs were launched."""
    launched = 0
    for pool in scheduler.settings.pools:
        if not pool.active:
            continue
        if not scheduler.queues.pool_waiting(pool.name):
            scheduler.queues.matched_nothing(pool.name)
            continue
        async with scheduler.cycle:
            launched += await match_cycle(scheduler, pool.name)
            await growth_cycle(scheduler, pool.name)
    return launched


async def match_cycle(scheduler: Scheduler, pool: PoolName) -> int:
    """Run one match cycle of a pool; return how many jobs were launched.

    First come the jobs that room was freed for, then the heads of the queue, then all others.
    Each step commits before the next one looks, so that quotas count what it has started.
    """
    queues, index = scheduler.queues, scheduler.queues.index(pool)
    launched = 0
    if queues.freed.of(pool) and not queues.freed.closes_hosts:  # closed hosts are taken in the jobs' turn
        snapshot = scheduler.snapshots.of(pool)
        launched += await launch(scheduler, snapshot, decide_reserved(snapshot, index))
    snapshot = scheduler.snapshots.of(pool)
    if queues.heads.of(pool) and queues.any_might_start(snapshot.open_offers):
        decision = decide_heads(snapshot, index)
        queues.decided(pool, decision, started_heads=True)
        launched += await launch(scheduler, snapshot, decision.matching)
        snapshot = scheduler.snapshots.of(pool)
    if not might_start(index, snapshot.open_offers):
        queues.matched_nothing(pool, decide_nothing(snapshot, index).heads)
        return launched
    decision = decide_match(snapshot, index)
    queues.decided(pool, decision)
    return launched + await launch(scheduler, snapshot, decision.matching)


async def growth_cycle(scheduler: Scheduler, pool: PoolName) -> int:
    """Ask clusters that can grow for room for jobs that the last match cycle of a pool found no host for.

    Returns:
        number of jobs that room was asked for.
    """
    growth, queues = scheduler.growth, scheduler.queues
    if not growth.is_due(pool, scheduler.clock.now_ms()):
        return 0
    snapshot = scheduler.snapshots.of(pool)
    job_ids = decide_growth(snapshot, queues.index(pool))
    return await growth.ask(snapshot, job_ids, queues.pool(pool).locations)


async def launch(scheduler: Scheduler, snapshot: PoolSnapshot, matching: Matching) -> int:
    """Commit matches and launch those that still hold; return how many.

    A decision is a proposal. The store commits the matches that still hold, and the cluster is
    asked for those alone. A crash in between leaves instances to reconcile, never a launch that
    nobody remembers.

    Args:
        scheduler: the scheduler of the pool.
        snapshot: the pool as the decision found it.
        matching: jobs with their hosts.
    """
    if not matching.matches:
        return 0
    now_ms = snapshot.now_ms
    rates = scheduler.rates
    instances = [
        _instance(
            instance_id=scheduler.new_instance_id(),
            job_id=match.job_id,
            status=InstanceStatus.UNKNOWN,
            host=match.host,
            cluster=match.cluster,
            started_ms=now_ms,
            ports=match.ports,
        )
        for match in matching.matches
    ]
    ids = [instance.instance_id for instance in instances]
    scheduler.kills.launching(ids)
    try:
        committed = await scheduler.store.launch(instances)
        by_cluster: dict[str, list[Launch]] = defaultdict(list)
        launch_of = scheduler.launch_of
        for spec, instance in committed:
            by_cluster[instance.cluster].append(launch_of(spec, instance))
        for name, launches in by_cluster.items():
            await scheduler.clusters[name].launch(launches)
    finally:
        await scheduler.kills.launched(ids)
    rates.launched(
        snapshot.pool.name,
        (spec.user for spec, _ in committed),
        (instance.cluster for _, instance in committed),
        now_ms,
    )
    return len(committed)
