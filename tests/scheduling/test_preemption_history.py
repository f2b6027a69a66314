from cook_jupyter.model.instance import Instance
from cook_jupyter.scheduling.queue.preemption_history import (
    HOUR_MS,
    NEVER_PREEMPTED,
    PreemptionHistory,
    preemption_history_of,
)
from tests.builders import a_job, an_instance


def preempted(ended_ms: int | None, for_user: str) -> Instance:
    return an_instance(started_ms=5, ended_ms=ended_ms, preempted=True, preempted_for=for_user)


def test_a_job_that_only_failed_was_never_preempted() -> None:
    assert preemption_history_of(a_job(instances=(an_instance(ended_ms=9),))) is NEVER_PREEMPTED


def test_the_preemptions_of_a_job_are_listed_from_the_oldest_on() -> None:
    ended = (preempted(30, "ada"), an_instance(ended_ms=20), preempted(10, "ada"), preempted(None, "ada"))
    assert preemption_history_of(a_job(user="ada", instances=ended)) == PreemptionHistory((5, 10, 30), False)


def test_one_preemption_for_another_user_suffices_to_have_been_preempted_by_others() -> None:
    ended = (preempted(10, "ada"), preempted(20, "bob"))
    assert preemption_history_of(a_job(user="ada", instances=ended)).by_others


def test_preemptions_count_for_an_hour() -> None:
    history = PreemptionHistory((0, 1, 2))
    assert [history.count_within_hour(HOUR_MS + since) for since in range(4)] == [3, 2, 1, 0]
