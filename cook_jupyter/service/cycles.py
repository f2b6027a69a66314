"""The cycles of a scheduler: match and rebalance. Each is: look, decide, commit, act.

Lives here: one cycle of each kind, over all pools. They do not wait for any clock: a simulator calls them by
hand, `service.loops` by event and timer.
Not here: any decision (`scheduling.decisions`), what it is made by (`service.snapshots`, `service.queues`).
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from cook_jupyter.clusters.base import Launch
from cook_jupyter.model.counts import counted
from cook_jupyter.model.decisions import Matching, Preemption
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import Instance, InstanceId, InstanceStatus
from cook_jupyter.model.job import JobId, JobState
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import PREEMPTED
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.decisions import (
    decide_growth,
    decide_heads,
    decide_match,
    decide_nothing,
    decide_rebalance,
    decide_reserved,
    might_start,
)
from cook_jupyter.scheduling.snapshot import PoolSnapshot
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure

log = logging.getLogger(__name__)

_instance = fast_constructor(Instance)

NOT_RANKED: Final[Mapping[PoolName, Sequence[JobId]]] = MappingProxyType({})


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


async def rebalance_all(scheduler: Scheduler, ranked: Mapping[PoolName, Sequence[JobId]] = NOT_RANKED) -> int:
    """Run one rebalance cycle of each active pool it looks at; returns how many tasks were stopped.

    Args:
        scheduler: whose.
        ranked: pools' queues as they were ranked before; of other pools they are ranked now. Cook takes
            the ranking that the last match cycle took, less what was launched since.
    """
    stopped = 0
    for pool in scheduler.settings.pools:
        if not pool.active or not scheduler.rebalancer.looks_at(pool.name):
            continue
        if not scheduler.queues.pool_waiting(pool.name):
            scheduler.queues.reserve(pool.name, {}, scheduler.clock.now_ms())
            continue
        async with scheduler.cycle:
            stopped += await rebalance_cycle(scheduler, pool.name, ranked.get(pool.name))
    return stopped


async def rebalance_cycle(scheduler: Scheduler, pool: PoolName, ranked: Sequence[JobId] | None = None) -> int:
    """Stop running tasks of a pool where waiting jobs have a better claim; returns how many.

    Before anything is stopped the store is asked once more: a beneficiary that was killed meanwhile, or a
    victim that has ended, is left out. The freed host is kept for the beneficiary until that has started.
    """
    queues = scheduler.queues
    now_ms = scheduler.clock.now_ms()
    kept = _kept_reservations(
        scheduler, pool, now_ms, only_incomplete=not scheduler.rebalancer.settings.launch_order
    )
    queues.reserve(pool, kept, now_ms)
    snapshot = scheduler.snapshots.of(pool)
    decision = decide_rebalance(snapshot, queues.index(pool), ranked)
    reserved = {**kept, **decision.reservations, **kept}
    stopping = [each for each in decision.preemptions if each.victims and each.beneficiary not in kept]
    holding = await _holding(scheduler, stopping)
    void = {preemption.host for preemption in stopping if preemption not in holding}
    for preemption in decision.preemptions:
        if preemption.host in void and preemption not in holding:
            reserved.pop(preemption.beneficiary, None)
    failures = [
        Failure(
            job_id=job_id,
            instance_id=instance_id,
            reason=PREEMPTED,
            at_ms=now_ms,
            preempted=True,
            preempted_for=queues.user_of(pool, preemption.beneficiary),
        )
        for preemption, victims in holding.items()
        for job_id, instance_id in victims.items()
    ]
    # Before the commit: whoever is matched next must find it kept.
    queues.reserve(
        pool, {job: host for job, host in reserved.items() if queues.is_waiting(pool, job)}, now_ms
    )
    ending: dict[str, dict[InstanceId, Resources]] = defaultdict(dict)  # by host
    for preemption, victims in holding.items():
        for job_id, instance_id in victims.items():
            row = scheduler.running_row(job_id)
            if row is not None:
                ending[preemption.host][instance_id] = row.held
    victims_of = {job_id: ending[host] for job_id, host in decision.reservations.items() if host in ending}
    stopped = await stop(scheduler, failures)
    queues.freed.wait_for(victims_of)
    if stopped:
        scheduler.wake.set()
        tasks, jobs = counted(stopped, "task"), counted(len(holding), "job")
        log.info("preempted %s of pool %s for %s", tasks, pool, jobs)
    return stopped


async def stop(scheduler: Scheduler, failures: Sequence[Failure]) -> int:
    """Fail open instances by our own decision and kill them; returns how many were open still.

    The reason is committed before the kill, so whatever the cluster says of the end comes second.
    """
    if not failures:
        return 0
    with scheduler.kills.collecting_ends(settled=True) as ended:
        done = await scheduler.store.fail(failures)
    stopped = [failure.instance_id for failure, was_open in zip(failures, done, strict=True) if was_open]
    await scheduler.kills.send((each for each in stopped if each not in ended), settled=True)
    return len(stopped)


def _kept_reservations(
    scheduler: Scheduler, pool: PoolName, now_ms: int, *, only_incomplete: bool
) -> dict[JobId, str]:
    """Return the reservations to be kept; nothing more is stopped for those jobs.

    Args:
        scheduler: the scheduler.
        pool: the pool.
        now_ms: the time.
        only_incomplete: keep, as Cook, only those of jobs whose victims have not all ended.
    """
    freed = scheduler.queues.freed
    if only_incomplete:
        return freed.incomplete(pool)
    if scheduler.rates.indebted(scheduler.clusters, now_ms):
        return dict(freed.of(pool))  # they could not start, and will
    return freed.review(pool, now_ms)


async def _holding(
    scheduler: Scheduler, preemptions: Sequence[Preemption]
) -> dict[Preemption, dict[JobId, InstanceId]]:
    """Return what still holds of preemptions, by the store: each with the victims that still run."""
    if not preemptions:
        return {}
    seen = {
        victim: row.instance_id
        for each in preemptions
        for victim in each.victims
        if (row := scheduler.running_row(victim)) is not None
    }
    asked = list(dict.fromkeys([*(each.beneficiary for each in preemptions), *seen]))
    jobs = {job.job_id: job for job in await scheduler.store.jobs(asked) if job is not None}
    holding = {}
    for each in preemptions:
        beneficiary = jobs.get(each.beneficiary)
        if beneficiary is None or beneficiary.state is not JobState.WAITING:
            continue
        victims = {}
        for victim in each.victims:
            job = jobs.get(victim)
            alive = None if job is None else job.open_instance
            if alive is not None and alive.instance_id == seen.get(victim):
                victims[victim] = alive.instance_id
        holding[each] = victims
    return holding
