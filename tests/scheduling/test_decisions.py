"""What each decision about a pool reads of its snapshot.

Not here: the heads of the queue (`test_heads`), and what the parts of a decision do with it (`test_cycle`,
`test_preemption`, `test_autoscaling`, `test_wait_reasons`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model.decisions import Match, Matching, Rebalancing, Scaleback
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitKind, WaitReason
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.decisions import (
    decide_growth,
    decide_match,
    decide_nothing,
    decide_rebalance,
    decide_reserved,
    might_start,
    ranked,
    why,
)
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.matching.cycle import CycleSettings
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.ranking.ranking import Order, RankSettings
from cook_jupyter.scheduling.rebalancing.preemption import (
    PREEMPTION_DEFAULTS,
    PreemptionSettings,
    ReservedRoom,
)
from cook_jupyter.scheduling.snapshot import PoolSnapshot, Reserved
from tests.builders import a_job
from tests.scheduling.pool_snapshots import POOL, PoolWorld, an_offer

FIFO = CycleSettings(rank=RankSettings(order=Order.FIFO))
ZONE_X = CycleSettings(match=MatchSettings(defaults=PoolDefaults(constraints=(("zone", "x"),))))
DEBT = frozenset({"local"})
TOO_SMALL = QueueFilters(max_cpus=0.5)


def started(matching: Matching) -> list[str]:
    return [match.job_id for match in matching.matches]


@pytest.mark.parametrize(
    ("cpus", "mem_mb", "expected"), [(2.0, 200.0, True), (2.1, 200.0, False), (2.0, 202.0, False)]
)
def test_a_cycle_is_needed_only_if_a_host_has_room_for_the_least_request(
    cpus: float, mem_mb: float, expected: bool
) -> None:
    world = PoolWorld(small=0.5, a=2)
    world.waits("j", "ada", cpus, mem_mb=mem_mb)
    assert might_start(world.index, world.offers()) is expected


def test_a_host_with_room_for_the_cpus_and_another_for_the_memory_do_not_make_one() -> None:
    world = PoolWorld(a=2, b=2)
    world.runs("cpus", "a", 2)
    world.runs("memory", "b", 0, mem_mb=200)
    world.waits("j", "ada", 1)
    assert not might_start(world.index, world.offers())


# --- jobs with reserved room


def reserved_for(*jobs: str, host: str = "a", **fields: Any) -> Reserved:
    rooms = {JobId(job): ReservedRoom(host, 0) for job in jobs}
    return Reserved(rooms=rooms, everywhere=dict.fromkeys(rooms, host), **fields)


def test_jobs_with_reserved_room_start_in_the_order_of_their_reservations() -> None:
    world = PoolWorld(a=3)
    for name in ("other", "second", "first", "gone"):
        world.waits(name, "ada", 1)
    world.index.mark_running(JobId("gone"), 1, "a")

    matching = decide_reserved(world.snapshot(reserved=reserved_for("first", "gone", "second")), world.index)

    assert started(matching) == ["first", "second"]


@pytest.mark.parametrize(
    "forbids",
    [
        {"cycle": ZONE_X},
        {"filters": TOO_SMALL},
        {"limits": UserLimits(default_quota=Quota(count=0))},
        {"indebted": DEBT},
        {"reserved": replace(reserved_for("j"), everywhere={JobId("of another pool"): "a"})},
    ],
)
def test_a_job_with_reserved_room_starts_only_if_settings_filters_and_reservations_allow_it(
    forbids: dict[str, Any],
) -> None:
    world = PoolWorld(a=2)
    world.waits("j", "ada")
    allowed = {"reserved": reserved_for("j")}

    assert started(decide_reserved(world.snapshot(**allowed), world.index)) == ["j"]
    assert started(decide_reserved(world.snapshot(**{**allowed, **forbids}), world.index)) == []


# --- the match cycle


def test_a_match_cycle_considers_as_many_jobs_as_the_last_one_said() -> None:
    world = PoolWorld(a=4)
    for number in range(3):
        world.waits(f"{number}", "ada")

    assert len(decide_match(world.snapshot(), world.index).matching.matches) == 3
    scaled_back = world.snapshot(scaleback=Scaleback(considerable=1))
    assert len(decide_match(scaled_back, world.index).matching.matches) == 1


@pytest.mark.parametrize(
    "forbids",
    [
        {"cycle": ZONE_X},
        {"filters": TOO_SMALL},
        {"limits": UserLimits(default_quota=Quota(count=0))},
        {"indebted": DEBT},
    ],
)
def test_a_job_starts_only_if_settings_filters_quotas_and_clusters_allow_it(forbids: dict[str, Any]) -> None:
    world = PoolWorld(a=2)
    world.waits("j", "ada")

    assert started(decide_match(world.snapshot(), world.index).matching) == ["j"]
    assert started(decide_match(world.snapshot(**forbids), world.index).matching) == []


def test_a_job_for_which_room_is_kept_is_left_to_the_cycle_of_heads() -> None:
    world = PoolWorld(a=4, b=4)
    world.runs("a1", "a", 4)
    world.waits("head", "bob", 4)
    world.waits("small", "zoe")
    head = world.head("head", host="a", awaited=["a1"])

    assert started(decide_match(world.snapshot(head), world.index).matching) == ["small"]


def test_a_cycle_without_room_for_any_job_considers_the_usual_number_next_time() -> None:
    world = PoolWorld(a=2)
    world.runs("a1", "a", 2)
    world.waits("head", "bob", 2)
    world.waits("small", "zoe")
    snapshot = world.snapshot(
        world.head("head", host="a", awaited=["a1"]),
        cycle=CycleSettings(max_considered=77),
        scaleback=Scaleback(considerable=1),
    )

    matching = decide_match(snapshot, world.index).matching

    assert (started(matching), matching.scaleback) == ([], Scaleback(considerable=77))


# --- heads of a queue for which no host has room


def a_full_world(tasks: int = 1) -> PoolWorld:
    world = PoolWorld(a=tasks)
    for number in range(tasks):
        world.runs(f"t{number}", "a", 1, user="ada")
    return world


def heads_of(world: PoolWorld, *heads: str, **fields: Any) -> Sequence[str]:
    snapshot = world.snapshot(*(world.head(head) for head in heads), **fields)
    return list(decide_nothing(snapshot, world.index).heads.by_pool.get(POOL, {}))


def test_a_queue_without_heads_gets_some() -> None:
    world = a_full_world()
    world.waits("of bob", "bob")
    world.waits("of carl", "carl")
    assert heads_of(world) == ["of bob", "of carl"]


@pytest.mark.parametrize(
    ("cpus", "mem_mb", "is_updated"), [(1.0, 1.0, False), (1.5, 1.0, True), (1.0, 1.5, True)]
)
def test_heads_that_need_no_room_make_way_once_jobs_differ(
    cpus: float, mem_mb: float, is_updated: bool
) -> None:
    world = a_full_world()
    world.waits("alike", "bob")
    world.waits("other", "carl", cpus, mem_mb=mem_mb)
    assert ("other" in heads_of(world, "alike", leaves_out_too_large=False)) is is_updated


def test_heads_that_need_room_stay_as_they_are() -> None:
    world = a_full_world()
    world.waits("large", "bob", 2)
    world.waits("other", "carl", 3)
    world.waits("small", "dave")
    assert heads_of(world, "large", leaves_out_too_large=False) == ["large"]


@pytest.mark.parametrize(("tasks", "is_updated"), [(2000, True), (2001, False)])
def test_heads_of_a_pool_with_very_many_tasks_are_not_determined_without_need(
    tasks: int, is_updated: bool
) -> None:
    world = a_full_world(tasks)
    world.waits("alike", "bob")
    world.waits("other", "carl", 2)
    assert ("other" in heads_of(world, "alike")) is is_updated


# --- preemption

SHARES = UserLimits(default_share=Share(cpus=1.0, mem_mb=1000.0))
SETTINGS = replace(PREEMPTION_DEFAULTS, safe_dru_threshold=0.0, min_dru_diff=0.0)


def a_contested_world() -> PoolWorld:
    """A host full of tasks of ada; jobs of bob and carl wait."""
    world = PoolWorld(a=4)
    for number in range(4):
        world.runs(f"t{number}", "a", 1, user="ada", started_ms=number)
    world.waits("of bob", "bob")
    world.waits("of carl", "carl")
    return world


def beneficiaries(world: PoolWorld, jobs: Sequence[JobId] | None = None, **fields: Any) -> list[str]:
    given = {"limits": SHARES, "preemption": SETTINGS, **fields}
    decision = decide_rebalance(world.snapshot(**given), world.index, jobs)
    return sorted(preemption.beneficiary for preemption in decision.preemptions)


def test_a_pool_without_preemption_is_never_rebalanced() -> None:
    world = a_contested_world()
    assert decide_rebalance(world.snapshot(limits=SHARES), world.index) == Rebalancing()
    assert beneficiaries(world) == ["of bob", "of carl"]


@pytest.mark.parametrize("accepted", [None, "of bob", "of carl"])
@pytest.mark.parametrize("lapsed", [None, "of bob"])
def test_nothing_is_preempted_for_jobs_that_may_not_start_or_let_their_reservation_lapse(
    accepted: str | None, lapsed: str | None
) -> None:
    world = a_contested_world()
    accepts = None if accepted is None else (lambda job_id: job_id == accepted)
    reserved = Reserved(lapsed=[] if lapsed is None else [JobId(lapsed)])

    expected = [
        job for job in ("of bob", "of carl") if job != lapsed and (accepted is None or job == accepted)
    ]
    assert beneficiaries(world, filters=QueueFilters(accepts=accepts), reserved=reserved) == expected


def test_cooks_preemption_knows_no_launch_filter_and_no_lapsed_reservation() -> None:
    world = a_contested_world()
    cook = replace(PreemptionSettings.cook(), safe_dru_threshold=0.0, min_dru_diff=0.0)
    reserved = Reserved(lapsed=[JobId("of bob")])
    filters = QueueFilters(accepts=lambda _: False)
    assert beneficiaries(world, preemption=cook, filters=filters, reserved=reserved) == ["of bob", "of carl"]


def test_jobs_that_a_pool_leaves_out_of_its_queue_preempt_nothing() -> None:
    world = a_contested_world()
    cook = replace(PreemptionSettings.cook(), safe_dru_threshold=0.0, min_dru_diff=0.0)
    for settings in (SETTINGS, cook):
        assert beneficiaries(world, preemption=settings, filters=QueueFilters(max_cpus=0.5)) == []


def test_only_jobs_of_the_given_queue_benefit_if_there_is_one() -> None:
    assert beneficiaries(a_contested_world(), [JobId("of carl")]) == ["of carl"]


def test_the_order_of_the_pool_decides_for_whom_is_preempted_first() -> None:
    world = a_contested_world()
    world.waits("second of bob", "bob")
    world.runs("of bob too", "b", 1, user="bob")
    one = replace(PreemptionSettings.cook(), safe_dru_threshold=0.0, min_dru_diff=0.0, max_preemption=1)
    assert beneficiaries(world, preemption=one) == ["of carl"]
    assert beneficiaries(world, preemption=one, cycle=FIFO) == ["of bob"]


def test_a_job_with_reserved_room_counts_as_held_and_preempts_nothing() -> None:
    world = a_contested_world()
    assert beneficiaries(world, reserved=reserved_for("of bob")) == ["of carl"]


def test_victims_on_hosts_without_an_offer_have_the_cluster_of_their_host() -> None:
    world = a_contested_world()
    snapshot = world.snapshot(limits=SHARES, preemption=SETTINGS, open_offers=[])
    clusters = {preemption.cluster for preemption in decide_rebalance(snapshot, world.index).preemptions}
    assert clusters == {"local"}


# --- growth


def growth(world: PoolWorld, **fields: Any) -> Sequence[str]:
    given: dict[str, Any] = {"growing": ["local"], "latest": Matching(considered=1), **fields}
    return decide_growth(world.snapshot(**given), world.index)


@pytest.mark.parametrize("nothing", [{"latest": None}, {"growing": []}])
def test_no_cluster_grows_without_a_match_cycle_or_without_one_that_can(nothing: dict[str, Any]) -> None:
    world = PoolWorld(a=1)
    world.waits("j", "ada")
    assert growth(world) == ["j"]
    assert growth(world, **nothing) == ()


def test_clusters_grow_for_the_first_jobs_of_the_queue_that_filters_leave() -> None:
    world = PoolWorld(a=1)
    world.runs("t", "a", 1, user="ada")
    world.waits("of ada", "ada")
    world.waits("of bob", "bob")
    world.waits("too large", "carl", 3)
    filters = QueueFilters(max_cpus=2.0)
    limits = UserLimits(default_share=Share(cpus=1.0))
    assert growth(world, filters=filters, limits=limits) == ["of bob", "of ada"]
    assert growth(world, filters=filters, limits=limits, cycle=FIFO) == ["of ada", "of bob"]


@pytest.mark.parametrize(("cpus", "mem_mb", "jobs"), [(2.0, 1.0, 1000), (1.0, 101.0, 1000), (0.5, 50.0, 0)])
def test_a_job_larger_than_every_host_is_enough_to_grow(cpus: float, mem_mb: float, jobs: int) -> None:
    world = PoolWorld(a=1)
    for number in range(1001):
        world.waits(f"{number}", "ada", cpus, mem_mb=mem_mb)
    assert len(growth(world, latest=Matching())) == jobs


def test_jobs_as_large_as_the_largest_host_are_not_larger() -> None:
    world = PoolWorld()
    world.waits("j", "ada")
    cpus, mem_mb = world.index.max_request  # all jobs are below
    world.hosts["a"] = an_offer("a", cpus, room=Resources(cpus=cpus, mem_mb=mem_mb))
    assert growth(world, latest=Matching()) == ()


def test_a_job_that_no_host_could_hold_counts_as_one_more_that_was_considered() -> None:
    """Of two considered jobs one was matched, and of three with the larger one: two thirds are missing."""
    world = PoolWorld(a=1)
    for number in range(1100):
        world.waits(f"{number}", "ada", 2)
    match = Match(job_id=JobId("0"), host="a", cluster="local")
    latest = Matching(matches=(match,), considered=2)
    assert len(growth(world, latest=latest)) == 666


# --- why a job waits


def reasons(world: PoolWorld, name: str, **fields: Any) -> dict[WaitKind, WaitReason]:
    index = world.index
    job_id = JobId(name)
    usage = index.requested(job_id)
    user = index.owner(index.row_of(job_id)).name
    job: Job = a_job(job_id=job_id, user=user, cpus=usage.cpus, mem_mb=usage.mem_mb)
    snapshot: PoolSnapshot = world.snapshot(**{"heads": world.facts(), **fields})
    return {reason.kind: reason for reason in why(snapshot, index, job, attempts=0)}


def test_a_job_that_could_start_now_is_refused_by_no_host() -> None:
    world = PoolWorld(a=2)
    world.waits("j", "ada")
    assert WaitKind.NOT_PLACED not in reasons(world, "j")


@pytest.mark.parametrize(
    "forbids",
    [
        {"cycle": ZONE_X},
        {"placement_context": PlacementContext(reservations={JobId("another"): "a"})},
        {"open_offers": [an_offer("a", 0)]},
    ],
)
def test_hosts_are_asked_with_the_settings_and_reservations_of_a_match_cycle(forbids: dict[str, Any]) -> None:
    world = PoolWorld(a=2)
    world.waits("j", "ada")
    assert WaitKind.NOT_PLACED in reasons(world, "j", **forbids)


def test_a_job_with_reserved_room_may_use_it() -> None:
    world = PoolWorld(a=2)
    world.waits("j", "ada")
    told = reasons(world, "j", open_offers=[an_offer("a", 0)], reserved=reserved_for("j"))
    assert told.keys() == {WaitKind.RESERVED}


def a_kept_world(**cpus: float) -> tuple[PoolWorld, dict[str, Any]]:
    world = PoolWorld(**cpus)
    world.runs("t", "a", 1)
    world.waits("head", "bob", 2)
    world.waits("j", "carl")
    return world, {"heads": world.facts(world.head("head", host="a", awaited=["t"]))}


def test_a_job_that_only_kept_room_prevents_from_starting_is_held_back() -> None:
    world, fields = a_kept_world(a=2)
    assert WaitKind.HELD_BACK in reasons(world, "j", **fields)
    assert reasons(world, "head", **fields).keys() == {WaitKind.NOT_PLACED, WaitKind.AT_HEAD}


def test_a_job_that_could_start_beside_kept_room_is_not_held_back() -> None:
    world, fields = a_kept_world(a=2, b=1)
    assert WaitKind.HELD_BACK not in reasons(world, "j", **fields)


@pytest.mark.parametrize("obstacle", [{"cycle": ZONE_X}, {"open_offers": [an_offer("a", 0.5)]}])
def test_a_job_with_other_obstacles_is_not_held_back_by_kept_room(obstacle: dict[str, Any]) -> None:
    world, fields = a_kept_world(a=2)
    told = reasons(world, "j", **fields, **obstacle)
    assert WaitKind.NOT_PLACED in told
    assert WaitKind.HELD_BACK not in told


def test_a_job_is_told_what_its_user_and_its_pool_wait_for() -> None:
    world = PoolWorld(a=2)
    world.waits("j", "ada")
    assert WaitKind.RATE_LIMITED not in reasons(world, "j")
    assert WaitKind.RATE_LIMITED not in reasons(world, "j", rate_limited={"bob": 3})
    told = reasons(
        world, "j", rate_limited={"ada": 3}, deferral=lambda job: ("filter", f"not {job}"), filters=TOO_SMALL
    )
    assert told.keys() >= {WaitKind.RATE_LIMITED, WaitKind.DEFERRED, WaitKind.TOO_LARGE}


def test_the_queue_is_listed_in_rank_order_as_far_as_asked_for() -> None:
    world = PoolWorld(a=1)
    world.runs("t", "a", 1, user="ada")
    for name, cpus in (("ada", 1), ("bob", 1), ("carl", 3)):
        world.waits(name, name, cpus)
    snapshot = world.snapshot(filters=QueueFilters(max_cpus=2.0), limits=SHARES)
    assert ranked(snapshot, world.index, 5) == ["bob", "ada"]
    assert ranked(snapshot, world.index, 1) == ["bob"]
    assert ranked(replace(snapshot, cycle=FIFO), world.index, 5) == ["ada", "bob"]
