"""Offers for a time or for some users: who may start there, looked at one by one and in columns."""

from typing import Any

import pytest

from cook_jupyter.model.limits import UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import OFFER_END, OFFER_USERS, PoolDefaults
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches, refusal_now
from cook_jupyter.scheduling.matching.matching import MatchSettings
from tests.scheduling.queues import an_index, job_id

NOW_MS = 1_000_000
BOTH_WAYS = pytest.mark.parametrize("columnar_from", [10**9, 0], ids=["one by one", "in columns"])


def an_offer(host: str = "h1", **fields: Any) -> Offer:
    return Offer(host=host, cluster="c", pool=PoolName("pool"), room=Resources(cpus=4, mem_mb=4096), **fields)


def refusals(columnar_from: int, job: dict[str, Any], *offers: Offer, **defaults: Any) -> dict[str, int]:
    """Why the job of ada does not start; nothing if it does. The cycle and the explanation must agree."""
    index = an_index([{"seq": 1, "user": "ada", "cpus": 1.0, "mem": 64.0, **job}])
    settings = MatchSettings(columnar_from=columnar_from, defaults=PoolDefaults(**defaults))
    placement_context = PlacementContext(now_ms=NOW_MS)
    matching = decide_matches(
        index,
        Hosts(offers),
        UserLimits(),
        settings=CycleSettings(match=settings),
        placement_context=placement_context,
    )
    result = refusal_now(
        index, job_id(1), Hosts(offers), settings=settings, placement_context=placement_context
    )
    assert [refusal.constraints for refusal in matching.refusals] == [result.constraints] * (
        not matching.matches
    )
    return dict(result.constraints)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("users", "starts"), [({"ada"}, True), ({"ada", "bob"}, True), ({"bob"}, False), ((), False)]
)
def test_an_offer_for_some_users_takes_theirs_alone(columnar_from: int, users: Any, starts: bool) -> None:
    refused = refusals(columnar_from, {}, an_offer(users=frozenset(users)))

    assert refused == ({} if starts else {OFFER_USERS: 1})


@BOTH_WAYS
@pytest.mark.parametrize(("longest_ms", "starts"), [(999, True), (1000, True), (1001, False), (None, False)])
def test_nothing_starts_that_may_run_on_when_its_host_goes_away(
    columnar_from: int, longest_ms: int | None, starts: bool
) -> None:
    job = {} if longest_ms is None else {"longest_ms": longest_ms}

    refused = refusals(columnar_from, job, an_offer(until_ms=NOW_MS + 1000))

    assert refused == ({} if starts else {OFFER_END: 1})


@BOTH_WAYS
@pytest.mark.parametrize(
    ("own_ms", "default_ms", "max_ms", "starts"),
    [
        (None, 1000, None, True),
        (None, None, 1000, True),
        (None, 2000, 1000, True),
        (5000, 1000, None, False),
        (5000, None, 1000, True),
        (None, 2000, None, False),
    ],
)
def test_run_times_are_bounded_as_the_operator_bounds_them(
    columnar_from: int, own_ms: int | None, default_ms: int | None, max_ms: int | None, starts: bool
) -> None:
    job = {} if own_ms is None else {"longest_ms": own_ms}

    refused = refusals(
        columnar_from,
        job,
        an_offer(until_ms=NOW_MS + 1000),
        default_runtime_ms=default_ms,
        max_runtime_ms=max_ms,
    )

    assert refused == ({} if starts else {OFFER_END: 1})


@BOTH_WAYS
def test_of_two_offers_of_one_host_the_narrower_limits_hold(columnar_from: int) -> None:
    everybodys = an_offer(until_ms=NOW_MS + 10**6)

    for_bob = refusals(columnar_from, {"longest_ms": 10}, everybodys, an_offer(users=frozenset({"bob"})))
    soon_gone = refusals(columnar_from, {"longest_ms": 10}, everybodys, an_offer(until_ms=NOW_MS + 1))

    assert for_bob == {OFFER_USERS: 1}
    assert soon_gone == {OFFER_END: 1}


def test_a_host_of_several_offers_is_known_by_the_narrower_limits() -> None:
    capacity = PoolCapacity.of(
        [
            an_offer("both", users=frozenset({"ada", "bob"}), until_ms=7),
            an_offer("both", users=frozenset({"bob"})),
            an_offer("one", until_ms=7),
            an_offer("one"),
            an_offer("free"),
        ]
    )

    limits = {host: (offer.users, offer.until_ms) for host, offer in capacity.limited.items()}

    assert limits == {"both": (frozenset({"bob"}), 7), "one": (None, 7)}


def test_hosts_that_follow_offers_know_whether_any_is_limited() -> None:
    hosts = Hosts([an_offer("h1"), an_offer("h2")])
    assert not hosts.is_limited

    hosts.update_from_offers([an_offer("h1"), an_offer("h2", until_ms=1)])
    assert hosts.is_limited
    hosts.update_from_offers([an_offer("h1", until_ms=1), an_offer("h2")])
    assert hosts.is_limited
    hosts.update_from_offers([an_offer("h1"), an_offer("h2")])
    assert not hosts.is_limited
    hosts.update_from_offers([an_offer("h1"), an_offer("h2"), an_offer("h3", users=frozenset())])
    assert hosts.is_limited
    hosts.update_from_offers([an_offer("h1")])
    assert not hosts.is_limited
