"""States of tasks, as Mesos reports them, as status updates of instances.

Lives here: `read_status`, and the tables of states and reasons.
Not here: what an update means for a job (`model.lifecycle`), instances on unreachable agents
(`clusters.mesos.partitions`).

What our executor adds to a status says how a task ended. A status without it was made by Mesos: by a master
or an agent, or by the executor of Mesos that runs a container.
"""

import re
from enum import Enum
from typing import Final, NamedTuple

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.mesos.messages import TaskStatus
from cook_jupyter.model.instance import InstanceId, StatusUpdate, TaskState
from cook_jupyter.model.reason import (
    AGENT_REMOVED,
    EXECUTOR_TERMINATED,
    KILLED_BY_USER,
    KILLED_DURING_LAUNCH,
    KILLED_EXTERNALLY,
    MAX_RUNTIME_EXCEEDED,
    NON_ZERO_EXIT,
    REASONS,
    ReasonName,
    reason_of_mesos,
)
from cook_jupyter.worker.frames import BrokenStream, Frame
from cook_jupyter.worker.mesos.messages import STATUS_DATA, read_data
from cook_jupyter.worker.task import Cause

_STATES: Final = {
    "TASK_STAGING": TaskState.STAGING,
    "TASK_STARTING": TaskState.STARTING,
    "TASK_RUNNING": TaskState.RUNNING,
    "TASK_FINISHED": TaskState.FINISHED,
    "TASK_FAILED": TaskState.FAILED,
    "TASK_KILLED": TaskState.KILLED,
    "TASK_ERROR": TaskState.ERROR,
    "TASK_DROPPED": TaskState.LOST,
    "TASK_GONE": TaskState.LOST,
    "TASK_GONE_BY_OPERATOR": TaskState.LOST,
}
_UNKNOWN: Final = frozenset({"TASK_GONE", "TASK_UNKNOWN"})
_UNSURE: Final = frozenset({"TASK_UNREACHABLE", "TASK_LOST", "TASK_UNKNOWN"})
# Limits that the task itself exceeded.
_OWN_FAULT: Final = "REASON_CONTAINER_LIMITATION"
# Reasons with which the message tells the exit status of the command. With others, such as that of a
# container that did not start, it is that of a program of Mesos.
_OF_THE_COMMAND: Final = frozenset({"", "REASON_COMMAND_EXECUTOR_FAILED"})
# Of the task itself, not of what Mesos has run for it ("Failed to fetch all URIs ...: exited with status 1").
_EXIT_STATUS: Final = re.compile(r"^Command exited with status (\d+)")


class Standing(Enum):
    """What a status says about an instance."""

    KNOWN = "known"  # there is an update to report
    UNSURE = "unsure"  # its agent cannot be reached, or the master does not know it: wait
    NEUTRAL = "neutral"  # nothing that the scheduler needs to know


class ReadStatus(NamedTuple):
    """A status of Mesos, read.

    Attributes:
        update: the update to report, if the standing is KNOWN; an end lacks the result that is in a file.
        end: what our executor adds to an end; None if it added nothing.
    """

    standing: Standing
    update: StatusUpdate | None = None
    end: Frame | None = None


def is_unknown_task(status: TaskStatus) -> bool:
    """Return whether a master, asked about a task, does not know it.

    If it was sent by an earlier subscription, it never will: calls of that one are refused since the new one.
    """
    return not status.uuid and status.state in _UNKNOWN and status.reason == "REASON_RECONCILIATION"


def read_status(status: TaskStatus, *, now_ms: int, is_killed: bool) -> ReadStatus:
    """Return what a status says.

    Args:
        status: the status.
        now_ms: present time, for statuses without one.
        is_killed: whether the scheduler wants the instance to be killed.
    """
    if status.state in _UNSURE:
        return ReadStatus(Standing.UNSURE)
    state = _STATES.get(status.state)
    if state is None:  # TASK_KILLING, or a state of a later Mesos
        return ReadStatus(Standing.NEUTRAL)
    frame = _frame_of(status)
    if frame is not None and (frame.header["t"] == "end") == state.is_final:
        return _of_our_executor(status, frame, is_killed=is_killed)
    instance_id = InstanceId(status.task_id.value)
    at_ms = round(status.timestamp * 1000) if status.timestamp > 0 else now_ms
    reason, exit_code = _reason_and_exit_code(status, state, is_killed=is_killed)
    update = StatusUpdate(
        instance_id=instance_id, state=state, at_ms=at_ms, reason=reason, exit_code=exit_code
    )
    return ReadStatus(Standing.KNOWN, update)


def _of_our_executor(status: TaskStatus, frame: Frame, *, is_killed: bool) -> ReadStatus:
    if frame.header["t"] == "running":
        return ReadStatus(Standing.KNOWN, translation.update_of_running(frame.header))
    by_others = status.reason == "REASON_AGENT_DRAINING" or not is_killed
    if frame.header["cause"] == Cause.KILLED and by_others:
        frame = frame._replace(header={**frame.header, "cause": Cause.STOPPED})
    return ReadStatus(Standing.KNOWN, translation.update_of_end(frame), frame)


def _frame_of(status: TaskStatus) -> Frame | None:
    """Return what our executor added to a status; None if that is nothing, or is not for this task."""
    if not status.data:
        return None
    try:
        frame = read_data(status.data, STATUS_DATA)
    except BrokenStream:
        return None
    named = frame.header["id"] if frame.header["t"] == "running" else frame.header["instance_id"]
    return frame if named == status.task_id.value else None


def _reason_and_exit_code(
    status: TaskStatus, state: TaskState, *, is_killed: bool
) -> tuple[ReasonName | None, int | None]:
    """Return reason and exit code of a status that Mesos has made."""
    is_commands_own = status.reason in _OF_THE_COMMAND
    exit_status = _EXIT_STATUS.search(status.message) if is_commands_own else None
    exit_code = None if exit_status is None else int(exit_status.group(1))
    if not state.is_final:
        return None, None
    if state is TaskState.FINISHED:
        return None, 0
    if state is TaskState.KILLED:
        is_early = status.reason == "REASON_TASK_KILLED_DURING_LAUNCH"
        own = KILLED_DURING_LAUNCH if is_early else KILLED_BY_USER
        return (own if is_killed else KILLED_EXTERNALLY), None
    if exit_status is not None or status.reason == "REASON_COMMAND_EXECUTOR_FAILED":
        return NON_ZERO_EXIT, exit_code
    return _reason_of_failure(status, state), None


def _reason_of_failure(status: TaskStatus, state: TaskState) -> ReasonName:
    if status.reason == "REASON_MAX_COMPLETION_TIME_REACHED":
        return MAX_RUNTIME_EXCEEDED
    reason = reason_of_mesos(status.reason)
    if state is TaskState.ERROR or status.reason.startswith(_OWN_FAULT) or REASONS[reason].mea_culpa:
        return reason
    # Agents, executors and containers are ours, whatever Cook's table has for the reason.
    return EXECUTOR_TERMINATED if state is TaskState.FAILED else AGENT_REMOVED
