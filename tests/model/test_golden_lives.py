from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.errors import Conflict, IllegalTransition
from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import Instance, InstanceId, InstanceStatus, StatusUpdate, TaskState
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.model.reason import (
    DEFAULT_MEA_CULPA_LIMIT,
    HEARTBEAT_LOST,
    REASONS,
    MeaCulpaLimits,
    Reason,
    reason_of_mesos,
)
from cook_jupyter.scheduling.planned.heartbeats import Heartbeats
from tests.builders import a_job, an_instance
from tests.golden.cases import cases

Input = dict[str, Any]


def _job(given: Input, state: str) -> Job:
    instances = tuple(
        an_instance(
            started_ms=0,
            instance_id=f"instance-{number}",
            status=InstanceStatus(result["status"]),
            reason=result.get("reason"),
            ended_ms=None if result["status"] in ("unknown", "running") else 1,
        )
        for number, result in enumerate(given.get("instances", []))
    )
    job = a_job(
        state=JobState(state),
        instances=instances,
        disable_mea_culpa_retries=given.get("disable_mea_culpa", False),
    )
    return replace(job, max_retries=given.get("max_retries", 1))


@pytest.mark.parametrize(("given", "expect"), cases("attempts", ops=["attempts_of_reasons"]))
def test_attempts_of_reasons_are_counted_as_cook_does(given: Input, expect: Input) -> None:
    table = {
        name: Reason(code=code, name=name, sentence="", **row)
        for code, (name, row) in enumerate(given["reason_table"].items())
    }
    counted = lifecycle.attempts_of_reasons(
        given["reasons"],
        disable_mea_culpa=given["disable_mea_culpa"],
        mea_culpa_limits=_free(given),
        table=table,
    )
    assert counted == expect["attempts"]


@pytest.mark.parametrize(("given", "expect"), cases("attempts", ops=["attempts_of_job"]))
def test_attempts_of_a_job_are_counted_as_cook_does(given: Input, expect: Input) -> None:
    job = _job(given, "running")
    assert lifecycle.attempts_used(job, mea_culpa_limits=_free(given)) == expect["attempts"]


@pytest.mark.parametrize(("given", "expect"), cases("attempts", ops=["instance_transitions"]))
def test_an_instance_takes_only_cooks_steps(given: Input, expect: Input) -> None:
    assert [_stepped(item["old"], item["target"]) for item in given["transitions"]] == expect["status"]


def _stepped(old: str, target: str) -> str:
    try:
        return lifecycle.transition(InstanceStatus(old), InstanceStatus(target)).value
    except IllegalTransition:
        return old


SAYS = {
    "unknown": TaskState.STAGING,
    "running": TaskState.RUNNING,
    "success": TaskState.FINISHED,
    "failed": TaskState.FAILED,
}


@pytest.mark.parametrize(("given", "expect"), cases("attempts", ops=["job_transition"]))
def test_a_job_follows_its_instances_as_in_cook(given: Input, expect: Input) -> None:
    job = _job(given, given["job_state"])
    update = given["update"]
    reported = lifecycle.report(
        job,
        StatusUpdate(
            instance_id=InstanceId(f"instance-{update['index']}"),
            state=SAYS[update["status"]],
            at_ms=9,
            reason=update.get("reason"),
        ),
        mea_culpa_limits=_free(given),
    )
    after = reported.job or job
    assert after.state.value == expect["job_state"]
    if "instance_status" in expect:
        assert after.instances[update["index"]].status.value == expect["instance_status"]


def _free(given: Input) -> MeaCulpaLimits:
    """The limits of failures that cost no retry: one for all reasons, or by name with one for the others."""
    result = given.get("default_failure_limit", DEFAULT_MEA_CULPA_LIMIT)
    if not isinstance(result, dict):
        return MeaCulpaLimits(default=result)
    by_reason = {name: limit for name, limit in result.items() if name != "default"}
    return MeaCulpaLimits(default=result.get("default", DEFAULT_MEA_CULPA_LIMIT), by_reason=by_reason)


@pytest.mark.parametrize(("given", "expect"), cases("attempts", ops=["retry"]))
def test_retries_are_changed_as_in_cook(given: Input, expect: Input) -> None:
    job = _job(given, given["job_state"])
    retries = given["retries"] if "retries" in given else job.max_retries + given["increment"]
    if "error" in expect:
        with pytest.raises(Conflict):
            lifecycle.retry(job, retries, at_ms=9, mea_culpa_limits=_free(given))
        return
    after = lifecycle.retry(job, retries, at_ms=9, mea_culpa_limits=_free(given))
    if "max_retries" in expect:
        assert after.max_retries == expect["max_retries"]
    if "job_state" in expect:
        assert after.state.value == expect["job_state"]


def _updates(given: Input) -> tuple[list[Job], int]:
    """The job after each update, and how often a task was to be killed; updates are a second apart."""
    job = _job(given["job"], given["job"]["state"])
    lives: list[Job] = []
    kills = 0
    for second, update in enumerate(given["updates"], 1):
        reason = update.get("reason")
        if reason is not None and reason not in REASONS:
            reason = reason_of_mesos(reason)
        reported = lifecycle.report(
            job,
            StatusUpdate(
                instance_id=InstanceId(f"instance-{update['index']}"),
                state=TaskState(update["state"]),
                at_ms=second * 1000,
                reason=reason,
            ),
            mea_culpa_limits=_free(given["job"]),
        )
        kills += reported.verdict is lifecycle.Verdict.KILL
        job = reported.job or job
        lives.append(job)
    return lives, kills


@pytest.mark.parametrize(
    ("given", "expect"), [case for case in cases("status") if "updates" in case.values[0]]
)
def test_updates_are_taken_as_in_cook(given: Input, expect: Input) -> None:
    jobs, kills = _updates(given)
    place = given["updates"][-1]["index"]
    lives = [job.instances[place] for job in jobs if place is not None]
    if "status" in expect:
        assert lives[-1].status.value == expect["status"]
    if "reason" in expect:
        assert lives[-1].reason == expect["reason"]
    if "job_state" in expect:
        assert jobs[-1].state.value == expect["job_state"]
    if "backend_kills" in expect:
        assert kills == expect["backend_kills"]
    if "has_end_time" in expect:
        assert [life.ended_ms is not None for life in lives] == expect["has_end_time"]
    if expect.get("end_time_unchanged_by_second"):
        assert lives[0].ended_ms == lives[1].ended_ms == 1000
    if "has_backend_start_time" in expect:
        result = [life.backend_started_ms is not None for life in lives]
        assert result == expect["has_backend_start_time"]
    if expect.get("start_time_unchanged_by_third"):
        assert lives[1].backend_started_ms == lives[2].backend_started_ms


@pytest.mark.parametrize(("given", "expect"), cases("status", ops=["kill_job"]))
def test_killing_a_job_completes_it_at_once(given: Input, expect: Input) -> None:
    job = _job(given["job"], given["job"]["state"])
    _same_after_a_kill(lifecycle.kill(job), expect)


@pytest.mark.parametrize(("given", "expect"), cases("status", ops=["kill_instance"]))
def test_killing_an_instance_is_noted_on_it_alone(given: Input, expect: Input) -> None:
    job = _job(given["job"], given["job"]["state"])
    killed = lifecycle.cancel(job, InstanceId(f"instance-{given['index']}"))
    _same_after_a_kill(killed, expect)
    assert [instance.cancelled for instance in killed.instances] == expect["cancelled"]


def _same_after_a_kill(job: Job, expect: Input) -> None:
    assert job.state.value == expect["job_state"]
    if "instance_status" in expect:
        assert job.instances[0].status.value == expect["instance_status"]
    if "reasons" in expect:
        assert [instance.reason for instance in job.instances] == expect["reasons"]
    if "backend_kills" in expect:
        assert len(_open(job)) == expect["backend_kills"]


@pytest.mark.parametrize(("given", "expect"), cases("status", ops=["reconcile", "reconcile_jobs"]))
def test_reconciling_derives_the_states_of_jobs_again(given: Input, expect: Input) -> None:
    jobs = given["jobs"] if "jobs" in given else [given["job"]]
    states = [
        lifecycle.state_of(_job(result, result["state"]), mea_culpa_limits=_free(result)).value
        for result in jobs
    ]
    assert states == (expect["job_states"] if "jobs" in given else [expect["job_state"]])


@pytest.mark.parametrize(("given", "expect"), cases("status", ops=["heartbeat_timeout"]))
def test_an_instance_that_is_silent_fails(given: Input, expect: Input) -> None:
    job = _job(given["job"], given["job"]["state"])
    place = given.get("index", 0)
    after = lifecycle.fail(
        job,
        InstanceId(f"instance-{place}"),
        reason=HEARTBEAT_LOST,
        at_ms=9,
        mea_culpa_limits=_free(given["job"]),
    )
    result = {
        "status": after.instances[place].status.value,
        "reason": after.instances[place].reason,
        "job_state": after.state.value,
    }
    assert {name: result[name] for name in expect} == expect


def _open(job: Job) -> list[Instance]:
    return [instance for instance in job.instances if instance.status.is_open]


@pytest.mark.parametrize(("given", "expect"), cases("status", ops=["heartbeat_sync"]))
def test_heartbeats_are_expected_of_all_open_instances_that_send_them(given: Input, expect: Input) -> None:
    watched = Heartbeats(last_ms=dict.fromkeys(given["tracked"], 5))
    open_tasks = [(task["id"], task["custom_executor"]) for task in given["open_tasks"]]
    sending = [task for task, sends_heartbeats in open_tasks if sends_heartbeats]
    after = watched.watching(sending, now_ms=9)
    assert sorted(after.last_ms) == sorted(expect["tracked"])
    kept = [task for task in given["tracked"] if task in after.last_ms]
    assert [after.last_ms[task] for task in kept] == [5] * len(kept)


@pytest.mark.parametrize(("given", "expect"), cases("status", ops=["heartbeat_silent"]))
def test_who_is_not_heard_of_for_long_is_lost(given: Input, expect: Input) -> None:
    watched = Heartbeats(last_ms=given["last_ms"])
    for task, at_ms in given.get("beats", []):
        watched = watched.with_beat(task, at_ms)
    assert sorted(watched.expired(given["now_ms"])) == expect["silent"]
