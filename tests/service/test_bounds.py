"""Limits on which jobs start in a running scheduler: quotas, rates, the launch filter, sizes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cook_jupyter.errors import InvalidRequest, QuotaExceeded
from cook_jupyter.model.job import GroupId, JobSpec
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.waiting import WaitKind
from cook_jupyter.scheduling.launch_filter import LaunchAnswer
from cook_jupyter.service.cycles.maintenance import complete_offensive
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    Bucket,
    JobSettings,
    MaintenanceSettings,
    MatchingSettings,
    PlacementSettings,
    PoolMove,
    PoolQuota,
    QueueLimit,
    RateSettings,
)
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory

TWO = (Pool(name=DEFAULT_POOL), Pool(name=PoolName("other")))


async def kinds(manual: ManualScheduler, spec: JobSpec) -> list[WaitKind]:
    return [reason.kind for reason in await manual.scheduler.why(spec.job_id)]


async def test_all_users_together_stay_within_the_quota_of_a_pool(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(pool_quotas=(PoolQuota(pool_regex="^def", count=3),))
    async with manual_scheduler(settings, cpus=8) as manual:
        await manual.submit(*(a_job_spec(user=user) for user in ("ada", "bob") for _ in range(4)))
        await manual.match()
        assert len(manual.users()) == 3

        manual.cluster.finish(next(iter(manual.cluster.tasks)))
        await manual.settle()
        await manual.match()
        assert len(manual.users()) == 3


async def test_pools_of_a_quota_group_share_its_quota(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(
        pools=TWO,
        quota_groups={DEFAULT_POOL: "both", PoolName("other"): "both"},
        pool_quotas=(PoolQuota(pool_regex="^both$", cpus=3),),
    )
    async with manual_scheduler(settings, hosts=2, cpus=8, pools=("default", "other")) as manual:
        await manual.submit(*(a_job_spec() for _ in range(2)))
        await manual.match()
        await manual.submit(*(a_job_spec(pool="other") for _ in range(3)))
        await manual.match()

        assert len(manual.cluster.tasks) == 3


@pytest.mark.parametrize(("ours", "launched"), [(True, 0), (False, 2)])
async def test_the_quota_of_an_idle_group_holds_unless_told_to_be_like_cook(
    manual_scheduler: ManualSchedulerFactory, *, ours: bool, launched: int
) -> None:
    settings = Settings(
        quota_groups={DEFAULT_POOL: "closed"},
        pool_quotas=(PoolQuota(pool_regex="^closed$", count=0),),
        group_quota_when_idle=ours,
    )
    async with manual_scheduler(settings, cpus=2) as manual:
        await manual.submit(a_job_spec(), a_job_spec())
        assert await manual.match() == launched


async def test_launches_go_no_faster_than_the_users_rate(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(cpus=32) as manual:
        rate = {"launch-rate-saved": 2.0, "launch-rate-per-minute": 60.0}
        await manual.scheduler.set_limits(LimitKind.QUOTA, "ada", DEFAULT_POOL, rate, "test")
        jobs = [a_job_spec(user="ada") for _ in range(6)]
        await manual.submit(*jobs, a_job_spec(user="bob"), a_job_spec(user="bob"), a_job_spec(user="bob"))
        await manual.match()
        assert manual.users().count("ada") == 2
        assert manual.users().count("bob") == 3
        reasons = await manual.scheduler.why(jobs[-1].job_id)
        (held,) = [reason for reason in reasons if reason.kind is WaitKind.RATE_LIMITED]
        assert held.data == {"num-ratelimited": 4}

        manual.clock.advance(1000)
        await manual.match()
        assert manual.users().count("ada") == 3

        # A changed rate begins with a full bucket.
        await manual.scheduler.set_limits(
            LimitKind.QUOTA, "ada", DEFAULT_POOL, {"launch-rate-saved": 3.0}, "test"
        )
        await manual.match()
        assert manual.users().count("ada") == 6


async def test_launch_rates_that_are_not_enforced_hold_nobody_back(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(rates=RateSettings(enforce_launch_rate=False))
    async with manual_scheduler(settings, cpus=8) as manual:
        rate = {"launch-rate-saved": 1.0, "launch-rate-per-minute": 1.0}
        await manual.scheduler.set_limits(LimitKind.QUOTA, "ada", DEFAULT_POOL, rate, "test")
        await manual.submit(*(a_job_spec(user="ada") for _ in range(4)))
        assert await manual.match() == 4


async def test_a_cluster_in_debt_is_sent_nothing(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(rates=RateSettings(cluster_launch=Bucket(bucket_size=2, tokens_per_minute=60)))
    async with manual_scheduler(settings, cpus=32) as manual:
        await manual.submit(*(a_job_spec() for _ in range(4)))
        assert await manual.match() == 4
        await manual.submit(a_job_spec())
        assert await manual.match() == 0

        manual.clock.advance(2000)
        assert await manual.match() == 1


async def test_a_user_who_submits_too_fast_is_refused_until_out_of_debt(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(rates=RateSettings(job_submission=Bucket(bucket_size=3, tokens_per_minute=60)))
    async with manual_scheduler(settings) as manual:
        await manual.submit(*(a_job_spec() for _ in range(5)))
        with pytest.raises(
            InvalidRequest, match=r"User ada is inserting too quickly\. Not allowed to insert"
        ):
            await manual.submit(a_job_spec())
        await manual.submit(a_job_spec(user="bob"))

        manual.clock.advance(2000)
        await manual.submit(a_job_spec())


async def test_a_refused_submission_costs_no_tokens(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(
        rates=RateSettings(job_submission=Bucket(bucket_size=1, tokens_per_minute=60)),
        queue_limits=(QueueLimit(user_limit_normal=1),),
    )
    async with manual_scheduler(settings) as manual:
        with pytest.raises(QuotaExceeded):
            await manual.submit(a_job_spec(), a_job_spec(), a_job_spec())
        await manual.submit(a_job_spec())


async def test_fewer_jobs_may_wait_in_a_crowd(manual_scheduler: ManualSchedulerFactory) -> None:
    limit = QueueLimit(pool_global_threshold=2, user_limit_normal=3, user_limit_constrained=1)
    async with manual_scheduler(Settings(queue_limits=(limit,))) as manual:
        crowd = [a_job_spec(user="ada") for _ in range(3)]
        await manual.submit(*crowd)
        await manual.submit(a_job_spec(user="bob"))
        with pytest.raises(QuotaExceeded, match="User has too many jobs queued"):
            await manual.submit(a_job_spec(user="bob"))

        await manual.scheduler.kill_jobs([job.job_id for job in crowd])
        await manual.submit(a_job_spec(user="bob"))


class Unhurried(MemoryStore):
    """A store that yields to other tasks before each commit, as one on a disk does."""

    async def submit(self, *args: Any, **kwargs: Any) -> Sequence[GroupId]:
        await asyncio.sleep(0)
        return await super().submit(*args, **kwargs)


async def test_submissions_at_one_moment_do_not_pass_a_queue_limit_together(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(queue_limits=(QueueLimit(user_limit_normal=2),))
    async with manual_scheduler(settings, memory=Unhurried()) as manual:
        ended = await asyncio.gather(
            *(manual.scheduler.submit([a_job_spec()]) for _ in range(5)), return_exceptions=True
        )
        assert [type(each) for each in ended].count(QuotaExceeded) == 3
        assert manual.scheduler.waiting_count() == 2

        await manual.scheduler.kill_jobs([*manual.scheduler.queue(10)[DEFAULT_POOL]])
        await manual.submit(a_job_spec(), a_job_spec())  # what was refused or has arrived is not counted on


def only_named(spec: JobSpec) -> LaunchAnswer:
    """Return whether to hold a job back, by its name: the launch filter of this test."""
    if spec.name == "broken":
        raise RuntimeError("out of licences")
    if spec.name == "later":
        return LaunchAnswer(accepted=False, message="not before noon", holds_ms=5000)
    return LaunchAnswer(accepted=True)


async def test_the_operators_function_holds_jobs_back_and_says_why(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(placement=PlacementSettings(launch_filter=f"{__name__}:only_named"))
    async with manual_scheduler(settings, cpus=8) as manual:
        held, broken, free = a_job_spec(name="later"), a_job_spec(name="broken"), a_job_spec()
        await manual.submit(held, broken, free)
        await manual.match()

        assert set(manual.where()) == {free.job_id}
        told = {reason.kind: reason.data for reason in await manual.scheduler.why(held.job_id)}
        assert told[WaitKind.DEFERRED] == {"plugin": f"{__name__}:only_named", "message": "not before noon"}
        assert "out of licences" in " ".join(await manual.scheduler.explain(broken.job_id))


@pytest.mark.parametrize("name", ["nowhere:f", "json:nothing", "json", "json:__name__"])
async def test_a_launch_filter_that_cannot_be_called_is_refused_at_the_start(
    manual_scheduler: ManualSchedulerFactory, name: str
) -> None:
    with pytest.raises(InvalidRequest, match=r"placement\.launch_filter"):
        async with manual_scheduler(Settings(placement=PlacementSettings(launch_filter=name))):
            pass


async def test_jobs_larger_than_any_may_be_are_completed_in_the_background(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    large, small = a_job_spec(cpus=4), a_job_spec()
    async with manual_scheduler(cpus=8) as manual:
        await manual.submit(*(a_job_spec(cpus=4) for _ in range(40)), large, small)
    smaller = Settings(jobs=JobSettings(max_cpus=2))
    async with manual_scheduler(smaller, cluster=manual.cluster) as manual:
        await manual.match()
        assert set(manual.where()) == {small.job_id}
        assert await complete_offensive(manual.scheduler) == 41
        assert (await manual.job(large)).outcome == "failed"
        assert await complete_offensive(manual.scheduler) == 0


async def test_jobs_larger_than_any_may_be_wait_where_they_are_kept(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    large = a_job_spec(cpus=4)
    async with manual_scheduler(cpus=8) as manual:
        await manual.submit(large)
    kept = Settings(jobs=JobSettings(max_cpus=2), maintenance=MaintenanceSettings(offensive="keep"))
    async with manual_scheduler(kept, cluster=manual.cluster) as manual:
        assert await complete_offensive(manual.scheduler) == 0
        assert (await manual.job(large)).outcome == "waiting"


async def test_the_pool_mover_sends_a_users_jobs_elsewhere(manual_scheduler: ManualSchedulerFactory) -> None:
    move = PoolMove(pool=DEFAULT_POOL, destination=PoolName("other"), users={"ada": 1.0, "bob": 0.5})
    async with manual_scheduler(
        Settings(pools=TWO, pool_moves=(move,)), pools=("default", "other")
    ) as manual:
        adas = [a_job_spec(user="ada") for _ in range(10)]
        bobs = [a_job_spec(user="bob") for _ in range(200)]
        eves = [a_job_spec(user="eve") for _ in range(10)]
        await manual.submit(*adas, *bobs, *eves)

        moved = [(await manual.job(job)).spec for job in adas]
        assert {(job.pool, job.submit_pool) for job in moved} == {("other", "default")}
        assert {(await manual.job(job)).spec.pool for job in eves} == {"default"}
        pools = [(await manual.job(job)).spec.pool for job in bobs]
        assert 60 < pools.count(PoolName("other")) < 140


async def test_first_come_first_served_heeds_no_shares(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(Settings(matching=MatchingSettings(order="fifo")), cpus=2) as manual:
        await manual.submit(*(a_job_spec(user="first") for _ in range(4)))
        await manual.submit(a_job_spec(user="second"))
        await manual.match()
        assert await manual.rebalance() == 0
        assert manual.users() == ["first", "first"]
