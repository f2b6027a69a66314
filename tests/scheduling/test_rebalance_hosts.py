"""The constraints that preemption applies are those of matching, on hosts with and without an offer."""

import random
from dataclasses import replace

import pytest

from cook_jupyter.model.job import GroupId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
)
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, ConstraintChecker, PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.rebalancing.candidates import RebalanceHosts
from tests.scheduling.busy_pools import a_context, some_defaults, some_offers, some_requests
from tests.scheduling.queues import job_id

NO_DEMANDS = PoolDefaults()
GROUP = GroupId("group")
OF_GROUP = TaskRequest(job_id(1), 1.0, 1.0, job_constraints=JobConstraints(group=GROUP))
IN_ZONE_A = TaskRequest(job_id(2), 1.0, 1.0, constraints=ConstraintClass(attributes=(("zone", "a"),)))


def rebalance_hosts(
    *offers: Offer,
    busy: tuple[str, ...] = (),
    defaults: PoolDefaults = NO_DEMANDS,
    context: PlacementContext = NO_PLACEMENT_CONTEXT,
    spare_hosts_known: bool = True,
    groups_apart: bool = True,
) -> RebalanceHosts:
    return RebalanceHosts(
        Hosts(offers),
        busy,
        defaults=defaults,
        placement_context=context,
        clusters={"gone": "west"},
        spare_hosts_known=spare_hosts_known,
        groups_apart=groups_apart,
    )


def an_offer(host: str, zone: str = "a") -> Offer:
    attributes = {"HOSTNAME": host, "zone": zone}
    return Offer(
        host=host,
        cluster="east",
        pool=PoolName("pool"),
        room=Resources(),
        attributes=attributes,
        location="lab",
    )


def takes(hosts: RebalanceHosts, request: TaskRequest) -> list[str]:
    """The hosts that meet the constraints of a job."""
    is_open = hosts.open_to_class(request.constraints, request.gpus)
    meets = [hosts.meets_job_constraints(request, position) for position in range(len(hosts.offers))]
    assert {*meets} <= {True, False}
    return [
        offer.host
        for position, offer in enumerate(hosts.offers)
        if meets[position] and (is_open is None or is_open[position])
    ]


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_a_host_takes_the_jobs_that_it_takes_in_matching(first: int) -> None:
    for seed in range(first, first + 20):
        rng = random.Random(seed)
        hosts = Hosts(some_offers(rng))
        defaults = replace(some_defaults(rng), max_tasks_per_host=None)
        context = replace(a_context(rng), reservations={})
        checker = ConstraintChecker(hosts, defaults, context)
        candidates = rebalance_hosts(*hosts.offers, defaults=defaults, context=context)

        for request in some_requests(rng, is_limited=hosts.is_limited, number=20):
            failing_at = checker.failing_at(request) or (lambda _: None)
            expected = [offer.host for at, offer in enumerate(hosts.offers) if failing_at(at) is None]
            assert takes(candidates, request) == expected, f"seed {seed}, {request}"
            if expected:
                host = rng.choice(expected)
                checker.record_assignment(hosts.position[host], request)
                candidates.record_placement(request, host)


def test_a_busy_host_without_an_offer_has_its_known_attributes_and_no_room() -> None:
    limited = Offer(
        host="gone",
        cluster="east",
        pool=PoolName("pool"),
        room=Resources(cpus=4.0),
        until_ms=5,
        users=frozenset({"ada"}),
    )
    context = PlacementContext(attributes={"gone": {"zone": "a"}}, limited={"gone": limited})

    hosts = rebalance_hosts(an_offer("z"), an_offer("b"), busy=("gone", "known", "z"), context=context)

    assert [offer.host for offer in hosts.offers] == ["b", "gone", "known", "z"]
    assert hosts.position == {"b": 0, "gone": 1, "known": 2, "z": 3}
    assert hosts.offers[1] == Offer(
        host="gone",
        cluster="west",
        pool=PoolName(""),
        room=Resources(),
        attributes={"HOSTNAME": "gone", "zone": "a"},
        until_ms=5,
        users=frozenset({"ada"}),
    )
    assert hosts.offers[2] == Offer(
        host="known", cluster="", pool=PoolName(""), room=Resources(), attributes={"HOSTNAME": "known"}
    )
    assert hosts.is_limited
    assert hosts.all_plain


def test_where_spare_hosts_are_unknown_only_busy_ones_have_attributes() -> None:
    hosts = rebalance_hosts(an_offer("a"), an_offer("b"), busy=("b",), spare_hosts_known=False)

    assert [(dict(offer.attributes), offer.location) for offer in hosts.offers] == [
        ({}, None),
        ({"HOSTNAME": "b", "zone": "a"}, "lab"),
    ]
    assert takes(hosts, IN_ZONE_A) == ["b"]
    assert not hosts.is_limited


def grouped(kind: PlacementKind, running: dict[str, int], *, apart: bool, minimum: int = 2) -> RebalanceHosts:
    """Hosts of two zones, and a group with running tasks."""
    context = PlacementContext(
        groups={GROUP: GroupPlacement(kind=kind, attribute="zone", minimum=minimum)},
        group_hosts=lambda _: running,
    )
    offers = [an_offer("a1"), an_offer("a2"), an_offer("b1", "b"), an_offer("b2", "b")]
    return rebalance_hosts(*offers, context=context, groups_apart=apart)


def test_a_spare_host_of_which_nothing_is_known_takes_no_job_of_a_unique_group() -> None:
    context = PlacementContext(groups={GROUP: GroupPlacement(kind=PlacementKind.UNIQUE)})
    hosts = rebalance_hosts(
        an_offer("a"), an_offer("b"), busy=("b",), context=context, spare_hosts_known=False
    )

    assert takes(hosts, OF_GROUP) == ["b"]


def test_a_group_that_is_apart_meets_its_placement_with_and_without_its_preempted_tasks() -> None:
    hosts = grouped(PlacementKind.BALANCED, {"a1": 2, "b1": 1}, apart=True)
    assert takes(hosts, OF_GROUP) == ["b1", "b2"]

    hosts.record_preemption(None, "b1")
    hosts.record_preemption(GroupId("other"), "b1")
    assert takes(hosts, OF_GROUP) == ["b1", "b2"]

    hosts.record_preemption(GROUP, "a1")
    assert takes(hosts, OF_GROUP) == ["b1", "b2"]  # with it a has more, without it both have one

    hosts.record_preemption(GROUP, "a1")
    assert takes(hosts, OF_GROUP) == []  # now b has more without them


def test_a_zone_that_a_group_leaves_with_its_preempted_tasks_does_not_count() -> None:
    hosts = grouped(PlacementKind.BALANCED, {"a1": 1, "b1": 1}, apart=True, minimum=1)
    hosts.record_preemption(GROUP, "a1")

    assert takes(hosts, OF_GROUP) == ["a1", "a2", "b1", "b2"]


def test_a_unique_group_keeps_off_the_hosts_of_its_preempted_tasks() -> None:
    hosts = grouped(PlacementKind.UNIQUE, {"a1": 1}, apart=True)
    hosts.record_preemption(GROUP, "a1")
    assert takes(hosts, OF_GROUP) == ["a2", "b1", "b2"]

    hosts.record_placement(OF_GROUP, "b2")
    assert takes(hosts, OF_GROUP) == ["a2", "b1"]


def test_by_cooks_rules_a_group_counts_preempted_tasks_of_others_as_its_own() -> None:
    hosts = grouped(PlacementKind.UNIQUE, {"a1": 1}, apart=False)
    hosts.record_preemption(None, "b1")
    assert takes(hosts, OF_GROUP) == ["a2", "b2"]

    hosts.record_preemption(GROUP, "a2")
    assert takes(hosts, OF_GROUP) == ["a2", "b2"]

    hosts.record_preemption(GroupId("other"), "b2")
    assert takes(hosts, OF_GROUP) == ["a2"]


def test_by_cooks_rules_the_group_of_a_preempted_task_is_known_before_it_asks_for_a_host() -> None:
    hosts = grouped(PlacementKind.UNIQUE, {}, apart=False)
    hosts.record_preemption(GROUP, "a1")
    hosts.record_preemption(None, "a2")

    assert takes(hosts, OF_GROUP) == ["a1", "b1", "b2"]
