"""Running tasks give way, live: who is stopped, who gets the room, and what becomes of the stopped one."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import Pool
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
from tests.service.conftest import HandTurned, ManualScheduler


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Either memory of a scheduler: a decision must survive both."""
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.sqlite")


async def fill_all_hosts(hand: ManualScheduler, number: int, **named: object) -> list[JobSpec]:
    """Let user hog fill the cluster with jobs of one cpu."""
    jobs = [a_job_spec(user="hog", **named) for _ in range(number)]
    for job in jobs:  # one after the other, so that each is younger than the one before
        await hand.submit(job)
        await hand.match()
        hand.clock.advance(1000)
    assert len(hand.cluster.tasks) == number
    return jobs


async def test_a_victim_gives_way_waits_again_and_loses_no_attempt(by_hand: HandTurned) -> None:
    async with by_hand(cpus=2) as hand:
        _, younger = await fill_all_hosts(hand, 2, max_retries=1, priority=60)
        late = a_job_spec(user="late")
        await hand.submit(late)

        assert await hand.rebalance() == 1
        await hand.match()

        assert hand.users() == ["hog", "late"]
        victim = await hand.job(younger)
        (ended,) = victim.instances
        assert (victim.state, hand.scheduler.attempts(victim)) == (JobState.WAITING, 0)
        assert (ended.status, ended.reason, ended.preempted) == (InstanceStatus.FAILED, PREEMPTED, True)
        assert ended.preempted_for == "late"
        assert ended.ended_ms is not None
        assert (victim.spec.priority, victim.seq) == (60, 2)

        hand.cluster.finish(hand.task_of(late))
        await hand.settle()
        await hand.match()
        again = await hand.job(younger)
        assert (again.state, len(again.instances)) == (JobState.RUNNING, 2)


async def test_what_the_cluster_says_late_of_a_victim_changes_nothing(by_hand: HandTurned) -> None:
    async with by_hand(cpus=2) as hand:
        _, victim = await fill_all_hosts(hand, 2)
        await hand.submit(a_job_spec(user="late"))
        await hand.rebalance()

        assert len(hand.cluster.tasks) == 1, "it has told of a kill by a user"
        assert (await hand.job(victim)).instances[-1].reason == PREEMPTED
        assert not hand.scheduler.kills, "the end was heard, so no kill is repeated"


async def test_the_freed_host_is_kept_for_whom_it_was_freed(by_hand: HandTurned) -> None:
    settings = Settings(rebalancer=RebalancerSettings(min_dru_diff=0.25))
    async with by_hand(settings, cpus=4) as hand:
        await fill_all_hosts(hand, 4)
        large = a_job_spec(user="late", cpus=2)
        await hand.submit(large)
        assert await hand.rebalance() == 2
        assert hand.scheduler.queues.reservations.for_pool("default") == {large.job_id: "h1"}

        # They stand before the one that was freed for, and would take the room.
        await hand.submit(*(a_job_spec(user="third", priority=1000) for _ in range(2)))
        await hand.match()

        assert hand.where()[large.job_id] == "h1"
        assert hand.users() == ["hog", "hog", "late"]
        assert hand.scheduler.queues.reservations.for_pool("default") == {}


@pytest.mark.parametrize(("reserve", "started"), [("room", 1), ("host", 0)])
async def test_the_rest_of_the_host_is_left_to_others_unless_told_to_be_like_cook(
    by_hand: HandTurned, reserve: Literal["room", "host"], started: int
) -> None:
    async with by_hand(Settings(rebalancer=RebalancerSettings(reserve=reserve)), cpus=4) as hand:
        jobs = await fill_all_hosts(hand, 4)
        late, others = a_job_spec(user="late"), [a_job_spec(user="third") for _ in range(2)]
        await hand.submit(late)
        hand.cluster.deaf = True
        assert await hand.rebalance() == 1  # and the victim takes its time
        hand.cluster.finish(hand.task_of(jobs[0]))
        await hand.settle()
        await hand.submit(*others)
        await hand.match()
        assert hand.users().count("late") == 1, "the first room that comes is for the job in need"
        hand.cluster.finish(hand.task_of(jobs[1]))
        await hand.settle()
        await hand.match()
        assert hand.users().count("third") == 1

        # A job that needs more than has come free so far keeps that, and nothing beyond.
        large = a_job_spec(user="late", cpus=3)
        hand.scheduler.queues.reserve("default", {large.job_id: "h1"}, now_ms=hand.clock.now_ms())
        await hand.submit(large)
        hand.cluster.finish(hand.task_of(late))
        await hand.settle()
        assert await hand.match() == 0
        hand.scheduler.queues.reservations.record_victims(
            {large.job_id: {"still ending": Resources(cpus=3, mem_mb=1e6)}}
        )
        hand.scheduler.kills.set_cluster("still ending", hand.cluster.name)
        await hand.scheduler.kills.send(["still ending"])
        assert await hand.match() == started


async def test_a_reservation_ends_with_the_job_that_it_was_for(by_hand: HandTurned) -> None:
    async with by_hand(cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        late, other = a_job_spec(user="late"), a_job_spec(user="third")
        await hand.submit(late)
        await hand.rebalance()
        assert hand.scheduler.queues.reservations.for_pool("default") == {late.job_id: "h1"}

        await hand.scheduler.kill_jobs([late.job_id])

        assert hand.scheduler.queues.reservations.for_pool("default") == {}
        await hand.submit(other)
        await hand.match()
        assert hand.users() == ["hog", "third"]


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
    by_hand: HandTurned, settings: RebalancerSettings
) -> None:
    async with by_hand(Settings(rebalancer=settings), cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        await hand.submit(a_job_spec(user="late"))

        assert await hand.rebalance() == 0
        assert hand.users() == ["hog", "hog"]


async def test_no_more_decisions_are_made_than_allowed(by_hand: HandTurned) -> None:
    settings = Settings(rebalancer=RebalancerSettings(max_preemption=2))
    async with by_hand(settings, cpus=8) as hand:
        await fill_all_hosts(hand, 8)
        await hand.submit(*(a_job_spec(user="late") for _ in range(8)))

        assert await hand.rebalance() == 2


async def test_two_users_end_up_with_equal_parts_of_a_machine(by_hand: HandTurned) -> None:
    async with by_hand(cpus=8) as hand:
        await fill_all_hosts(hand, 8)
        await hand.submit(*(a_job_spec(user="late") for _ in range(8)))
        for _ in range(3):
            await hand.rebalance()
            await hand.match()

        assert (hand.users().count("late"), hand.users().count("hog")) == (4, 4)
        assert await hand.rebalance() == 0


async def test_a_user_alone_is_never_stopped_for_more_of_the_same(by_hand: HandTurned) -> None:
    async with by_hand(cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        await hand.submit(*(a_job_spec(user="hog") for _ in range(5)))

        assert await hand.rebalance() == 0


async def test_a_share_that_is_set_protects_what_is_within_it(by_hand: HandTurned) -> None:
    async with by_hand(cpus=4) as hand:
        await hand.scheduler.set_limits(LimitKind.SHARE, "hog", "", {"cpus": 3, "mem": 4096}, "test")
        await hand.scheduler.set_limits(LimitKind.SHARE, "late", "", {"cpus": 1, "mem": 4096}, "test")
        await fill_all_hosts(hand, 4)
        await hand.submit(*(a_job_spec(user="late", cpus=0.5) for _ in range(8)))
        for _ in range(4):
            await hand.rebalance()
            await hand.match()

        assert hand.users().count("hog") == 3


class Interrupting(MemoryStore):
    """Memory in which something happens just before it is asked for jobs."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            await act()
        return await super().jobs(job_ids)


async def test_nobody_is_stopped_for_a_job_that_is_gone_meanwhile(by_hand: HandTurned) -> None:
    memory = Interrupting()
    async with by_hand(cpus=2, memory=memory) as hand:
        await fill_all_hosts(hand, 2)
        late = a_job_spec(user="late")
        await hand.submit(late)
        memory.meanwhile = lambda: hand.scheduler.kill_jobs([late.job_id])

        assert await hand.rebalance() == 0
        assert memory.meanwhile is None
        assert hand.users() == ["hog", "hog"]
        assert hand.scheduler.queues.reservations.for_pool("default") == {}


async def test_a_victim_that_has_ended_by_itself_meanwhile_ended_well(by_hand: HandTurned) -> None:
    memory = Interrupting()
    async with by_hand(cpus=2, memory=memory) as hand:
        _, younger = await fill_all_hosts(hand, 2)
        late = a_job_spec(user="late")
        await hand.submit(late)

        async def ends() -> None:
            hand.cluster.finish(hand.task_of(younger))
            await hand.settle()

        memory.meanwhile = ends
        assert await hand.rebalance() == 0
        await hand.match()
        assert (await hand.job(younger)).outcome == "success"
        assert hand.users() == ["hog", "late"]


async def test_nobody_else_is_stopped_while_the_first_victim_still_dies(by_hand: HandTurned) -> None:
    async with by_hand(cpus=4) as hand:
        await fill_all_hosts(hand, 4)
        late = a_job_spec(user="late", cpus=1)
        await hand.submit(late)
        hand.cluster.deaf = True
        assert await hand.rebalance() == 1
        assert await hand.rebalance() == 0
        assert hand.scheduler.queues.reservations.for_pool("default") == {late.job_id: "h1"}

        hand.cluster.deaf = False
        await hand.scheduler.kills.repeat()
        await hand.settle()
        await hand.match()
        assert hand.users() == ["hog", "hog", "hog", "late"]


async def test_each_pool_keeps_its_own_reservations_unless_told_to_be_like_cook(by_hand: HandTurned) -> None:
    pools = (Pool(name="default"), Pool(name="other"))
    ours, cooks = RebalancerSettings(), RebalancerSettings(reservations="shared")
    for rebalancer, left in ((ours, {"one": "h1"}), (cooks, {})):
        settings = Settings(pools=pools, rebalancer=rebalancer)
        async with by_hand(settings, pools=("default", "other")) as hand:
            hand.scheduler.queues.reserve("default", {"one": "h1"}, now_ms=hand.clock.now_ms())
            hand.scheduler.queues.reserve("other", {"two": "h1"}, now_ms=hand.clock.now_ms())
            assert hand.scheduler.queues.reservations.for_pool("default") == left


async def test_a_host_that_is_kept_in_one_pool_is_kept_from_the_others_too(by_hand: HandTurned) -> None:
    pools = (Pool(name="default"), Pool(name="other"))
    async with by_hand(Settings(pools=pools), pools=("default", "other"), cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        late, elsewhere = a_job_spec(user="late"), a_job_spec(user="third", pool="other")
        await hand.submit(late)
        await hand.rebalance()
        await hand.submit(elsewhere)
        await run_match_cycle(hand.scheduler, "other")
        assert hand.users() == ["hog"]

        await hand.match()
        assert hand.users() == ["hog", "late"]


async def test_parameters_set_while_it_runs_hold_at_once_and_after_a_restart(by_hand: HandTurned) -> None:
    async with by_hand(cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        await hand.submit(a_job_spec(user="late"))
        await hand.scheduler.rebalancer.change(hand.store, {"max_preemption": 0})
        assert await hand.rebalance() == 0
    async with by_hand(cluster=hand.cluster) as hand:
        assert hand.scheduler.rebalancer.settings.max_preemption == 0
        assert await hand.rebalance() == 0
        await hand.scheduler.rebalancer.change(hand.store, {"max_preemption": 100})
        assert await hand.rebalance() == 1


@pytest.mark.parametrize("name", PARAMETERS)
async def test_a_parameter_without_a_value_disables_preemption(by_hand: HandTurned, name: str) -> None:
    async with by_hand(cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        await hand.submit(a_job_spec(user="late"))
        await hand.scheduler.rebalancer.change(hand.store, {name: None})
        assert await hand.rebalance() == 0
    async with by_hand(cluster=hand.cluster) as hand:
        assert await hand.rebalance() == 0
        await hand.scheduler.rebalancer.change(hand.store, {name: 0})
        assert None not in hand.scheduler.rebalancer.parameters.values()


async def test_a_parameter_that_does_not_exist_or_cannot_be_is_refused(by_hand: HandTurned) -> None:
    async with by_hand() as hand:
        with pytest.raises(InvalidRequest, match="no parameter speed; it has safe_dru_threshold"):
            await hand.scheduler.rebalancer.change(hand.store, {"speed": 1})
        with pytest.raises(InvalidRequest, match="min_dru_diff must be a number of at least 0"):
            await hand.scheduler.rebalancer.change(hand.store, {"min_dru_diff": -1})


async def test_a_restart_in_the_middle_of_a_preemption_stops_the_victim_for_good(
    by_hand: HandTurned,
) -> None:
    async with by_hand(cpus=2) as hand:
        await fill_all_hosts(hand, 2)
        late = a_job_spec(user="late")
        await hand.submit(late)
        hand.cluster.deaf = True
        await hand.rebalance()
        hand.cluster.deaf = False
        assert len(hand.cluster.tasks) == 2
    async with by_hand(cluster=hand.cluster) as hand:
        await hand.settle()
        assert len(hand.cluster.tasks) == 1
        await hand.match()
        assert hand.users() == ["hog", "late"]
