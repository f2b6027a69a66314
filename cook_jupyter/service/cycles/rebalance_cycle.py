"""Rebalance cycles."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from cook_jupyter.model.counts import counted
from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId, JobState
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import PREEMPTED
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.decisions import (
    decide_rebalance,
)
from cook_jupyter.service.cycles.stop_instances import stop
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure

log = logging.getLogger(__name__)

NOT_RANKED: Final[Mapping[PoolName, Sequence[JobId]]] = MappingProxyType({})


async def rebalance_all(scheduler: Scheduler, ranked: Mapping[PoolName, Sequence[JobId]] = NOT_RANKED) -> int:
    """Run one rebalance cycle of each active pool it looks at; returns how many tasks were stopped.

    Args:
        scheduler: whose.
        ranked: pools' queues as they were ranked before; of other pools they are ranked now. Cook takes
            the ranking that the last match cycle took, less what was launched since.
    """
    stopped = 0
    for pool in scheduler.settings.pools:
        if not pool.active or not scheduler.rebalancer.preempts_in(pool.name):
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
