from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import Conflict, IllegalTransition
from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import (
    InstanceId,
    InstanceStatus,
    ProgressUpdate,
    ResultPayload,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.reason import (
    KILLED_BY_USER,
    NON_ZERO_EXIT,
    PREEMPTED,
    REASONS,
    UNMAPPED,
    MeaCulpaLimits,
    reason_of_mesos,
)
from cook_jupyter.scheduling.planned.heartbeats import Heartbeats
from tests.builders import a_job, an_instance

INSTANCE = InstanceId("i")


def a_running_job(max_retries: int = 1) -> Job:
    return lifecycle.launch(
        a_job(max_retries=max_retries), an_instance(instance_id=INSTANCE, started_ms=3000)
    )


def report(job: Job, state: TaskState, at_ms: int = 4000, **fields: Any) -> Job:
    update = StatusUpdate(instance_id=INSTANCE, state=state, at_ms=at_ms, **fields)
    reported = lifecycle.report(job, update)
    assert reported.job is not None
    return reported.job


def test_a_launch_notes_how_long_the_job_had_waited() -> None:
    assert a_running_job().instances[0].queue_ms == 2000


def test_a_job_that_runs_is_not_launched_again() -> None:
    with pytest.raises(IllegalTransition):
        lifecycle.launch(a_running_job(), an_instance())


def test_a_failure_that_uses_up_the_attempts_completes_the_job() -> None:
    job = report(a_running_job(), TaskState.FAILED, reason=NON_ZERO_EXIT)
    assert job.outcome == "failed"
    assert job.instances[0].reason == NON_ZERO_EXIT


def test_a_job_that_waits_again_begins_to_wait_at_its_failure() -> None:
    job = report(a_running_job(max_retries=2), TaskState.FAILED, at_ms=7000)
    assert (job.state, job.last_waiting_ms) == (JobState.WAITING, 7000)


def test_a_preempted_job_waits_again_without_a_retry_used_up() -> None:
    job = lifecycle.fail(a_running_job(), INSTANCE, reason=PREEMPTED, at_ms=5000, preempted=True)
    assert job.state is JobState.WAITING
    assert lifecycle.attempts_used(job) == 0
    assert job.instances[0].preempted


def test_the_kill_report_of_a_preempted_instance_keeps_the_first_reason() -> None:
    job = lifecycle.fail(a_running_job(), INSTANCE, reason=PREEMPTED, at_ms=5000, preempted=True)
    result = lifecycle.report(job, StatusUpdate(instance_id=INSTANCE, state=TaskState.KILLED, at_ms=6000))
    assert result.verdict is Verdict.IGNORED
    assert result.job is None


def test_a_reason_that_nobody_knows_is_told_as_such() -> None:
    assert report(a_running_job(), TaskState.FAILED, reason="gremlins").instances[0].reason == UNMAPPED


def test_a_success_has_no_reason() -> None:
    job = lifecycle.cancel(a_running_job(), INSTANCE)
    assert job.instances[0].reason == KILLED_BY_USER
    assert report(job, TaskState.FINISHED).instances[0].reason is None


@pytest.mark.parametrize("state", [TaskState.STAGING, TaskState.STARTING, TaskState.RUNNING])
def test_a_task_that_should_not_be_alive_is_killed(state: TaskState) -> None:
    update = StatusUpdate(instance_id=INSTANCE, state=state, at_ms=9)
    killed = lifecycle.kill(a_running_job())
    failed = lifecycle.fail(a_running_job(), INSTANCE, reason=PREEMPTED, at_ms=5)
    assert lifecycle.report(None, update).verdict is Verdict.KILL
    assert lifecycle.report(a_job(), update).verdict is Verdict.KILL
    assert lifecycle.report(killed, update).verdict is Verdict.KILL
    assert lifecycle.report(failed, update).verdict is Verdict.KILL


def test_a_final_report_of_an_unknown_task_is_not_answered_by_a_kill() -> None:
    update = StatusUpdate(instance_id=INSTANCE, state=TaskState.LOST, at_ms=9)
    assert lifecycle.report(None, update).verdict is Verdict.IGNORED


def test_a_repeated_report_changes_nothing() -> None:
    update = StatusUpdate(instance_id=INSTANCE, state=TaskState.RUNNING, at_ms=9)
    once = lifecycle.report(a_running_job(), update)
    assert lifecycle.report(once.job, update).verdict is Verdict.IGNORED


def test_the_result_of_the_attempt_that_ends_is_kept() -> None:
    update = StatusUpdate(
        instance_id=INSTANCE, state=TaskState.FINISHED, at_ms=9, result=ResultPayload(inline=b"42", size=2)
    )
    reported = lifecycle.report(a_running_job(), update)
    assert reported.keep_result
    assert reported.job is not None
    assert reported.job.instances[0].has_result
    assert not lifecycle.report(reported.job, update).keep_result


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.FINISHED, TaskState.FAILED])
@pytest.mark.parametrize("now", [False, True], ids=["from unknown", "from running"])
def test_a_report_changes_only_what_it_says(now: bool, state: TaskState) -> None:
    job = a_running_job(max_retries=5)
    if now:
        job = report(job, TaskState.RUNNING, at_ms=3500)

    again = report(job, state, at_ms=4000, sandbox="/box", exit_code=3, peak_mem_mb=7.5)

    (before,) = job.instances
    ends = state.is_final
    changed = replace(
        before,
        status=lifecycle.STATUS_OF_TASK_STATE[state],
        backend_started_ms=3500 if now else None if ends else 4000,
        ended_ms=4000 if ends else None,
        reason=UNMAPPED if state is TaskState.FAILED else None,
        sandbox="/box",
        exit_code=3,
        peak_mem_mb=7.5,
    )
    waits = state is TaskState.FAILED
    states = {TaskState.RUNNING: JobState.RUNNING, TaskState.FINISHED: JobState.COMPLETED}
    assert again == replace(
        job,
        state=states.get(state, JobState.WAITING),
        last_waiting_ms=4000 if waits else job.last_waiting_ms,
        instances=(changed,),
    )


@pytest.mark.parametrize(
    ("fact", "value", "later"), [("sandbox", "/a", "/b"), ("exit_code", 0, 3), ("peak_mem_mb", 5.0, 6.0)]
)
def test_a_fact_that_a_report_lacks_stays_as_it_was(fact: str, value: Any, later: Any) -> None:
    job = report(a_running_job(), TaskState.RUNNING, **{fact: value})

    silent = StatusUpdate(instance_id=INSTANCE, state=TaskState.RUNNING, at_ms=4100)
    assert lifecycle.report(job, silent).verdict is Verdict.IGNORED
    assert getattr(report(job, TaskState.FINISHED).instances[0], fact) == value
    assert getattr(report(job, TaskState.RUNNING, **{fact: later}).instances[0], fact) == later


def test_a_report_after_the_end_changes_nothing() -> None:
    job = report(a_running_job(), TaskState.FINISHED)
    late = StatusUpdate(instance_id=INSTANCE, state=TaskState.FAILED, at_ms=9000, exit_code=1, sandbox="/box")
    assert lifecycle.report(job, late) == (Verdict.IGNORED, None, None, False)


@pytest.mark.parametrize("result", [None, ResultPayload(inline=b"42", size=2)])
@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.FINISHED, TaskState.FAILED])
def test_only_an_end_with_a_result_has_one(state: TaskState, result: ResultPayload | None) -> None:
    update = StatusUpdate(instance_id=INSTANCE, state=state, at_ms=9, result=result)
    reported = lifecycle.report(a_running_job(), update)
    assert reported.instance is not None
    has_result = result is not None and state.is_final
    assert (reported.keep_result, reported.instance.has_result) == (has_result, has_result)


def test_a_job_that_starts_and_ends_at_once_has_waited_and_run_for_no_time() -> None:
    job = lifecycle.launch(a_job(submitted_ms=0), an_instance(instance_id=INSTANCE, started_ms=0))
    (instance,) = report(job, TaskState.FINISHED, at_ms=0).instances
    assert (instance.queue_ms, instance.started_ms, instance.ended_ms) == (0, 0, 0)


def test_a_task_does_not_begin_before_its_launch() -> None:
    assert report(a_running_job(), TaskState.RUNNING, at_ms=2999).instances[0].backend_started_ms == 3000
    assert report(a_running_job(), TaskState.RUNNING, at_ms=3001).instances[0].backend_started_ms == 3001


def test_killing_an_instance_lets_the_job_try_again() -> None:
    job = lifecycle.cancel(a_running_job(max_retries=2), INSTANCE)
    assert job.instances[0].cancelled
    assert report(job, TaskState.KILLED).state is JobState.WAITING


def test_a_killed_job_stays_completed_when_its_task_ends() -> None:
    job = report(lifecycle.kill(a_running_job(max_retries=5)), TaskState.KILLED)
    assert job.state is JobState.COMPLETED
    assert job.instances[0].reason == KILLED_BY_USER


def test_a_killed_job_can_be_retried() -> None:
    job = report(lifecycle.kill(a_running_job()), TaskState.KILLED)
    again = lifecycle.retry(job, 2, at_ms=8000)
    assert (again.state, again.last_waiting_ms, again.killed) == (JobState.WAITING, 8000, False)


def test_a_retry_asked_for_while_the_task_is_being_killed_is_not_lost() -> None:
    being_killed = lifecycle.retry(lifecycle.kill(a_running_job()), 2, at_ms=8000)
    assert being_killed.state is JobState.RUNNING
    assert not lifecycle.may_start(being_killed)
    assert report(being_killed, TaskState.KILLED).state is JobState.WAITING


def test_fewer_retries_than_attempts_used_are_refused() -> None:
    job = report(a_running_job(), TaskState.FAILED)
    with pytest.raises(Conflict, match="attempts-consumed"):
        lifecycle.retry(job, 0, at_ms=1)


def test_failures_that_are_free_leave_their_attempts_to_a_retry() -> None:
    limits = MeaCulpaLimits(by_reason={PREEMPTED: 0})
    job = lifecycle.fail(a_running_job(), INSTANCE, reason=PREEMPTED, at_ms=5000, mea_culpa_limits=limits)
    assert job.state is JobState.COMPLETED
    assert lifecycle.retry(job, 1, at_ms=6000, mea_culpa_limits=limits).state is JobState.COMPLETED
    assert lifecycle.retry(job, 1, at_ms=6000).state is JobState.WAITING


def test_progress_that_comes_late_is_dropped() -> None:
    job = lifecycle.progress(a_running_job(), ProgressUpdate(instance_id=INSTANCE, sequence=2, percent=50))
    for sequence in (1, 2):
        late = lifecycle.progress(job, ProgressUpdate(instance_id=INSTANCE, sequence=sequence, percent=10))
        assert late is job
    assert job.instances[0].progress == 50


def test_progress_without_a_percentage_keeps_the_last_one() -> None:
    job = lifecycle.progress(a_running_job(), ProgressUpdate(instance_id=INSTANCE, sequence=2, percent=50))
    job = lifecycle.progress(job, ProgressUpdate(instance_id=INSTANCE, sequence=3, message="x" * 600))
    assert job.instances[0].progress == 50
    assert len(job.instances[0].progress_message or "") == 512


def test_mesos_reasons_have_cooks_names() -> None:
    assert reason_of_mesos("REASON_GC_ERROR") == "mesos-gc-error"
    assert reason_of_mesos("REASON_AGENT_REMOVED") == "mesos-slave-removed"
    assert reason_of_mesos("REASON_INVALID_FRAMEWORKID") == "mesos-invalid-framework-id"
    assert reason_of_mesos("REASON_FROM_TOMORROW") == UNMAPPED


def test_reasons_have_codes_of_their_own() -> None:
    assert len({reason.code for reason in REASONS.values()}) == len(REASONS)


def test_an_instance_is_silent_after_the_timeout() -> None:
    watched = (
        Heartbeats()
        .watching([InstanceId("a"), InstanceId("b")], now_ms=0)
        .with_beat(InstanceId("a"), now_ms=500)
    )
    assert watched.expired(now_ms=1000, timeout_ms=1000) == ("b",)


@given(
    reports=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(TaskState)), max_size=25),
    max_retries=st.integers(1, 3),
)
def test_a_job_never_has_two_open_instances_and_ends_only_once(
    reports: list[tuple[int, TaskState]], max_retries: int
) -> None:
    job = a_job(max_retries=max_retries)
    launched = 0
    for which, state in reports:
        if lifecycle.may_start(job):
            job = lifecycle.launch(job, an_instance(instance_id=f"i{launched}"))
            launched += 1
        before = job
        update = StatusUpdate(instance_id=InstanceId(f"i{which}"), state=state, at_ms=launched)
        job = lifecycle.report(job, update).job or job
        assert sum(i.status.is_open for i in job.instances) <= 1
        assert before.state is not JobState.COMPLETED or job.state is JobState.COMPLETED
        for was, now in zip(before.instances, job.instances, strict=False):
            assert was.status is now.status or now.status in lifecycle.STEPS[was.status]
    assert job.state is lifecycle.state_of(job)
    assert lifecycle.attempts_used(job) <= max_retries


@given(statuses=st.lists(st.sampled_from([InstanceStatus.FAILED, InstanceStatus.SUCCESS]), max_size=5))
def test_attempts_never_exceed_finished_instances(statuses: list[InstanceStatus]) -> None:
    instances = tuple(an_instance(status=status, reason=PREEMPTED) for status in statuses)
    assert lifecycle.attempts_used(replace(a_job(), instances=instances)) <= len(instances)


@pytest.mark.parametrize("ended_ms", [0, 2999, 3000, 9000])
@pytest.mark.parametrize("began_ms", [None, 0, 3500])
def test_an_instance_never_ends_before_it_started(began_ms: int | None, ended_ms: int) -> None:
    begun = a_running_job()
    running = begun if began_ms is None else report(begun, TaskState.RUNNING, at_ms=began_ms)

    for over in (
        report(running, TaskState.FINISHED, at_ms=ended_ms),
        report(running, TaskState.FINISHED, at_ms=ended_ms, began_ms=4000),
        lifecycle.fail(running, INSTANCE, reason=PREEMPTED, at_ms=ended_ms),
    ):
        (instance,) = over.instances
        assert instance.ended_ms is not None
        assert (
            instance.started_ms <= (instance.backend_started_ms or instance.started_ms) <= instance.ended_ms
        )
