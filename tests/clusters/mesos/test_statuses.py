"""Statuses of Mesos as updates: states and reasons, with and without what our executor adds."""

from base64 import b64encode
from typing import Any

import pytest

from cook_jupyter.clusters.mesos.messages import Value
from cook_jupyter.clusters.mesos.statuses import ReadStatus, Standing, read_status
from cook_jupyter.model.instance import StatusUpdate, TaskState
from cook_jupyter.model.reason import (
    AGENT_REMOVED,
    EXECUTOR_TERMINATED,
    KILLED_BY_USER,
    KILLED_DURING_LAUNCH,
    KILLED_EXTERNALLY,
    LAUNCH_FAILED,
    MAX_RUNTIME_EXCEEDED,
    MEMORY_LIMIT_EXCEEDED,
    NON_ZERO_EXIT,
    REASONS,
)
from cook_jupyter.worker.task import Cause
from tests.clusters.mesos.builders import a_status, end_of, other_frame, running

NOW_MS = 1_000_000


def read(state: str, *, is_killed: bool = False, **fields: Any) -> ReadStatus:
    return read_status(a_status(state, **fields), now_ms=NOW_MS, is_killed=is_killed)


def update_of(state: str, *, is_killed: bool = False, **fields: Any) -> StatusUpdate:
    update = read(state, is_killed=is_killed, **fields).update
    assert update is not None
    return update


@pytest.mark.parametrize("state", ["TASK_UNREACHABLE", "TASK_LOST", "TASK_UNKNOWN"])
def test_an_agent_that_cannot_be_reached_says_nothing_about_its_tasks(state: str) -> None:
    assert read(state) == ReadStatus(Standing.UNSURE)


@pytest.mark.parametrize("state", ["TASK_KILLING", "TASK_OF_A_LATER_MESOS"])
def test_states_that_need_no_report(state: str) -> None:
    assert read(state) == ReadStatus(Standing.NEUTRAL)


def test_a_start_names_its_sandbox() -> None:
    update = update_of("TASK_RUNNING", data=running())

    assert (update.state, update.at_ms, update.sandbox) == (TaskState.RUNNING, 4000, "/sandboxes/i1")


def test_a_start_that_a_master_tells_has_the_time_of_the_status() -> None:
    assert update_of("TASK_RUNNING", timestamp=12.5).at_ms == 12_500
    assert update_of("TASK_RUNNING").at_ms == NOW_MS


@pytest.mark.parametrize(
    ("state", "cause", "expected"),
    [
        ("TASK_FINISHED", Cause.DONE, (TaskState.FINISHED, None)),
        ("TASK_FAILED", Cause.FAILED, (TaskState.FAILED, NON_ZERO_EXIT)),
        ("TASK_FAILED", Cause.MEMORY, (TaskState.FAILED, MEMORY_LIMIT_EXCEEDED)),
        ("TASK_FAILED", Cause.RUNTIME, (TaskState.FAILED, MAX_RUNTIME_EXCEEDED)),
        ("TASK_FAILED", Cause.UNLAUNCHED, (TaskState.LOST, LAUNCH_FAILED)),
        ("TASK_KILLED", Cause.STOPPED, (TaskState.KILLED, KILLED_EXTERNALLY)),
    ],
)
def test_our_executor_says_how_a_task_ended(
    state: str, cause: str, expected: tuple[TaskState, str | None]
) -> None:
    update = update_of(state, data=end_of(cause))

    assert (update.state, update.reason) == expected


def test_a_small_result_is_in_the_status() -> None:
    update = update_of("TASK_FINISHED", data=end_of(Cause.DONE, result=b"signed"))

    assert update.result is not None
    assert update.result.inline == b"signed"


@pytest.mark.parametrize(
    ("is_killed", "reason", "expected"),
    [
        (True, "", KILLED_BY_USER),
        (False, "", KILLED_EXTERNALLY),  # by an operator
        (True, "REASON_AGENT_DRAINING", KILLED_EXTERNALLY),
    ],
)
def test_a_kill_is_its_users_fault_only_if_we_sent_it(is_killed: bool, reason: str, expected: str) -> None:
    update = update_of("TASK_KILLED", is_killed=is_killed, reason=reason, data=end_of(Cause.KILLED))

    assert (update.state, update.reason) == (TaskState.KILLED, expected)


@pytest.mark.parametrize(
    "data",
    [
        b64encode(b"not a frame").decode(),
        "no base64",
        b64encode(other_frame()).decode(),
        end_of(Cause.DONE, "another"),
        running(),
    ],
)
def test_what_is_not_from_our_executor_is_not_believed(data: str) -> None:
    update = update_of("TASK_FAILED", data=data, reason="REASON_EXECUTOR_TERMINATED")

    assert (update.state, update.reason, update.sandbox) == (TaskState.FAILED, EXECUTOR_TERMINATED, None)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("TASK_FAILED", "REASON_EXECUTOR_TERMINATED", EXECUTOR_TERMINATED),
        ("TASK_FAILED", "REASON_EXECUTOR_REGISTRATION_TIMEOUT", "mesos-executor-registration-timeout"),
        ("TASK_FAILED", "REASON_CONTAINER_LAUNCH_FAILED", LAUNCH_FAILED),
        ("TASK_GONE", "REASON_RECONCILIATION", AGENT_REMOVED),
        ("TASK_GONE", "REASON_EXECUTOR_REREGISTRATION_TIMEOUT", AGENT_REMOVED),
        ("TASK_GONE_BY_OPERATOR", "", AGENT_REMOVED),
        ("TASK_DROPPED", "REASON_INVALID_OFFERS", "mesos-invalid-offers"),
        ("TASK_DROPPED", "REASON_EXECUTOR_TERMINATED", EXECUTOR_TERMINATED),
    ],
)
def test_faults_of_agents_and_executors_are_nobodys_fault(state: str, reason: str, expected: str) -> None:
    update = update_of(state, reason=reason)

    assert update.reason == expected
    assert REASONS[expected].mea_culpa


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("REASON_CONTAINER_LIMITATION_MEMORY", MEMORY_LIMIT_EXCEEDED),
        ("REASON_CONTAINER_LIMITATION_DISK", "mesos-container-limitation-disk"),
        ("REASON_CONTAINER_LIMITATION", "mesos-container-limitation"),
        ("REASON_MAX_COMPLETION_TIME_REACHED", MAX_RUNTIME_EXCEEDED),
        ("REASON_COMMAND_EXECUTOR_FAILED", NON_ZERO_EXIT),
    ],
)
def test_limits_that_a_task_exceeds_are_its_own_fault(reason: str, expected: str) -> None:
    update = update_of("TASK_FAILED", reason=reason)

    assert update.reason == expected
    assert not REASONS[expected].mea_culpa


def test_the_exit_code_of_a_command_in_a_container_is_in_the_message() -> None:
    update = update_of("TASK_FAILED", message="Command exited with status 3")

    assert (update.reason, update.exit_code) == (NON_ZERO_EXIT, 3)
    assert update_of("TASK_FINISHED").exit_code == 0


def test_the_exit_status_of_what_mesos_runs_for_a_task_is_not_the_tasks_own() -> None:
    message = "Failed to launch container: Failed to fetch all URIs for container 'c': exited with status 1"

    update = update_of("TASK_FAILED", reason="REASON_CONTAINER_LAUNCH_FAILED", message=message)

    assert (update.reason, update.exit_code) == (LAUNCH_FAILED, None)


def test_a_kill_before_the_launch() -> None:
    reason = "REASON_TASK_KILLED_DURING_LAUNCH"

    assert update_of("TASK_KILLED", is_killed=True, reason=reason).reason == KILLED_DURING_LAUNCH
    assert update_of("TASK_KILLED", reason=reason).reason == KILLED_EXTERNALLY


def test_an_invalid_task_is_an_error() -> None:
    update = update_of("TASK_ERROR", reason="REASON_TASK_INVALID", agent_id=Value("a1"))

    assert (update.state, update.reason) == (TaskState.ERROR, "mesos-task-invalid")
