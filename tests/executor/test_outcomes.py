"""What the end of a job without a result means to whoever waits for it."""

import msgspec
import pytest

from cook_jupyter.client.events import InstanceEvent, JobEvent
from cook_jupyter.errors import HostLost, JobFailed, JobKilled
from cook_jupyter.executor.outcomes import failure, may_be_of_one_call, without_advice
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


def test_a_call_that_was_ended_by_a_signal_is_told_by_whom_it_may_have_been() -> None:
    text = str(failure(ended(reasons.KILLED_EXTERNALLY, 6), None))

    assert "after 6 attempts: its process was ended by SIGKILL or SIGTERM" in text
    assert "by the call itself (os.kill)" in text
    assert "Submit it again" not in text


@pytest.mark.parametrize(
    ("killed_by", "says"),
    [
        ("executor.kill()", "this process killed it while it ran, by executor.kill()."),
        (
            None,
            "its user or an administrator killed it while it ran: with `%cook kill`, from another program",
        ),
    ],
)
def test_who_killed_a_job_is_said_as_far_as_it_is_known(killed_by: str | None, says: str) -> None:
    error = failure(ended(reasons.KILLED_BY_USER, 1), None, killed_by=killed_by)

    assert isinstance(error, JobKilled)
    assert says in str(error)


@pytest.mark.parametrize("reason", sorted(reasons.REASONS))
@pytest.mark.parametrize("exit_code", [None, 3, 137])
def test_no_failure_of_a_cell_names_what_only_python_has(reason: str, exit_code: int | None) -> None:
    news = ended(reason, 2)
    assert news.instance is not None
    instance = msgspec.structs.replace(news.instance, exit_code=exit_code)

    text = without_advice(failure(msgspec.structs.replace(news, instance=instance), None))

    assert "future" not in text
    assert "with_(" not in text
    assert text[-1] == "."


@pytest.mark.parametrize("reason", sorted(reasons.REASONS))
def test_a_bundle_is_divided_only_where_one_of_its_calls_may_be_at_fault(reason: str) -> None:
    at_fault = {
        reasons.NON_ZERO_EXIT,
        reasons.MEMORY_LIMIT_EXCEEDED,
        reasons.MAX_RUNTIME_EXCEEDED,
        reasons.KILLED_EXTERNALLY,
    }

    assert may_be_of_one_call(failure(ended(reason, 1), None)) is (reason in at_fault)
