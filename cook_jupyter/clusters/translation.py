"""Translates between the scheduler and the supervisor of a host, whichever front end lies between.

Lives here: launches as tasks, ends as status updates, and `OUTCOMES`, the table of causes.
Not here: the connection (`clusters.local.connection`), what an update means for a job (`model.lifecycle`).
"""

from collections.abc import Mapping
from dataclasses import replace

from cook_jupyter.clusters.base import Launch
from cook_jupyter.model.instance import InstanceId, ProgressUpdate, ResultPayload, StatusUpdate, TaskState
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS
from cook_jupyter.model.reason import (
    AGENT_RESTARTED,
    KILLED_BY_USER,
    KILLED_EXTERNALLY,
    LAUNCH_FAILED,
    MAX_RUNTIME_EXCEEDED,
    MEMORY_LIMIT_EXCEEDED,
    NON_ZERO_EXIT,
    ReasonName,
)
from cook_jupyter.model.resources import Resources
from cook_jupyter.payload.requirements import call_interpreter
from cook_jupyter.worker.environment import import_environment
from cook_jupyter.worker.frames import Frame, Header
from cook_jupyter.worker.task import Cause, Task, end_of

OUTCOMES: dict[str, tuple[TaskState, ReasonName | None]] = {
    Cause.DONE: (TaskState.FINISHED, None),
    Cause.FAILED: (TaskState.FAILED, NON_ZERO_EXIT),
    Cause.MEMORY: (TaskState.FAILED, MEMORY_LIMIT_EXCEEDED),
    Cause.RUNTIME: (TaskState.FAILED, MAX_RUNTIME_EXCEEDED),
    # A job that was preempted or killed by its user already has a reason, which remains.
    Cause.KILLED: (TaskState.KILLED, KILLED_BY_USER),
    # From here on, the system is at fault: no retry is used up, up to the limit of the reason.
    Cause.STOPPED: (TaskState.KILLED, KILLED_EXTERNALLY),
    Cause.EXTERNAL: (TaskState.FAILED, KILLED_EXTERNALLY),
    Cause.LOST: (TaskState.LOST, AGENT_RESTARTED),
    Cause.UNLAUNCHED: (TaskState.LOST, LAUNCH_FAILED),
}

INSTANCE_SECRET = "COOK_INSTANCE_SECRET"  # noqa: S105 (a variable of the instance's environment)
COOK_EXECUTOR = "cook"  # a job that names it gets the closing lines of that executor in stdout


def task_of(launch: Launch, ports: tuple[int, ...]) -> Task:
    """Return the task that a launch is to the agent."""
    spec, extra = launch.spec, launch.spec.extra
    limited = spec.max_runtime_ms < UNLIMITED_RUNTIME_MS
    python = call_interpreter(spec.command, spec.env)
    return Task(
        instance_id=launch.instance.instance_id,
        job_id=spec.job_id,
        user=spec.user,
        command=spec.command,
        env={**spec.env, INSTANCE_SECRET: launch.secret} if launch.secret else spec.env,
        cpus=spec.cpus,
        mem_mb=spec.mem_mb,
        gpus=float(spec.gpus),
        python=python,
        attempt=launch.attempt,
        group=spec.group,
        ports=ports,
        max_runtime_s=spec.max_runtime_ms / 1000 if limited else None,
        progress_file=extra.get("progress_output_file"),
        progress_regex=extra.get("progress_regex_string"),
        closing_lines=extra.get("executor") == COOK_EXECUTOR,
        import_environment="" if python is None else import_environment(spec.env, cpus=spec.cpus),
    )


def update_of_end(frame: Frame, *, began_ms: int | None = None) -> StatusUpdate:
    """Return the final update for an `end` of an agent; `began_ms` if its start was not reported before."""
    end = end_of(frame.header)
    state, reason = OUTCOMES[frame.header["cause"]]
    result = None
    if end.inline:
        result = ResultPayload(inline=frame.tail, size=len(frame.tail))
    elif end.blob is not None:
        result = ResultPayload(blob=end.blob, size=end.size)
    return StatusUpdate(
        instance_id=InstanceId(end.instance_id),
        state=state,
        at_ms=end.at_ms,
        began_ms=began_ms,
        reason=reason,
        exit_code=end.exit_code,
        sandbox=frame.header["sandbox"],
        result=result,
        peak_mem_mb=end.peak_mb,
    )


def with_result(update: StatusUpdate, result: ResultPayload | None) -> StatusUpdate:
    """Return a final update with the result of its call, which was not in its frame."""
    return replace(update, result=result)


def update_of_running(header: Header) -> StatusUpdate:
    """Return the update for a `running` of an agent."""
    return StatusUpdate(
        instance_id=header["id"],
        state=TaskState.RUNNING,
        at_ms=header["at_ms"],
        sandbox=header.get("sandbox"),
    )


def update_of_progress(header: Header) -> ProgressUpdate:
    """Return the progress update for a `progress` of an agent."""
    return ProgressUpdate(
        instance_id=header["id"],
        sequence=header["sequence"],
        percent=header["percent"],
        message=header["message"],
    )


def lost(instance_id: InstanceId, at_ms: int) -> StatusUpdate:
    """Return the final update of an instance that the agent does not know."""
    state, reason = OUTCOMES[Cause.LOST]
    return StatusUpdate(instance_id=instance_id, state=state, at_ms=at_ms, reason=reason)


def never_started(instance_id: InstanceId, at_ms: int, cause: str) -> StatusUpdate:
    """Return the final update of an instance that never reached the agent; the cause is one of `Cause`."""
    state, reason = OUTCOMES[cause]
    return StatusUpdate(instance_id=instance_id, state=state, at_ms=at_ms, reason=reason)


def resources_of(held: Mapping[str, float]) -> Resources:
    """Return the resources that an agent reports for a task."""
    return Resources(cpus=held["cpus"], mem_mb=held["mem_mb"], gpus=held["gpus"])
