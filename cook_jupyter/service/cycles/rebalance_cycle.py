"""Rebalance cycles: read, decide which tasks are preempted, commit, kill.

Lives here: one rebalance cycle of a pool, or of all pools. They never wait for a clock:
`service.cycles.loops` runs them at an interval, and a simulation calls them directly.
Not here: decisions (`scheduling.decisions`), what they read (`service.snapshots`, `service.state.queues`).
"""

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
from cook_jupyter.scheduling.decisions import decide_rebalance
from cook_jupyter.service.cycles.stop_instances import stop_instances
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure

log = logging.getLogger(__name__)

NOT_RANKED: Final[Mapping[PoolName, Sequence[JobId]]] = MappingProxyType({})

ValidPreemptions = Mapping[Preemption, Mapping[JobId, InstanceId]]  # with the victims that still run


async def rebalance_all(scheduler: Scheduler, ranked: Mapping[PoolName, Sequence[JobId]] = NOT_RANKED) -> int:
    """Run one rebalance cycle of each active pool with preemption; return the number of preempted tasks.

    Args:
        scheduler: the scheduler to rebalance.
        ranked: pool -> its waiting jobs, ranked earlier. Other pools are ranked now. Cook uses the ranking of
            the last match cycle, without the jobs that have started since.
    """
    preempted = 0
    for pool in scheduler.settings.pools:
        if not pool.active or not scheduler.rebalancer.preempts_in(pool.name):
            continue
        if not scheduler.queues.waiting_count(pool=pool.name):
            scheduler.queues.reserve(pool.name, {}, scheduler.clock.now_ms())
            continue
        async with scheduler.cycle_lock:
            preempted += await run_rebalance_cycle(scheduler, pool.name, ranked.get(pool.name))
    return preempted


async def run_rebalance_cycle(
    scheduler: Scheduler, pool: PoolName, ranked: Sequence[JobId] | None = None
) -> int:
    """Preempt tasks of a pool for waiting jobs whose users hold less of their share; return their number.

    Before anything is stopped, the store is read again, to leave out beneficiaries that no longer wait and
    victims that have ended. The room is reserved for the beneficiary until that has started.

    Args:
        scheduler: the scheduler of the pool.
        pool: the pool to rebalance.
        ranked: waiting jobs of the pool, ranked earlier; None ranks them now.
    """
    queues = scheduler.queues
    now_ms = scheduler.clock.now_ms()
    kept = _keep_reservations(
        scheduler, pool, now_ms, only_incomplete=not scheduler.rebalancer.settings.launch_order
    )
    queues.reserve(pool, kept, now_ms)
    snapshot = scheduler.snapshots.take(pool)
    decision = decide_rebalance(snapshot, queues.index(pool), ranked)
    reserved = {**kept, **decision.reservations, **kept}
    proposed = [
        preemption
        for preemption in decision.preemptions
        if preemption.victims and preemption.beneficiary not in kept
    ]
    valid = await _select_valid(scheduler, proposed)
    hosts_not_freed = {preemption.host for preemption in proposed if preemption not in valid}
    for preemption in decision.preemptions:
        if preemption.host in hosts_not_freed and preemption not in valid:
            reserved.pop(preemption.beneficiary, None)
    # Reserved before the commit, so that a match cycle after it finds the room reserved.
    queues.reserve(
        pool, {job: host for job, host in reserved.items() if queues.is_waiting(pool, job)}, now_ms
    )
    victims_on = _usage_of_victims(scheduler, valid)
    victims_of = {
        job_id: victims_on[host] for job_id, host in decision.reservations.items() if host in victims_on
    }
    preempted = await stop_instances(scheduler, _build_failures(scheduler, pool, valid, now_ms))
    queues.reservations.record_victims(victims_of)
    if preempted:
        scheduler.wake.set()
        tasks, jobs = counted(preempted, "task"), counted(len(valid), "job")
        log.info("preempted %s of pool %s for %s", tasks, pool, jobs)
    return preempted


def _keep_reservations(
    scheduler: Scheduler, pool: PoolName, now_ms: int, *, only_incomplete: bool
) -> dict[JobId, str]:
    """Return the reservations of a pool that stay; no further task is preempted for their beneficiaries.

    Args:
        scheduler: the scheduler of the pool.
        pool: the pool.
        now_ms: the time.
        only_incomplete: whether to keep only the reservations for which some victim has not ended, as Cook.
    """
    reservations = scheduler.queues.reservations
    if only_incomplete:
        return reservations.incomplete(pool)
    if scheduler.rates.clusters_in_debt(scheduler.clusters, now_ms):
        return dict(reservations.for_pool(pool))  # the beneficiaries could not start, but will
    return reservations.review(pool, now_ms)


async def _select_valid(scheduler: Scheduler, preemptions: Sequence[Preemption]) -> ValidPreemptions:
    """Return the preemptions that are still valid in the store, with the victims that still run."""
    if not preemptions:
        return {}
    running = {
        victim: running_job.instance_id
        for preemption in preemptions
        for victim in preemption.victims
        if (running_job := scheduler.running_job(victim)) is not None
    }
    job_ids = list(dict.fromkeys([*(preemption.beneficiary for preemption in preemptions), *running]))
    jobs = {job.job_id: job for job in await scheduler.store.jobs(job_ids) if job is not None}
    valid = {}
    for preemption in preemptions:
        beneficiary = jobs.get(preemption.beneficiary)
        if beneficiary is None or beneficiary.state is not JobState.WAITING:
            continue
        victims = {}
        for victim in preemption.victims:
            job = jobs.get(victim)
            open_instance = None if job is None else job.open_instance
            if open_instance is not None and open_instance.instance_id == running.get(victim):
                victims[victim] = open_instance.instance_id
        valid[preemption] = victims
    return valid


def _build_failures(
    scheduler: Scheduler, pool: PoolName, preemptions: ValidPreemptions, now_ms: int
) -> list[Failure]:
    """Return the failure to commit for each victim."""
    return [
        Failure(
            job_id=job_id,
            instance_id=instance_id,
            reason=PREEMPTED,
            at_ms=now_ms,
            preempted=True,
            preempted_for=scheduler.queues.user_of(pool, preemption.beneficiary),
        )
        for preemption, victims in preemptions.items()
        for job_id, instance_id in victims.items()
    ]


def _usage_of_victims(
    scheduler: Scheduler, preemptions: ValidPreemptions
) -> Mapping[str, Mapping[InstanceId, Resources]]:
    """Return the resources that each victim holds, by host."""
    by_host: dict[str, dict[InstanceId, Resources]] = defaultdict(dict)
    for preemption, victims in preemptions.items():
        for job_id, instance_id in victims.items():
            job = scheduler.running_job(job_id)
            if job is not None:
                by_host[preemption.host][instance_id] = job.resources
    return by_host
