"""Room is kept for the head of the queue, so that a large job starts although small jobs keep coming."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest

from cook_jupyter.model.job import JobSpec, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    HeadRoomSettings,
    MatchingSettings,
    PoolQuota,
    RebalancerSettings,
)
from cook_jupyter.store.base import Store
from tests.builders import a_group, a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory

NO_PREEMPTION = RebalancerSettings(enabled=False)
KEEPS = Settings(rebalancer=NO_PREEMPTION)
KEEPS_NOTHING = Settings(rebalancer=NO_PREEMPTION, head_room=HeadRoomSettings.cook())


async def ended_before(manual: ManualScheduler, large: JobSpec) -> int:
    """Finish tasks one at a time, oldest first, until the large job runs; return their number."""
    for ended in range(200):
        if (await manual.job(large)).state is JobState.RUNNING:
            return ended
        manual.clock.advance(1000)
        manual.cluster.finish(next(iter(manual.cluster.tasks)))
        await manual.settle()
        await manual.match()
    raise AssertionError("it never started")


async def sixty_small_ones(manual: ManualScheduler) -> Sequence[JobSpec]:
    jobs = [a_job_spec(user="ada") for _ in range(60)]
    await manual.submit(*jobs)
    await manual.match()
    return jobs


@pytest.mark.parametrize(
    "large", [{"user": "bob"}, {"user": "ada", "priority": 90}], ids=["of another user", "of one's own"]
)
async def test_a_large_job_at_the_head_waits_for_the_tasks_that_it_finds_running(
    manual_scheduler: ManualSchedulerFactory, large: dict[str, object]
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        await sixty_small_ones(manual)
        job = a_job_spec(cpus=2, **large)
        await manual.submit(job)
        await manual.match()

        assert await ended_before(manual, job) == 2


async def test_keeping_nothing_lets_a_large_job_starve_as_in_cook(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS_NOTHING) as manual:
        await sixty_small_ones(manual)
        job = a_job_spec(user="bob", cpus=2)
        await manual.submit(job)
        await manual.match()

        assert await ended_before(manual, job) == 60


async def blocked(manual: ManualScheduler, large: JobSpec, **small: object) -> list[JobSpec]:
    """Fill both cpus with jobs of ada, submit a large job, and finish one job of ada."""
    running = [a_job_spec(**{"user": "ada", **small}) for _ in range(2)]
    await manual.submit(*running)
    await manual.match()
    await manual.submit(large)
    await manual.match()
    await finish(manual, running[0])
    return running


async def finish(manual: ManualScheduler, job: JobSpec) -> None:
    manual.cluster.finish(manual.task_of(job))
    await manual.settle()
    await manual.match()


async def test_nothing_new_starts_in_kept_room_where_no_run_times_are_known(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        await blocked(manual, a_job_spec(user="bob", cpus=2))
        await manual.submit(a_job_spec(user="carl"), a_job_spec(user="ada", priority=1000))
        await manual.match()

        assert manual.users() == ["ada"]


async def test_a_job_that_will_have_ended_by_then_starts_in_kept_room(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        large = a_job_spec(user="bob", cpus=2)
        running = await blocked(manual, large, expected_runtime_ms=600_000)
        long, short = (a_job_spec(user="carl", expected_runtime_ms=ms) for ms in (700_000, 500_000))
        await manual.submit(long, short)
        await manual.match()
        assert set(manual.where()) == {running[1].job_id, short.job_id}

        manual.clock.advance(500_000)
        await finish(manual, short)
        await finish(manual, running[1])
        assert set(manual.where()) == {large.job_id}


async def test_who_runs_longer_than_expected_lets_nobody_else_in(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        large = a_job_spec(user="bob", cpus=2)
        running = await blocked(manual, large, expected_runtime_ms=600_000)
        liar = a_job_spec(user="carl", expected_runtime_ms=1000)
        await manual.submit(liar)
        await manual.match()
        manual.clock.advance(600_000)  # the liar runs on
        await finish(manual, running[1])
        await manual.submit(a_job_spec(user="carl", expected_runtime_ms=1000))
        await manual.match()
        assert set(manual.where()) == {liar.job_id}

        await finish(manual, liar)
        assert large.job_id in manual.where()


async def test_backfilling_may_be_switched_off(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(rebalancer=NO_PREEMPTION, head_room=HeadRoomSettings(backfill=False))
    async with manual_scheduler(settings) as manual:
        await blocked(manual, a_job_spec(user="bob", cpus=2), expected_runtime_ms=600_000)
        await manual.submit(a_job_spec(user="carl", expected_runtime_ms=1000))
        await manual.match()

        assert manual.users() == ["ada"]


async def test_jobs_of_a_group_are_expected_to_run_as_long_as_those_that_have_ended(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    group = a_group()
    async with manual_scheduler(KEEPS) as manual:
        running = [a_job_spec(user="ada", group=group.group_id) for _ in range(2)]
        await manual.submit(*running, groups=[group])
        await manual.match()
        await manual.submit(a_job_spec(user="bob", cpus=2))
        await manual.match()
        more = a_job_spec(user="carl", expected_runtime_ms=1000)
        await manual.submit(more)
        await manual.match()
        manual.clock.advance(60_000)
        await finish(manual, running[0])
        # The other one is past what its group has shown, so nothing is known of its end.
        assert set(manual.where()) == {running[1].job_id}


async def test_a_head_that_is_killed_keeps_nothing(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(KEEPS) as manual:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(manual, large)
        await manual.submit(a_job_spec(user="carl"))
        await manual.match()
        assert manual.users() == ["ada"]

        await manual.scheduler.kill_jobs([large.job_id])
        await manual.match()

        assert manual.users() == ["ada", "carl"]
        assert not manual.scheduler.queues.heads.for_pool(DEFAULT_POOL)


async def test_a_job_over_quota_keeps_nothing(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(KEEPS) as manual:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(manual, large)
        await manual.submit(a_job_spec(user="carl"))
        await manual.scheduler.set_limits(LimitKind.QUOTA, "bob", DEFAULT_POOL, {"count": 0}, "test")
        await manual.match()

        assert manual.users() == ["ada", "carl"]


async def test_a_job_that_no_host_could_hold_keeps_nothing_and_holds_up_no_other_head(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        nowhere = a_job_spec(user="aaron", cpus=2, constraints=(("rack", "EQUALS", "none"),))
        await manual.submit(nowhere)
        large = a_job_spec(user="bob", cpus=2)
        await sixty_small_ones(manual)
        await manual.submit(large)
        await manual.match()

        assert await ended_before(manual, large) <= 4


async def test_a_job_of_ones_own_with_a_higher_priority_goes_first(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(manual, large)
        urgent = a_job_spec(user="bob", priority=90)
        await manual.submit(urgent)
        await manual.match()

        assert urgent.job_id in manual.where()


async def test_room_is_kept_on_one_host_and_the_others_go_on(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS, hosts=3) as manual:
        running = [a_job_spec(user="ada") for _ in range(6)]
        await manual.submit(*running)
        await manual.match()
        large = a_job_spec(user="bob", cpus=2)
        await manual.submit(large, *(a_job_spec(user="ada") for _ in range(20)))
        await manual.match()
        by_host = {
            host: [j for j in running if manual.where()[j.job_id] == host] for host in ("h1", "h2", "h3")
        }
        for jobs in by_host.values():  # one of two ends on each host
            await finish(manual, jobs[0])

        free = [offer.host for offer in manual.cluster.offers() if offer.room.cpus]
        assert free == [manual.scheduler.queues.heads.for_pool(DEFAULT_POOL)[large.job_id].host]


async def test_a_restart_finds_the_head_of_the_queue_again(
    store: Store, manual_scheduler: ManualSchedulerFactory
) -> None:
    async with manual_scheduler(KEEPS) as manual:
        large = a_job_spec(user="bob", cpus=2)
        running = await blocked(manual, large)
    async with manual_scheduler(KEEPS, cluster=manual.cluster) as manual:
        await manual.settle()
        await manual.match()
        await manual.submit(*(a_job_spec(user="ada") for _ in range(5)))
        await manual.match()
        await finish(manual, running[1])

        assert large.job_id in manual.where()


async def test_preemption_for_the_head_takes_the_place_of_kept_room(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(), cpus=4) as manual:
        running = [a_job_spec(user="ada") for _ in range(4)]
        for job in running:
            await manual.submit(job)
            await manual.match()
            manual.clock.advance(1000)
        large = a_job_spec(user="bob", cpus=2)
        await manual.submit(large, *(a_job_spec(user="ada") for _ in range(5)))
        await manual.match()
        await finish(manual, running[0])
        assert manual.scheduler.queues.heads.for_pool(DEFAULT_POOL)[large.job_id].host == "h1"

        assert await manual.rebalance() == 1, "one cpu is kept for it already"
        await manual.match()

        assert manual.where()[large.job_id] == "h1"
        heads = manual.scheduler.queues.heads.for_pool(DEFAULT_POOL).values()
        assert [head.host for head in heads if head.host is not None] == []


async def test_pools_that_share_a_host_leave_each_others_kept_room_alone(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(
        pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("other"))), rebalancer=NO_PREEMPTION
    )
    async with manual_scheduler(settings, pools=("default", "other")) as manual:
        large = a_job_spec(user="bob", cpus=2)
        await blocked(manual, large)
        await manual.submit(a_job_spec(pool="other"))
        await manual.match()

        assert manual.users() == ["ada"]


async def test_among_jobs_that_ask_for_the_same_rank_alone_decides(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(KEEPS, cpus=1) as manual:
        running, blocked_one = a_job_spec(user="zoe"), a_job_spec(user="zoe")
        await manual.submit(running, blocked_one)
        await manual.match()
        first_by_name = a_job_spec(user="ada")
        await manual.submit(first_by_name)
        await finish(manual, running)

        assert set(manual.where()) == {first_by_name.job_id}


@pytest.mark.parametrize(("order", "users"), [("fair", ["bob", "carl"]), ("fifo", ["bob"])])
async def test_a_user_past_share_gives_way_only_where_shares_count(
    manual_scheduler: ManualSchedulerFactory, order: Literal["fair", "fifo"], users: list[str]
) -> None:
    async with manual_scheduler(replace(KEEPS, matching=MatchingSettings(order=order)), cpus=4) as manual:
        running = [a_job_spec(user="bob", cpus=3), a_job_spec(user="bob", cpus=1)]
        await manual.submit(*running, a_job_spec(user="bob", cpus=4))
        await manual.match()
        await finish(manual, running[1])
        await manual.submit(a_job_spec(user="carl"))
        await manual.match()

        assert manual.users() == users


async def test_the_run_times_of_a_group_tell_until_when_kept_room_may_be_used(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    group = a_group()
    async with manual_scheduler(KEEPS) as manual:
        first, *others = [a_job_spec(user="ada", group=group.group_id) for _ in range(3)]
        await manual.submit(first, groups=[group])
        await manual.match()
        manual.clock.advance(60_000)
        await finish(manual, first)
        await manual.scheduler.submit(others, override_group_immutability=True)
        await manual.match()
        await manual.submit(a_job_spec(user="bob", cpus=2))
        await manual.match()
        manual.clock.advance(10_000)
        await finish(manual, others[0])

        too_long, short = (a_job_spec(user="carl", expected_runtime_ms=ms) for ms in (51_000, 50_000))
        await manual.submit(too_long, short)
        await manual.match()

        assert set(manual.where()) == {others[1].job_id, short.job_id}


@pytest.mark.parametrize(("users", "cpus"), [(2, 8), (3, 8), (4, 4)])
async def test_a_user_who_holds_nothing_is_at_the_head_whatever_the_size_of_the_job(
    manual_scheduler: ManualSchedulerFactory, users: int, cpus: int
) -> None:
    async with manual_scheduler(KEEPS, cpus=cpus) as manual:
        for number in range(users):
            await manual.submit(*(a_job_spec(user=f"user-{number}", mem_mb=1) for _ in range(40)))
        await manual.match()
        large = a_job_spec(user="zoe", cpus=cpus, mem_mb=1)
        await manual.submit(large)
        await manual.match()

        assert await ended_before(manual, large) == cpus


async def test_a_job_that_started_in_kept_room_is_not_preempted(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(rebalancer=RebalancerSettings(min_dru_diff=0.1))) as manual:
        await sixty_small_ones(manual)
        large = a_job_spec(user="bob", cpus=2)
        await manual.submit(large)
        await manual.match()
        assert await ended_before(manual, large) == 2

        for _ in range(3):
            manual.clock.advance(10_000)
            assert await manual.rebalance() == 0

        assert manual.users() == ["bob"]


async def test_heads_that_start_in_one_cycle_keep_the_quota_of_their_pool_together(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = replace(
        KEEPS,
        head_room=HeadRoomSettings(max_kept=1.0),
        pool_quotas=(PoolQuota(pool_regex=".*", count=2),),
    )
    async with manual_scheduler(settings, cpus=6) as manual:
        running = a_job_spec(user="ada", cpus=6)
        await manual.submit(running)
        await manual.match()
        await manual.submit(*(a_job_spec(user=user, cpus=2) for user in ("bob", "carl", "dave")))
        await manual.submit(a_job_spec(user="ada"))
        await manual.match()
        await finish(manual, running)

        assert len(manual.users()) == 2
