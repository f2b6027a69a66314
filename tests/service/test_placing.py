"""Where jobs go, live: apart from their group, beside it, away from where they failed."""

from collections import Counter

import pytest

from cook_jupyter.model.job import Group
from cook_jupyter.model.pool import Pool
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import ConstraintRewrite
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import PlacementSettings, PoolConstraints
from cook_jupyter.service.state.group_registry import GroupRegistry
from tests.builders import a_group, a_job_spec
from tests.service.conftest import HandTurned, ManualScheduler, SlowToEnd


def spread(attribute: str = "HOSTNAME", kind: str = "balanced", minimum: int = 3) -> Group:
    parameters = {"attribute": attribute, "minimum": minimum}
    return a_group(host_placement={"type": kind, "parameters": parameters})


def apart() -> Group:
    return a_group(host_placement={"type": "unique"})


def hosts_of(hand: ManualScheduler, group: Group) -> Counter[str]:
    return Counter(
        task.instance.host for task in hand.cluster.tasks.values() if task.spec.group == group.group_id
    )


async def test_jobs_of_a_unique_group_run_on_hosts_of_their_own(by_hand: HandTurned) -> None:
    group = apart()
    async with by_hand(hosts=3, cpus=8) as hand:
        jobs = [a_job_spec(group=group.group_id) for _ in range(4)]
        await hand.submit(*jobs, groups=[group])
        await hand.match()

        assert sorted(hosts_of(hand, group).values()) == [1, 1, 1]
        (left,) = [job for job in jobs if job.job_id not in hand.where()]
        told = " ".join(await hand.scheduler.explain(left.job_id))
        assert "3 hosts with another job of its group" in told


TWO_POOLS = Settings(pools=(Pool(name="default"), Pool(name="other")))


async def test_a_unique_group_stays_apart_though_its_jobs_are_in_several_pools(by_hand: HandTurned) -> None:
    group = apart()
    async with by_hand(TWO_POOLS, hosts=2, cpus=8, pools=("default", "other")) as hand:
        pools = ("default", "other", "default", "other")
        await hand.submit(*(a_job_spec(group=group.group_id, pool=pool) for pool in pools), groups=[group])
        await hand.match()
        await hand.match()

        assert hosts_of(hand, group) == {"h1": 1, "h2": 1}


@pytest.mark.parametrize("kind", ["balanced", "attribute-equals"])
async def test_a_group_is_placed_as_a_whole_though_its_jobs_are_in_several_pools(
    by_hand: HandTurned, kind: str
) -> None:
    group = spread(kind=kind, minimum=2)
    first = a_job_spec(group=group.group_id, constraints=(("HOSTNAME", "EQUALS", "h1"),))
    fuller = "h1" if kind == "balanced" else "h2"  # where the other job would go by itself
    filler = a_job_spec(cpus=4, constraints=(("HOSTNAME", "EQUALS", fuller),))
    async with by_hand(TWO_POOLS, hosts=2, cpus=8, pools=("default", "other")) as hand:
        await hand.submit(first, filler, groups=[group])
        await hand.match()
        second = a_job_spec(group=group.group_id, pool="other")
        await hand.scheduler.submit([second], override_group_immutability=True)
        await hand.match()

        assert hand.where()[second.job_id] == ("h2" if kind == "balanced" else "h1")


async def test_a_unique_group_stays_apart_after_a_restart(by_hand: HandTurned) -> None:
    group = apart()
    async with by_hand(hosts=3, cpus=8) as hand:
        await hand.submit(a_job_spec(group=group.group_id), groups=[group])
        await hand.match()
        (first,) = hosts_of(hand, group)
        later = [a_job_spec(group=group.group_id) for _ in range(2)]
        await hand.scheduler.submit(later, override_group_immutability=True)
    async with by_hand(cluster=hand.cluster) as hand:
        await hand.match()

        assert hosts_of(hand, group) == {"h1": 1, "h2": 1, "h3": 1}
        assert first in hosts_of(hand, group)


async def test_a_balanced_group_is_spread_evenly(by_hand: HandTurned) -> None:
    group = spread()
    async with by_hand(hosts=3, cpus=8) as hand:
        await hand.submit(*(a_job_spec(group=group.group_id) for _ in range(6)), groups=[group])
        await hand.match()

        assert hosts_of(hand, group) == {"h1": 2, "h2": 2, "h3": 2}


async def test_a_group_that_wants_one_host_gets_one(by_hand: HandTurned) -> None:
    group = spread(kind="attribute-equals")
    async with by_hand(hosts=3, cpus=2) as hand:
        await hand.submit(a_job_spec(group=group.group_id), groups=[group])
        await hand.match()
        (home,) = hosts_of(hand, group)
        jobs = [a_job_spec(group=group.group_id) for _ in range(3)]
        await hand.scheduler.submit(jobs, override_group_immutability=True)
        await hand.match()

        assert hosts_of(hand, group) == {home: 2}  # there is no room for more


async def test_a_group_without_wishes_is_packed(by_hand: HandTurned) -> None:
    group = a_group()
    async with by_hand(hosts=3, cpus=8) as hand:
        await hand.submit(*(a_job_spec(group=group.group_id) for _ in range(6)), groups=[group])
        await hand.match()

        assert hosts_of(hand, group) == {"h1": 6}


async def test_a_refused_group_does_not_place_the_one_that_is_stored(by_hand: HandTurned) -> None:
    group = apart()
    async with by_hand(hosts=1, cpus=8) as hand:
        plain = a_group(group_id=group.group_id)
        await hand.submit(a_job_spec(group=group.group_id), groups=[plain])
        with pytest.raises(Exception, match=group.group_id):
            await hand.submit(a_job_spec(group=group.group_id), groups=[group])
        await hand.scheduler.submit([a_job_spec(group=group.group_id)], override_group_immutability=True)
        await hand.match()

        assert hosts_of(hand, group) == {"h1": 2}


async def failing(hand: ManualScheduler, times: int, **named: object) -> list[str]:
    """Let a job fail some times; return where it ran."""
    job = a_job_spec(max_retries=10, **named)
    await hand.submit(job)
    ran = []
    for _ in range(times):
        await hand.match()
        if job.job_id not in hand.where():
            break
        ran.append(hand.where()[job.job_id])
        hand.cluster.finish(hand.task_of(job), exit_code=1)
        await hand.settle()
    return ran


async def test_a_job_is_tried_where_it_has_not_failed_yet(by_hand: HandTurned) -> None:
    async with by_hand(hosts=3) as hand:
        assert sorted(await failing(hand, 3)) == ["h1", "h2", "h3"]


async def test_a_job_that_failed_everywhere_is_tried_again_anywhere(by_hand: HandTurned) -> None:
    async with by_hand(hosts=2) as hand:
        ran = await failing(hand, 5)
        assert len(ran) == 5
        assert set(ran[:2]) == {"h1", "h2"}


async def test_a_job_that_failed_on_every_host_that_could_run_it_is_tried_there_again(
    by_hand: HandTurned,
) -> None:
    sizes = {"small": Resources(cpus=1, mem_mb=4096), "large": Resources(cpus=4, mem_mb=4096)}
    async with by_hand(cluster=SlowToEnd(sizes)) as hand:
        assert await failing(hand, 3, cpus=3.0) == ["large"] * 3


async def test_a_job_is_tried_again_on_the_only_host_with_the_attribute_it_demands(
    by_hand: HandTurned,
) -> None:
    async with by_hand(hosts=2) as hand:
        assert await failing(hand, 3, constraints=(("HOSTNAME", "EQUALS", "h2"),)) == ["h2"] * 3


async def test_on_a_single_host_a_job_is_tried_again_there(by_hand: HandTurned) -> None:
    async with by_hand(hosts=1) as hand:
        assert await failing(hand, 3) == ["h1"] * 3


async def test_as_in_cook_a_job_that_failed_everywhere_waits(by_hand: HandTurned) -> None:
    settings = Settings(placement=PlacementSettings(avoid_failed_hosts="always"))
    async with by_hand(settings, hosts=2) as hand:
        assert sorted(await failing(hand, 5)) == ["h1", "h2"]


async def test_where_a_job_failed_is_remembered_across_a_restart(by_hand: HandTurned) -> None:
    job = a_job_spec(max_retries=3)
    async with by_hand(hosts=2) as hand:
        await hand.submit(job)
        await hand.match()
        first = hand.where()[job.job_id]
        hand.cluster.finish(hand.task_of(job), exit_code=1)
        await hand.settle()
    async with by_hand(cluster=hand.cluster) as hand:
        await hand.match()
        assert hand.where()[job.job_id] != first


async def test_a_preempted_job_may_go_back_to_where_it_was(by_hand: HandTurned) -> None:
    settings = Settings(placement=PlacementSettings(avoid_failed_hosts="always"))
    async with by_hand(settings, hosts=1) as hand:
        jobs = [a_job_spec(user="hog") for _ in range(2)]
        await hand.submit(*jobs)
        await hand.match()
        late = a_job_spec(user="late")
        await hand.submit(late)
        assert await hand.rebalance() == 1
        await hand.match()
        hand.cluster.finish(hand.task_of(late))
        await hand.settle()
        await hand.match()

        assert set(hand.where()) == {job.job_id for job in jobs}


async def test_a_job_that_failed_on_all_hosts_goes_to_one_that_comes(by_hand: HandTurned) -> None:
    settings = Settings(placement=PlacementSettings(avoid_failed_hosts="always"))
    async with by_hand(settings, hosts=1) as hand:
        job = a_job_spec(max_retries=3)
        await hand.submit(job)
        await hand.match()
        hand.cluster.finish(hand.task_of(job), exit_code=1)
        await hand.settle()
        assert await hand.match() == 0
        two = {host: Resources(cpus=2, mem_mb=4096) for host in ("h1", "h2")}
    async with by_hand(settings, cluster=SlowToEnd(two)) as hand:
        assert await hand.match() == 1
        assert hand.where() == {job.job_id: "h2"}


async def test_no_host_runs_more_tasks_than_it_may(by_hand: HandTurned) -> None:
    settings = Settings(placement=PlacementSettings(max_tasks_per_host=2))
    async with by_hand(settings, hosts=2, cpus=8) as hand:
        await hand.submit(*(a_job_spec() for _ in range(6)))
        await hand.match()

        assert Counter(hand.where().values()) == {"h1": 2, "h2": 2}


async def test_what_a_pool_demands_holds_for_jobs_that_do_not_say_otherwise(by_hand: HandTurned) -> None:
    third = PoolConstraints(pool_regex="^default$", constraints=(("HOSTNAME", "h3"),))
    other = PoolConstraints(pool_regex="other", constraints=(("HOSTNAME", "h1"),))
    settings = Settings(placement=PlacementSettings(default_constraints=(other, third)))
    async with by_hand(hosts=3, settings=settings) as hand:
        meek, headstrong = a_job_spec(), a_job_spec(constraints=(("HOSTNAME", "EQUALS", "h2"),))
        await hand.submit(meek, headstrong)
        await hand.match()

        assert hand.where() == {meek.job_id: "h3", headstrong.job_id: "h2"}


async def test_a_name_that_hosts_bear_no_more_is_rewritten(by_hand: HandTurned) -> None:
    renamed = {"host": ConstraintRewrite(attribute="HOSTNAME", patterns=(("^machine-(.*)", "h$1"),))}
    settings = Settings(placement=PlacementSettings(rewritings=renamed))
    async with by_hand(hosts=3, settings=settings) as hand:
        job = a_job_spec(constraints=(("host", "EQUALS", "machine-2"),))
        await hand.submit(job)
        await hand.match()

        assert hand.where() == {job.job_id: "h2"}


def test_plain_groups_are_forgotten_in_the_end_and_those_that_want_something_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cook_jupyter.service.state.group_registry.MAX_PLAIN_GROUPS", 10)
    placing = GroupRegistry(PlacementSettings())
    special = [apart(), a_group(straggler_handling={"type": "quantile-deviation"})]
    plain = [a_group() for _ in range(25)]
    for group in [*special, *plain]:
        assert placing.add([group]) == [group.group_id]
        assert placing.add([group]) == []

    forgotten = placing.unknown([group.group_id for group in [*special, *plain]])

    assert forgotten == [group.group_id for group in plain[:15]]
