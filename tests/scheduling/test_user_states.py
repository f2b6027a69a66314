from dataclasses import replace

import pytest
from hypothesis import given

from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.explaining.user_states import (
    ALL,
    add_quota_groups,
    classify_users,
    usage_by_state,
    usage_to_report,
)
from tests.scheduling.queues import an_index
from tests.scheduling.strategies import USERS, Task, on_snapshots, task_lists, user_limits


def usage(count: int, cpus: float, mem_mb: float) -> Usage:
    return Usage(count=count, cpus=cpus, mem_mb=mem_mb)


@on_snapshots
@given(tasks=task_lists(), allowed=user_limits())
def test_each_user_is_starved_or_hungry_or_satisfied(tasks: list[Task], allowed: UserLimits) -> None:
    stand = classify_users(*usage_by_state(an_index(tasks)), allowed)
    users = stand.users
    assert users["total"] == users["starved"] + users["hungry"] + users["satisfied"]
    assert users["total"] == len({task["user"] for task in tasks})
    assert not stand.starved.keys() & stand.hungry.keys()
    for user, missing in stand.starved.items():
        required, held = stand.waiting[user], stand.running.get(user, Usage())
        assert 0 <= missing.cpus <= required.cpus
        assert 0 <= missing.mem_mb <= required.mem_mb
        assert held.cpus + missing.cpus <= allowed.share(user).cpus + 1e-9
    for user, fitting in stand.waiting_under_quota.items():
        assert allowed.quota(user).allows(stand.running.get(user, Usage()))
        assert fitting.count <= stand.waiting[user].count


@on_snapshots
@given(tasks=task_lists())
def test_amounts_are_those_of_the_tasks(tasks: list[Task]) -> None:
    running, waiting = usage_by_state(an_index(tasks))
    for user in USERS:
        for actual, runs in ((running, True), (waiting, False)):
            job_constraints = [
                task for task in tasks if task["user"] == user and ("start_ms" in task) is runs
            ]
            assert (user in actual) is bool(job_constraints)
            if job_constraints:
                assert actual[user].count == len(job_constraints)
                assert abs(actual[user].cpus - sum(task["cpus"] for task in job_constraints)) < 1e-9
                assert actual[user].gpus == sum(task.get("gpus", 0) for task in job_constraints)
                assert abs(actual[user].mem_mb - sum(task["mem"] for task in job_constraints)) < 1e-9


def test_who_has_reached_the_share_of_one_resource_is_hungry() -> None:
    allowed = UserLimits(default_share=Share(cpus=2, mem_mb=100))
    waiting = {"ada": usage(5, 5, 500)}
    assert classify_users({"ada": usage(1, 1.5, 20)}, waiting, allowed).starved == {"ada": usage(1, 0.5, 80)}
    for held in (usage(1, 2, 20), usage(1, 1, 100)):
        at_share = classify_users({"ada": held}, waiting, allowed)
        assert at_share.starved == {}
        assert at_share.hungry == waiting


def test_a_share_of_zero_starves_nobody() -> None:
    stand = classify_users({}, {"ada": usage(1, 1, 1)}, UserLimits(default_share=Share(cpus=0, mem_mb=100)))
    assert stand.users == {"total": 1, "starved": 0, "waiting_under_quota": 1, "hungry": 1, "satisfied": 0}


def test_who_is_at_a_quota_is_not_below_it() -> None:
    allowed = UserLimits(default_quota=Quota(count=2))
    waiting = {"ada": usage(3, 3, 3)}
    assert classify_users({"ada": usage(2, 2, 2)}, waiting, allowed).waiting_under_quota == {}
    below = classify_users({"ada": usage(1, 1, 1)}, waiting, allowed)
    assert below.waiting_under_quota == {"ada": usage(1, 3, 3)}


@pytest.mark.parametrize("amount", ["count", "cpus", "mem_mb", "gpus"])
def test_who_is_at_the_quota_of_one_amount_is_below_none(amount: str) -> None:
    held, wants = Usage(count=1, cpus=1, mem_mb=1, gpus=1), Usage(count=7, cpus=7, mem_mb=7, gpus=7)
    for limit, expected in ((1, {}), (4, {"ada": replace(wants, **{amount: 3})}), (9, {"ada": wants})):
        allowed = UserLimits(default_quota=replace(Quota(), **{amount: limit}))
        assert classify_users({"ada": held}, {"ada": wants}, allowed).waiting_under_quota == expected


def test_a_user_who_leaves_a_state_is_reported_as_zero_once() -> None:
    first = usage_to_report({"ada": usage(1, 1, 1), "bob": usage(2, 2, 2)})
    assert first[ALL] == usage(3, 3, 3)
    second = usage_to_report({"bob": usage(2, 2, 2)}, previous_users=("ada", "bob"))
    assert second == {"bob": usage(2, 2, 2), "ada": Usage(), ALL: usage(2, 2, 2)}
    assert usage_to_report({"bob": usage(2, 2, 2)}, previous_users=("bob",)) == {
        "bob": usage(2, 2, 2),
        ALL: usage(2, 2, 2),
    }


def test_a_quota_group_adds_up_its_pools_only() -> None:
    a, b, c = PoolName("a"), PoolName("b"), PoolName("c")
    by_pool = {a: {"ada": usage(1, 1, 1)}, b: {"ada": usage(2, 2, 2)}, c: {"ada": usage(4, 4, 4)}}
    assert add_quota_groups(by_pool, {a: "both", b: "both"})["both"] == {"ada": usage(3, 3, 3)}
