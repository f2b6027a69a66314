"""Which ranked jobs may be matched now, and how many the launch rate holds back, compared with the rules."""

import random
from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.scheduling.ranking.considerable import (
    QueueFilters,
    QuotaColumnFilter,
    considerable,
    may_start,
    ranked_within,
    rate_limited,
)
from cook_jupyter.scheduling.ranking.ranking import RankSettings, rank_in_columns, rank_lazily
from tests.scheduling import reference
from tests.scheduling.queues import an_index, job_id
from tests.scheduling.strategies import USERS

SETTINGS = RankSettings(max_over_quota_jobs=3)
AMOUNTS = ("cpus", "mem_mb", "gpus")
Task = dict[str, Any]


def a_quota(rng: random.Random, scale: int) -> Quota:
    """A quota of one amount, that all tasks of `scale` users together may exceed; or none."""
    amount = rng.choice(("count", *AMOUNTS, None))
    return Quota() if amount is None else replace(Quota(), **{amount: rng.randint(0, 7) * scale})


def tasks_of(rng: random.Random, number: int) -> list[Task]:
    tasks: list[Task] = []
    for seq in range(1, number + 1):
        task: Task = {
            "seq": seq,
            "user": rng.choice(USERS),
            "cpus": rng.choice((0.5, 1.0, 2.0)),
            "mem": rng.choice((0.5, 1.0, 2.0)),
            "gpus": rng.choice((0.0, 1.0, 1.0)),
            "priority": rng.choice((50, 50, 60)),
        }
        if rng.random() < 0.3:
            task |= {"start_ms": rng.randint(1, 4), "task_seq": seq % 3}
        tasks.append(task)
    return tasks


def filters_of(rng: random.Random, *, shared: bool) -> QueueFilters:
    return QueueFilters(
        pool_quota=a_quota(rng, 4) if shared else Quota(),
        group_quota=a_quota(rng, 4) if shared else Quota(),
        group_usage=Usage(count=1, cpus=1.0, mem_mb=1.0, gpus=1.0),
        tokens={user: rng.choice((-1.0, 0.0, 0.5, 1.0, 2.5, 3.0)) for user in rng.sample(USERS, 3)},
        max_cpus=rng.choice((None, 1.0)),
        max_mem_mb=rng.choice((None, 1.0)),
    )


@pytest.mark.parametrize("shared", [False, True], ids=["quotas of users", "quotas of pool and group"])
@pytest.mark.parametrize("seed", range(40))
def test_the_considerable_jobs_are_the_specifications(seed: int, shared: bool) -> None:
    rng = random.Random(seed)
    tasks = tasks_of(rng, rng.randint(1, 40))
    limits = UserLimits(
        default_share=Share(cpus=2.0, mem_mb=2.0, gpus=1.0),
        quotas={user: a_quota(rng, 1) for user in rng.sample(USERS, 3)},
    )
    filters = filters_of(rng, shared=shared)
    largest = (filters.max_cpus or float("inf"), filters.max_mem_mb or float("inf"))
    expected, held = reference.considerable(
        tasks,
        limits,
        reference.Filters(
            pool_quota=filters.pool_quota,
            group_quota=filters.group_quota,
            group_usage=filters.group_usage,
            tokens=filters.tokens,
            largest=largest,
        ),
        number=1000,
        over_quota=3,
    )
    ids = [job_id(task["seq"]) for task in expected]
    index = an_index(tasks)

    ranked = ranked_within(rank_lazily(index, limits, SETTINGS), index, filters)
    assert index.ids(job.row for job in considerable(ranked, index, limits, filters)) == ids
    assert rate_limited(index, limits, SETTINGS, filters) == held
    if not shared:  # the filter in columns is for pools without such quotas
        for limit in (1, 3, None):
            column_filter = QuotaColumnFilter(index, limits, filters)
            ranking = rank_in_columns(index, limits, SETTINGS, limit, task_filter=column_filter)
            assert index.ids(ranking.rows.tolist()) == ids[:limit]


@pytest.mark.parametrize("seed", range(40))
def test_a_job_may_start_if_it_were_considerable_as_the_only_waiting_one(seed: int) -> None:
    rng = random.Random(seed)
    running = [task for task in tasks_of(rng, 12) if "start_ms" in task]
    waiting = {**tasks_of(rng, 1)[0], "seq": 100}
    waiting.pop("start_ms", None)
    tasks = [*running, waiting]
    limits = UserLimits(quotas={user: a_quota(rng, 1) for user in USERS})
    filters = filters_of(rng, shared=True)
    index = an_index(tasks)

    ranked = ranked_within(rank_lazily(index, limits), index, filters)
    expected = [job.row for job in considerable(ranked, index, limits, filters)]

    assert may_start(index, job_id(100), limits, filters) is bool(expected)


def waiting_jobs(user: str, number: int, first: int) -> list[Task]:
    return [{"seq": first + seq, "user": user, "cpus": 1.0, "mem": 1.0} for seq in range(number)]


def test_long_lists_are_counted_up_to_each_users_own_quota() -> None:
    tasks = [*waiting_jobs("ada", 2000, 1), *waiting_jobs("bob", 300, 3000), *waiting_jobs("cyd", 5, 4000)]
    tasks += [{"seq": 5000 + seq, "user": "ada", "cpus": 1.0, "mem": 1.0, "start_ms": 1} for seq in range(7)]
    limits = UserLimits(quotas={"ada": Quota(cpus=1207), "bob": Quota(count=2), "cyd": Quota(mem_mb=4)})
    filters = QueueFilters(tokens=dict.fromkeys(USERS, 1.0))

    assert rate_limited(an_index(tasks), limits, filters=filters) == {"ada": 1199, "bob": 1, "cyd": 3}


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("of", ["pool_quota", "group_quota"])
def test_a_sum_that_exceeds_a_quota_only_in_the_order_of_the_queue_exceeds_it(amount: str, of: str) -> None:
    parts = (0.1, 0.2, 0.3)
    assert parts[2] + parts[1] + parts[0] == 0.6 < parts[0] + parts[1] + parts[2]
    tasks = [
        {"seq": 3 - number, "user": "ada", "cpus": 0.0, "mem": 0.0, amount.removesuffix("_mb"): part}
        for number, part in enumerate(reversed(parts))
    ]
    limit: dict[str, Any] = {amount: 0.6}
    quota: dict[str, Any] = {of: Quota(**limit)}
    filters = QueueFilters(tokens={"ada": 1.0}, **quota)

    assert rate_limited(an_index(tasks), UserLimits(), filters=filters) == {"ada": 1}
