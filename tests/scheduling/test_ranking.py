from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.ranking.considerable import QueueFilters, QuotaColumnFilter
from cook_jupyter.scheduling.ranking.ranking import (
    Order,
    RankSettings,
    iter_ranked_in_columns,
    rank_in_columns,
    rank_lazily,
)
from tests.scheduling import reference
from tests.scheduling.queues import an_index, job_id, rank, seq_of
from tests.scheduling.strategies import on_snapshots, task_lists, user_limits

modes = st.sampled_from(DruMode)


@on_snapshots
@given(tasks=task_lists(), limits=user_limits(), mode=modes, over=st.integers(0, 5))
def test_the_queue_is_as_specified(
    tasks: list[dict[str, Any]], limits: UserLimits, mode: DruMode, over: int
) -> None:
    expected = [(dru, task["seq"]) for dru, task in reference.rank(tasks, limits, mode, over)]
    index = an_index(tasks)
    settings = RankSettings(mode=mode, max_over_quota_jobs=over)

    one_by_one = list(rank_lazily(index, limits, settings))
    at_once = rank_in_columns(index, limits, settings)

    ids = index.ids(ranked.row for ranked in one_by_one)
    assert [(r.dru, seq_of(i)) for r, i in zip(one_by_one, ids, strict=True)] == expected
    seqs = map(seq_of, index.ids(at_once.rows.tolist()))
    assert list(zip(at_once.drus.tolist(), seqs, strict=True)) == expected
    assert at_once.complete


@on_snapshots
@given(tasks=task_lists(), limits=user_limits())
def test_fifo_ignores_shares_running_tasks_and_quotas(
    tasks: list[dict[str, Any]], limits: UserLimits
) -> None:
    expected = [task["seq"] for task in reference.rank_fifo(tasks)]
    index = an_index(tasks)
    settings = RankSettings(order=Order.FIFO, max_over_quota_jobs=0)

    one_by_one = index.ids(ranked.row for ranked in rank_lazily(index, limits, settings))
    at_once = rank_in_columns(index, limits, settings)

    assert [seq_of(job) for job in one_by_one] == expected
    assert {ranked.dru for ranked in rank_lazily(index, limits, settings)} <= {0.0}
    assert not at_once.drus.any()
    assert [seq_of(job) for job in index.ids(at_once.rows.tolist())] == expected
    assert at_once.complete


@on_snapshots
@given(
    tasks=task_lists(),
    limits=user_limits(),
    order=st.sampled_from(Order),
    mode=modes,
    wanted=st.integers(1, 10),
)
def test_the_first_jobs_are_those_of_the_complete_ranking(
    tasks: list[dict[str, Any]], limits: UserLimits, order: Order, mode: DruMode, wanted: int
) -> None:
    index = an_index(tasks)
    settings = RankSettings(order=order, mode=mode, max_over_quota_jobs=3)
    whole = rank_in_columns(index, limits, settings).rows.tolist()

    head = rank_in_columns(index, limits, settings, wanted)

    assert head.rows.tolist() == whole[: len(head.rows)]
    assert len(head.rows) >= min(wanted, len(whole))
    assert not head.complete or len(head.rows) == len(whole)
    first = islice(rank_lazily(index, limits, settings), wanted)
    assert [ranked.row for ranked in first] == whole[:wanted]


def test_a_long_list_that_comes_first_is_read_only_as_far_as_necessary() -> None:
    tasks = [{"seq": seq, "user": "bob", "cpus": 1.0, "mem": 1.0} for seq in range(1, 101)]
    tasks += [{"seq": seq, "user": "ada", "cpus": 1.0, "mem": 1.0} for seq in range(101, 151)]
    index = an_index(tasks)
    head = rank_in_columns(index, UserLimits(), RankSettings(order=Order.FIFO), 90)
    assert [seq_of(job) for job in index.ids(head.rows.tolist())] == list(range(1, 91))


@pytest.mark.parametrize("order", Order)
def test_a_list_that_goes_before_all_others_is_read_further_than_these(order: Order) -> None:
    small = [{"seq": seq, "user": "ada", "cpus": 0.01, "mem": 0.01} for seq in range(1, 101)]
    users = [f"user-{number}" for number in range(3) for _ in range(100)]
    large = [{"seq": seq, "user": user, "cpus": 1.0, "mem": 1.0} for seq, user in enumerate(users, 101)]
    index, limits = an_index([*small, *large]), UserLimits(default_share=Share(cpus=1.0, mem_mb=1.0))

    for task_filter in (None, QuotaColumnFilter(index, limits, QueueFilters(tokens={"ada": 100.0}))):
        head = rank_in_columns(index, limits, RankSettings(order=order), 60, task_filter=task_filter)
        assert [seq_of(job) for job in index.ids(head.rows.tolist())] == list(range(1, 61))


@pytest.mark.parametrize("seq", [0, 1])
def test_a_waiting_job_goes_before_a_running_task_of_lower_priority_whichever_was_first(seq: int) -> None:
    running = {"seq": seq, "user": "ada", "cpus": 5.0, "mem": 0.0, "start_ms": 1, "priority": 20}
    tasks = [running, {"seq": 2, "user": "ada", "cpus": 1.0, "mem": 0.0}]
    tasks += [{"seq": 3, "user": "bob", "cpus": 2.0, "mem": 0.0}]
    index, limits = an_index(tasks), UserLimits(default_share=Share(cpus=1.0, mem_mb=1.0))

    assert [job.dru for job in rank_lazily(index, limits)] == [1.0, 2.0]
    assert rank_in_columns(index, limits).drus.tolist() == [1.0, 2.0]


def test_a_long_list_of_jobs_that_request_nothing_is_read_only_as_far_as_necessary() -> None:
    # All jobs score 0; a user who was served goes on before users of the same score.
    users = [f"user-{number}" for number in range(10) for _ in range(200)]
    index = an_index({"seq": n, "user": user, "cpus": 0.0, "mem": 0.0} for n, user in enumerate(users, 1))
    head = rank_in_columns(index, UserLimits(), limit=100)
    assert [seq_of(job) for job in index.ids(head.rows.tolist())] == list(range(1, 101))
    assert [ranked.row for ranked in islice(rank_lazily(index, UserLimits()), 100)] == head.rows.tolist()


def test_a_running_task_of_low_priority_hides_none_of_its_users_waiting_jobs() -> None:
    # ada runs a large task behind her 100 waiting jobs, which score 1 to 100. The others score 20 and more.
    tasks: list[dict[str, Any]] = [{"seq": 1, "user": "ada", "cpus": 50.0, "mem": 0.0, "priority": 20}]
    tasks[0]["start_ms"] = 1
    tasks += [{"seq": seq, "user": "ada", "cpus": 1.0, "mem": 0.0} for seq in range(2, 102)]
    for seq in range(200, 520, 4):
        tasks.append({"seq": seq, "user": f"user-{seq}", "cpus": 20.0, "mem": 0.0, "start_ms": 2})
        tasks += [{"seq": seq + n, "user": f"user-{seq}", "cpus": 1.0, "mem": 0.0} for n in (1, 2)]
    index, limits = an_index(tasks), UserLimits(default_share=Share(cpus=1.0, mem_mb=1.0))
    whole = [ranked.row for ranked in rank_lazily(index, limits)]

    for limit in (20, 64, 100, 150):
        assert rank_in_columns(index, limits, limit=limit).rows.tolist() == whole[:limit]
        first = islice(iter_ranked_in_columns(index, limits, number=limit), limit)
        assert [ranked.row for ranked in first] == whole[:limit]


@on_snapshots
@given(tasks=task_lists(), limits=user_limits(), data=st.data())
def test_the_order_in_which_tasks_arrived_changes_nothing(
    tasks: list[dict[str, Any]], limits: UserLimits, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(tasks))
    assert rank(an_index(shuffled), limits) == rank(an_index(tasks), limits)


def test_users_with_equal_lists_alternate_in_both_directions() -> None:
    tasks: list[dict[str, Any]] = [
        {"seq": seq, "user": user, "cpus": 1.0, "mem": 1.0}
        for seq, user in enumerate(["ada", "bob", "cyd"] * 3, 1)
    ]
    index = an_index(tasks)
    whose = {job_id(task["seq"]): task["user"] for task in tasks}
    queue = rank(index, UserLimits(default_share=Share(cpus=4, mem_mb=4)))
    assert [whose[job] for job in queue] == ["ada", "bob", "cyd", "cyd", "bob", "ada", "ada", "bob", "cyd"]


def test_a_user_whose_jobs_are_all_cut_leaves_the_first_jobs_of_others() -> None:
    users = ("ada", "ada", "bob", "zoe", "zoe")
    tasks = [{"seq": seq, "user": user, "cpus": 1.0, "mem": 1.0} for seq, user in enumerate(users, 1)]
    limits = UserLimits(default_share=Share(cpus=1.0, mem_mb=1.0), quotas={"zoe": Quota(count=0)})
    index = an_index(tasks)

    ranking = rank_in_columns(index, limits, RankSettings(max_over_quota_jobs=0), 1)

    assert index.ids(ranking.rows.tolist()) == [job_id(1)]
