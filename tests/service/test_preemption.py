"""Preemption in a running scheduler: the victims, the beneficiary's room, and the victims' next attempts."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import InstanceId, InstanceStatus
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.reason import PREEMPTED
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.cycles.match_cycle import run_match_cycle
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import RebalancerSettings
from cook_jupyter.service.state.rebalancer import PARAMETERS
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from cook_jupyter.store.sqlite import SqliteStore
from tests.builders import a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each implementation of the store."""
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.sqlite")


async def fill_all_hosts(manual: ManualScheduler, number: int, **fields: object) -> list[JobSpec]:
    """Fill the cluster with jobs of one cpu of the user hog."""
    jobs = [a_job_spec(user="hog", **fields) for _ in range(number)]
    for job in jobs:  # one after the other, so that each is younger than the one before
        await manual.submit(job)
        await manual.match()
        manual.clock.advance(1000)
    assert len(manual.cluster.tasks) == number
    return jobs


async def test_a_victim_gives_way_waits_again_and_loses_no_attempt(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        _, younger = await fill_all_hosts(manual, 2, max_retries=1, priority=60)
        late = a_job_spec(user="late")
        await manual.submit(late)

        assert await manual.rebalance() == 1
        await manual.match()

        assert manual.users() == ["hog", "late"]
        victim = await manual.job(younger)
        (ended,) = victim.instances
        assert (victim.state, manual.scheduler.attempts(victim)) == (JobState.WAITING, 0)
        assert (ended.status, ended.reason, ended.preempted) == (InstanceStatus.FAILED, PREEMPTED, True)
        assert ended.preempted_for == "late"
        assert ended.ended_ms is not None
        assert (victim.spec.priority, victim.seq) == (60, 2)

        manual.cluster.finish(manual.task_of(late))
        await manual.settle()
        await manual.match()
        again = await manual.job(younger)
        assert (again.state, len(again.instances)) == (JobState.RUNNING, 2)


async def test_what_the_cluster_says_late_of_a_victim_changes_nothing(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        _, victim = await fill_all_hosts(manual, 2)
        await manual.submit(a_job_spec(user="late"))
        await manual.rebalance()

        assert len(manual.cluster.tasks) == 1, "it has told of a kill by a user"
        assert (await manual.job(victim)).instances[-1].reason == PREEMPTED
        assert not manual.scheduler.kills, "the end was heard, so no kill is repeated"


async def test_the_freed_host_is_kept_for_whom_it_was_freed(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(rebalancer=RebalancerSettings(min_dru_diff=0.25))
    async with manual_scheduler(settings, cpus=4) as manual:
        await fill_all_hosts(manual, 4)
        large = a_job_spec(user="late", cpus=2)
        await manual.submit(large)
        assert await manual.rebalance() == 2
        assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == {large.job_id: "h1"}

        # They stand before the one that was freed for, and would take the room.
        await manual.submit(*(a_job_spec(user="third", priority=1000) for _ in range(2)))
        await manual.match()

        assert manual.where()[large.job_id] == "h1"
        assert manual.users() == ["hog", "hog", "late"]
        assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == {}


@pytest.mark.parametrize(("reserve", "started"), [("room", 1), ("host", 0)])
async def test_the_rest_of_the_host_is_left_to_others_unless_told_to_be_like_cook(
    manual_scheduler: ManualSchedulerFactory, reserve: Literal["room", "host"], started: int
) -> None:
    async with manual_scheduler(Settings(rebalancer=RebalancerSettings(reserve=reserve)), cpus=4) as manual:
        jobs = await fill_all_hosts(manual, 4)
        late, others = a_job_spec(user="late"), [a_job_spec(user="third") for _ in range(2)]
        await manual.submit(late)
        manual.cluster.ignores_kills = True
        assert await manual.rebalance() == 1  # and the victim takes its time
        manual.cluster.finish(manual.task_of(jobs[0]))
        await manual.settle()
        await manual.submit(*others)
        await manual.match()
        assert manual.users().count("late") == 1, "the first room that comes is for the job in need"
        manual.cluster.finish(manual.task_of(jobs[1]))
        await manual.settle()
        await manual.match()
        assert manual.users().count("third") == 1

        # A job that needs more than has come free so far keeps that, and nothing beyond.
        large = a_job_spec(user="late", cpus=3)
        manual.scheduler.queues.reserve(DEFAULT_POOL, {large.job_id: "h1"}, now_ms=manual.clock.now_ms())
        await manual.submit(large)
        manual.cluster.finish(manual.task_of(late))
        await manual.settle()
        assert await manual.match() == 0
        manual.scheduler.queues.reservations.record_victims(
            {large.job_id: {InstanceId("still ending"): Resources(cpus=3, mem_mb=1e6)}}
        )
        manual.scheduler.kills.set_cluster(InstanceId("still ending"), manual.cluster.name)
        await manual.scheduler.kills.send([InstanceId("still ending")])
        assert await manual.match() == started


async def test_a_reservation_ends_with_the_job_that_it_was_for(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        late, other = a_job_spec(user="late"), a_job_spec(user="third")
        await manual.submit(late)
        await manual.rebalance()
        assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == {late.job_id: "h1"}

        await manual.scheduler.kill_jobs([late.job_id])

        assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == {}
        await manual.submit(other)
        await manual.match()
        assert manual.users() == ["hog", "third"]


@pytest.mark.parametrize(
    "settings",
    [
        RebalancerSettings(enabled=False),
        RebalancerSettings(safe_dru_threshold=3.0),
        RebalancerSettings(min_dru_diff=5.0),
        RebalancerSettings(max_preemption=0),
        RebalancerSettings(pool_regex="^other$"),
    ],
    ids=lambda s: repr(s)[19:80],
)
async def test_nobody_is_stopped_where_the_settings_say_so(
    manual_scheduler: ManualSchedulerFactory, settings: RebalancerSettings
) -> None:
    async with manual_scheduler(Settings(rebalancer=settings), cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        await manual.submit(a_job_spec(user="late"))

        assert await manual.rebalance() == 0
        assert manual.users() == ["hog", "hog"]


async def test_no_more_decisions_are_made_than_allowed(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(rebalancer=RebalancerSettings(max_preemption=2))
    async with manual_scheduler(settings, cpus=8) as manual:
        await fill_all_hosts(manual, 8)
        await manual.submit(*(a_job_spec(user="late") for _ in range(8)))

        assert await manual.rebalance() == 2


async def test_two_users_end_up_with_equal_parts_of_a_machine(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=8) as manual:
        await fill_all_hosts(manual, 8)
        await manual.submit(*(a_job_spec(user="late") for _ in range(8)))
        for _ in range(3):
            await manual.rebalance()
            await manual.match()

        assert (manual.users().count("late"), manual.users().count("hog")) == (4, 4)
        assert await manual.rebalance() == 0


async def test_a_user_alone_is_never_stopped_for_more_of_the_same(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        await manual.submit(*(a_job_spec(user="hog") for _ in range(5)))

        assert await manual.rebalance() == 0


async def test_a_share_that_is_set_protects_what_is_within_it(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        await manual.scheduler.set_limits(
            LimitKind.SHARE, "hog", DEFAULT_POOL, {"cpus": 3, "mem": 4096}, "test"
        )
        await manual.scheduler.set_limits(
            LimitKind.SHARE, "late", DEFAULT_POOL, {"cpus": 1, "mem": 4096}, "test"
        )
        await fill_all_hosts(manual, 4)
        await manual.submit(*(a_job_spec(user="late", cpus=0.5) for _ in range(8)))
        for _ in range(4):
            await manual.rebalance()
            await manual.match()

        assert manual.users().count("hog") == 3


class Interrupting(MemoryStore):
    """A store in which something happens just before jobs are read from it."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            await act()
        return await super().jobs(job_ids)


async def test_nobody_is_stopped_for_a_job_that_is_gone_meanwhile(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    memory = Interrupting()
    async with manual_scheduler(cpus=2, memory=memory) as manual:
        await fill_all_hosts(manual, 2)
        late = a_job_spec(user="late")
        await manual.submit(late)
        memory.meanwhile = lambda: manual.scheduler.kill_jobs([late.job_id])

        assert await manual.rebalance() == 0
        assert memory.meanwhile is None
        assert manual.users() == ["hog", "hog"]
        assert manual.scheduler.queues.reservations.for_pool("default") == {}


async def test_a_victim_that_has_ended_by_itself_meanwhile_ended_well(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    memory = Interrupting()
    async with manual_scheduler(cpus=2, memory=memory) as manual:
        _, younger = await fill_all_hosts(manual, 2)
        late = a_job_spec(user="late")
        await manual.submit(late)

        async def ends() -> None:
            manual.cluster.finish(manual.task_of(younger))
            await manual.settle()

        memory.meanwhile = ends
        assert await manual.rebalance() == 0
        await manual.match()
        assert (await manual.job(younger)).outcome == "success"
        assert manual.users() == ["hog", "late"]


async def test_nobody_else_is_stopped_while_the_first_victim_still_dies(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        await fill_all_hosts(manual, 4)
        late = a_job_spec(user="late", cpus=1)
        await manual.submit(late)
        manual.cluster.ignores_kills = True
        assert await manual.rebalance() == 1
        assert await manual.rebalance() == 0
        assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == {late.job_id: "h1"}

        manual.cluster.ignores_kills = False
        await manual.scheduler.kills.repeat()
        await manual.settle()
        await manual.match()
        assert manual.users() == ["hog", "hog", "hog", "late"]


async def test_each_pool_keeps_its_own_reservations_unless_told_to_be_like_cook(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    pools = (Pool(name=DEFAULT_POOL), Pool(name=PoolName("other")))
    ours, cooks = RebalancerSettings(), RebalancerSettings(reservations="shared")
    for rebalancer, left in ((ours, {JobId("one"): "h1"}), (cooks, {})):
        settings = Settings(pools=pools, rebalancer=rebalancer)
        async with manual_scheduler(settings, pools=("default", "other")) as manual:
            manual.scheduler.queues.reserve(DEFAULT_POOL, {JobId("one"): "h1"}, now_ms=manual.clock.now_ms())
            manual.scheduler.queues.reserve(
                PoolName("other"), {JobId("two"): "h1"}, now_ms=manual.clock.now_ms()
            )
            assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == left


async def test_a_host_that_is_kept_in_one_pool_is_kept_from_the_others_too(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    pools = (Pool(name=DEFAULT_POOL), Pool(name=PoolName("other")))
    async with manual_scheduler(Settings(pools=pools), pools=("default", "other"), cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        late, elsewhere = a_job_spec(user="late"), a_job_spec(user="third", pool="other")
        await manual.submit(late)
        await manual.rebalance()
        await manual.submit(elsewhere)
        await run_match_cycle(manual.scheduler, PoolName("other"))
        assert manual.users() == ["hog"]

        await manual.match()
        assert manual.users() == ["hog", "late"]


async def test_parameters_set_while_it_runs_hold_at_once_and_after_a_restart(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        await manual.submit(a_job_spec(user="late"))
        await manual.scheduler.rebalancer.change(manual.store, {"max_preemption": 0})
        assert await manual.rebalance() == 0
    async with manual_scheduler(cluster=manual.cluster) as manual:
        assert manual.scheduler.rebalancer.settings.max_preemption == 0
        assert await manual.rebalance() == 0
        await manual.scheduler.rebalancer.change(manual.store, {"max_preemption": 100})
        assert await manual.rebalance() == 1


@pytest.mark.parametrize("name", PARAMETERS)
async def test_a_parameter_without_a_value_disables_preemption(
    manual_scheduler: ManualSchedulerFactory, name: str
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        await manual.submit(a_job_spec(user="late"))
        await manual.scheduler.rebalancer.change(manual.store, {name: None})
        assert await manual.rebalance() == 0
    async with manual_scheduler(cluster=manual.cluster) as manual:
        assert await manual.rebalance() == 0
        await manual.scheduler.rebalancer.change(manual.store, {name: 0})
        assert None not in manual.scheduler.rebalancer.parameters.values()


async def test_a_parameter_that_does_not_exist_or_cannot_be_is_refused(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler() as manual:
        with pytest.raises(InvalidRequest, match="no parameter speed; it has safe_dru_threshold"):
            await manual.scheduler.rebalancer.change(manual.store, {"speed": 1})
        with pytest.raises(InvalidRequest, match="min_dru_diff must be a number of at least 0"):
            await manual.scheduler.rebalancer.change(manual.store, {"min_dru_diff": -1})


async def test_a_restart_in_the_middle_of_a_preemption_stops_the_victim_for_good(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await fill_all_hosts(manual, 2)
        late = a_job_spec(user="late")
        await manual.submit(late)
        manual.cluster.ignores_kills = True
        await manual.rebalance()
        manual.cluster.ignores_kills = False
        assert len(manual.cluster.tasks) == 2
    async with manual_scheduler(cluster=manual.cluster) as manual:
        await manual.settle()
        assert len(manual.cluster.tasks) == 1
        await manual.match()
        assert manual.users() == ["hog", "late"]
