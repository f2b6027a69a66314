"""What a pool's snapshot leaves for jobs without reserved room."""

from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model.decisions import Match
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.pool import DruMode, Pool
from cook_jupyter.scheduling.constraints.constraints import JobConstraints
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.rebalancing.preemption import ReservedRoom
from cook_jupyter.scheduling.snapshot import PoolState, Reserved, usage_by_user
from tests.scheduling.pool_snapshots import POOL, PoolWorld, an_offer


@pytest.mark.parametrize(
    ("max_cpus", "max_mem_mb", "expected"),
    [(None, None, (4.0, 800.0)), (3.0, 100.0, (3.0, 100.0)), (5.0, 900.0, (4.0, 800.0))],
)
def test_jobs_larger_than_the_largest_host_or_than_allowed_are_left_out(
    max_cpus: float | None, max_mem_mb: float | None, expected: tuple[float, float]
) -> None:
    world = PoolWorld(a=4)
    world.hosts["b"] = replace(an_offer("b", 8), room=replace(an_offer("b", 8).room, cpus=1.0))
    filters = QueueFilters(max_cpus=max_cpus, max_mem_mb=max_mem_mb)

    left = world.snapshot(filters=filters).queue_filters
    assert (left.max_cpus, left.max_mem_mb) == expected
    kept = world.snapshot(filters=filters, leaves_out_too_large=False)
    assert kept.queue_filters is filters
    assert PoolWorld().snapshot(filters=filters).queue_filters is filters, "no host is known"


# --- reserved room

ROOMS = {JobId(job): ReservedRoom("a", 0) for job in ("of ada", "also of ada", "of bob", "runs", "gone")}


def a_world() -> PoolWorld:
    """Jobs with reserved room, of which some wait."""
    world = PoolWorld(a=4)
    world.runs("runs", "a", 1)
    world.waits("of ada", "ada", 1, mem_mb=10)
    world.waits("also of ada", "ada", 2, mem_mb=20)
    world.waits("of bob", "bob", 4, mem_mb=40, gpus=1.0)
    return world


def a_state(world: PoolWorld, **fields: Any) -> PoolState:
    reserved = fields.pop("reserved", Reserved(rooms=ROOMS))
    return PoolState.of(world.snapshot(reserved=reserved, **fields), world.index)


def test_only_waiting_jobs_add_to_the_usage() -> None:
    assert usage_by_user(ROOMS, a_world().index) == {
        "ada": Usage(count=2, cpus=3.0, mem_mb=30.0),
        "bob": Usage(count=1, cpus=4.0, mem_mb=40.0, gpus=1.0),
    }


def test_jobs_with_reserved_room_use_up_the_quotas_of_their_users_as_if_they_ran() -> None:
    limits = UserLimits(quotas={"ada": Quota(count=5, cpus=10.0)})
    state = a_state(a_world(), limits=limits)
    assert state.limits.quotas["ada"].count == 3
    assert state.limits.quotas["ada"].cpus == 7.0
    assert state.limits.quotas.keys() == {"ada"}, "the quota of bob limits nothing"
    unlimited = UserLimits()
    assert a_state(a_world(), limits=unlimited).limits is unlimited


def test_jobs_with_reserved_room_use_up_quotas_and_launch_rates_of_the_pool_as_if_they_ran() -> None:
    filters = QueueFilters(
        pool_quota=Quota(cpus=10.0),
        group_quota=Quota(cpus=20.0),
        group_usage=Usage(cpus=1.0),
        tokens={"ada": 5.0, "carl": 2.0},
    )
    reserved = Reserved(rooms=ROOMS, group_usage=Usage(cpus=9.0))

    left = a_state(a_world(), filters=filters, reserved=reserved, leaves_out_too_large=False).filters

    assert left == replace(
        filters,
        pool_quota=filters.pool_quota.less(Usage(count=3, cpus=7.0, mem_mb=70.0, gpus=1.0)),
        group_usage=Usage(cpus=10.0),
        tokens={"ada": 3.0, "carl": 2.0},
    )
    assert left.pool_quota.cpus == 3.0


def test_reserved_room_of_other_pools_counts_against_the_quota_of_the_group() -> None:
    filters = QueueFilters(group_quota=Quota(cpus=20.0), group_usage=Usage(cpus=1.0))
    reserved = Reserved(group_usage=Usage(cpus=9.0))
    assert a_state(a_world(), filters=filters, reserved=reserved).filters.group_usage == Usage(cpus=10.0)
    unlimited = QueueFilters(group_usage=Usage(cpus=1.0))
    assert a_state(a_world(), filters=unlimited, reserved=reserved).filters.group_usage == Usage(cpus=1.0)


def test_where_whole_hosts_are_reserved_nothing_counts_as_if_it_ran() -> None:
    limits = UserLimits(quotas={"ada": Quota(count=5)})
    filters = QueueFilters(pool_quota=Quota(cpus=10.0), tokens={"ada": 5.0})
    reserved = Reserved(rooms=ROOMS, closes_hosts=True)

    state = a_state(a_world(), limits=limits, filters=filters, reserved=reserved, leaves_out_too_large=False)

    assert (state.limits, state.filters) == (limits, filters)


@pytest.mark.parametrize("accepted", [None, "in the group", "in another", "in none"])
def test_jobs_of_a_group_wait_for_the_one_with_reserved_room(accepted: str | None) -> None:
    world = a_world()
    jobs = {"in the group": GroupId("g"), "in another": GroupId("h"), "in none": None}
    for name, group in jobs.items():
        world.waits(name, "carl", job_constraints=JobConstraints(group=group))
    accepts = None if accepted is None else (lambda job_id: job_id == accepted)
    filters = QueueFilters(accepts=accepts)

    may_start = {
        groups: [
            name
            for name in jobs
            if a_state(world, filters=filters, reserved=Reserved(rooms=ROOMS, groups=groups)).may_start(
                JobId(name)
            )
        ]
        for groups in (frozenset[GroupId](), frozenset({GroupId("g")}))
    }

    allowed = [name for name in jobs if accepted in (None, name)]
    assert may_start[frozenset()] == allowed
    assert may_start[frozenset({GroupId("g")})] == [name for name in allowed if name != "in the group"]


# --- matches of a cycle


def test_matches_use_up_quotas_and_launch_rates() -> None:
    world = a_world()
    filters = QueueFilters(pool_quota=Quota(count=9), group_usage=Usage(cpus=1.0), tokens={"ada": 5.0})
    limits = UserLimits(quotas={"ada": Quota(cpus=9.0), "carl": Quota(cpus=7.0)})
    state = a_state(world, limits=limits, filters=filters, reserved=Reserved())

    matches = [Match(job_id=JobId(job), host="a", cluster="c") for job in ("of ada", "of bob")]
    after = state.with_matches(matches)

    assert state.with_matches([]) is state
    assert after.limits.quota("ada").cpus == 8.0
    assert after.limits.quota("carl") == limits.quota("carl")
    assert after.filters.pool_quota.count == 7
    assert after.filters.group_usage == Usage(count=2, cpus=6.0, mem_mb=50.0, gpus=1.0)
    assert after.filters.tokens == {"ada": 4.0}
    assert state.with_matches(matches[1:]).limits.quota("bob") == Quota()


# --- facts of the pool


@pytest.mark.parametrize("mode", DruMode)
def test_a_state_has_the_name_and_the_mode_of_its_pool(mode: DruMode) -> None:
    state = a_state(a_world(), pool=Pool(name=POOL, dru_mode=mode))
    assert (state.name, state.mode) == (POOL, mode)


@pytest.mark.parametrize("until_ms", [None, 5000])
def test_requests_name_user_and_run_time_where_any_host_is_limited(until_ms: int | None) -> None:
    world = a_world()
    capacity = PoolCapacity.of([an_offer("a", 4, until_ms=until_ms)])
    request = a_state(world, capacity=capacity).request(JobId("of bob"))
    assert (request.job_id, request.cpus, request.gpus) == ("of bob", 4.0, 1.0)
    assert request.job_constraints.user == (None if until_ms is None else "bob")
