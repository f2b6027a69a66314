"""Explanations of why a job waits: queue, hosts, quotas and preemption."""

from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.waiting import WaitKind
from cook_jupyter.service.cycles.maintenance import complete_offensive
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    JobSettings,
    MaintenanceSettings,
    PoolQuota,
    RebalancerSettings,
)
from tests.builders import a_job_spec
from tests.service.conftest import ManualSchedulerFactory


async def test_a_victim_is_told_that_it_was_preempted_and_the_beneficiary_which_host_is_kept(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        first, second, late = a_job_spec(user="hog"), a_job_spec(user="hog"), a_job_spec(user="late")
        await manual.submit(first, second)
        await manual.match()
        await manual.submit(late)
        manual.cluster.ignores_kills = True  # the victim's end is not heard yet
        assert await manual.rebalance() == 1
        told = {reason.kind: reason for reason in await manual.scheduler.why(late.job_id)}
        assert told[WaitKind.RESERVED].data == {"host": "h1"}

        manual.cluster.ignores_kills = False
        await manual.scheduler.kills.repeat()
        await manual.settle()
        await manual.match()
        (victim,) = [job for job in (first, second) if job.job_id not in manual.where()]
        told = {reason.kind: reason for reason in await manual.scheduler.why(victim.job_id)}
        assert told[WaitKind.PREEMPTED].data == {"times": 1, "for": ["late"]}
        assert WaitKind.RESERVED not in told


async def test_the_quota_of_the_pool_is_told(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(
        Settings(pool_quotas=(PoolQuota(pool_regex="def", count=1),)), cpus=8
    ) as manual:
        one, other = a_job_spec(user="ada"), a_job_spec(user="bob")
        await manual.submit(one)
        await manual.match()
        await manual.submit(other)
        await manual.match()
        (told,) = await manual.scheduler.why(other.job_id)
        assert told.kind is WaitKind.EXCEEDS_POOL_QUOTA
        assert told.data == {"count": {"limit": 1, "usage": 2}}


async def test_the_quota_that_several_pools_share_is_told(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(
        pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("other"))),
        pool_quotas=(PoolQuota(pool_regex="^both$", cpus=1),),
        quota_groups={DEFAULT_POOL: "both", PoolName("other"): "both"},
    )
    async with manual_scheduler(settings, pools=("default", "other"), cpus=8) as manual:
        await manual.submit(a_job_spec(pool="other"))
        await manual.match()
        kept_out = a_job_spec()
        await manual.submit(kept_out)
        await manual.match()
        (told,) = await manual.scheduler.why(kept_out.job_id)
        assert told.data == {"cpus": {"limit": 1.0, "usage": 2.0}}


async def test_a_job_larger_than_any_may_be_is_told_so_while_it_waits_and_after_it_was_ended(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    large = a_job_spec(cpus=4)
    async with manual_scheduler(cpus=1) as manual:
        await manual.submit(large)
    keep = Settings(jobs=JobSettings(max_cpus=2), maintenance=MaintenanceSettings(offensive="keep"))
    async with manual_scheduler(keep, cluster=manual.cluster) as manual:
        told = await manual.scheduler.explain(large.job_id)
        assert told[0].startswith("It can never start: it requests 4 cpus where no job may have more than 2.")
    async with manual_scheduler(Settings(jobs=JobSettings(max_cpus=2)), cluster=manual.cluster) as manual:
        assert await complete_offensive(manual.scheduler) == 1
        (reason,) = await manual.scheduler.why(large.job_id)
        assert reason.kind is WaitKind.COMPLETED
        assert reason.data == {"cpus": {"limit": 2, "usage": 4}}


async def test_why_tells_what_is_kept_for_the_head_of_the_queue_and_until_when(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(rebalancer=RebalancerSettings(enabled=False)), cpus=2) as manual:
        running = [a_job_spec(user="ada", expected_runtime_ms=minutes * 60_000) for minutes in (1, 30)]
        large, small = a_job_spec(user="bob", cpus=2), a_job_spec(user="ada")
        await manual.submit(*running)
        await manual.match()
        await manual.submit(large, small)
        await manual.match()
        manual.clock.advance(60_000)
        manual.cluster.finish(manual.task_of(running[0]))
        await manual.settle()
        await manual.match()

        of_large = {reason.kind: reason for reason in await manual.scheduler.why(large.job_id)}
        of_small = {reason.kind: reason for reason in await manual.scheduler.why(small.job_id)}

        assert of_large[WaitKind.AT_HEAD].data == {"host": "h1", "free-at-ms": 1_000_000 + 30 * 60_000}
        assert of_large[WaitKind.AT_HEAD].sentence == (
            "It is at the head of the queue: room on the host h1 is being kept for it,"
            " expected to be free in about 29 min (00:46 UTC)."
        )
        assert of_small[WaitKind.HELD_BACK].sentence == (
            "2 cpus and 128 MB of memory of the host h1 are kept for a job of bob at the head of the queue,"
            " expected to start in about 29 min (00:46 UTC);"
            " jobs that are expected to end before may start now."
        )


async def test_why_says_that_nothing_is_known_of_the_time_where_no_run_times_are_known(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(rebalancer=RebalancerSettings(enabled=False)), cpus=2) as manual:
        running = [a_job_spec(user="ada") for _ in range(2)]
        large, small = a_job_spec(user="bob", cpus=2), a_job_spec(user="ada")
        await manual.submit(*running)
        await manual.match()
        await manual.submit(large, small)
        await manual.match()
        manual.cluster.finish(manual.task_of(running[0]))
        await manual.settle()
        await manual.match()

        of_large = {reason.kind: reason for reason in await manual.scheduler.why(large.job_id)}
        of_small = {reason.kind: reason for reason in await manual.scheduler.why(small.job_id)}

        assert of_large[WaitKind.AT_HEAD].data == {"host": "h1", "free-at-ms": None}
        assert of_small[WaitKind.HELD_BACK].sentence == (
            "2 cpus and 128 MB of memory of the host h1 are kept for a job of bob at the head of the queue,"
            " until tasks that run there have ended."
        )
