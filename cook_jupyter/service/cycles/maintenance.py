"""Maintenance: periodic work besides matching and rebalancing, each as a step that runs when it is called.

Lives here: stopping lingering instances and stragglers, completing offensive jobs, repeating kills,
committing progress, checking the store, counting users by state. Not here: when (`service.cycles.loops`), the
rules (`scheduling.limits`).

Source: the fair-share specification, sections 7 and 11.
"""

import logging

from cook_jupyter.model.counts import counted
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS
from cook_jupyter.model.reason import MAX_RUNTIME_EXCEEDED, STRAGGLER
from cook_jupyter.scheduling.limits.lingering import TimedTask, lingering_tasks
from cook_jupyter.scheduling.limits.stragglers import straggler_policy_of, stragglers
from cook_jupyter.service.cycles.stop_instances import stop_instances
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure

log = logging.getLogger(__name__)

OFFENSIVE_BATCH_SIZE = 32
MAX_IDS_LOGGED = 10


async def run_maintenance(scheduler: Scheduler) -> None:
    """Run the steps that are due at the maintenance interval."""
    await stop_lingering(scheduler)
    await stop_stragglers(scheduler)
    await complete_offensive(scheduler)


async def stop_lingering(scheduler: Scheduler) -> int:
    """Stop instances that run longer than their job requests or the operator allows; return their number.

    Node agents do this by themselves, and sooner. This step is for those that cannot, or failed to.
    """
    limits, now_ms = scheduler.settings.jobs, scheduler.clock.now_ms()
    running = {job.instance_id: job for job in scheduler.running_jobs()}
    tasks = [
        TimedTask(
            job.instance_id,
            job.started_ms,
            None if job.max_runtime_ms >= UNLIMITED_RUNTIME_MS else job.max_runtime_ms,
        )
        for job in running.values()
    ]
    overlong_ids = lingering_tasks(
        tasks, now_ms, cap_ms=limits.max_runtime_ms, default_ms=limits.default_runtime_ms
    )
    return await stop_instances(
        scheduler,
        [
            Failure(
                job_id=running[instance_id].job_id,
                instance_id=instance_id,
                reason=MAX_RUNTIME_EXCEEDED,
                at_ms=now_ms,
            )
            for instance_id in overlong_ids
        ],
    )


async def stop_stragglers(scheduler: Scheduler) -> int:
    """Stop instances that take much longer than others of their group; return their number."""
    groups = scheduler.queues.groups.straggler_groups
    running = {job.group for job in scheduler.running_jobs()} if groups else set()
    now_ms = scheduler.clock.now_ms()
    failures = []
    for group_id in sorted(group for group in running if group is not None and group in groups):
        job_ids = await scheduler.store.jobs_of_group(group_id)
        jobs = [job for job in await scheduler.store.jobs(job_ids) if job is not None]
        slow_ids = set(stragglers(straggler_policy_of(groups[group_id]), jobs, now_ms))
        failures += [
            Failure(job_id=job.job_id, instance_id=instance.instance_id, reason=STRAGGLER, at_ms=now_ms)
            for job in jobs
            for instance in job.instances
            if instance.instance_id in slow_ids
        ]
    return await stop_instances(scheduler, failures)


async def complete_offensive(scheduler: Scheduler) -> int:
    """Complete waiting jobs that request more than any job may, in batches; return their number."""
    settings, offensive = scheduler.settings, scheduler.queues.offensive
    if settings.maintenance.offensive == "keep":
        return 0
    completed = 0
    while offensive:
        batch = list(offensive)[:OFFENSIVE_BATCH_SIZE]
        await scheduler.kill_jobs(batch)
        for job_id in batch:
            offensive.pop(job_id, None)
        completed += len(batch)
        log.warning(
            "killed %s for requesting more than the %g cpus or %g MB that any job may have: %s",
            counted(len(batch), "job"),
            settings.jobs.max_cpus,
            settings.jobs.max_mem_mb,
            batch[:MAX_IDS_LOGGED],
        )
    return completed


async def repeat_kills(scheduler: Scheduler) -> None:
    """Send each kill again whose effect was not reported, including those of cancelled instances."""
    await scheduler.kills.repeat()


async def publish_progress(scheduler: Scheduler) -> None:
    """Commit the progress that was collected."""
    for batch in scheduler.progress_buffer.drain():
        await scheduler.store.progress(batch)


async def check_store(scheduler: Scheduler) -> None:
    """Stop the scheduler if its store was removed: jobs that it accepts would not be durable."""
    if (why := scheduler.store.broken()) is not None:
        scheduler.fail(why)


async def refresh_monitoring(scheduler: Scheduler) -> None:
    """Count the starved, hungry and satisfied users of each pool."""
    scheduler.monitoring.refresh()
