"""Preemption comes to an end: random pools with stable demand, by the decisions alone and by a scheduler."""

import asyncio
from dataclasses import replace

import pytest

from cook_jupyter.model.limits import Share, UserLimits
from cook_jupyter.model.pool import DEFAULT_POOL, DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.settings.tables import HeadRoomSettings
from tests.service.settling import (
    SETTLED_AFTER,
    Tally,
    World,
    WorldJob,
    a_world,
    rebalancer_of,
    run_decisions,
    run_service,
    settings_of,
)

NOTHING_KEPT = HeadRoomSettings.cook()


def tally(seeds: range) -> Tally:
    counted = Tally()
    for seed in seeds:
        world = a_world(seed)
        counted.add(seed, world, run_decisions(world, settings_of(world)))
    return counted


def test_nothing_is_preempted_after_five_cycles_of_stable_demand() -> None:
    counted = tally(range(300))

    assert counted.unsettled == []
    assert counted.preemptions > 100


@pytest.mark.parametrize("seed", [16381, 16880])
def test_a_job_that_stopped_tasks_of_its_own_user_keeps_its_place_in_the_cycle(seed: int) -> None:
    world = a_world(seed)
    outcome = run_decisions(world, settings_of(world))

    assert outcome.last(max(job.arrives for job in world.jobs)) <= SETTLED_AFTER


@pytest.mark.parametrize("seed", [852, 1437, 2487])
def test_worlds_that_never_settle_in_order_of_priority_settle_in_order_of_launch(seed: int) -> None:
    world = a_world(seed)

    endless = run_decisions(world, settings_of(world, launch_order=False), cycles=30)
    outcome = run_decisions(world, settings_of(world))

    assert sum(endless.preempted) > 30
    assert outcome.last() <= SETTLED_AFTER


def test_a_scheduler_does_what_the_decisions_alone_do() -> None:
    for seed in range(0, 60, 2):
        world = a_world(seed)
        decided = run_decisions(world, settings_of(world))

        outcome = asyncio.run(run_service(world, rebalancer_of(world), NOTHING_KEPT))

        assert (outcome.preempted, outcome.running) == (decided.preempted, decided.running), seed


def two_users(min_dru_diff: float) -> World:
    """The worked example: B preempts A; C takes the remaining room, and precedes B in its user's order."""
    jobs = [
        WorldJob(number=0, pool=DEFAULT_POOL, user="u0", cpus=1, mem_mb=512),  # A
        WorldJob(number=1, pool=DEFAULT_POOL, user="u1", cpus=1, mem_mb=128),
        WorldJob(number=2, pool=DEFAULT_POOL, user="u1", cpus=0.5, mem_mb=1024),  # C
        WorldJob(number=3, pool=DEFAULT_POOL, user="u1", cpus=0.5, mem_mb=128),  # B
    ]
    return World(
        hosts={"h0": Resources(cpus=2, mem_mb=2048 - 768)},
        zones={"h0": "a"},
        modes={DEFAULT_POOL: DruMode.DEFAULT},
        limits={
            DEFAULT_POOL: UserLimits(
                shares={"u0": Share(cpus=1, mem_mb=1024), "u1": Share(cpus=2, mem_mb=1024)}
            )
        },
        jobs=jobs,
        min_dru_diff=min_dru_diff,
    )


def test_a_job_that_fills_the_rest_does_not_raise_the_score_of_the_one_that_room_was_made_for() -> None:
    world = two_users(0.1)

    outcome = asyncio.run(run_service(world, rebalancer_of(world), NOTHING_KEPT, cycles=12))
    cooks = replace(rebalancer_of(world), launch_order=False)
    endless = asyncio.run(run_service(world, cooks, NOTHING_KEPT, cycles=12))

    assert outcome.last() <= 2
    assert sum(outcome.preempted) <= 1
    assert sum(endless.preempted) >= 5
