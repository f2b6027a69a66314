"""Which jobs are heads of the queue, what starts in the room kept for them, and when they lose it.

Not here: the choice of a host and the room beside a head (`test_head_room`), the running scheduler
(`tests/service/test_head_room.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model.decisions import Match, Matching
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import ConstraintClass, JobConstraints, PoolDefaults
from cook_jupyter.scheduling.decisions import CycleDecision, decide_heads, decide_match, decide_nothing
from cook_jupyter.scheduling.heads import MAX_HEADS, MAX_HOSTS
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.limits.run_times import RunTime
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.cycle import CycleSettings
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.ranking.ranking import Order, RankSettings
from cook_jupyter.scheduling.rebalancing.preemption import ReservedRoom
from cook_jupyter.scheduling.snapshot import Reserved
from tests.scheduling.pool_snapshots import NOW_MS, POOL, PoolWorld, an_offer


def heads_after(decision: CycleDecision, pool: str = POOL) -> Mapping[JobId, HeadOfQueue]:
    return decision.heads.by_pool.get(PoolName(pool), {})


def kept_on(decision: CycleDecision) -> dict[str, str | None]:
    """The host on which room is kept, by head."""
    return {job_id: head.host for job_id, head in heads_after(decision).items()}


def started(matching: Matching) -> dict[str, str]:
    return {match.job_id: match.host for match in matching.matches}


def a_gpu_host(host: str, cpus: float) -> Offer:
    room = Resources(cpus=cpus, mem_mb=100 * cpus, gpus=1)
    return an_offer(host, cpus, room=room, ports=((1, 9),))


def a_full_host(**hosts: float) -> PoolWorld:
    """Hosts full of tasks of one cpu each, named a1, a2 ... on host a; and a job of one cpu that waits."""
    world = PoolWorld(**hosts)
    for host, cpus in hosts.items():
        for number in range(1, round(cpus) + 1):
            world.runs(f"{host}{number}", host)
    world.waits("small", "zoe")
    return world


# --- heads that start


def test_a_head_starts_before_all_other_jobs() -> None:
    world = PoolWorld(a=2)
    world.waits("small", "ada", priority=90)
    world.waits("large", "bob", 2)

    decision = decide_heads(world.snapshot(world.head("large")), world.index)

    match = Match(job_id=JobId("large"), host="a", cluster="local")
    assert decision.matching == Matching(matches=(match,), considered=1)


def test_without_heads_nothing_is_decided_about_them() -> None:
    world = PoolWorld(a=2)
    world.waits("small", "ada")

    assert decide_heads(world.snapshot(), world.index).matching == Matching()


def test_a_head_that_no_smaller_job_could_overtake_leaves_the_others_their_precedence() -> None:
    world = PoolWorld(a=4)
    world.waits("alike", "ada")
    world.waits("large", "bob", 2)

    decision = decide_heads(world.snapshot(world.head("alike"), world.head("large")), world.index)

    assert started(decision.matching) == {"large": "a"}


def test_a_head_in_a_group_waits_for_the_next_cycle_once_another_starts() -> None:
    world = PoolWorld(a=8)
    world.waits("first", "ada", 2)
    world.waits("grouped", "bob", 2, job_constraints=JobConstraints(group=GroupId("g")))
    world.waits("last", "carl", 2)
    world.waits("small", "zoe")
    heads = [world.head(name) for name in ("first", "grouped", "last")]

    assert started(decide_heads(world.snapshot(*heads), world.index).matching).keys() == {"first", "last"}
    alone = decide_heads(world.snapshot(*heads[1:]), world.index)
    assert started(alone.matching).keys() == {"grouped", "last"}


def test_heads_that_start_together_stay_within_the_quota_of_their_pool() -> None:
    world = PoolWorld(a=8)
    for user, cpus in (("ada", 2), ("bob", 3), ("carl", 2)):
        world.waits(f"of {user}", user, cpus)
    world.waits("small", "zoe")
    heads = [world.head(f"of {user}") for user in ("ada", "bob", "carl")]
    filters = QueueFilters(pool_quota=Quota(cpus=4.0))

    decision = decide_heads(world.snapshot(*heads, filters=filters), world.index)

    assert started(decision.matching).keys() == {"of ada", "of carl"}
    assert kept_on(decision)["of bob"] is None


def test_a_head_does_not_start_where_it_was_before_or_what_its_pool_forbids() -> None:
    world = PoolWorld(a=2, b=2)
    world.waits("large", "bob", 2, job_constraints=JobConstraints(avoid=frozenset({"a"})))
    world.waits("small", "zoe")
    head = world.head("large")
    nowhere = CycleSettings(match=MatchSettings(defaults=PoolDefaults(constraints=(("zone", "x"),))))

    assert started(decide_heads(world.snapshot(head), world.index).matching) == {"large": "b"}
    assert not decide_heads(world.snapshot(head, cycle=nowhere), world.index).matching.matches


def test_a_head_does_not_start_on_a_cluster_that_is_in_debt() -> None:
    world = PoolWorld(a=2)
    world.waits("large", "bob", 2)
    world.waits("small", "zoe")

    snapshot = world.snapshot(world.head("large"), indebted=frozenset({"local"}))

    assert not decide_heads(snapshot, world.index).matching.matches


def test_a_head_does_not_start_in_the_room_that_is_kept_for_another() -> None:
    world = PoolWorld(a=2, b=3)
    world.runs("a1", "a", 2)
    world.runs("b1", "b", 1)
    world.waits("on a", "bob", 2)
    world.waits("on b", "carl", 3)
    world.waits("small", "zoe")
    heads = (world.head("on a", host="a", awaited=["a1"]), world.head("on b", host="b", awaited=["b1"]))

    decision = decide_heads(world.snapshot(*heads), world.index)

    assert decision.matching == Matching()
    assert kept_on(decision) == {"on a": "a", "on b": "b"}


def test_a_head_starts_in_its_room_beside_another_head_of_the_host() -> None:
    world = PoolWorld(a=4)
    world.runs("a1", "a", 2)
    world.waits("starts", "bob", 2)
    world.waits("awaits", "carl", 2)
    world.waits("small", "zoe")
    awaits = world.head("awaits", host="a", awaited=["a1"])

    decision = decide_heads(world.snapshot(world.head("starts", host="a"), awaits), world.index)

    assert started(decision.matching) == {"starts": "a"}
    assert heads_after(decision)[JobId("awaits")] == awaits


def test_a_head_starts_in_the_room_that_is_kept_for_itself() -> None:
    world = PoolWorld(a=2)
    world.waits("large", "bob", 2, mem_mb=200)
    world.waits("small", "zoe")

    decision = decide_heads(world.snapshot(world.head("large", host="a")), world.index)

    assert started(decision.matching) == {"large": "a"}


# --- heads for which room is kept


def test_room_is_kept_for_a_head_that_finds_no_host() -> None:
    world = a_full_host(a=2)
    world.waits("large", "bob", 2)

    decision = decide_heads(world.snapshot(world.head("large")), world.index)

    (head,) = heads_after(decision).values()
    assert head == world.head("large", host="a", awaited=["a1", "a2"])
    assert decision.matching == Matching()


def test_a_head_keeps_its_host_although_another_may_be_free_sooner() -> None:
    world = PoolWorld(a=2, b=2)
    world.runs("a1", "a", 2, expected_ms=9000)
    world.runs("b1", "b", 2, expected_ms=2000)
    world.waits("large", "bob", 2)
    world.waits("small", "zoe")

    decision = decide_heads(world.snapshot(world.head("large", host="a", awaited=["a1"])), world.index)

    assert kept_on(decision) == {"large": "a"}


def test_heads_that_others_start_before_begin_to_wait_now_and_get_their_host_later() -> None:
    world = PoolWorld(a=2, b=4, c=4)
    world.runs("b1", "b", 4)
    world.runs("c1", "c", 4)
    world.waits("starts", "ada", 2)
    world.waits("later", "bob", 4)
    world.waits("kept", "carl", 4)
    world.waits("small", "zoe")
    heads = [world.head("starts"), world.head("later"), world.head("kept", host="b", awaited=["b1"])]

    decision = decide_heads(world.snapshot(*heads), world.index)

    assert started(decision.matching) == {"starts": "a"}
    assert heads_after(decision) == {
        "starts": replace(heads[0], since_ms=NOW_MS),
        "later": replace(heads[1], since_ms=NOW_MS),
        "kept": heads[2],
    }


def test_no_more_room_is_kept_than_allowed_but_smaller_heads_stay() -> None:
    world = a_full_host(a=4, b=4)
    world.waits("kept", "ada", 2, mem_mb=2)
    world.waits("too much", "bob", 3)
    world.waits("fits", "carl", 2)
    heads = [world.head(name) for name in ("kept", "too much", "fits")]
    facts = world.facts(*heads, max_kept=0.5)

    decision = decide_heads(world.snapshot(heads=facts), world.index)

    assert kept_on(decision).keys() == {"kept", "fits"}
    assert all(kept_on(decision).values())


def test_heads_without_need_of_room_do_not_count_towards_its_limit() -> None:
    world = a_full_host(a=4)
    world.waits("large", "bob", 2)
    for number in range(3):
        world.waits(f"alike {number}", f"user {number}")
    heads = [world.head("large"), *(world.head(f"alike {number}") for number in range(3))]
    facts = world.facts(*heads, max_kept=0.5)

    decision = decide_heads(world.snapshot(heads=facts), world.index)

    assert kept_on(decision)["large"] == "a"
    assert len(kept_on(decision)) == 4


@pytest.mark.parametrize(
    ("cpus", "constraints"),
    [(3.0, ConstraintClass()), (2.0, ConstraintClass(attributes=(("zone", "x"),)))],
    ids=["too large", "elsewhere"],
)
def test_a_job_that_fits_no_empty_host_is_no_head_and_is_remembered(
    cpus: float, constraints: ConstraintClass
) -> None:
    world = a_full_host(a=2)
    world.waits("nowhere", "bob", cpus, constraints=constraints)

    decision = decide_heads(world.snapshot(world.head("nowhere"), leaves_out_too_large=False), world.index)

    assert heads_after(decision) == {}
    assert decision.heads.nowhere == {"nowhere"}
    facts = world.facts(nowhere=decision.heads.nowhere)
    again = decide_nothing(world.snapshot(heads=facts, leaves_out_too_large=False), world.index)
    assert heads_after(again).keys() == {"small"}
    assert again.heads.nowhere == {"nowhere"}


@pytest.mark.parametrize(("cpus", "is_kept"), [(2.0, True), (3.0, False)])
def test_a_head_gets_a_host_with_another_head_only_if_both_fit_there(cpus: float, is_kept: bool) -> None:
    world = PoolWorld(a=4, b=4)
    world.runs("a1", "a", 4)
    world.waits("first", "ada", 2)
    world.waits("second", "bob", cpus, job_constraints=JobConstraints(avoid=frozenset({"b"})))
    world.waits("small", "zoe")
    first = world.head("first", host="a", awaited=["a1"])

    decision = decide_heads(
        world.snapshot(first, world.head("second"), open_offers=world.offers()[:1]), world.index
    )

    expected = (
        world.head("second", host="a", awaited=["a1"]) if is_kept else world.head("second", since_ms=NOW_MS)
    )
    assert heads_after(decision) == {"first": first, "second": expected}


def test_a_head_gets_no_host_where_another_head_counts_on_other_tasks_to_stay() -> None:
    world = a_full_host(a=4)
    world.waits("first", "ada", 2)
    world.waits("second", "bob", 2)
    first = world.head("first", host="a", awaited=["a1", "a2"])

    decision = decide_heads(world.snapshot(first, world.head("second")), world.index)

    assert heads_after(decision) == {"first": first, "second": world.head("second", since_ms=NOW_MS)}


def test_a_head_takes_a_host_beside_a_head_elsewhere() -> None:
    world = a_full_host(a=2, b=2)
    world.waits("first", "ada", 2)
    world.waits("second", "bob", 2)
    first = world.head("first", host="a", awaited=["a1", "a2"])

    decision = decide_heads(world.snapshot(first, world.head("second")), world.index)

    assert kept_on(decision) == {"first": "a", "second": "b"}


def test_a_head_that_later_tasks_have_overtaken_everywhere_awaits_them_too() -> None:
    world = PoolWorld(a=2)
    world.runs("late", "a", 2, started_ms=900)
    world.waits("large", "bob", 2)
    world.waits("small", "zoe")

    decision = decide_heads(world.snapshot(world.head("large")), world.index)

    (head,) = heads_after(decision).values()
    assert (head.host, head.since_ms) == ("a", NOW_MS)
    assert head.awaited == {("late", 900)}


def test_room_that_is_reserved_for_beneficiaries_of_preemptions_is_not_kept_again() -> None:
    world = a_full_host(a=4)
    world.waits("large", "bob", 3)
    head = world.head("large")
    promised = {"a": HostAmounts(cpus=1.0)}

    free = decide_heads(world.snapshot(heads=world.facts(head)), world.index)
    beside = decide_heads(world.snapshot(heads=world.facts(head, promised=promised)), world.index)

    assert [len(heads_after(decision)[JobId("large")].awaited) for decision in (free, beside)] == [3, 4]


@pytest.mark.parametrize("gpus", [0.0, 1.0])
@pytest.mark.parametrize("kind", [HostKind.PLAIN, HostKind.KUBERNETES])
def test_only_a_kubernetes_node_is_kept_whole_and_only_for_gpus(kind: HostKind, gpus: float) -> None:
    world = PoolWorld(a=4)
    is_node = kind is HostKind.KUBERNETES
    models = {"p100": 1.0} if is_node and gpus else {}
    world.hosts["a"] = replace(a_gpu_host("a", 4), kind=kind, gpu_models=models)
    for number in range(4):
        world.runs(f"a{number}", "a")
    constraints = ConstraintClass(gpu_model="p100") if is_node and gpus else ConstraintClass()
    world.waits("head", "bob", 2, gpus=gpus, constraints=constraints)
    world.waits("small", "zoe")

    decision = decide_heads(world.snapshot(world.head("head")), world.index)

    (head,) = heads_after(decision).values()
    assert (head.host, head.exclusive) == ("a", is_node and gpus > 0)
    assert len(head.awaited) == (4 if head.exclusive else 2)


@pytest.mark.parametrize("amount", ["cpus", "mem_mb"])
def test_of_many_hosts_those_that_lack_least_are_compared(amount: str) -> None:
    """Each host has its name's number of its amount in use; only the last is known to be free soon."""
    names = [f"h{number:02}" for number in range(MAX_HOSTS + 1)]
    chosen: list[str | None] = []
    for last_lacks in (0.5, 3.0):
        world = PoolWorld()
        for name in names:
            held = last_lacks if name == names[-1] else 2.0
            cpus, mem_mb = (held, 1.0) if amount == "cpus" else (0.1, 100 * held)
            world.hosts[name] = an_offer(name, 4)
            expected_ms = 1500 if name == names[-1] else None
            world.runs(f"on {name}", name, cpus, mem_mb=mem_mb, expected_ms=expected_ms)
        world.waits("large", "bob", 4, mem_mb=400)
        world.waits("small", "zoe")
        chosen += kept_on(decide_heads(world.snapshot(world.head("large")), world.index)).values()
    assert chosen == [names[-1], names[0]]


@pytest.mark.parametrize("amount", ["cpus", "mem_mb"])
def test_what_a_host_lacks_is_a_part_of_its_size(amount: str) -> None:
    names = [f"h{number:02}" for number in range(MAX_HOSTS)]
    world = PoolWorld(**dict.fromkeys(names, 4.0), large=100.0)
    for name in (*names, "large"):
        held = 100.0 if name == "large" else 2.0
        cpus, mem_mb = (held, 1.0) if amount == "cpus" else (0.1, 100 * held)
        expected_ms = 1500 if name == "large" else None
        world.runs(f"on {name}", name, cpus, mem_mb=mem_mb, expected_ms=expected_ms)
    world.waits("head", "bob", 4, mem_mb=400)
    world.waits("small", "zoe")

    assert kept_on(decide_heads(world.snapshot(world.head("head")), world.index)) == {"head": "large"}


def test_a_host_without_an_offer_lacks_all_that_a_head_requests() -> None:
    names = [f"h{number:02}" for number in range(MAX_HOSTS + 1)]
    world = PoolWorld(**dict.fromkeys(names, 4.0))
    for name in names:
        world.runs(f"on {name}", name, 2, expected_ms=1500 if name == names[0] else None)
    world.waits("large", "bob", 4)
    world.waits("small", "zoe")
    offers = world.offers()

    known = world.snapshot(world.head("large"), open_offers=offers)
    without_first = world.snapshot(world.head("large"), open_offers=offers[1:])

    assert kept_on(decide_heads(known, world.index)) == {"large": names[0]}
    assert kept_on(decide_heads(without_first, world.index)) == {"large": names[1]}


# --- heads that stay heads, and those that do not


def test_a_head_awaits_whatever_ends_first_once_a_task_has_ended() -> None:
    world = PoolWorld(a=4)
    world.runs("a1", "a", 3, expected_ms=9000)
    world.waits("large", "bob", 2)
    world.waits("small", "zoe")
    head = world.head("large", host="a", awaited=["a1", "ended"])
    key = (JobId("large"), "a")

    reviewed = decide_heads(world.snapshot(head), world.index)
    current = decide_heads(world.snapshot(heads=world.facts(head, current={key})), world.index)

    assert heads_after(reviewed)[head.job_id].awaited == {("a1", 0)}
    assert heads_after(current)[head.job_id] == head, "nothing has ended since it was reviewed"
    assert reviewed.heads.current == current.heads.current == {key}


def test_a_head_whose_host_is_gone_loses_all_that_was_kept_there() -> None:
    world = PoolWorld(a=2, b=2)
    world.runs("b1", "b", 2)
    world.waits("starts", "ada", 2)
    world.waits("large", "bob", 2)
    world.waits("small", "zoe")
    lost = world.head("large", host="gone", awaited=["t"], free_at_ms=5, exclusive=True)

    decision = decide_heads(world.snapshot(world.head("starts"), lost), world.index)

    assert started(decision.matching) == {"starts": "a"}
    assert heads_after(decision)[JobId("large")] == world.head("large", since_ms=NOW_MS)


def test_a_head_does_not_stay_when_its_user_submits_what_comes_before_it() -> None:
    world = a_full_host(a=4, b=4, c=4)
    for user in ("ada", "bob", "carl"):
        world.waits(f"large of {user}", user, 4)
    world.waits("before", "ada", 1, priority=90)
    world.waits("as before", "bob", 1, priority=90)
    heads = [
        world.head("large of ada", position=0),
        world.head("large of bob", position=2, host="a", awaited=["a1", "a2", "a3", "a4"]),
        world.head("large of carl", position=0),
    ]
    current = {(head.job_id, "a") for head in heads}

    decision = decide_heads(world.snapshot(heads=world.facts(*heads, current=current)), world.index)

    assert {job: head.position for job, head in heads_after(decision).items()} == {
        "large of bob": 1,
        "large of carl": 0,
    }
    assert decision.heads.current == {("large of bob", "a"), ("large of carl", "a")}


@pytest.mark.parametrize("why", ["started", "reserved", "over quota", "not accepted"])
def test_a_head_that_may_not_start_or_needs_no_room_any_more_is_none(why: str) -> None:
    world = a_full_host(a=2)
    world.waits("large", "bob", 2)
    world.waits("stays", "carl", 2)
    heads = [world.head("large", host="a", awaited=["a1", "a2"]), world.head("stays")]
    by_reason: dict[str, dict[str, Any]] = {
        "started": {},
        "reserved": {"reserved": Reserved(rooms={JobId("large"): ReservedRoom("a", 0)}, closes_hosts=True)},
        "over quota": {"limits": UserLimits(quotas={"bob": Quota(cpus=1.0)})},
        "not accepted": {"filters": QueueFilters(accepts=lambda job_id: job_id != "large")},
    }
    snapshot = world.snapshot(*heads, **by_reason[why])
    if why == "started":
        world.index.mark_running(JobId("large"), 1, "a")

    assert kept_on(decide_heads(snapshot, world.index)) == {"stays": "a"}


@pytest.mark.parametrize("host", [None, "a"])
@pytest.mark.parametrize(("order", "gives_way"), [(Order.FAIR, True), (Order.FIFO, False)])
def test_a_head_of_a_user_past_share_gives_way_to_users_within_it(
    order: Order, gives_way: bool, host: str | None
) -> None:
    world = PoolWorld(a=4)
    world.runs("a1", "a", 3, user="bob")
    world.waits("large", "bob", 4)
    world.waits("small", "zoe")
    limits = UserLimits(default_share=Share(cpus=2.0))
    cycle = CycleSettings(rank=RankSettings(order=order))
    head = world.head("large", host=host, awaited=["a1"] if host else [])

    decision = decide_heads(world.snapshot(head, limits=limits, cycle=cycle), world.index)

    assert bool(heads_after(decision)) is not gives_way


def test_a_head_gives_way_to_a_larger_job_only_where_its_own_host_has_room_for_that() -> None:
    world = PoolWorld(a=4)
    world.runs("a1", "a", 1, user="bob")
    world.waits("head", "bob", 2)
    world.waits("larger", "zoe", 3)
    world.waits("small", "bob")
    limits = UserLimits(shares={"bob": Share(cpus=0.5)}, default_share=Share(cpus=4.0))
    kept = world.head("head", host="a")

    kept_decision = decide_heads(world.snapshot(kept, limits=limits), world.index)
    other_decision = decide_heads(world.snapshot(world.head("head"), limits=limits), world.index)

    assert not started(kept_decision.matching)
    assert started(other_decision.matching) == {"head": "a"}


# --- which jobs become heads


def refused(world: PoolWorld, **fields: Any) -> Mapping[JobId, HeadOfQueue]:
    """The heads after a cycle in which no host has room."""
    return heads_after(decide_nothing(world.snapshot(**fields), world.index))


def test_the_first_jobs_of_users_become_heads_from_the_one_who_holds_least_on() -> None:
    world = PoolWorld(a=30)
    for number in range(MAX_HEADS + 2):
        for task in range(2 + (number * 7) % 10):
            world.runs(f"{number}-{task}", "a", 0.25, user=f"user {number}")
        world.waits(f"first of {number}", f"user {number}", 2)
        world.waits(f"second of {number}", f"user {number}", 2)
    world.waits("small", "user 0", priority=0)
    by_usage = sorted(range(MAX_HEADS + 2), key=lambda number: (number * 7) % 10)

    heads = refused(world, limits=UserLimits(default_share=Share(cpus=1.0)))

    assert list(heads) == [f"first of {number}" for number in by_usage[:MAX_HEADS]]
    assert heads[JobId("first of 0")] == HeadOfQueue(
        job_id=JobId("first of 0"),
        user="user 0",
        asked=HostAmounts(2.0, 1.0, 0.0, 0.0, 1.0),
        since_ms=NOW_MS,
    )


def test_in_a_fifo_pool_the_oldest_jobs_become_heads() -> None:
    world = PoolWorld(a=8)
    for user in ("zoe", "zoe", "bob", "ada"):
        world.waits(f"{user} {len(world.index)}", user, 2)
    world.waits("small", "zoe")

    heads = refused(world, cycle=CycleSettings(rank=RankSettings(order=Order.FIFO)))

    assert list(heads) == ["zoe 0", "bob 2", "ada 3"]


def test_a_job_that_may_not_start_leaves_its_place_to_the_users_next() -> None:
    world = PoolWorld(a=4)
    world.waits("too large", "bob", 5)
    for number in range(3):
        world.waits(f"barred {number}", "bob", 2)
    world.waits("next", "bob", 2)
    world.waits("small", "bob")
    filters = QueueFilters(accepts=lambda job_id: not job_id.startswith("barred"))

    heads = refused(world, filters=filters)

    assert {job: head.position for job, head in heads.items()} == {"next": 4}


def test_jobs_with_reserved_room_do_not_become_heads() -> None:
    world = PoolWorld(a=4)
    world.waits("reserved", "ada", 2)
    world.waits("other", "bob", 2)
    world.waits("small", "bob")
    reserved = Reserved(rooms={JobId("reserved"): ReservedRoom("a", 0)}, closes_hosts=True)

    assert refused(world, reserved=reserved).keys() == {"other"}


def test_no_more_heads_are_added_once_room_for_one_may_not_be_kept() -> None:
    world = PoolWorld(a=4)
    for user, cpus in (("ada", 2.0), ("bob", 3.0), ("carl", 1.5)):
        world.waits(f"of {user}", user, cpus)
    world.waits("small", "ada")

    assert refused(world, heads=world.facts(max_kept=1.0)).keys() == {"of ada"}
    assert refused(world, heads=world.facts(max_kept=0.0)) == {}


def test_the_position_of_a_head_does_not_count_the_jobs_that_start() -> None:
    world = PoolWorld(a=2)
    for name in ("starts", "barred", "starts too"):
        world.waits(name, "bob", 0.5, priority=90)
    world.waits("large", "bob", 2)
    filters = QueueFilters(accepts=lambda job_id: job_id != "barred")

    decision = decide_match(world.snapshot(filters=filters), world.index)

    assert started(decision.matching).keys() == {"starts", "starts too"}
    assert {job: head.position for job, head in heads_after(decision).items()} == {"large": 1}


@pytest.mark.parametrize(
    ("wants", "needs_room"),
    [
        ({}, False),
        ({"cpus": 2.02}, False),  # the least request is known to eight binary digits
        ({"mem_mb": 2.02}, False),
        ({"cpus": 2.1}, True),
        ({"mem_mb": 2.1}, True),
        ({"gpus": 1.0}, True),
        ({"ports": 1}, True),
        ({"constraints": ConstraintClass(attributes=(("HOSTNAME", "a"),))}, True),
        ({"job_constraints": JobConstraints(avoid=frozenset({"x"}))}, True),
    ],
)
def test_a_head_needs_room_if_others_could_take_it_piece_by_piece(
    wants: dict[str, Any], needs_room: bool
) -> None:
    world = PoolWorld(a=4)
    world.hosts["a"] = a_gpu_host("a", 4)
    world.runs("a1", "a", 4, gpus=1.0)
    world.waits("head", "bob", **{"cpus": 2.0, "mem_mb": 2.0, **wants})
    facts = world.facts(world.head("head"), least=((2.0, 2.0),))

    decision = decide_heads(world.snapshot(heads=facts), world.index)

    assert kept_on(decision) == {"head": "a" if needs_room else None}


# --- other jobs beside heads


def test_other_jobs_start_beside_the_kept_room_and_never_in_it() -> None:
    world = PoolWorld(a=4, b=1)
    world.runs("a1", "a", 2)
    world.waits("large", "bob", 3)
    world.waits("first", "carl", 1)
    world.waits("second", "carl", 1)
    world.waits("third", "carl", 1)
    head = world.head("large", host="a", awaited=["a1"])

    decision = decide_match(world.snapshot(head), world.index)

    assert sorted(started(decision.matching).items()) == [("first", "a"), ("second", "b")] or sorted(
        started(decision.matching).items()
    ) == [("first", "b"), ("second", "a")]


@pytest.mark.parametrize("max_tasks", [None, 7])
def test_nothing_else_starts_on_a_node_that_is_kept_whole(max_tasks: int | None) -> None:
    world = PoolWorld(a=4)
    room = Resources(cpus=4, mem_mb=400, gpus=1)
    world.hosts["a"] = an_offer("a", 4, kind=HostKind.KUBERNETES, room=room, gpu_models={"": 1.0})
    world.runs("a1", "a")
    world.waits("whole", "bob", 1, gpus=1.0)
    world.waits("small", "zoe")
    head = world.head("whole", host="a", awaited=["a1"], exclusive=True)
    capacity = PoolCapacity.of(tuple(world.hosts.values()), max_tasks)
    snapshot = world.snapshot(heads=world.facts(head, capacities={POOL: capacity}), capacity=capacity)

    assert not decide_match(snapshot, world.index).matching.matches


@pytest.mark.parametrize("first", [POOL, "other"])
def test_where_heads_of_several_pools_have_room_the_least_is_left_beside_all_of_them(first: str) -> None:
    world = PoolWorld(a=8)
    world.runs("a1", "a", 2)
    world.waits("of this pool", "bob", 2)
    world.waits("small", "zoe")
    world.waits("large", "zoe", 3)
    own = world.head("of this pool", host="a", awaited=["a1"])
    other = replace(own, job_id=JobId("of the other"), awaited=frozenset())
    by_pool = {POOL: {own.job_id: own}, "other": {other.job_id: other}}
    capacity = PoolCapacity.of(tuple(world.hosts.values()))
    facts = world.facts(
        by_pool={pool: by_pool[pool] for pool in (first, *by_pool)},
        capacities=dict.fromkeys(by_pool, capacity),
    )

    decision = decide_match(world.snapshot(heads=facts), world.index)

    assert started(decision.matching) == {"small": "a"}, "2 of 8 are left beside 2 heads and a task of 2"


# --- backfill


def a_lent_host() -> PoolWorld:
    """A host with room that is kept until 5000, when a task ends."""
    world = PoolWorld(a=4)
    world.runs("a1", "a", 2, expected_ms=5000)
    world.waits("large", "bob", 4)
    return world


def lent(world: PoolWorld, **fields: Any) -> HeadOfQueue:
    return world.head("large", **{"host": "a", "awaited": ["a1"], "free_at_ms": 5000, **fields})


SHORT = RunTime(expected_ms=4000)
LONG = RunTime(expected_ms=4001)


def test_jobs_that_will_have_ended_use_kept_room_and_are_awaited_like_other_tasks() -> None:
    world = a_lent_host()
    world.waits("long", "carl", run_time=LONG)
    world.waits("unknown", "carl")
    world.waits("short", "carl", run_time=SHORT)
    head = lent(world)

    decision = decide_match(world.snapshot(head), world.index)

    assert started(decision.matching) == {"short": "a"}
    assert decision.matching.considered == 1
    key = (JobId("short"), NOW_MS)
    after = heads_after(decision)[head.job_id]
    assert after == replace(head, awaited=head.awaited | {key}, lent=frozenset({key}))


@pytest.mark.parametrize(
    "why",
    [
        "switched off",
        "no room",
        "exclusive",
        "unknown time",
        "overdue",
        "kind",
        "quota",
        "size",
        "avoided",
        "debt",
        "group",
        "head",
        "constraints",
        "reserved",
    ],
)
def test_kept_room_is_not_lent(why: str) -> None:
    world = a_lent_host()
    if why == "no room":
        world.runs("a2", "a", 2, expected_ms=5000)
    fields: dict[str, Any] = {}
    if why == "avoided":
        fields["job_constraints"] = JobConstraints(avoid=frozenset({"a"}))
    if why == "group":
        fields["job_constraints"] = JobConstraints(group=GroupId("g"))
    if why == "kind":
        world.hosts["a"] = replace(world.hosts["a"], kind=HostKind.KUBERNETES)
    world.waits("short", "carl", run_time=SHORT, **fields)
    heads_by_reason: dict[str, dict[str, Any]] = {
        "exclusive": {"exclusive": True},
        "unknown time": {"free_at_ms": None},
        "overdue": {"free_at_ms": NOW_MS},
    }
    head = lent(world, **heads_by_reason.get(why, {}))
    heads = [head, world.head("short")] if why == "head" else [head]
    facts = world.facts(*heads, backfill=why != "switched off")
    zone = PoolDefaults(constraints=(("zone", "x"),))
    by_reason: dict[str, dict[str, Any]] = {
        "quota": {"limits": UserLimits(quotas={"carl": Quota(count=0)})},
        "size": {"filters": QueueFilters(max_cpus=0.5)},
        "debt": {"indebted": frozenset({"local"})},
        "reserved": {"placement_context": PlacementContext(reservations={JobId("of another pool"): "a"})},
        "constraints": {"cycle": CycleSettings(match=MatchSettings(defaults=zone))},
    }
    snapshot = world.snapshot(heads=facts, **by_reason.get(why, {}))

    assert not decide_match(snapshot, world.index).matching.matches


def test_kept_room_is_lent_up_to_its_last_cpu_and_megabyte() -> None:
    world = PoolWorld(a=4)
    world.runs("a1", "a", 2, mem_mb=300.0, expected_ms=5000)
    world.waits("large", "bob", 4, mem_mb=400)
    world.waits("short", "carl", 2, mem_mb=100, run_time=SHORT)

    assert started(decide_match(world.snapshot(lent(world)), world.index).matching) == {"short": "a"}


def test_room_is_lent_on_every_host_until_its_own_time() -> None:
    world = PoolWorld(a=4, b=4, c=4, d=4)
    for host, expected_ms, cpus in (("a", 5000, 4), ("b", 9000, 3), ("c", 9000, 3), ("d", None, 3)):
        world.runs(f"{host}1", host, cpus, expected_ms=expected_ms)
        world.waits(f"large {host}", f"user {host}", 4)
    for number in range(2):
        world.waits(f"long {number}", "carl", run_time=RunTime(expected_ms=8000))
    times = {"d": None, "a": 5000, "b": 9000, "c": 9000}
    heads = [
        world.head(f"large {host}", host=host, awaited=[f"{host}1"], free_at_ms=free_at_ms)
        for host, free_at_ms in times.items()
    ]

    decision = decide_match(world.snapshot(*heads), world.index)

    assert set(started(decision.matching).values()) == {"b", "c"}


def test_room_is_not_lent_on_a_host_because_that_of_another_is_free_later() -> None:
    world = PoolWorld(a=4, b=4)
    world.runs("a1", "a", 3, expected_ms=2000)
    world.runs("b1", "b", 4, expected_ms=9000)
    for host in ("a", "b"):
        world.waits(f"large {host}", f"user {host}", 4)
    world.waits("long", "carl", run_time=RunTime(expected_ms=8000))
    heads = [
        world.head("large a", host="a", awaited=["a1"], free_at_ms=2000),
        world.head("large b", host="b", awaited=["b1"], free_at_ms=9000),
    ]

    assert not decide_match(world.snapshot(*heads), world.index).matching.matches


def test_room_is_lent_of_each_offer_of_a_host() -> None:
    world = a_lent_host()
    world.waits("short", "carl", run_time=SHORT)
    (offer,) = world.offers()
    full = replace(offer, cluster="full", room=Resources())

    decision = decide_match(world.snapshot(lent(world), open_offers=[full, offer]), world.index)

    assert started(decision.matching) == {"short": "a"}


def test_a_job_to_which_room_is_lent_is_refused_no_more() -> None:
    world = PoolWorld(a=4, b=1)
    world.runs("a1", "a", 2, expected_ms=5000)
    world.waits("large", "bob", 4)
    world.waits("short", "carl", 2, run_time=SHORT)
    world.waits("long", "dave", 2, run_time=LONG)
    world.waits("small", "erin", 1, run_time=LONG, constraints=ConstraintClass(attributes=(("zone", "x"),)))

    matching = decide_match(world.snapshot(lent(world)), world.index).matching

    assert started(matching) == {"short": "a"}
    assert sorted(refusal.job_id for refusal in matching.refusals) == ["long", "small"]
    assert matching.considered == 3


@pytest.mark.parametrize("other", [{"free_at_ms": 3000}, {"exclusive": True}])
def test_room_of_several_heads_is_lent_until_the_first_of_them_may_start(other: dict[str, Any]) -> None:
    world = a_lent_host()
    world.waits("short", "carl", run_time=SHORT)
    first = lent(world)
    second = replace(first, **{"job_id": JobId("of the other"), **other})
    by_pool = {POOL: {first.job_id: first}, "other": {second.job_id: second}}
    capacity = PoolCapacity.of(tuple(world.hosts.values()))
    facts = world.facts(by_pool=by_pool, capacities=dict.fromkeys(by_pool, capacity))

    assert not decide_match(world.snapshot(heads=facts), world.index).matching.matches


def test_what_the_cycle_has_matched_already_is_not_lent_again() -> None:
    world = PoolWorld(a=6)
    world.runs("a1", "a", 2, expected_ms=5000)
    world.waits("large", "bob", 4)
    world.waits("beside", "carl", 2)
    world.waits("short", "dave", 3, run_time=SHORT)

    decision = decide_match(world.snapshot(lent(world)), world.index)

    assert started(decision.matching) == {"beside": "a"}


# --- pools without


def test_room_on_a_host_that_is_gone_is_kept_from_nobody() -> None:
    world = PoolWorld(a=4)
    world.waits("large", "bob", 4)
    world.waits("small", "zoe")

    decision = decide_match(world.snapshot(world.head("large", host="gone")), world.index)

    assert started(decision.matching) == {"small": "a"}


def test_where_no_room_is_kept_there_are_no_heads() -> None:
    world = a_full_host(a=2)
    world.waits("large", "bob", 2)
    facts = world.facts(max_kept=0.0)

    for decide in (decide_match, decide_nothing):
        assert decide(world.snapshot(heads=facts), world.index).heads.by_pool == {}
