from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.decisions import Refusal, Scaleback
from cook_jupyter.model.job import GroupId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    MAX_TASKS,
    OFFER_USERS,
    RESERVED,
    GroupPlacement,
    PoolDefaults,
)
from cook_jupyter.scheduling.growth.autoscaling import jobs_to_grow_for
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import (
    CycleSettings,
    decide_matches,
    next_scaleback,
    refusal_now,
    with_groups,
)
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.ranking.ranking import Order, RankSettings
from tests.scheduling import reference
from tests.scheduling.queues import an_index, job_id, seq_of
from tests.scheduling.strategies import USERS, offer_lists, on_snapshots, quotas, task_lists, user_limits

Task = dict[str, Any]
tokens = st.one_of(st.none(), st.dictionaries(st.sampled_from(USERS), st.integers(0, 4).map(float)))


@st.composite
def queue_filters(draw: st.DrawFn) -> QueueFilters:
    refused = draw(st.frozensets(st.integers(1, 30).map(job_id), max_size=3))
    return QueueFilters(
        pool_quota=draw(quotas()),
        group_quota=draw(quotas()),
        group_usage=draw(st.builds(Usage, count=st.integers(0, 3), cpus=st.sampled_from([0.0, 1.5]))),
        tokens=draw(tokens),
        accepts=draw(st.sampled_from([None, lambda job: job not in refused])),
        max_cpus=draw(st.sampled_from([None, 2.0])),
        max_mem_mb=draw(st.sampled_from([None, 20.0])),
    )


def settings_for(
    columnar: bool, considered: int = 1000, good: float = 0.8, order: Order = Order.FAIR
) -> CycleSettings:
    return CycleSettings(
        rank=RankSettings(order=order, max_over_quota_jobs=3),
        match=MatchSettings(columnar_from=0 if columnar else 10**9, good_enough=good),
        max_considered=considered,
        lazy_up_to=0 if columnar else 10**9,
    )


@pytest.mark.parametrize("columnar", [False, True], ids=["one by one", "in columns"])
@on_snapshots
@given(
    tasks=task_lists(),
    limits=user_limits(),
    filters=queue_filters(),
    offers=offer_lists(),
    considered=st.sampled_from([1, 3, 1000]),
    order=st.sampled_from(Order),
)
def test_a_cycle_decides_as_specified(
    columnar: bool,
    tasks: list[Task],
    limits: UserLimits,
    filters: QueueFilters,
    offers: list[Offer],
    considered: int,
    order: Order,
) -> None:
    accepts = filters.accepts
    expected = reference.match_cycle(
        tasks,
        offers,
        limits,
        reference.Filters(
            pool_quota=filters.pool_quota,
            group_quota=filters.group_quota,
            group_usage=filters.group_usage,
            tokens=filters.tokens,
            accepts=lambda task: accepts is None or accepts(job_id(task["seq"])),
            largest=(filters.max_cpus or float("inf"), filters.max_mem_mb or float("inf")),
        ),
        reference.Facts(),
        Scaleback(considerable=considered),
        over_quota=3,
        fair=order is Order.FAIR,
        max_considered=considered,
    )

    matching = decide_matches(
        an_index(tasks),
        offers,
        limits,
        settings=settings_for(columnar, considered, order=order),
        filters=filters,
    )

    assert matching == expected


@on_snapshots
@given(tasks=task_lists(), limits=user_limits(), offers=offer_lists(), columnar=st.booleans())
def test_no_launch_exceeds_a_quota(
    tasks: list[Task], limits: UserLimits, offers: list[Offer], columnar: bool
) -> None:
    pool_quota, group_quota = Quota(count=9), Quota(count=6, cpus=8.0)
    group_usage = Usage(count=2, cpus=3.0)
    index = an_index(tasks)
    matching = decide_matches(
        index,
        offers,
        limits,
        settings=settings_for(columnar),
        filters=QueueFilters(pool_quota=pool_quota, group_quota=group_quota, group_usage=group_usage),
    )
    for item in matching.matches:
        group_usage += index.requested(item.job_id)
    assert not matching.matches or group_quota.allows(group_usage)
    before = {user: index.usage(user) for user in index.users()}
    for number, item in enumerate(matching.matches):
        index.mark_running(item.job_id, number, item.host)
    for user, used in before.items():
        after = index.usage(user)
        if after != used:
            quota = limits.quota(user)
            assert after.count <= quota.count
            assert after.cpus <= quota.cpus * (1 + 1e-9)
            assert after.mem_mb <= quota.mem_mb * (1 + 1e-9)
            assert after.gpus <= quota.gpus
    assert not matching.matches or pool_quota.allows(index.pool_usage())


@on_snapshots
@given(tasks=task_lists(), limits=user_limits(), offers=offer_lists(), data=st.data())
def test_equal_snapshots_lead_to_equal_decisions(
    tasks: list[Task], limits: UserLimits, offers: list[Offer], data: st.DataObject
) -> None:
    settings = settings_for(data.draw(st.booleans()))
    index, hosts = an_index(tasks), Hosts(offers)
    first = decide_matches(index, hosts, limits, settings=settings)
    again = decide_matches(index, hosts, limits, settings=settings)
    shuffled = decide_matches(
        an_index(data.draw(st.permutations(tasks))),
        data.draw(st.permutations(offers)),
        limits,
        settings=settings,
    )
    assert first == again == shuffled


HOST = Offer(host="a", cluster="east", pool=PoolName("pool"), room=Resources(cpus=4, mem_mb=100))


def a_waiting(seq: int, **more: Any) -> Task:
    return {"seq": seq, "user": "ada", "cpus": 1.0, "mem": 10.0, **more}


def test_two_users_with_equal_shares_take_turns() -> None:
    tasks = [a_waiting(seq, user="bob" if seq > 10 else "ada") for seq in range(1, 21)]
    matching = decide_matches(an_index(tasks), [HOST], UserLimits())
    users = Counter("bob" if seq_of(item.job_id) > 10 else "ada" for item in matching.matches)
    assert users == {"ada": 2, "bob": 2}


def test_matches_of_a_cluster_in_debt_are_dropped() -> None:
    matching = decide_matches(an_index([a_waiting(1)]), [HOST], UserLimits(), indebted=frozenset({"east"}))
    assert matching.matches == ()
    assert matching.head_matched


@pytest.mark.parametrize("columnar", [False, True], ids=["one by one", "in columns"])
@pytest.mark.parametrize("considered", [1, 2, 1000])
def test_rate_limited_jobs_are_counted_over_the_whole_queue(columnar: bool, considered: int) -> None:
    tasks = [a_waiting(seq, user="ada" if seq <= 300 else "bob") for seq in range(1, 401)]
    filters = QueueFilters(tokens={"ada": 2.5, "bob": -3.0, "cyd": 0.0})
    matching = decide_matches(
        an_index(tasks), [HOST], UserLimits(), settings=settings_for(columnar, considered), filters=filters
    )
    assert matching.rate_limited == {"ada": 298, "bob": 100}


@pytest.mark.parametrize("columnar", [False, True], ids=["one by one", "in columns"])
def test_jobs_over_quota_do_not_count_as_rate_limited(columnar: bool) -> None:
    tasks = [a_waiting(seq, user="ada" if seq % 2 else "bob", cpus=2.0) for seq in range(1, 1001)]
    limits = UserLimits(quotas={"ada": Quota(cpus=800.0)})
    tokens = {"ada": 1.0, "bob": 1.0}
    index = an_index(tasks)
    settings = settings_for(columnar)

    by_user_quota = decide_matches(
        index, [HOST], limits, settings=settings, filters=QueueFilters(tokens=tokens)
    )
    pool_quota = QueueFilters(tokens=tokens, pool_quota=Quota(count=11))
    by_pool_quota = decide_matches(index, [HOST], limits, settings=settings, filters=pool_quota)
    without_large_jobs = QueueFilters(tokens=tokens, max_cpus=2.0)
    by_size_and_quota = decide_matches(index, [HOST], limits, settings=settings, filters=without_large_jobs)

    assert by_user_quota.rate_limited == {"ada": 399, "bob": 499}
    assert by_size_and_quota.rate_limited == by_user_quota.rate_limited
    assert by_pool_quota.rate_limited == {"ada": 4, "bob": 5}  # the queue is a, b b, a a, b b ...


@pytest.mark.parametrize("columnar", [False, True], ids=["one by one", "in columns"])
def test_each_user_starts_as_many_jobs_as_the_launch_rate_allows(columnar: bool) -> None:
    tasks = [a_waiting(seq, user="ada" if seq % 2 else "bob") for seq in range(1, 11)]
    filters = QueueFilters(tokens={"ada": 2.0, "bob": 1.0})
    matching = decide_matches(
        an_index(tasks), [HOST], UserLimits(), settings=settings_for(columnar), filters=filters
    )
    assert {match.job_id for match in matching.matches} == {job_id(1), job_id(2), job_id(3)}


@pytest.mark.parametrize("columnar", [False, True], ids=["one by one", "in columns"])
@pytest.mark.parametrize("large", [{"cpus": 3.0}, {"mem": 30.0}])
def test_jobs_that_are_too_large_do_not_count_against_the_launch_rate(
    columnar: bool, large: dict[str, float]
) -> None:
    tasks = [a_waiting(1, **large), a_waiting(2), a_waiting(3)]
    filters = QueueFilters(tokens={"ada": 1.0}, max_cpus=2.0, max_mem_mb=20.0)
    matching = decide_matches(
        an_index(tasks), [HOST], UserLimits(), settings=settings_for(columnar), filters=filters
    )
    assert [match.job_id for match in matching.matches] == [job_id(2)]
    assert matching.rate_limited == {"ada": 1}


def test_a_cluster_grows_for_unmatched_jobs_without_a_recent_request() -> None:
    index = an_index([a_waiting(seq, cpus=3.0) for seq in range(1, 7)])
    limits = UserLimits(default_quota=Quota(count=5))
    matching = decide_matches(index, [HOST], limits)
    assert jobs_to_grow_for(index, limits, matching, already_requested=frozenset({job_id(3)})) == [
        job_id(2),
        job_id(4),
        job_id(5),
        job_id(6),  # the one that was matched does not count against the quota yet
    ]


def test_no_cluster_grows_if_no_job_waits() -> None:
    matching = decide_matches(an_index([]), [HOST], UserLimits())
    assert jobs_to_grow_for(an_index([]), UserLimits(), matching) == ()


def test_an_empty_queue_matches_nothing() -> None:
    matching = decide_matches(an_index([]), [HOST], UserLimits())
    assert (matching.matches, matching.considered, matching.head_matched) == ((), 0, True)


def test_the_reasons_of_a_waiting_job_are_available() -> None:
    index = an_index([a_waiting(1, cpus=9.0), a_waiting(2)])
    assert refusal_now(index, job_id(1), [HOST]).resources == {"cpus": 1}
    assert refusal_now(index, job_id(2), [HOST]).resources == {}
    for_bob = replace(HOST, users=frozenset({"bob"}))
    assert refusal_now(index, job_id(2), [for_bob]).constraints == {OFFER_USERS: 1}
    for_owner = replace(HOST, users=frozenset({index.owner(index.row_of(job_id(2))).name}))
    assert refusal_now(index, job_id(2), [for_owner]) == Refusal(job_id=job_id(2))
    kept = PlacementContext(reservations={job_id(1): HOST.host})
    assert refusal_now(index, job_id(2), [HOST], placement_context=kept).constraints == {RESERVED: 1}
    none_more = MatchSettings(defaults=PoolDefaults(max_tasks_per_host=0))
    refusal = refusal_now(index, job_id(2), [HOST], settings=none_more)
    assert refusal.constraints == {MAX_TASKS: 1}


def test_the_hosts_of_groups_are_those_of_the_index_unless_others_are_given() -> None:
    index, groups = an_index([]), {GroupId("group"): GroupPlacement()}
    given = PlacementContext(groups=groups, group_hosts=lambda _: {"host": 1})

    assert with_groups(given, index) is given
    assert with_groups(PlacementContext(groups=groups), index).group_hosts == index.group_hosts
    assert with_groups(PlacementContext(), index).group_hosts is None


def test_87_missed_heads_bring_1000_considered_jobs_down_to_one() -> None:
    settings = CycleSettings()
    scaleback = Scaleback(considerable=1000)
    cycles = 0
    while scaleback.considerable > 1:
        scaleback = next_scaleback(scaleback, head_matched=False, settings=settings)
        cycles += 1
    assert cycles == 87
    assert scaleback.cycles_at_floor == 1


def test_a_matched_head_brings_all_considered_jobs_back() -> None:
    assert next_scaleback(
        Scaleback(considerable=3), head_matched=True, settings=CycleSettings()
    ) == Scaleback(considerable=1000)


def test_the_scaleback_is_reset_after_a_thousand_cycles_at_its_minimum() -> None:
    almost = Scaleback(considerable=1, cycles_at_floor=999)
    for number in (1000, 70):
        settings = CycleSettings(max_considered=number)
        assert next_scaleback(almost, head_matched=False, settings=settings) == Scaleback(considerable=number)


def test_a_head_that_finds_no_host_scales_the_queue_back() -> None:
    index = an_index([a_waiting(1, cpus=9.0), a_waiting(2)])
    matching = decide_matches(index, [HOST], UserLimits())
    assert not matching.head_matched
    assert matching.scaleback == Scaleback(considerable=950)
    assert matching.unmatched == 1
