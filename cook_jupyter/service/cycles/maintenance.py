"""Upkeep: what has to be looked after now and then, each as a step that is done when it is called.

Lives here: tasks that run too long, stragglers, jobs larger than allowed, kills to be repeated, counting how
happy users are. Not here: when (`service.cycles.loops`), which they are (`scheduling`).

Source: the fair-share specification, sections 7 and 11.
"""

import logging

from cook_jupyter.model.counts import counted
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, JobId
from cook_jupyter.model.reason import MAX_RUNTIME_EXCEEDED, STRAGGLER
from cook_jupyter.scheduling.limits.lingering import TimedTask, lingering_tasks
from cook_jupyter.scheduling.limits.stragglers import straggler_policy_of, stragglers
from cook_jupyter.service.cycles.stop_instances import stop
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure

log = logging.getLogger(__name__)

OFFENSIVE_AT_ONCE = 32


async def maintain(scheduler: Scheduler) -> None:
    """Do all that is due at the maintenance interval."""
    await end_lingering(scheduler)
    await end_stragglers(scheduler)
    await complete_offensive(scheduler)


async def end_lingering(scheduler: Scheduler) -> int:
    """Stop tasks that run longer than their job, or the operator, lets them; returns how many.

    Agents do this by themselves, and sooner; this is for those that cannot, or have failed to.
    """
    settings, now_ms = scheduler.settings, scheduler.clock.now_ms()
    running = {row.instance_id: row for row in scheduler.running_jobs()}
    tasks = [
        TimedTask(
            row.instance_id,
            row.started_ms,
            None if row.longest_ms >= UNLIMITED_RUNTIME_MS else row.longest_ms,
        )
        for row in running.values()
    ]
    overlong = lingering_tasks(
        tasks, now_ms, cap_ms=settings.jobs.max_runtime_ms, default_ms=settings.jobs.default_runtime_ms
    )
    return await stop(
        scheduler,
        [
            Failure(
                job_id=running[instance_id].job_id,
                instance_id=instance_id,
                reason=MAX_RUNTIME_EXCEEDED,
                at_ms=now_ms,
            )
            for instance_id in overlong
        ],
    )


async def end_stragglers(scheduler: Scheduler) -> int:
    """Stop instances that take much longer than others of their group took; returns how many."""
    groups = scheduler.queues.placing.groups
    running = {row.group for row in scheduler.running_jobs()} if groups else set()
    now_ms = scheduler.clock.now_ms()
    failures = []
    for group_id in sorted(group for group in running if group is not None and group in groups):
        found = await scheduler.store.jobs(await scheduler.store.jobs_of_group(group_id))
        jobs = [job for job in found if job is not None]
        lagging = set(stragglers(straggler_policy_of(groups[group_id]), jobs, now_ms))
        failures += [
            Failure(job_id=job.job_id, instance_id=one.instance_id, reason=STRAGGLER, at_ms=now_ms)
            for job in jobs
            for one in job.instances
            if one.instance_id in lagging
        ]
    return await stop(scheduler, failures)


async def complete_offensive(scheduler: Scheduler) -> int:
    """Complete waiting jobs that are larger than any job may be, some at a time; returns how many."""
    settings, offensive = scheduler.settings, scheduler.queues.offensive
    if settings.maintenance.offensive == "keep":
        return 0
    completed = 0
    while offensive:
        some: list[JobId] = list(offensive)[:OFFENSIVE_AT_ONCE]
        await scheduler.kill_jobs(some)
        for job_id in some:
            offensive.pop(job_id, None)
        completed += len(some)
        log.warning(
            "killed %s for asking for more than the %g cpus or %g MB that any job may have: %s",
            counted(len(some), "job"),
            settings.jobs.max_cpus,
            settings.jobs.max_mem_mb,
            some[:10],
        )
    return completed


async def repeat_kills(scheduler: Scheduler) -> None:
    """Send again each kill whose end was not heard; that of a cancelled instance is among them."""
    await scheduler.kills.repeat()


async def publish_progress(scheduler: Scheduler) -> None:
    """Commit the progress that was gathered."""
    for batch in scheduler.gathering.drain():
        await scheduler.store.progress(batch)


async def check_store(scheduler: Scheduler) -> None:
    """End the scheduler when its store was taken away: what it accepts would not last."""
    if (why := scheduler.store.broken()) is not None:
        scheduler.fail(why)


async def watch(scheduler: Scheduler) -> None:
    """Count how happy users are, pool by pool."""
    scheduler.monitoring.refresh()
