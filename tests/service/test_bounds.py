"""What bounds who starts, live: quotas of pools and their groups, rates, the launch filter, sizes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cook_jupyter.errors import InvalidRequest, QuotaExceeded
from cook_jupyter.model.job import GroupId, JobSpec
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import Pool
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
from tests.service.conftest import HandTurned, ManualScheduler

TWO = (Pool(name="default"), Pool(name="other"))


async def kinds(hand: ManualScheduler, spec: JobSpec) -> list[WaitKind]:
    return [reason.kind for reason in await hand.scheduler.why(spec.job_id)]


async def test_all_users_together_stay_within_the_quota_of_a_pool(by_hand: HandTurned) -> None:
    settings = Settings(pool_quotas=(PoolQuota(pool_regex="^def", count=3),))
    async with by_hand(settings, cpus=8) as hand:
        await hand.submit(*(a_job_spec(user=user) for user in ("ada", "bob") for _ in range(4)))
        await hand.match()
        assert len(hand.users()) == 3

        hand.cluster.finish(next(iter(hand.cluster.tasks)))
        await hand.settle()
        await hand.match()
        assert len(hand.users()) == 3


async def test_pools_of_a_quota_group_share_its_quota(by_hand: HandTurned) -> None:
    settings = Settings(
        pools=TWO,
        quota_groups={"default": "both", "other": "both"},
        pool_quotas=(PoolQuota(pool_regex="^both$", cpus=3),),
    )
    async with by_hand(settings, hosts=2, cpus=8, pools=("default", "other")) as hand:
        await hand.submit(*(a_job_spec() for _ in range(2)))
        await hand.match()
        await hand.submit(*(a_job_spec(pool="other") for _ in range(3)))
        await hand.match()

        assert len(hand.cluster.tasks) == 3


@pytest.mark.parametrize(("ours", "launched"), [(True, 0), (False, 2)])
async def test_the_quota_of_an_idle_group_holds_unless_told_to_be_like_cook(
    by_hand: HandTurned, *, ours: bool, launched: int
) -> None:
    settings = Settings(
        quota_groups={"default": "closed"},
        pool_quotas=(PoolQuota(pool_regex="^closed$", count=0),),
        group_quota_when_idle=ours,
    )
    async with by_hand(settings, cpus=2) as hand:
        await hand.submit(a_job_spec(), a_job_spec())
        assert await hand.match() == launched


async def test_launches_go_no_faster_than_the_users_rate(by_hand: HandTurned) -> None:
    async with by_hand(cpus=32) as hand:
        rate = {"launch-rate-saved": 2.0, "launch-rate-per-minute": 60.0}
        await hand.scheduler.set_limits(LimitKind.QUOTA, "ada", "", rate, "test")
        jobs = [a_job_spec(user="ada") for _ in range(6)]
        await hand.submit(*jobs, a_job_spec(user="bob"), a_job_spec(user="bob"), a_job_spec(user="bob"))
        await hand.match()
        assert hand.users().count("ada") == 2
        assert hand.users().count("bob") == 3
        reasons = await hand.scheduler.why(jobs[-1].job_id)
        (held,) = [reason for reason in reasons if reason.kind is WaitKind.RATE_LIMITED]
        assert held.data == {"num-ratelimited": 4}

        hand.clock.advance(1000)
        await hand.match()
        assert hand.users().count("ada") == 3

        # A changed rate begins with a full bucket.
        await hand.scheduler.set_limits(LimitKind.QUOTA, "ada", "", {"launch-rate-saved": 3.0}, "test")
        await hand.match()
        assert hand.users().count("ada") == 6


async def test_launch_rates_that_are_not_enforced_hold_nobody_back(by_hand: HandTurned) -> None:
    settings = Settings(rates=RateSettings(enforce_launch_rate=False))
    async with by_hand(settings, cpus=8) as hand:
        rate = {"launch-rate-saved": 1.0, "launch-rate-per-minute": 1.0}
        await hand.scheduler.set_limits(LimitKind.QUOTA, "ada", "", rate, "test")
        await hand.submit(*(a_job_spec(user="ada") for _ in range(4)))
        assert await hand.match() == 4


async def test_a_cluster_in_debt_is_sent_nothing(by_hand: HandTurned) -> None:
    settings = Settings(rates=RateSettings(cluster_launch=Bucket(bucket_size=2, tokens_per_minute=60)))
    async with by_hand(settings, cpus=32) as hand:
        await hand.submit(*(a_job_spec() for _ in range(4)))
        assert await hand.match() == 4
        await hand.submit(a_job_spec())
        assert await hand.match() == 0

        hand.clock.advance(2000)
        assert await hand.match() == 1


async def test_a_user_who_submits_too_fast_is_refused_until_out_of_debt(by_hand: HandTurned) -> None:
    settings = Settings(rates=RateSettings(job_submission=Bucket(bucket_size=3, tokens_per_minute=60)))
    async with by_hand(settings) as hand:
        await hand.submit(*(a_job_spec() for _ in range(5)))
        with pytest.raises(
            InvalidRequest, match=r"User ada is inserting too quickly\. Not allowed to insert"
        ):
            await hand.submit(a_job_spec())
        await hand.submit(a_job_spec(user="bob"))

        hand.clock.advance(2000)
        await hand.submit(a_job_spec())


async def test_a_refused_submission_costs_no_tokens(by_hand: HandTurned) -> None:
    settings = Settings(
        rates=RateSettings(job_submission=Bucket(bucket_size=1, tokens_per_minute=60)),
        queue_limits=(QueueLimit(user_limit_normal=1),),
    )
    async with by_hand(settings) as hand:
        with pytest.raises(QuotaExceeded):
            await hand.submit(a_job_spec(), a_job_spec(), a_job_spec())
        await hand.submit(a_job_spec())


async def test_fewer_jobs_may_wait_in_a_crowd(by_hand: HandTurned) -> None:
    limit = QueueLimit(pool_global_threshold=2, user_limit_normal=3, user_limit_constrained=1)
    async with by_hand(Settings(queue_limits=(limit,))) as hand:
        crowd = [a_job_spec(user="ada") for _ in range(3)]
        await hand.submit(*crowd)
        await hand.submit(a_job_spec(user="bob"))
        with pytest.raises(QuotaExceeded, match="User has too many jobs queued"):
            await hand.submit(a_job_spec(user="bob"))

        await hand.scheduler.kill_jobs([job.job_id for job in crowd])
        await hand.submit(a_job_spec(user="bob"))


class Unhurried(MemoryStore):
    """Memory that lets others have their turn before it commits, as a disk does."""

    async def submit(self, *args: Any, **kwargs: Any) -> Sequence[GroupId]:
        await asyncio.sleep(0)
        return await super().submit(*args, **kwargs)


async def test_submissions_at_one_moment_do_not_pass_a_queue_limit_together(by_hand: HandTurned) -> None:
    settings = Settings(queue_limits=(QueueLimit(user_limit_normal=2),))
    async with by_hand(settings, memory=Unhurried()) as hand:
        ended = await asyncio.gather(
            *(hand.scheduler.submit([a_job_spec()]) for _ in range(5)), return_exceptions=True
        )
        assert [type(each) for each in ended].count(QuotaExceeded) == 3
        assert hand.scheduler.waiting_count() == 2

        await hand.scheduler.kill_jobs([*hand.scheduler.queue(10)["default"]])
        await hand.submit(a_job_spec(), a_job_spec())  # what was refused or has arrived is not counted on


def only_named(spec: JobSpec) -> LaunchAnswer:
    """Hold back what is named so; a launch filter of this test."""
    if spec.name == "broken":
        raise RuntimeError("out of licences")
    if spec.name == "later":
        return LaunchAnswer(accepted=False, message="not before noon", holds_ms=5000)
    return LaunchAnswer(accepted=True)


async def test_the_operators_function_holds_jobs_back_and_says_why(by_hand: HandTurned) -> None:
    settings = Settings(placement=PlacementSettings(launch_filter=f"{__name__}:only_named"))
    async with by_hand(settings, cpus=8) as hand:
        held, broken, free = a_job_spec(name="later"), a_job_spec(name="broken"), a_job_spec()
        await hand.submit(held, broken, free)
        await hand.match()

        assert set(hand.where()) == {free.job_id}
        told = {reason.kind: reason.data for reason in await hand.scheduler.why(held.job_id)}
        assert told[WaitKind.DEFERRED] == {"plugin": f"{__name__}:only_named", "message": "not before noon"}
        assert "out of licences" in " ".join(await hand.scheduler.explain(broken.job_id))


@pytest.mark.parametrize("name", ["nowhere:f", "json:nothing", "json", "json:__name__"])
async def test_a_launch_filter_that_cannot_be_called_is_refused_at_the_start(
    by_hand: HandTurned, name: str
) -> None:
    with pytest.raises(InvalidRequest, match=r"placement\.launch_filter"):
        async with by_hand(Settings(placement=PlacementSettings(launch_filter=name))):
            pass


async def test_jobs_larger_than_any_may_be_are_completed_in_the_background(by_hand: HandTurned) -> None:
    large, small = a_job_spec(cpus=4), a_job_spec()
    async with by_hand(cpus=8) as hand:
        await hand.submit(*(a_job_spec(cpus=4) for _ in range(40)), large, small)
    smaller = Settings(jobs=JobSettings(max_cpus=2))
    async with by_hand(smaller, cluster=hand.cluster) as hand:
        await hand.match()
        assert set(hand.where()) == {small.job_id}
        assert await complete_offensive(hand.scheduler) == 41
        assert (await hand.job(large)).outcome == "failed"
        assert await complete_offensive(hand.scheduler) == 0


async def test_jobs_larger_than_any_may_be_wait_where_they_are_kept(by_hand: HandTurned) -> None:
    large = a_job_spec(cpus=4)
    async with by_hand(cpus=8) as hand:
        await hand.submit(large)
    kept = Settings(jobs=JobSettings(max_cpus=2), maintenance=MaintenanceSettings(offensive="keep"))
    async with by_hand(kept, cluster=hand.cluster) as hand:
        assert await complete_offensive(hand.scheduler) == 0
        assert (await hand.job(large)).outcome == "waiting"


async def test_the_pool_mover_sends_a_users_jobs_elsewhere(by_hand: HandTurned) -> None:
    move = PoolMove(pool="default", destination="other", users={"ada": 1.0, "bob": 0.5})
    async with by_hand(Settings(pools=TWO, pool_moves=(move,)), pools=("default", "other")) as hand:
        adas = [a_job_spec(user="ada") for _ in range(10)]
        bobs = [a_job_spec(user="bob") for _ in range(200)]
        eves = [a_job_spec(user="eve") for _ in range(10)]
        await hand.submit(*adas, *bobs, *eves)

        moved = [(await hand.job(job)).spec for job in adas]
        assert {(job.pool, job.submit_pool) for job in moved} == {("other", "default")}
        assert {(await hand.job(job)).spec.pool for job in eves} == {"default"}
        pools = [(await hand.job(job)).spec.pool for job in bobs]
        assert 60 < pools.count("other") < 140


async def test_first_come_first_served_heeds_no_shares(by_hand: HandTurned) -> None:
    async with by_hand(Settings(matching=MatchingSettings(order="fifo")), cpus=2) as hand:
        await hand.submit(*(a_job_spec(user="first") for _ in range(4)))
        await hand.submit(a_job_spec(user="second"))
        await hand.match()
        assert await hand.rebalance() == 0
        assert hand.users() == ["first", "first"]
