from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import Job
from cook_jupyter.scheduling.limits.stragglers import StragglerPolicy, straggler_policy_of, stragglers
from tests.builders import a_group, a_job, an_instance

NOW_MS = 10_000_000
HALF_TWICE = StragglerPolicy(quantile=0.5, multiplier=2.0)


def finished_after(seconds: float) -> Job:
    ran: dict[str, Any] = {"started_ms": NOW_MS - int(seconds * 1000), "ended_ms": NOW_MS}
    return a_job(instances=(an_instance(status=InstanceStatus.SUCCESS, **ran),))


def running_for(name: str, seconds: float) -> Job:
    alive: dict[str, Any] = {"instance_id": name, "started_ms": NOW_MS - int(seconds * 1000)}
    return a_job(instances=(an_instance(status=InstanceStatus.RUNNING, **alive),))


def test_a_group_without_a_policy_has_no_stragglers() -> None:
    assert straggler_policy_of(a_group()) is None
    assert stragglers(None, [finished_after(1), running_for("slow", 9999)], NOW_MS) == []


def test_there_are_no_stragglers_until_enough_jobs_have_succeeded() -> None:
    jobs = [finished_after(1), running_for("a", 9999), running_for("b", 9999), running_for("c", 9999)]
    assert stragglers(HALF_TWICE, jobs, NOW_MS) == []  # two of four are needed
    assert stragglers(HALF_TWICE, [*jobs[1:3], finished_after(1), finished_after(2)], NOW_MS) == ["a", "b"]


def test_run_times_count_in_whole_seconds_and_the_limit_itself_is_allowed() -> None:
    jobs = [finished_after(10.9), running_for("at", 20.0), running_for("past", 20.001)]
    policy = StragglerPolicy(quantile=0.1, multiplier=2.0)
    assert stragglers(policy, jobs, NOW_MS) == ["past"]


@given(
    took=st.lists(st.integers(0, 50), max_size=8),
    ages=st.lists(st.integers(0, 200), max_size=8),
    quantile=st.floats(0.01, 0.99),
    multiplier=st.floats(1.0, 4.0),
)
def test_an_instance_slower_than_a_straggler_is_a_straggler(
    took: list[int], ages: list[int], quantile: float, multiplier: float
) -> None:
    policy = StragglerPolicy(quantile=quantile, multiplier=multiplier)
    jobs = [*map(finished_after, took), *(running_for(str(number), age) for number, age in enumerate(ages))]
    actual = {int(name) for name in stragglers(policy, jobs, NOW_MS)}
    slowest_kept = max((age for number, age in enumerate(ages) if number not in actual), default=0)
    assert all(ages[number] > slowest_kept for number in actual)
    assert all(ages[number] > multiplier * min(took) for number in actual)
