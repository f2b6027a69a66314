"""Room is kept for the head of the queue: large jobs start though small ones flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest

from cook_jupyter.model.job import JobSpec, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import Pool
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    HeadRoomSettings,
    MatchingSettings,
    PoolQuota,
    RebalancerSettings,
)
from cook_jupyter.store.base import Store
from tests.builders import a_group, a_job_spec
from tests.service.conftest import HandTurned, ManualScheduler

NO_PREEMPTION = RebalancerSettings(enabled=False)
KEEPS = Settings(rebalancer=NO_PREEMPTION)
KEEPS_NOTHING = Settings(rebalancer=NO_PREEMPTION, head_room=HeadRoomSettings.cook())


async def ended_before(hand: ManualScheduler, large: JobSpec) -> int:
    """Let tasks end one at a time, oldest first, until the large job runs; returns how many have."""
    for ended in range(200):
        if (await hand.job(large)).state is JobState.RUNNING:
            return ended
        hand.clock.advance(1000)
        hand.cluster.finish(next(iter(hand.cluster.tasks)))
        await hand.settle()
        await hand.match()
    raise AssertionError("it never started")


async def sixty_small_ones(hand: ManualScheduler) -> Sequence[JobSpec]:
    jobs = [a_job_spec(user="ada") for _ in range(60)]
    await hand.submit(*jobs)
    await hand.match()
    return jobs


@pytest.mark.parametrize(
    "large", [{"user": "bob"}, {"user": "ada", "priority": 90}], ids=["of another user", "of one's own"]
)
async def test_a_large_job_at_the_head_waits_for_the_tasks_that_it_finds_running(
    by_hand: HandTurned, large: dict[str, object]
) -> None:
    async with by_hand(KEEPS) as hand:
        await sixty_small_ones(hand)
        job = a_job_spec(cpus=2, **large)
        await hand.submit(job)
        await hand.match()

        assert await ended_before(hand, job) == 2


async def test_keeping_nothing_lets_a_large_job_starve_as_in_cook(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS_NOTHING) as hand:
        await sixty_small_ones(hand)
        job = a_job_spec(user="bob", cpus=2)
        await hand.submit(job)
        await hand.match()

        assert await ended_before(hand, job) == 60


async def blocked(hand: ManualScheduler, large: JobSpec, **small: object) -> list[JobSpec]:
    """Fill both cpus with jobs of ada, put a large job at the head, and let one of ada's end."""
    running = [a_job_spec(**{"user": "ada", **small}) for _ in range(2)]
    await hand.submit(*running)
    await hand.match()
    await hand.submit(large)
    await hand.match()
    await finish(hand, running[0])
    return running


async def finish(hand: ManualScheduler, job: JobSpec) -> None:
    hand.cluster.finish(hand.task_of(job))
    await hand.settle()
    await hand.match()


async def test_nothing_new_starts_in_kept_room_where_no_run_times_are_known(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        await blocked(hand, a_job_spec(user="bob", cpus=2))
        await hand.submit(a_job_spec(user="carl"), a_job_spec(user="ada", priority=1000))
        await hand.match()

        assert hand.users() == ["ada"]


async def test_a_job_that_will_have_ended_by_then_starts_in_kept_room(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        large = a_job_spec(user="bob", cpus=2)
        running = await blocked(hand, large, expected_runtime_ms=600_000)
        long, short = (a_job_spec(user="carl", expected_runtime_ms=ms) for ms in (700_000, 500_000))
        await hand.submit(long, short)
        await hand.match()
        assert set(hand.where()) == {running[1].job_id, short.job_id}

        hand.clock.advance(500_000)
        await finish(hand, short)
        await finish(hand, running[1])
        assert set(hand.where()) == {large.job_id}


async def test_who_runs_longer_than_expected_lets_nobody_else_in(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        large = a_job_spec(user="bob", cpus=2)
        running = await blocked(hand, large, expected_runtime_ms=600_000)
        liar = a_job_spec(user="carl", expected_runtime_ms=1000)
        await hand.submit(liar)
        await hand.match()
        hand.clock.advance(600_000)  # the liar runs on
        await finish(hand, running[1])
        await hand.submit(a_job_spec(user="carl", expected_runtime_ms=1000))
        await hand.match()
        assert set(hand.where()) == {liar.job_id}

        await finish(hand, liar)
        assert large.job_id in hand.where()


async def test_backfilling_may_be_switched_off(by_hand: HandTurned) -> None:
    settings = Settings(rebalancer=NO_PREEMPTION, head_room=HeadRoomSettings(backfill=False))
    async with by_hand(settings) as hand:
        await blocked(hand, a_job_spec(user="bob", cpus=2), expected_runtime_ms=600_000)
        await hand.submit(a_job_spec(user="carl", expected_runtime_ms=1000))
        await hand.match()

        assert hand.users() == ["ada"]


async def test_jobs_of_a_group_are_expected_to_run_as_long_as_those_that_have_ended(
    by_hand: HandTurned,
) -> None:
    group = a_group()
    async with by_hand(KEEPS) as hand:
        running = [a_job_spec(user="ada", group=group.group_id) for _ in range(2)]
        await hand.submit(*running, groups=[group])
        await hand.match()
        await hand.submit(a_job_spec(user="bob", cpus=2))
        await hand.match()
        more = a_job_spec(user="carl", expected_runtime_ms=1000)
        await hand.submit(more)
        await hand.match()
        hand.clock.advance(60_000)
        await finish(hand, running[0])
        # The other one is past what its group has shown, so nothing is known of its end.
        assert set(hand.where()) == {running[1].job_id}


async def test_a_head_that_is_killed_keeps_nothing(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(hand, large)
        await hand.submit(a_job_spec(user="carl"))
        await hand.match()
        assert hand.users() == ["ada"]

        await hand.scheduler.kill_jobs([large.job_id])
        await hand.match()

        assert hand.users() == ["ada", "carl"]
        assert not hand.scheduler.queues.heads.for_pool("default")


async def test_a_job_over_quota_keeps_nothing(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(hand, large)
        await hand.submit(a_job_spec(user="carl"))
        await hand.scheduler.set_limits(LimitKind.QUOTA, "bob", "", {"count": 0}, "test")
        await hand.match()

        assert hand.users() == ["ada", "carl"]


async def test_a_job_that_no_host_could_hold_keeps_nothing_and_holds_up_no_other_head(
    by_hand: HandTurned,
) -> None:
    async with by_hand(KEEPS) as hand:
        nowhere = a_job_spec(user="aaron", cpus=2, constraints=(("rack", "EQUALS", "none"),))
        await hand.submit(nowhere)
        large = a_job_spec(user="bob", cpus=2)
        await sixty_small_ones(hand)
        await hand.submit(large)
        await hand.match()

        assert await ended_before(hand, large) <= 4


async def test_a_job_of_ones_own_with_a_higher_priority_goes_first(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(hand, large)
        urgent = a_job_spec(user="bob", priority=90)
        await hand.submit(urgent)
        await hand.match()

        assert urgent.job_id in hand.where()


async def test_room_is_kept_on_one_host_and_the_others_go_on(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS, hosts=3) as hand:
        running = [a_job_spec(user="ada") for _ in range(6)]
        await hand.submit(*running)
        await hand.match()
        large = a_job_spec(user="bob", cpus=2)
        await hand.submit(large, *(a_job_spec(user="ada") for _ in range(20)))
        await hand.match()
        by_host = {
            host: [j for j in running if hand.where()[j.job_id] == host] for host in ("h1", "h2", "h3")
        }
        for jobs in by_host.values():  # one of two ends on each host
            await finish(hand, jobs[0])

        free = [offer.host for offer in hand.cluster.offers() if offer.room.cpus]
        assert free == [hand.scheduler.queues.heads.for_pool("default")[large.job_id].host]


async def test_a_restart_finds_the_head_of_the_queue_again(store: Store, by_hand: HandTurned) -> None:
    async with by_hand(KEEPS) as hand:
        large = a_job_spec(user="bob", cpus=2)
        running = await blocked(hand, large)
    async with by_hand(KEEPS, cluster=hand.cluster) as hand:
        await hand.settle()
        await hand.match()
        await hand.submit(*(a_job_spec(user="ada") for _ in range(5)))
        await hand.match()
        await finish(hand, running[1])

        assert large.job_id in hand.where()


async def test_preemption_for_the_head_takes_the_place_of_kept_room(by_hand: HandTurned) -> None:
    async with by_hand(Settings(), cpus=4) as hand:
        running = [a_job_spec(user="ada") for _ in range(4)]
        for job in running:
            await hand.submit(job)
            await hand.match()
            hand.clock.advance(1000)
        large = a_job_spec(user="bob", cpus=2)
        await hand.submit(large, *(a_job_spec(user="ada") for _ in range(5)))
        await hand.match()
        await finish(hand, running[0])
        assert hand.scheduler.queues.heads.for_pool("default")[large.job_id].host == "h1"

        assert await hand.rebalance() == 1, "one cpu is kept for it already"
        await hand.match()

        assert hand.where()[large.job_id] == "h1"
        heads = hand.scheduler.queues.heads.for_pool("default").values()
        assert [head.host for head in heads if head.host is not None] == []


async def test_pools_that_share_a_host_leave_each_others_kept_room_alone(by_hand: HandTurned) -> None:
    settings = Settings(pools=(Pool(name="default"), Pool(name="other")), rebalancer=NO_PREEMPTION)
    async with by_hand(settings, pools=("default", "other")) as hand:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(hand, large)
        await hand.submit(a_job_spec(pool="other"))
        await hand.match()

        assert hand.users() == ["ada"]


async def test_among_jobs_that_ask_for_the_same_rank_alone_decides(by_hand: HandTurned) -> None:
    async with by_hand(KEEPS, cpus=1) as hand:
        running, blocked_one = a_job_spec(user="zoe"), a_job_spec(user="zoe")
        await hand.submit(running, blocked_one)
        await hand.match()
        first_by_name = a_job_spec(user="ada")
        await hand.submit(first_by_name)
        await finish(hand, running)

        assert set(hand.where()) == {first_by_name.job_id}


@pytest.mark.parametrize(("order", "users"), [("fair", ["bob", "carl"]), ("fifo", ["bob"])])
async def test_a_user_past_share_gives_way_only_where_shares_count(
    by_hand: HandTurned, order: Literal["fair", "fifo"], users: list[str]
) -> None:
    async with by_hand(replace(KEEPS, matching=MatchingSettings(order=order)), cpus=4) as hand:
        running = [a_job_spec(user="bob", cpus=3), a_job_spec(user="bob", cpus=1)]
        await hand.submit(*running, a_job_spec(user="bob", cpus=4))
        await hand.match()
        await finish(hand, running[1])
        await hand.submit(a_job_spec(user="carl"))
        await hand.match()

        assert hand.users() == users


async def test_the_run_times_of_a_group_tell_until_when_kept_room_may_be_used(by_hand: HandTurned) -> None:
    group = a_group()
    async with by_hand(KEEPS) as hand:
        first, *others = [a_job_spec(user="ada", group=group.group_id) for _ in range(3)]
        await hand.submit(first, groups=[group])
        await hand.match()
        hand.clock.advance(60_000)
        await finish(hand, first)
        await hand.scheduler.submit(others, override_group_immutability=True)
        await hand.match()
        await hand.submit(a_job_spec(user="bob", cpus=2))
        await hand.match()
        hand.clock.advance(10_000)
        await finish(hand, others[0])

        too_long, short = (a_job_spec(user="carl", expected_runtime_ms=ms) for ms in (51_000, 50_000))
        await hand.submit(too_long, short)
        await hand.match()

        assert set(hand.where()) == {others[1].job_id, short.job_id}


@pytest.mark.parametrize(("users", "cpus"), [(2, 8), (3, 8), (4, 4)])
async def test_a_user_who_holds_nothing_is_at_the_head_whatever_the_size_of_the_job(
    by_hand: HandTurned, users: int, cpus: int
) -> None:
    async with by_hand(KEEPS, cpus=cpus) as hand:
        for number in range(users):
            await hand.submit(*(a_job_spec(user=f"user-{number}", mem_mb=1) for _ in range(40)))
        await hand.match()
        large = a_job_spec(user="zoe", cpus=cpus, mem_mb=1)
        await hand.submit(large)
        await hand.match()

        assert await ended_before(hand, large) == cpus


async def test_a_job_that_started_in_kept_room_is_not_preempted(by_hand: HandTurned) -> None:
    async with by_hand(Settings(rebalancer=RebalancerSettings(min_dru_diff=0.1))) as hand:
        await sixty_small_ones(hand)
        large = a_job_spec(user="bob", cpus=2)
        await hand.submit(large)
        await hand.match()
        assert await ended_before(hand, large) == 2

        for _ in range(3):
            hand.clock.advance(10_000)
            assert await hand.rebalance() == 0

        assert hand.users() == ["bob"]


async def test_heads_that_start_in_one_cycle_keep_the_quota_of_their_pool_together(
    by_hand: HandTurned,
) -> None:
    settings = replace(
        KEEPS,
        head_room=HeadRoomSettings(max_kept=1.0),
        pool_quotas=(PoolQuota(pool_regex=".*", count=2),),
    )
    async with by_hand(settings, cpus=6) as hand:
        running = a_job_spec(user="ada", cpus=6)
        await hand.submit(running)
        await hand.match()
        await hand.submit(*(a_job_spec(user=user, cpus=2) for user in ("bob", "carl", "dave")))
        await hand.submit(a_job_spec(user="ada"))
        await hand.match()
        await finish(hand, running)

        assert len(hand.users()) == 2
