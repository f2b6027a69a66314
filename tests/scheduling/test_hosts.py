from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import ConstraintClass, PoolDefaults
from cook_jupyter.scheduling.hosts import hosts as hosts_module
from cook_jupyter.scheduling.hosts.columns import _mixed, _states
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.limits.recent_values import FEW, MAX_UNUSED_ROUNDS
from tests.scheduling.strategies import on_snapshots

NAMES = [f"host-{number}" for number in range(9)]
NOTHING = Resources()
IN_ZONE_A = ConstraintClass(attributes=(("zone", "a"),))


@st.composite
def an_offer(draw: st.DrawFn, host: str) -> Offer:
    return Offer(
        host=host,
        cluster="east",
        pool=PoolName("pool"),
        room=Resources(cpus=draw(st.sampled_from([1.0, 2.0])), mem_mb=draw(st.sampled_from([10.0, 20.0]))),
        running=Resources(cpus=draw(st.sampled_from([0.0, 1.0])), mem_mb=5.0),
        attributes={"zone": draw(st.sampled_from("ab"))},
        ports=draw(st.sampled_from([(), ((1, 3),)])),
        task_count=draw(st.integers(0, 2)),
        kind=draw(st.sampled_from([HostKind.PLAIN, HostKind.PLAIN, HostKind.KUBERNETES])),
        until_ms=draw(st.sampled_from([None, None, None, 1000])),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[list[Offer]]:
    """What hosts offer from moment to moment; who does not change keeps the offer, now and then twice."""
    moments: list[list[Offer]] = []
    now: dict[str, Offer] = {}
    for _ in range(draw(st.integers(1, 4))):
        for host in draw(st.sets(st.sampled_from(NAMES))):
            if draw(st.booleans()):
                now[host] = draw(an_offer(host))
            else:
                now.pop(host, None)
        twice = [draw(an_offer(host)) for host in now if draw(st.integers(0, 9)) == 0]
        moments.append(draw(st.permutations([*now.values(), *twice])))
    return moments


def task_count(offer: Offer) -> float:
    return offer.task_count


def facts(hosts: Hosts) -> list[Any]:
    """All that decisions ask of hosts."""
    columns = hosts.columns
    numbers = (
        columns.room_cpus,
        columns.room_mem,
        columns.room_gpus,
        columns.run_cpus,
        columns.run_mem,
        columns.ports,
        columns.tasks,
    )
    rough = columns.rough
    estimates = (rough.fill, rough.per_cpu, rough.per_mb, rough.left_cpus, rough.left_mem)
    codes, values = hosts.codes("zone")
    zones = {code: zone for zone, code in values.items()}
    return [
        hosts.offers,
        hosts.position,
        hosts.all_plain,
        hosts.is_limited,
        [zones[code] for code in codes.tolist()],
        hosts.fact("tasks", task_count, np.int64).tolist(),
        [column.tolist() for column in (*estimates, rough.whole_cpus, rough.whole_mem)],
        [columns.states.tolist().index(state) for state in columns.states.tolist()],
        hosts.failing_class_constraint(IN_ZONE_A, 0.0, PoolDefaults()),
        [column.tolist() for column in numbers],
    ]


@on_snapshots
@given(history=histories())
def test_updated_hosts_equal_newly_built_ones(history: list[list[Offer]]) -> None:
    hosts = Hosts()
    for offers in history:
        hosts.update_from_offers(offers)
        assert facts(hosts) == facts(Hosts(offers))


@on_snapshots
@given(history=histories())
def test_hosts_updated_by_changes_equal_newly_built_ones(history: list[list[Offer]]) -> None:
    hosts = Hosts()
    for offers in history:
        then = Hosts(offers)
        gone = hosts.position.keys() - then.position.keys()
        hosts.update([offer for offer in then.offers if offer not in hosts.offers], removed=gone)
        assert facts(hosts) == facts(then)


@on_snapshots
@given(history=histories())
def test_only_offers_that_changed_are_read_again(history: list[list[Offer]]) -> None:
    read: list[Offer] = []

    def fact(offer: Offer) -> float:
        read.append(offer)
        return 0.0

    hosts = Hosts()
    for offers in history:
        before = list(hosts.offers)
        hosts.update_from_offers(offers)
        hosts.fact("number", fact, np.float64)

        unchanged = [offer for offer in hosts.offers if any(offer is old for old in before)]
        assert not any(offer is old for offer in read for old in unchanged)
        read.clear()


def test_states_are_equal_for_hosts_of_equal_size_and_usage_only() -> None:
    def an_offer(name: str, room: Resources, running: Resources = NOTHING, **more: Any) -> Offer:
        return Offer(host=name, cluster="east", pool=PoolName("pool"), room=room, running=running, **more)

    whole = Resources(cpus=1.0, mem_mb=2.0)
    offers = [
        an_offer("a", whole),
        an_offer("b", whole),
        an_offer("c", Resources(cpus=2.0, mem_mb=1.0)),
        an_offer("d", NOTHING, whole),
        an_offer("e", whole, task_count=1),
        an_offer("f", whole, ports=((1, 1),)),
        an_offer("g", whole, kind=HostKind.KUBERNETES),
        an_offer("h", whole, task_count=1),
    ]
    states = Hosts(offers).columns.states.tolist()

    assert [states.index(state) for state in states] == [0, 0, 2, 3, 4, 5, 6, 4]


def test_several_offers_of_one_host_are_one_host_with_all_their_room() -> None:
    first = Offer(
        host="a",
        cluster="east",
        pool=PoolName("pool"),
        room=Resources(cpus=1.0, mem_mb=2.0, gpus=3.0),
        running=Resources(cpus=4.0),
        ports=((1, 2),),
        gpu_models={"p100": 1.0},
        disk_mb={"ssd": 5.0},
        until_ms=2000,
        users=frozenset({"ada", "bob"}),
        task_count=6,
    )
    second = replace(
        first,
        cluster="west",
        room=Resources(cpus=10.0, mem_mb=20.0, gpus=30.0),
        ports=((7, 7),),
        gpu_models={"k80": 2.0},
        disk_mb={"fast": 8.0},
        until_ms=1000,
        users=frozenset({"bob", "cyd"}),
    )
    both = replace(
        first,
        room=Resources(cpus=11.0, mem_mb=22.0, gpus=33.0),
        ports=((1, 2), (7, 7)),
        gpu_models={"p100": 1.0, "k80": 2.0},
        disk_mb={"ssd": 5.0, "fast": 8.0},
        until_ms=1000,
        users=frozenset({"bob"}),
    )
    unlimited = replace(first, until_ms=None, users=None)

    assert Hosts([first, second]).offers == [both]
    assert Hosts([unlimited, second]).offers == [replace(both, users=second.users)]
    assert Hosts([unlimited, unlimited]).offers[0].until_ms is None
    assert Hosts([unlimited, unlimited]).offers[0].users is None


def test_the_offers_of_the_same_hosts_in_the_same_order_are_followed_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offers = [
        Offer(host=host, cluster="east", pool=PoolName("pool"), room=Resources(cpus=1.0))
        for host in ("b", "a", "c")
    ]
    later = [
        replace(offer, room=Resources(cpus=cpus)) for offer, cpus in zip(offers, (2.0, 3.0, 4.0), strict=True)
    ]
    hosts = Hosts(offers)
    hosts.update_from_offers([offers[2], offers[0], offers[1]])
    monkeypatch.setattr(hosts_module, "_merge_by_host", None)  # which takes all of them

    for now in ([offers[2], later[0], offers[1]], [later[2], later[0], offers[1]]):
        hosts.update_from_offers(now)
        assert hosts.offers == sorted(now, key=lambda offer: offer.host)


def test_codes_in_use_stay_right_when_unused_ones_are_forgotten() -> None:
    zones = ["a", "b", "a"]
    offers = [
        Offer(host=f"host-{n}", cluster="", pool=PoolName("pool"), room=NOTHING, attributes={"zone": zone})
        for n, zone in enumerate(zones)
    ]
    hosts = Hosts(offers)
    for number in range(FEW + 1):
        hosts.codes(f"unused-{number}")
    for _ in range(3 * MAX_UNUSED_ROUNDS):
        codes, values = hosts.codes("zone")
        assert codes.tolist() == [values[zone] for zone in zones]
        hosts.update([replace(offers[0])])

    assert list(hosts.columns._codes) == ["zone"]


def test_hosts_of_which_one_is_gone_are_as_if_built_without_it() -> None:
    offers = [
        Offer(
            host=host, cluster="", pool=PoolName("pool"), room=Resources(cpus=cpus), attributes={"zone": host}
        )
        for host, cpus in (("a", 1.0), ("b", 2.0), ("c", 2.0))
    ]
    hosts = Hosts(offers)
    facts(hosts)

    hosts.update([], removed=["b"])

    assert facts(hosts) == facts(Hosts([offers[0], offers[2]]))


def test_hosts_that_were_told_a_change_follow_the_same_offers_again() -> None:
    offer = Offer(host="a", cluster="east", pool=PoolName("pool"), room=Resources(cpus=1.0))
    hosts = Hosts([offer])
    hosts.update([replace(offer, room=Resources(cpus=2.0))])

    hosts.update_from_offers([offer])

    assert hosts.offers == [offer]


def test_hosts_whose_hashes_collide_have_different_states() -> None:
    same = np.array([5.0, 5.0, 5.0])
    columns = [np.array([1.0, 2.0, 1.0]), np.array([1.0, 1.1665817025714846e-302, 1.0]), same]
    assert len(set(_mixed(columns).tolist())) == 1  # otherwise look for another pair

    states = _states(columns).tolist()

    assert states[0] == states[2] != states[1]
