"""Match cycles: read, decide which jobs start on which hosts, commit, launch.

Lives here: one match cycle of a pool, or of all pools, and the growth cycle that follows it. They never wait
for a clock: `service.cycles.loops` runs them after events and timers, and a simulation calls them directly.
Not here: decisions (`scheduling.decisions`), what they read (`service.snapshots`, `service.state.queues`).
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
    """Run one match cycle of each active pool; return the number of launched jobs."""
    launched = 0
    for pool in scheduler.settings.pools:
        if not pool.active:
            continue
        if not scheduler.queues.waiting_count(pool=pool.name):
            scheduler.queues.record_idle_cycle(pool.name)
            continue
        async with scheduler.cycle_lock:
            launched += await run_match_cycle(scheduler, pool.name)
            await run_growth_cycle(scheduler, pool.name)
    return launched


async def run_match_cycle(scheduler: Scheduler, pool: PoolName) -> int:
    """Run one match cycle of a pool; return the number of launched jobs.

    Jobs with reserved room are matched first, then the heads of the queue, then all other jobs. Each step
    commits before the next one reads, so that quotas include the jobs that it has started.
    """
    queues, index = scheduler.queues, scheduler.queues.index(pool)
    reservations = queues.reservations
    launched = 0
    if reservations.for_pool(pool) and not reservations.closes_hosts:  # closed hosts are matched in order
        snapshot = scheduler.snapshots.take(pool)
        launched += await launch_matches(scheduler, snapshot, decide_reserved(snapshot, index))
    snapshot = scheduler.snapshots.take(pool)
    if queues.heads.for_pool(pool) and queues.any_might_start(snapshot.open_offers):
        decision = decide_heads(snapshot, index)
        queues.record_decision(pool, decision, heads_only=True)
        launched += await launch_matches(scheduler, snapshot, decision.matching)
        snapshot = scheduler.snapshots.take(pool)
    if not might_start(index, snapshot.open_offers):
        queues.record_idle_cycle(pool, decide_nothing(snapshot, index).heads)
        return launched
    decision = decide_match(snapshot, index)
    queues.record_decision(pool, decision)
    return launched + await launch_matches(scheduler, snapshot, decision.matching)


async def run_growth_cycle(scheduler: Scheduler, pool: PoolName) -> int:
    """Ask clusters that can grow for hosts for the jobs that the last match cycle of a pool could not place.

    Returns:
        number of jobs for which room was requested.
    """
    growth, queues = scheduler.growth, scheduler.queues
    if not growth.is_due(pool, scheduler.clock.now_ms()):
        return 0
    snapshot = scheduler.snapshots.take(pool)
    job_ids = decide_growth(snapshot, queues.index(pool))
    return await growth.request(snapshot, job_ids, queues.pool(pool).locations)


async def launch_matches(scheduler: Scheduler, snapshot: PoolSnapshot, matching: Matching) -> int:
    """Commit matches, and launch those that are still valid; return their number.

    A decision is a proposal. The store commits the matches that are still valid, and only those are launched.
    A crash in between leaves instances to reconcile, never a launch without a record.

    Args:
        scheduler: the scheduler of the pool.
        snapshot: the pool at the time of the decision.
        matching: jobs with their hosts.
    """
    if not matching.matches:
        return 0
    now_ms = snapshot.now_ms
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
    instance_ids = [instance.instance_id for instance in instances]
    scheduler.kills.expect_launch(instance_ids)
    try:
        committed = await scheduler.store.launch(instances)
        by_cluster: dict[str, list[Launch]] = defaultdict(list)
        build_launch = scheduler.build_launch
        for spec, instance in committed:
            by_cluster[instance.cluster].append(build_launch(spec, instance))
        for name, launches in by_cluster.items():
            await scheduler.clusters[name].launch(launches)
    finally:
        await scheduler.kills.launch_sent(instance_ids)
    scheduler.rates.spend_launches(
        snapshot.pool.name,
        (spec.user for spec, _ in committed),
        (instance.cluster for _, instance in committed),
        now_ms,
    )
    return len(committed)
