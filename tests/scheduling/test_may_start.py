"""Whether a waiting job may start now, whatever waits before it."""

from dataclasses import replace

import pytest

from cook_jupyter.errors import NotFound
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import NO_FILTERS, QueueFilters, may_start
from tests.scheduling.queues import an_index, job_id

NO_LIMITS = UserLimits()


@pytest.fixture
def index() -> QueueIndex:
    """Ada runs a task of 2 cpus, and waits for one of 3 cpus."""
    running = {"seq": 1, "user": "ada", "cpus": 2.0, "mem": 20.0, "start_ms": 0}
    return an_index([running, {"seq": 2, "user": "ada", "cpus": 3.0, "mem": 30.0}])


def starts(index: QueueIndex, filters: QueueFilters = NO_FILTERS, limits: UserLimits = NO_LIMITS) -> bool:
    return may_start(index, job_id(2), limits, filters)


def test_a_job_may_start_if_nothing_is_limited(index: QueueIndex) -> None:
    assert starts(index)


@pytest.mark.parametrize(
    ("quota", "may"),
    [
        (Quota(cpus=5.0), True),
        (Quota(cpus=4.9), False),
        (Quota(mem_mb=50.0), True),
        (Quota(mem_mb=49.0), False),
        (Quota(count=2), True),
        (Quota(count=1), False),
    ],
)
def test_running_tasks_and_the_job_must_be_within_quota_together(
    index: QueueIndex, quota: Quota, may: bool
) -> None:
    assert starts(index, limits=UserLimits(quotas={"ada": quota})) is may
    assert starts(index, QueueFilters(pool_quota=quota)) is may
    held = Usage(count=1, cpus=2.0, mem_mb=20.0)
    assert starts(index, QueueFilters(group_quota=quota, group_usage=held)) is may


@pytest.mark.parametrize(("tokens", "may"), [(1.0, True), (0.9, False), (None, True)])
def test_a_user_needs_a_whole_token_where_there_is_a_launch_rate(
    index: QueueIndex, tokens: float | None, may: bool
) -> None:
    assert starts(index, QueueFilters(tokens={} if tokens is None else {"ada": tokens})) is may


def test_a_job_may_be_as_large_as_the_largest_but_no_larger(index: QueueIndex) -> None:
    largest = QueueFilters(max_cpus=3.0, max_mem_mb=30.0)

    assert starts(index, largest)
    assert not starts(index, replace(largest, max_cpus=2.9))
    assert not starts(index, replace(largest, max_mem_mb=29.0))


def test_the_launch_filter_is_called_for_the_job(index: QueueIndex) -> None:
    assert starts(index, QueueFilters(accepts=lambda job: job == job_id(2)))
    assert not starts(index, QueueFilters(accepts=lambda job: job != job_id(2)))


def test_a_job_that_is_not_in_the_queue_is_not_found(index: QueueIndex) -> None:
    with pytest.raises(NotFound):
        may_start(index, job_id(3), NO_LIMITS, NO_FILTERS)
