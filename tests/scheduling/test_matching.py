import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.decisions import Match, Refusal
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ATTRIBUTES,
    GPU,
    MAX_TASKS,
    NO_JOB_CONSTRAINTS,
    NON_GPU,
    NOVEL_HOST,
    RESERVED,
    UNCONSTRAINED,
    UNIQUE,
    ConstraintClass,
    ConstraintRewrite,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
)
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, PlacementContext
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.matching import MatchSettings, match, refusal_of
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling import reference
from tests.scheduling.queues import job_id, seq_of
from tests.scheduling.strategies import offer_lists, on_snapshots, task_lists

FEW, MANY = 10**9, 0  # of hosts, from which on they are looked at in columns
BOTH_WAYS = pytest.mark.parametrize("columnar_from", [FEW, MANY], ids=["one by one", "in columns"])
good_enough = st.sampled_from([0.8, 0.7, 0.65, 1.0])


def request(seq: int, cpus: float = 1.0, mem_mb: float = 10.0, **more: Any) -> TaskRequest:
    return TaskRequest(job_id(seq), cpus, mem_mb, **more)


def asks_of(tasks: Sequence[Mapping[str, Any]]) -> list[TaskRequest]:
    return [request(task["seq"], task["cpus"], task["mem"], gpus=task["gpus"]) for task in tasks]


def a_host(name: str, cpus: float = 4.0, mem_mb: float = 100.0, **more: Any) -> Offer:
    attributes = {"HOSTNAME": name, **more.pop("attributes", {})}
    return Offer(
        host=name,
        cluster="east",
        pool=PoolName("pool"),
        room=Resources(cpus=cpus, mem_mb=mem_mb, gpus=more.pop("gpus", 0.0)),
        attributes=attributes,
        **more,
    )


def hosts_of(matches: Sequence[Match]) -> dict[int, str]:
    return {seq_of(item.job_id): item.host for item in matches}


@BOTH_WAYS
@on_snapshots
@given(tasks=task_lists(waiting_only=True, max_size=25), offers=offer_lists(), good=good_enough)
def test_jobs_are_placed_as_specified(
    columnar_from: int, tasks: list[dict[str, Any]], offers: list[Offer], good: float
) -> None:
    expected = reference.place(tasks, offers, reference.Facts(good_enough=good))
    settings = MatchSettings(good_enough=good, columnar_from=columnar_from)
    matches, refusals, considered = match(asks_of(tasks), Hosts(offers), settings=settings)
    assert (matches, refusals) == expected
    assert considered == len(matches) + len(refusals)


@BOTH_WAYS
@on_snapshots
@given(tasks=task_lists(waiting_only=True, max_size=25), offers=offer_lists(), good=good_enough)
def test_no_host_is_oversubscribed(
    columnar_from: int, tasks: list[dict[str, Any]], offers: list[Offer], good: float
) -> None:
    settings = MatchSettings(good_enough=good, columnar_from=columnar_from)
    matches, _, _ = match(asks_of(tasks), Hosts(offers), settings=settings)
    requested = {job_id(task["seq"]): task for task in tasks}
    given_out: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in matches:
        given_out[item.host].append(requested[item.job_id])
    for offer in offers:
        assert sum(task["cpus"] for task in given_out[offer.host]) <= offer.room.cpus + 1e-9
        assert sum(task["mem"] for task in given_out[offer.host]) <= offer.room.mem_mb + 1e-9
        assert sum(task["gpus"] for task in given_out[offer.host]) <= offer.room.gpus


@on_snapshots
@given(tasks=task_lists(waiting_only=True), offers=offer_lists(), data=st.data())
def test_the_order_of_offers_changes_nothing(
    tasks: list[dict[str, Any]], offers: list[Offer], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(offers))
    settings = MatchSettings(columnar_from=data.draw(st.sampled_from([FEW, MANY])))
    requests = asks_of(tasks)
    assert match(requests, Hosts(shuffled), settings=settings) == match(
        requests, Hosts(offers), settings=settings
    )


@pytest.mark.parametrize("in_use", ["all alike", "a few ways", "each differently"])
@pytest.mark.parametrize("good", [0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_on_thousands_of_hosts_jobs_are_placed_as_if_hosts_were_checked_one_by_one(
    in_use: str, good: float, seed: int
) -> None:
    rng = random.Random(seed)

    def used(whole: float) -> float:
        if in_use == "each differently":
            return rng.random() * whole
        return 0.0 if in_use == "all alike" else rng.choice([0.25, 0.5, 0.875]) * whole

    offers = []
    for number in range(4100):
        cpus, mem_mb = rng.choice([(8.0, 100.0), (16.0, 100.0)]) if seed else (1.1, 30.0)
        running = Resources(cpus=used(cpus), mem_mb=used(mem_mb))
        whole = Resources(cpus=cpus, mem_mb=mem_mb)
        zone = rng.choice("ab")
        offers.append(
            Offer(
                host=f"host-{number:04}",
                cluster="east",
                pool=PoolName("pool"),
                room=whole - running,
                running=running,
                attributes={"zone": zone},
            )
        )
    requests: list[TaskRequest] = []
    while len(requests) < 90:
        cpus, mem_mb = rng.choice([0.1, 0.5, 1.0, 3.0, rng.uniform(0.1, 6)]), rng.choice([0.0, 7.0, 30.0])
        required = rng.choice([UNCONSTRAINED, UNCONSTRAINED, ConstraintClass(attributes=(("zone", "a"),))])
        requests += [
            request(len(requests) + more, cpus, mem_mb, constraints=required)
            for more in range(rng.choice([1, 2, 25]))
        ]
    hosts = Hosts(offers)
    few, many = (
        match(requests, hosts, settings=MatchSettings(good_enough=good, columnar_from=columnar_from))
        for columnar_from in (FEW, MANY)
    )
    assert many == few


@st.composite
def demanding_asks(draw: st.DrawFn) -> list[TaskRequest]:
    """Jobs with constraints of every kind."""
    classes = st.sampled_from(
        [
            UNCONSTRAINED,
            UNCONSTRAINED,
            ConstraintClass(attributes=(("zone", "a"),)),
            ConstraintClass(attributes=(("zone", "b"), ("HOSTNAME", "host-03"))),
            ConstraintClass(disk_type="ssd", disk_mb=40.0),
            ConstraintClass(gpu_model="p100"),
        ]
    )
    job_constraints = st.sampled_from(
        [
            NO_JOB_CONSTRAINTS,
            NO_JOB_CONSTRAINTS,
            NO_JOB_CONSTRAINTS,
            JobConstraints(avoid=frozenset({"host-00", "host-02"})),
            JobConstraints(group=GroupId("unique")),
            JobConstraints(group=GroupId("alike")),
            JobConstraints(group=GroupId("spread")),
            JobConstraints(location="lab"),
            JobConstraints(runtime_ms=900_000),
        ]
    )
    return [
        request(
            seq,
            draw(st.sampled_from([0.5, 1.0, 1.0, 2.0])),
            draw(st.sampled_from([10.0, 10.0, 30.0])),
            gpus=draw(st.sampled_from([0.0, 0.0, 0.0, 1.0])),
            ports=draw(st.sampled_from([0, 0, 2])),
            constraints=draw(classes),
            job_constraints=draw(job_constraints),
        )
        for seq in range(1, draw(st.integers(0, 25)) + 1)
    ]


@st.composite
def varied_hosts(draw: st.DrawFn) -> list[Offer]:
    """Hosts of all kinds."""
    return [
        a_host(
            f"host-{number:02}",
            draw(st.sampled_from([2.0, 4.0])),
            gpus=draw(st.sampled_from([0.0, 1.0])),
            attributes={
                "zone": draw(st.sampled_from(["a", "b"])),
                **draw(st.sampled_from([{}, {"host-start-time": "1000"}, {"host-start-time": "5000"}])),
            },
            kind=draw(st.sampled_from([HostKind.PLAIN, HostKind.PLAIN, HostKind.MESOS, HostKind.KUBERNETES])),
            gpu_models=draw(st.sampled_from([{}, {}, {"p100": 1.0}])),
            disk_mb={"ssd": draw(st.sampled_from([0.0, 100.0]))},
            location=draw(st.sampled_from([None, "lab"])),
            ports=draw(st.sampled_from([(), ((31000, 31001), (32000, 32002))])),
            task_count=draw(st.integers(0, 2)),
        )
        for number in range(draw(st.integers(1, 28)))
    ]


DEFAULTS = PoolDefaults(gpu_model="p100", disk=True, disk_type="ssd", disk_mb=20.0, host_lifetime_ms=500_000)
GROUPS = {
    GroupId("unique"): GroupPlacement(kind=PlacementKind.UNIQUE),
    GroupId("alike"): GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
    GroupId("spread"): GroupPlacement(kind=PlacementKind.BALANCED, attribute="HOSTNAME", minimum=3),
}


@on_snapshots
@given(
    requests=demanding_asks(),
    offers=varied_hosts(),
    good=good_enough,
    most=st.sampled_from([None, None, 2]),
    demands=st.sampled_from([(), (), (("zone", "a"),)]),
    reserved=st.dictionaries(
        st.integers(1, 6).map(job_id), st.sampled_from(["host-00", "host-01"]), max_size=2
    ),
)
def test_both_placers_assign_the_same_hosts(
    requests: list[TaskRequest],
    offers: list[Offer],
    good: float,
    most: int | None,
    demands: Any,
    reserved: dict[JobId, str],
) -> None:
    placement_context = PlacementContext(
        reservations=reserved,
        groups=GROUPS,
        group_hosts=lambda _: {"host-01": 1, "gone": 1},
        now_ms=1_100_000,
    )
    defaults = PoolDefaults(
        constraints=demands,
        rewritings={"zone": ConstraintRewrite(patterns=(("^c$", "b"),))},
        gpu_model=DEFAULTS.gpu_model,
        disk=True,
        disk_type=DEFAULTS.disk_type,
        disk_mb=DEFAULTS.disk_mb,
        host_lifetime_ms=DEFAULTS.host_lifetime_ms,
        max_tasks_per_host=most,
    )
    few, many = (
        match(
            requests,
            Hosts(offers),
            settings=MatchSettings(good_enough=good, defaults=defaults, columnar_from=columnar_from),
            placement_context=placement_context,
        )
        for columnar_from in (FEW, MANY)
    )
    assert many == few


@BOTH_WAYS
def test_the_host_that_a_job_fills_best_is_chosen(columnar_from: int) -> None:
    used = Resources(cpus=3.0, mem_mb=75.0)
    offers = [a_host("empty"), a_host("half-full", 1.0, 25.0, running=used), a_host("tiny", 0.5)]
    settings = MatchSettings(columnar_from=columnar_from)
    matches, _, _ = match([request(1), request(2)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "half-full", 2: "empty"}


@BOTH_WAYS
def test_hosts_are_equally_fit_whatever_their_fills_are_rounded_to(columnar_from: int) -> None:
    # 1/3 + 1/4 and 1/2 + 1/12 are the same, yet as floating-point numbers the second is greater.
    offers = [a_host("a", 3.0, 4.0), a_host("b", 2.0, 12.0)]
    settings = MatchSettings(columnar_from=columnar_from)
    matches, _, _ = match([request(1, 1.0, 1.0)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "a"}


@BOTH_WAYS
def test_a_host_without_room_is_never_good_enough(columnar_from: int) -> None:
    offers = [a_host(f"h{number}", 1.0, 10.0) for number in range(12)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=0.1)
    matches, _, _ = match([request(seq) for seq in range(1, 15)], Hosts(offers), settings=settings)
    assert Counter(item.host for item in matches) == {offer.host: 1 for offer in offers}


@BOTH_WAYS
def test_a_host_that_a_constraint_excludes_is_never_good_enough(columnar_from: int) -> None:
    offers = [a_host("a", attributes={"zone": "east"}), a_host("b", attributes={"zone": "west"})]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=0.1)
    required = ConstraintClass(attributes=(("zone", "west"),))
    matches, _, _ = match([request(1, constraints=required)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "b"}


@BOTH_WAYS
def test_equal_hosts_are_chosen_in_order_of_name(columnar_from: int) -> None:
    offers = [a_host("c", 1.0), a_host("a", 1.0), a_host("b", 1.0)]
    settings = MatchSettings(columnar_from=columnar_from)
    matches, _, _ = match([request(1), request(2), request(3)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "a", 2: "b", 3: "c"}


@BOTH_WAYS
def test_a_good_host_ends_the_search_at_its_batch_of_ten(columnar_from: int) -> None:
    # Hosts 3 and 7 are good, 7 is better; 12 would be filled to the brim, but is in the next batch.
    mem = {3: 11.4, 7: 11.0, 12: 10.0}
    offers = [a_host(f"h{n:02}", 1.0 if n in mem else 8.0, mem.get(n, 100.0)) for n in range(20)]
    settings = MatchSettings(columnar_from=columnar_from)
    matches, _, _ = match([request(1)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "h07"}
    everywhere = MatchSettings(columnar_from=columnar_from, good_enough=1.0)
    matches, _, _ = match([request(1)], Hosts(offers), settings=everywhere)
    assert hosts_of(matches) == {1: "h12"}


@BOTH_WAYS
def test_a_host_just_above_good_enough_ends_the_search(columnar_from: int) -> None:
    sizes = {5: (1.0, 40.0), 12: (1.0, 10.0)}  # filled to 1.25 and 2
    offers = [a_host(f"h{n:02}", *sizes.get(n, (8.0, 100.0))) for n in range(20)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=fitness_of(1.25 - 1e-6))
    matches, _, _ = match([request(1)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "h05"}


@BOTH_WAYS
def test_a_host_of_exactly_good_enough_is_chosen_only_if_no_host_is_fitter(columnar_from: int) -> None:
    def chosen(sizes: dict[int, tuple[float, float]]) -> dict[int, str]:
        offers = [a_host(f"h{n:02}", *sizes.get(n, (8.0, 100.0))) for n in range(20)]
        settings = MatchSettings(columnar_from=columnar_from, good_enough=fitness_of(1.25))
        matches, _, _ = match([request(1)], Hosts(offers), settings=settings)
        return hosts_of(matches)

    assert chosen({5: (1.0, 40.0)}) == {1: "h05"}
    assert chosen({5: (1.0, 40.0), 12: (1.0, 10.0)}) == {1: "h12"}


@BOTH_WAYS
def test_hosts_of_exactly_good_enough_are_taken_after_all_fitter_ones(columnar_from: int) -> None:
    # Each job takes a host; every fourth one is filled to the brim, the others to 1.25.
    offers = [a_host(f"h{n:02}", 1.0, 40.0 if n % 4 else 10.0) for n in range(40)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=fitness_of(1.25))
    matches, _, _ = match([request(seq) for seq in range(40)], Hosts(offers), settings=settings)
    assert [item.host for item in matches] == [
        *(f"h{n:02}" for n in range(0, 40, 4)),
        *(f"h{n:02}" for n in range(40) if n % 4),
    ]


@BOTH_WAYS
def test_an_empty_host_may_be_good_enough_for_a_job_that_requests_nothing(columnar_from: int) -> None:
    used = Resources(cpus=2.0, mem_mb=50.0)
    offers = [a_host(f"h{n:02}", running=used if n > 9 else Resources()) for n in range(20)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=0.1)
    matches, _, _ = match([request(1, 0.0, 0.0)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "h00"}


@BOTH_WAYS
def test_of_many_equal_hosts_of_exactly_good_enough_the_first_is_chosen(columnar_from: int) -> None:
    offers = [a_host(f"h{n:02}", 4.0, 40.0) for n in range(100)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=fitness_of(1.25))
    matches, _, _ = match([request(1), request(2, 4.0)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "h00", 2: "h01"}


@BOTH_WAYS
def test_of_many_equal_hosts_the_first_good_one_is_chosen_even_if_a_later_one_is_fitter(
    columnar_from: int,
) -> None:
    offers = [a_host(f"h{n:02}", *((3.0, 12.0) if n == 50 else (4.0, 40.0))) for n in range(100)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=fitness_of(1.0))
    matches, _, _ = match([request(1, 1.0, 20.0), request(2, 3.0, 12.0)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "h00", 2: "h00"}


@BOTH_WAYS
def test_a_host_that_is_fitter_by_a_millionth_is_chosen(columnar_from: int) -> None:
    offers = [a_host("a", 1.0, 40.00056), a_host("b", 1.0, 40.0)]
    settings = MatchSettings(columnar_from=columnar_from, good_enough=1.0)
    matches, _, _ = match([request(1)], Hosts(offers), settings=settings)
    assert hosts_of(matches) == {1: "b"}


@BOTH_WAYS
def test_a_refusal_counts_hosts_by_what_they_lack(columnar_from: int) -> None:
    offers = [
        a_host("small", 1.0, 1000.0),
        a_host("thin", 8.0, 50.0),
        a_host("both", 1.0, 50.0),
        a_host("elsewhere", 8.0, 1000.0, attributes={"zone": "b"}),
    ]
    required = ConstraintClass(attributes=(("zone", "a"),))
    offers[:3] = [a_host(o.host, o.room.cpus, o.room.mem_mb, attributes={"zone": "a"}) for o in offers[:3]]
    settings = MatchSettings(columnar_from=columnar_from)
    _, refusals, _ = match([request(1, 2.0, 100.0, constraints=required)], Hosts(offers), settings=settings)
    assert refusals == [
        Refusal(job_id=job_id(1), resources={"cpus": 2, "mem": 2}, constraints={ATTRIBUTES: 1})
    ]


@BOTH_WAYS
def test_a_refusal_counts_hosts_as_they_are_at_the_turn_of_its_job(columnar_from: int) -> None:
    offers = [a_host("a", 4.0), a_host("b", 4.0)]
    requests = [request(1, 3.0, 200.0), request(2, 2.0), request(3, 3.0, 200.0)]
    settings = MatchSettings(columnar_from=columnar_from)
    _, refusals, _ = match(requests, Hosts(offers), settings=settings)
    assert refusals == [
        Refusal(job_id=job_id(1), resources={"mem": 2}),
        Refusal(job_id=job_id(3), resources={"cpus": 1, "mem": 2}),
    ]


@BOTH_WAYS
def test_a_host_where_the_job_failed_is_avoided(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    own = JobConstraints(avoid=frozenset({"a"}))
    requests = [request(1, job_constraints=own), request(2, 4.0, job_constraints=own)]
    matches, refusals, _ = match(requests, Hosts([a_host("a"), a_host("b")]), settings=settings)
    assert hosts_of(matches) == {1: "b"}
    assert refusals == [Refusal(job_id=job_id(2), resources={"cpus": 1}, constraints={NOVEL_HOST: 1})]


@BOTH_WAYS
def test_a_reserved_host_accepts_only_its_beneficiary(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    placement_context = PlacementContext(reservations={job_id(2): "a"})
    matches, refusals, _ = match(
        [request(1), request(2)], Hosts([a_host("a")]), settings=settings, placement_context=placement_context
    )
    assert hosts_of(matches) == {2: "a"}
    assert refusals == [Refusal(job_id=job_id(1), constraints={RESERVED: 1})]


@BOTH_WAYS
def test_a_job_like_one_with_a_reserved_host_is_refused_for_its_own_reasons(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    context = PlacementContext(reservations={job_id(1): "a"})
    large = [request(seq, 5.0) for seq in (1, 2, 3)]
    _, refusals, _ = match(
        large, Hosts([a_host("a"), a_host("b")]), settings=settings, placement_context=context
    )
    assert [(refusal.resources, refusal.constraints) for refusal in refusals] == [
        ({"cpus": 2}, {}),
        ({"cpus": 1}, {RESERVED: 1}),
        ({"cpus": 1}, {RESERVED: 1}),
    ]


@BOTH_WAYS
def test_a_host_runs_no_more_tasks_than_its_maximum(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from, defaults=PoolDefaults(max_tasks_per_host=3))
    matches, refusals, _ = match(
        [request(1), request(2), request(3)], Hosts([a_host("a", task_count=1)]), settings=settings
    )
    assert hosts_of(matches) == {1: "a", 2: "a"}
    assert refusals == [Refusal(job_id=job_id(3), constraints={MAX_TASKS: 1})]


@BOTH_WAYS
def test_a_task_on_a_kubernetes_node_counts_once(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from, defaults=PoolDefaults(max_tasks_per_host=2))
    node = a_host("node", kind=HostKind.KUBERNETES)
    matches, _, _ = match([request(1), request(2), request(3)], Hosts([node]), settings=settings)
    assert hosts_of(matches) == {1: "node", 2: "node"}


@BOTH_WAYS
def test_a_unique_group_gets_a_host_for_each_job(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    placement_context = PlacementContext(groups=GROUPS, group_hosts=lambda _: {"a": 1})
    own = JobConstraints(group=GroupId("unique"))
    matches, refusals, _ = match(
        [request(1, job_constraints=own), request(2, job_constraints=own)],
        Hosts([a_host("a"), a_host("b")]),
        settings=settings,
        placement_context=placement_context,
    )
    assert hosts_of(matches) == {1: "b"}
    assert refusals[0].constraints == {UNIQUE: 2}


@BOTH_WAYS
def test_a_balanced_group_spreads_over_the_values(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    placement_context = PlacementContext(groups=GROUPS)
    own = JobConstraints(group=GroupId("spread"))
    hosts = Hosts([a_host(name, 100.0) for name in ("a", "b", "c")])
    requests = [request(seq, mem_mb=1.0, job_constraints=own) for seq in range(1, 10)]
    matches, _, _ = match(requests, hosts, settings=settings, placement_context=placement_context)
    assert Counter(item.host for item in matches) == {"a": 3, "b": 3, "c": 3}


@BOTH_WAYS
def test_a_group_with_equal_attributes_stays_together(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    placement_context = PlacementContext(groups=GROUPS)
    own = JobConstraints(group=GroupId("alike"))
    hosts = Hosts([a_host(f"{zone}{n}", 1.0, attributes={"zone": zone}) for n in "123" for zone in "ab"])
    requests = [request(seq, job_constraints=own) for seq in range(1, 6)]
    matches, refusals, _ = match(requests, hosts, settings=settings, placement_context=placement_context)
    assert [item.host[0] for item in matches] == ["a", "a", "a"]
    assert len(refusals) == 2


@BOTH_WAYS
def test_gpus_are_a_number_on_plain_hosts_and_whole_nodes_on_kubernetes(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from, defaults=PoolDefaults(gpu_model="p100"))
    node = a_host("node", kind=HostKind.KUBERNETES, gpu_models={"p100": 2.0})
    agent = a_host("agent", kind=HostKind.MESOS)
    plain = a_host("plain", gpus=3.0)
    one, two = request(1, gpus=1.0), request(2, gpus=2.0)
    matches, refusals, _ = match(
        [one, two, request(3, gpus=2.0)], Hosts([node, agent, plain]), settings=settings
    )
    assert hosts_of(matches) == {1: "plain", 2: "plain", 3: "node"}
    assert refusal_of(request(4), Hosts([node]), settings=settings).constraints == {NON_GPU: 1}
    assert refusal_of(request(4, gpus=1.0), Hosts([agent]), settings=settings).constraints == {GPU: 1}
    assert len(matches) + len(refusals) == 3


@BOTH_WAYS
def test_each_port_is_assigned_once_and_the_lowest_first(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    host = a_host("a", ports=((32000, 32000), (31000, 31001)))
    matches, refusals, _ = match(
        [request(1, ports=2), request(2, ports=1), request(3, ports=1)], Hosts([host]), settings=settings
    )
    assert [item.ports for item in matches] == [(31000, 31001), (32000,)]
    assert refusals[0].resources == {"ports": 1}


@BOTH_WAYS
def test_several_offers_of_one_host_are_added_up(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    matches, _, _ = match([request(1, 6.0)], Hosts([a_host("a"), a_host("a")]), settings=settings)
    assert hosts_of(matches) == {1: "a"}


def test_a_job_like_one_that_failed_is_refused_for_the_same_reasons() -> None:
    jobs = [request(1, 5.0), request(2, 5.0), request(3, 6.0, 200.0)]
    _, refusals, _ = match(jobs, Hosts([a_host("a")]))
    assert [refusal.resources for refusal in refusals] == [
        {"cpus": 1},
        {"cpus": 1},
        {"cpus": 1, "mem": 1},
    ]


def test_a_job_like_one_that_failed_is_refused_for_the_same_constraints() -> None:
    required = ConstraintClass(attributes=(("zone", "a"),))
    jobs = [request(seq, 5.0, constraints=required) for seq in (1, 2)]
    hosts = Hosts([a_host("a", attributes={"zone": "a"}), a_host("b", attributes={"zone": "b"})])
    _, refusals, _ = match(jobs, hosts)
    assert [refusal.constraints for refusal in refusals] == [{ATTRIBUTES: 1}, {ATTRIBUTES: 1}]


@BOTH_WAYS
@pytest.mark.parametrize(("cpus", "mem_mb"), [(2.0, 10.0), (1.0, 50.0)], ids=["cpus", "memory"])
def test_matching_ends_when_nothing_that_waits_can_fit(
    columnar_from: int, cpus: float, mem_mb: float
) -> None:
    read = []

    def requests() -> Any:
        for seq in range(1, 100):
            read.append(seq)
            yield request(seq, cpus, mem_mb)

    matches, refusals, considered = match(
        requests(),
        Hosts([a_host("a")]),
        settings=MatchSettings(columnar_from=columnar_from),
        min_request=lambda: (cpus, mem_mb),
    )
    assert (len(matches), len(refusals), considered, len(read)) == (2, 1, 3, 3)


@BOTH_WAYS
def test_without_hosts_nothing_is_matched(columnar_from: int) -> None:
    settings = MatchSettings(columnar_from=columnar_from)
    matches, refusals, considered = match([request(1), request(2)], Hosts(), settings=settings)
    assert (matches, considered) == ([], 1)
    assert refusals == [Refusal(job_id=job_id(1))]


def test_new_offers_replace_old_ones() -> None:
    hosts = Hosts([a_host("a", 1.0), a_host("b", 1.0)])
    settings = MatchSettings(columnar_from=MANY)
    match([request(1)], hosts, settings=settings)
    hosts.update([a_host("b", 8.0)])
    matches, _, _ = match([request(1, 5.0)], hosts, settings=settings, placement_context=NO_PLACEMENT_CONTEXT)
    assert hosts_of(matches) == {1: "b"}
