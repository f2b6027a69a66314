"""What the end of a job without a result means to whoever waits for it."""

import pytest

from cook_jupyter.client.events import InstanceEvent, JobEvent
from cook_jupyter.errors import HostLost, JobFailed
from cook_jupyter.executor.outcomes import failure, may_be_of_one_call
from cook_jupyter.model import reason as reasons


def ended(reason: str, attempts: int) -> JobEvent:
    instance = InstanceEvent(uuid="t", status="failed", host="a17", reason=reason, mea_culpa=True)
    return JobEvent(uuid="u", status="completed", state="failed", attempts=attempts, instance=instance)


def test_a_job_that_made_way_too_often_is_said_to_need_retries() -> None:
    error = failure(ended(reasons.PREEMPTED, 6), None)

    assert type(error) is JobFailed
    assert "after 6 attempts" in str(error)
    assert "retries" in str(error)


@pytest.mark.parametrize("reason", [reasons.KILLED_EXTERNALLY, reasons.SCHEDULING_FAILED_ON_HOST])
def test_other_failures_of_the_system_are_a_lost_host(reason: str) -> None:
    assert isinstance(failure(ended(reason, 6), None), HostLost)


@pytest.mark.parametrize("reason", sorted(reasons.REASONS))
def test_a_bundle_is_divided_only_where_one_of_its_calls_may_be_at_fault(reason: str) -> None:
    at_fault = {
        reasons.NON_ZERO_EXIT,
        reasons.MEMORY_LIMIT_EXCEEDED,
        reasons.MAX_RUNTIME_EXCEEDED,
        reasons.KILLED_EXTERNALLY,
    }

    assert may_be_of_one_call(failure(ended(reason, 1), None)) is (reason in at_fault)
