from dataclasses import replace

import pytest

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.launch_filter import LaunchAnswer, LaunchFilter

MINUTE_MS = 60_000
JOB = JobId("j")


class Operator:
    """A filter that gives preset answers, and counts its calls."""

    def __init__(self, answer: LaunchAnswer) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self, job_id: JobId) -> LaunchAnswer:
        self.asked += 1
        return self.answer


DEFERS = LaunchAnswer(accepted=False, message="back at noon")


def test_an_answer_is_cached_for_as_long_as_it_is_valid() -> None:
    operator = Operator(LaunchAnswer(accepted=True, holds_ms=100))
    launch_filter = LaunchFilter(operator)
    assert all(launch_filter.accepts(JOB, now_ms) for now_ms in (0, 50, 99))
    assert operator.asked == 1
    operator.answer = DEFERS
    assert not launch_filter.accepts(JOB, 100)
    assert operator.asked == 2


def test_asking_what_would_be_accepted_records_nothing() -> None:
    operator = Operator(LaunchAnswer(accepted=True, holds_ms=100))
    launch_filter = LaunchFilter(operator)
    assert launch_filter.would_accept(JOB, 0)
    launch_filter.accepts(JOB, 0)
    operator.answer = DEFERS
    assert [launch_filter.would_accept(JOB, now_ms) for now_ms in (99, 100)] == [True, False]
    assert not launch_filter.accepts(JOB, 100)
    operator.answer = LaunchAnswer(accepted=True)
    assert launch_filter.would_accept(JOB, 101)
    assert launch_filter.deferral(JOB) == ("", "back at noon")


def test_a_deferral_that_holds_is_what_would_be_answered() -> None:
    operator = Operator(replace(DEFERS, holds_ms=100))
    launch_filter = LaunchFilter(operator)
    launch_filter.accepts(JOB, 0)
    operator.answer = LaunchAnswer(accepted=True)
    assert [launch_filter.would_accept(JOB, now_ms) for now_ms in (99, 100)] == [False, True]


@pytest.mark.parametrize(
    ("first_ms", "last_ms", "now_ms", "expected"),
    [
        (0, 591, 601, False),  # last seen ten minutes ago
        (0, 592, 601, True),
        (0, 592, 600, False),  # first seen 600 minutes ago
        (400, 592, 601, False),
        (400, 992, 1001, True),
    ],
)
def test_a_job_is_let_through_after_ten_hours_without_interruption(
    first_ms: int, last_ms: int, now_ms: int, expected: bool
) -> None:
    launch_filter = LaunchFilter(Operator(DEFERS))
    for minutes in (*[first_ms] * 10, last_ms):
        assert not launch_filter.accepts(JOB, minutes * MINUTE_MS)
    assert launch_filter.would_accept(JOB, now_ms * MINUTE_MS) is expected
    assert launch_filter.accepts(JOB, now_ms * MINUTE_MS) is expected


def test_a_deferral_is_reported_until_the_job_is_accepted() -> None:
    operator = Operator(DEFERS)
    launch_filter = LaunchFilter(operator, name="maintenance")
    assert launch_filter.deferral(JOB) is None
    launch_filter.accepts(JOB, 0)
    assert launch_filter.deferral(JOB) == ("maintenance", "back at noon")
    operator.answer = LaunchAnswer(accepted=True)
    launch_filter.accepts(JOB, 1)
    assert launch_filter.deferral(JOB) is None


def deferred_every(minutes: int, times: int) -> tuple[LaunchFilter, Operator]:
    operator = Operator(DEFERS)
    launch_filter = LaunchFilter(operator)
    for number in range(times):
        assert not launch_filter.accepts(JOB, number * minutes * MINUTE_MS)
    return launch_filter, operator


def test_a_job_deferred_for_too_long_is_accepted_permanently() -> None:
    launch_filter, operator = deferred_every(9, 67)  # the last time after 594 minutes
    assert not launch_filter.accepts(JOB, 600 * MINUTE_MS)
    requested = operator.asked
    assert launch_filter.accepts(JOB, 601 * MINUTE_MS)
    assert launch_filter.accepts(JOB, 6000 * MINUTE_MS)
    assert operator.asked == requested
    assert launch_filter.deferral(JOB) is None


def test_the_filter_is_called_again_for_a_job_that_was_not_seen_recently() -> None:
    launch_filter, _ = deferred_every(9, 67)
    assert not launch_filter.accepts(JOB, 700 * MINUTE_MS)  # last seen 106 minutes ago
    assert launch_filter.accepts(JOB, 701 * MINUTE_MS)


def test_a_job_is_not_accepted_after_only_ten_deferrals() -> None:
    launch_filter, _ = deferred_every(70, 10)  # the last time after 630 minutes
    assert not launch_filter.accepts(JOB, 635 * MINUTE_MS)  # the eleventh
    assert launch_filter.accepts(JOB, 640 * MINUTE_MS)


def test_the_deferrals_of_a_forgotten_job_count_from_zero() -> None:
    launch_filter, _ = deferred_every(9, 67)
    launch_filter.forget(JOB)
    assert not launch_filter.accepts(JOB, 602 * MINUTE_MS)
