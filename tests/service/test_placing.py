"""Placement in a running scheduler: groups apart or together, and away from hosts where a job has failed."""

from collections import Counter

import pytest

from cook_jupyter.model.job import Group
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import ConstraintRewrite
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import PlacementSettings, PoolConstraints
from cook_jupyter.service.state.group_registry import GroupRegistry
from tests.builders import a_group, a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory, SlowKillCluster


def spread(attribute: str = "HOSTNAME", kind: str = "balanced", minimum: int = 3) -> Group:
    parameters = {"attribute": attribute, "minimum": minimum}
    return a_group(host_placement={"type": kind, "parameters": parameters})


def apart() -> Group:
    return a_group(host_placement={"type": "unique"})


def hosts_of(manual: ManualScheduler, group: Group) -> Counter[str]:
    return Counter(
        task.instance.host for task in manual.cluster.tasks.values() if task.spec.group == group.group_id
    )


async def test_jobs_of_a_unique_group_run_on_hosts_of_their_own(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    group = apart()
    async with manual_scheduler(hosts=3, cpus=8) as manual:
        jobs = [a_job_spec(group=group.group_id) for _ in range(4)]
        await manual.submit(*jobs, groups=[group])
        await manual.match()

        assert sorted(hosts_of(manual, group).values()) == [1, 1, 1]
        (left,) = [job for job in jobs if job.job_id not in manual.where()]
        told = " ".join(await manual.scheduler.explain(left.job_id))
        assert "3 hosts with another job of its group" in told


TWO_POOLS = Settings(pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("other"))))


async def test_a_unique_group_stays_apart_though_its_jobs_are_in_several_pools(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    group = apart()
    async with manual_scheduler(TWO_POOLS, hosts=2, cpus=8, pools=("default", "other")) as manual:
        pools = ("default", "other", "default", "other")
        await manual.submit(*(a_job_spec(group=group.group_id, pool=pool) for pool in pools), groups=[group])
        await manual.match()
        await manual.match()

        assert hosts_of(manual, group) == {"h1": 1, "h2": 1}


@pytest.mark.parametrize("kind", ["balanced", "attribute-equals"])
async def test_a_group_is_placed_as_a_whole_though_its_jobs_are_in_several_pools(
    manual_scheduler: ManualSchedulerFactory, kind: str
) -> None:
    group = spread(kind=kind, minimum=2)
    first = a_job_spec(group=group.group_id, constraints=(("HOSTNAME", "EQUALS", "h1"),))
    fuller = "h1" if kind == "balanced" else "h2"  # where the other job would go by itself
    filler = a_job_spec(cpus=4, constraints=(("HOSTNAME", "EQUALS", fuller),))
    async with manual_scheduler(TWO_POOLS, hosts=2, cpus=8, pools=("default", "other")) as manual:
        await manual.submit(first, filler, groups=[group])
        await manual.match()
        second = a_job_spec(group=group.group_id, pool="other")
        await manual.scheduler.submit([second], override_group_immutability=True)
        await manual.match()

        assert manual.where()[second.job_id] == ("h2" if kind == "balanced" else "h1")


async def test_a_unique_group_stays_apart_after_a_restart(manual_scheduler: ManualSchedulerFactory) -> None:
    group = apart()
    async with manual_scheduler(hosts=3, cpus=8) as manual:
        await manual.submit(a_job_spec(group=group.group_id), groups=[group])
        await manual.match()
        (first,) = hosts_of(manual, group)
        later = [a_job_spec(group=group.group_id) for _ in range(2)]
        await manual.scheduler.submit(later, override_group_immutability=True)
    async with manual_scheduler(cluster=manual.cluster) as manual:
        await manual.match()

        assert hosts_of(manual, group) == {"h1": 1, "h2": 1, "h3": 1}
        assert first in hosts_of(manual, group)


async def test_a_balanced_group_is_spread_evenly(manual_scheduler: ManualSchedulerFactory) -> None:
    group = spread()
    async with manual_scheduler(hosts=3, cpus=8) as manual:
        await manual.submit(*(a_job_spec(group=group.group_id) for _ in range(6)), groups=[group])
        await manual.match()

        assert hosts_of(manual, group) == {"h1": 2, "h2": 2, "h3": 2}


async def test_a_group_that_wants_one_host_gets_one(manual_scheduler: ManualSchedulerFactory) -> None:
    group = spread(kind="attribute-equals")
    async with manual_scheduler(hosts=3, cpus=2) as manual:
        await manual.submit(a_job_spec(group=group.group_id), groups=[group])
        await manual.match()
        (home,) = hosts_of(manual, group)
        jobs = [a_job_spec(group=group.group_id) for _ in range(3)]
        await manual.scheduler.submit(jobs, override_group_immutability=True)
        await manual.match()

        assert hosts_of(manual, group) == {home: 2}  # there is no room for more


async def test_a_group_without_wishes_is_packed(manual_scheduler: ManualSchedulerFactory) -> None:
    group = a_group()
    async with manual_scheduler(hosts=3, cpus=8) as manual:
        await manual.submit(*(a_job_spec(group=group.group_id) for _ in range(6)), groups=[group])
        await manual.match()

        assert hosts_of(manual, group) == {"h1": 6}


async def test_a_refused_group_does_not_place_the_one_that_is_stored(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    group = apart()
    async with manual_scheduler(hosts=1, cpus=8) as manual:
        plain = a_group(group_id=group.group_id)
        await manual.submit(a_job_spec(group=group.group_id), groups=[plain])
        with pytest.raises(Exception, match=group.group_id):
            await manual.submit(a_job_spec(group=group.group_id), groups=[group])
        await manual.scheduler.submit([a_job_spec(group=group.group_id)], override_group_immutability=True)
        await manual.match()

        assert hosts_of(manual, group) == {"h1": 2}


async def failing(manual: ManualScheduler, times: int, **fields: object) -> list[str]:
    """Let a job fail several times; return the hosts on which it ran."""
    job = a_job_spec(max_retries=10, **fields)
    await manual.submit(job)
    ran = []
    for _ in range(times):
        await manual.match()
        if job.job_id not in manual.where():
            break
        ran.append(manual.where()[job.job_id])
        manual.cluster.finish(manual.task_of(job), exit_code=1)
        await manual.settle()
    return ran


async def test_a_job_is_tried_where_it_has_not_failed_yet(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(hosts=3) as manual:
        assert sorted(await failing(manual, 3)) == ["h1", "h2", "h3"]


async def test_a_job_that_failed_everywhere_is_tried_again_anywhere(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(hosts=2) as manual:
        ran = await failing(manual, 5)
        assert len(ran) == 5
        assert set(ran[:2]) == {"h1", "h2"}


async def test_a_job_that_failed_on_every_host_that_could_run_it_is_tried_there_again(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    sizes = {"small": Resources(cpus=1, mem_mb=4096), "large": Resources(cpus=4, mem_mb=4096)}
    async with manual_scheduler(cluster=SlowKillCluster(sizes)) as manual:
        assert await failing(manual, 3, cpus=3.0) == ["large"] * 3


async def test_a_job_is_tried_again_on_the_only_host_with_the_attribute_it_demands(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(hosts=2) as manual:
        assert await failing(manual, 3, constraints=(("HOSTNAME", "EQUALS", "h2"),)) == ["h2"] * 3


async def test_on_a_single_host_a_job_is_tried_again_there(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(hosts=1) as manual:
        assert await failing(manual, 3) == ["h1"] * 3


async def test_as_in_cook_a_job_that_failed_everywhere_waits(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(placement=PlacementSettings(avoid_failed_hosts="always"))
    async with manual_scheduler(settings, hosts=2) as manual:
        assert sorted(await failing(manual, 5)) == ["h1", "h2"]


async def test_where_a_job_failed_is_remembered_across_a_restart(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    job = a_job_spec(max_retries=3)
    async with manual_scheduler(hosts=2) as manual:
        await manual.submit(job)
        await manual.match()
        first = manual.where()[job.job_id]
        manual.cluster.finish(manual.task_of(job), exit_code=1)
        await manual.settle()
    async with manual_scheduler(cluster=manual.cluster) as manual:
        await manual.match()
        assert manual.where()[job.job_id] != first


async def test_a_preempted_job_may_go_back_to_where_it_was(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(placement=PlacementSettings(avoid_failed_hosts="always"))
    async with manual_scheduler(settings, hosts=1) as manual:
        jobs = [a_job_spec(user="hog") for _ in range(2)]
        await manual.submit(*jobs)
        await manual.match()
        late = a_job_spec(user="late")
        await manual.submit(late)
        assert await manual.rebalance() == 1
        await manual.match()
        manual.cluster.finish(manual.task_of(late))
        await manual.settle()
        await manual.match()

        assert set(manual.where()) == {job.job_id for job in jobs}


async def test_a_job_that_failed_on_all_hosts_goes_to_one_that_comes(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(placement=PlacementSettings(avoid_failed_hosts="always"))
    async with manual_scheduler(settings, hosts=1) as manual:
        job = a_job_spec(max_retries=3)
        await manual.submit(job)
        await manual.match()
        manual.cluster.finish(manual.task_of(job), exit_code=1)
        await manual.settle()
        assert await manual.match() == 0
        two = {host: Resources(cpus=2, mem_mb=4096) for host in ("h1", "h2")}
    async with manual_scheduler(settings, cluster=SlowKillCluster(two)) as manual:
        assert await manual.match() == 1
        assert manual.where() == {job.job_id: "h2"}


async def test_no_host_runs_more_tasks_than_it_may(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(placement=PlacementSettings(max_tasks_per_host=2))
    async with manual_scheduler(settings, hosts=2, cpus=8) as manual:
        await manual.submit(*(a_job_spec() for _ in range(6)))
        await manual.match()

        assert Counter(manual.where().values()) == {"h1": 2, "h2": 2}


async def test_what_a_pool_demands_holds_for_jobs_that_do_not_say_otherwise(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    third = PoolConstraints(pool_regex="^default$", constraints=(("HOSTNAME", "h3"),))
    other = PoolConstraints(pool_regex="other", constraints=(("HOSTNAME", "h1"),))
    settings = Settings(placement=PlacementSettings(default_constraints=(other, third)))
    async with manual_scheduler(hosts=3, settings=settings) as manual:
        meek, headstrong = a_job_spec(), a_job_spec(constraints=(("HOSTNAME", "EQUALS", "h2"),))
        await manual.submit(meek, headstrong)
        await manual.match()

        assert manual.where() == {meek.job_id: "h3", headstrong.job_id: "h2"}


async def test_a_name_that_hosts_bear_no_more_is_rewritten(manual_scheduler: ManualSchedulerFactory) -> None:
    renamed = {"host": ConstraintRewrite(attribute="HOSTNAME", patterns=(("^machine-(.*)", "h$1"),))}
    settings = Settings(placement=PlacementSettings(rewritings=renamed))
    async with manual_scheduler(hosts=3, settings=settings) as manual:
        job = a_job_spec(constraints=(("host", "EQUALS", "machine-2"),))
        await manual.submit(job)
        await manual.match()

        assert manual.where() == {job.job_id: "h2"}


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
