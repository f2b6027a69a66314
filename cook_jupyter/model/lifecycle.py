"""Life cycles of instances and jobs. Every transition is decided here and nowhere else.

Lives here: the table of an instance's transitions, the rule that derives a job's state from its instances,
the count of attempts, and the functions that change a job (launch, report, kill, cancel, retry). All are
pure: they take a job and an event, and return the changed job.
Not here: the callers (`service`), where jobs are stored (`store`).

Source: Cook's `schema.clj` (`instance/update-state`, `job/update-state`,
`reasons->attempts-consumed`), as described in the fair-share specification, section 7.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from cook_jupyter.errors import Conflict, IllegalTransition
from cook_jupyter.model.fast_dataclass import evolve
from cook_jupyter.model.instance import (
    Instance,
    InstanceId,
    InstanceStatus,
    ProgressUpdate,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.model.reason import (
    DEFAULT_MEA_CULPA_LIMITS,
    KILLED_BY_USER,
    NEVER_COUNTS,
    REASONS,
    UNMAPPED,
    MeaCulpaLimits,
    Reason,
    ReasonName,
)

STEPS: dict[InstanceStatus, frozenset[InstanceStatus]] = {
    InstanceStatus.UNKNOWN: frozenset(
        {InstanceStatus.RUNNING, InstanceStatus.SUCCESS, InstanceStatus.FAILED}
    ),
    InstanceStatus.RUNNING: frozenset({InstanceStatus.SUCCESS, InstanceStatus.FAILED}),
    InstanceStatus.SUCCESS: frozenset(),
    InstanceStatus.FAILED: frozenset(),
}

STATUS_OF_TASK_STATE: dict[TaskState, InstanceStatus] = {
    TaskState.STAGING: InstanceStatus.UNKNOWN,
    TaskState.STARTING: InstanceStatus.RUNNING,
    TaskState.RUNNING: InstanceStatus.RUNNING,
    TaskState.FINISHED: InstanceStatus.SUCCESS,
    TaskState.FAILED: InstanceStatus.FAILED,
    TaskState.KILLED: InstanceStatus.FAILED,
    TaskState.LOST: InstanceStatus.FAILED,
    TaskState.ERROR: InstanceStatus.FAILED,
}

MAX_PROGRESS_MESSAGE = 512  # characters


def transition(current: InstanceStatus, target: InstanceStatus) -> InstanceStatus:
    """Return `target` if an instance may change to it from `current`.

    Raises:
        IllegalTransition: the transition is not in the table.
    """
    if target not in STEPS[current]:
        raise IllegalTransition(f"an instance cannot go from {current.value} to {target.value}")
    return target


def attempts_of_reasons(
    reasons: Iterable[ReasonName | None],
    *,
    disable_mea_culpa: bool = False,
    mea_culpa_limits: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS,
    table: Mapping[ReasonName, Reason] = REASONS,
) -> int:
    """Count the attempts that finished instances with these reasons have used up.

    A failure that is the user's fault, or has no reason, counts. A mea culpa failure counts only beyond the
    limit of its reason, which applies per job; with `disable_mea_culpa` every failure counts.
    """
    attempts_used = 0
    for name, count in Counter(reasons).items():
        reason = table.get(name) if name is not None else None
        if reason is None or not reason.mea_culpa or disable_mea_culpa:
            attempts_used += count
            continue
        limit = mea_culpa_limits.limit_of(reason)
        if limit != NEVER_COUNTS:
            attempts_used += max(0, count - limit)
    return attempts_used


def attempts_used(job: Job, *, mea_culpa_limits: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS) -> int:
    """Count the attempts that the job has used up; a success counts as one."""
    return _attempts(job, job.instances, mea_culpa_limits)


def state_of(job: Job, *, mea_culpa_limits: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS) -> JobState:
    """Derive the job's state from its instances. A completed job stays completed."""
    return _state(job, job.instances, mea_culpa_limits)


class Verdict(Enum):
    """What to do about a report."""

    APPLIED = "applied"
    IGNORED = "ignored"  # nothing changed
    KILL = "kill"  # nothing changed, and the task must be killed


class ReportOutcome(NamedTuple):
    """The outcome of a report.

    Attributes:
        verdict: what to do about the report.
        job: the changed job, if the report was applied.
        instance: the changed instance, if the report was applied.
        keep_result: whether the result in the report is the one to store.
    """

    verdict: Verdict
    job: Job | None = None
    instance: Instance | None = None
    keep_result: bool = False


def may_start(job: Job) -> bool:
    """Return whether a new instance may start: the job waits and has no open instance."""
    return job.state is JobState.WAITING and job.open_instance is None


def launch(job: Job, instance: Instance) -> Job:
    """Return the job with a new instance, running.

    Raises:
        IllegalTransition: the job does not wait, or has an open instance.
    """
    if not may_start(job):
        raise IllegalTransition(f"job {job.job_id} cannot start: it is {job.state.value}")
    queue_ms = max(0, instance.started_ms - job.last_waiting_ms)
    queued = instance if instance.queue_ms == queue_ms else evolve(instance, queue_ms=queue_ms)
    return evolve(job, state=JobState.RUNNING, instances=(*job.instances, queued))


def report(
    job: Job | None, update: StatusUpdate, *, mea_culpa_limits: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS
) -> ReportOutcome:
    """Apply the report of a cluster about an instance of `job`; `job` is None if it is unknown.

    The first reason and the first times are kept. A task that should not run (it is unknown, its job
    completed or its instance failed) is to be killed, unless the report is final.
    """
    instance = _find(job, update.instance_id) if job is not None else None
    is_open_report = not update.state.is_final
    if job is None or instance is None:
        return ReportOutcome(Verdict.KILL if is_open_report else Verdict.IGNORED)
    if is_open_report and (job.state is JobState.COMPLETED or instance.status is InstanceStatus.FAILED):
        return ReportOutcome(Verdict.KILL)
    target = STATUS_OF_TASK_STATE[update.state]
    is_legal = target in STEPS[instance.status]
    if not is_legal and not instance.status.is_open:
        return ReportOutcome(Verdict.IGNORED)
    keep_result = update.result is not None and is_legal and not target.is_open
    new_instance = _updated_instance(
        instance, update, target if is_legal else instance.status, has_result=keep_result
    )
    if new_instance is instance:
        return ReportOutcome(Verdict.IGNORED)
    return ReportOutcome(
        Verdict.APPLIED,
        _with_instance(job, new_instance, at_ms=update.at_ms, mea_culpa_limits=mea_culpa_limits),
        new_instance,
        keep_result,
    )


def fail(
    job: Job,
    instance_id: InstanceId,
    *,
    reason: ReasonName,
    at_ms: int,
    preempted: bool = False,
    preempted_for: str | None = None,
    mea_culpa_limits: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS,
) -> Job:
    """Fail an open instance by decision of the scheduler (preempted, lingering, lost)."""
    instance = _find(job, instance_id)
    if instance is None or not instance.status.is_open:
        return job
    failed = evolve(
        instance,
        status=transition(instance.status, InstanceStatus.FAILED),
        reason=instance.reason or reason,
        ended_ms=instance.ended_ms if instance.ended_ms is not None else max(at_ms, _start_ms(instance)),
        preempted=preempted,
        preempted_for=preempted_for,
    )
    return _with_instance(job, failed, at_ms=at_ms, mea_culpa_limits=mea_culpa_limits)


def progress(job: Job, update: ProgressUpdate) -> Job:
    """Apply a report of progress, unless its sequence number is not above the last one."""
    instance = _find(job, update.instance_id)
    if instance is None or update.sequence <= instance.progress_sequence:
        return job
    message = update.message if update.message is not None else instance.progress_message
    new_instance = evolve(
        instance,
        progress_sequence=update.sequence,
        progress=instance.progress if update.percent is None else update.percent,
        progress_message=None if message is None else message[:MAX_PROGRESS_MESSAGE],
    )
    return evolve(job, instances=_replace_instance(job.instances, new_instance))


def kill(job: Job) -> Job:
    """Complete the job at once.

    Its open instance keeps its status until its cluster reports the end, but gets its reason now.
    """
    if job.state is JobState.COMPLETED:
        return job
    instances = tuple(
        evolve(i, reason=i.reason or KILLED_BY_USER) if i.status.is_open else i for i in job.instances
    )
    return evolve(job, state=JobState.COMPLETED, killed=True, instances=instances)


def cancel(job: Job, instance_id: InstanceId) -> Job:
    """Mark an open instance as to be killed; the job may be tried again."""
    instance = _find(job, instance_id)
    if instance is None or not instance.status.is_open:
        return job
    new_instance = evolve(instance, cancelled=True, reason=instance.reason or KILLED_BY_USER)
    return evolve(job, instances=_replace_instance(job.instances, new_instance))


def retry(
    job: Job, retries: int, *, at_ms: int, mea_culpa_limits: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS
) -> Job:
    """Set the total number of attempts; a completed job with attempts left waits again.

    An instance that is still being killed counts as running: the job waits once it has ended.

    Raises:
        Conflict: more attempts than `retries` have been used. The text is Cook's.
    """
    used = attempts_used(job, mea_culpa_limits=mea_culpa_limits)
    if used > retries:
        raise Conflict("Retries would be less than attempts-consumed")
    allowed = evolve(job, max_retries=retries)
    if job.state is not JobState.COMPLETED or used >= retries:
        return allowed
    if job.open_instance is not None:
        return evolve(allowed, state=JobState.RUNNING, killed=False)
    return evolve(allowed, state=JobState.WAITING, last_waiting_ms=at_ms, killed=False)


def _updated_instance(
    instance: Instance, update: StatusUpdate, status: InstanceStatus, *, has_result: bool
) -> Instance:
    """Return the instance with the new facts of a report; the same object if there are none."""
    changes: dict[str, object] = {}
    if status is not instance.status:
        changes["status"] = status
    if status is InstanceStatus.FAILED and instance.reason is None:
        changes["reason"] = update.reason if update.reason in REASONS else UNMAPPED
    elif status is InstanceStatus.SUCCESS and instance.reason is not None:
        changes["reason"] = None
    began_ms: int | None = None
    if instance.backend_started_ms is None:
        began = update.state is TaskState.RUNNING or update.state is TaskState.STARTING
        began_ms = update.at_ms if began else update.began_ms
        if began_ms is not None:
            changes["backend_started_ms"] = max(began_ms, instance.started_ms)
    if instance.ended_ms is None and update.state.is_final:
        changes["ended_ms"] = max(update.at_ms, _start_ms(instance), began_ms or 0)
    if update.exit_code is not None and update.exit_code != instance.exit_code:
        changes["exit_code"] = update.exit_code
    if update.sandbox is not None and update.sandbox != instance.sandbox:
        changes["sandbox"] = update.sandbox
    if update.peak_mem_mb is not None and update.peak_mem_mb != instance.peak_mem_mb:
        changes["peak_mem_mb"] = update.peak_mem_mb
    if has_result and not instance.has_result:
        changes["has_result"] = True
    return evolve(instance, **changes) if changes else instance


def _start_ms(instance: Instance) -> int:
    """Return the latest known start; hosts' clocks differ, but no end is recorded before it."""
    return max(instance.started_ms, instance.backend_started_ms or instance.started_ms)


def _with_instance(job: Job, instance: Instance, *, at_ms: int, mea_culpa_limits: MeaCulpaLimits) -> Job:
    """Return the job with a changed instance and the state that follows from it."""
    instances = _replace_instance(job.instances, instance)
    succeeded = instance.status is InstanceStatus.SUCCESS
    state = JobState.COMPLETED if succeeded else _state(job, instances, mea_culpa_limits)
    if state is JobState.WAITING and job.state is not JobState.WAITING:
        return evolve(job, instances=instances, state=state, last_waiting_ms=at_ms)
    return evolve(job, instances=instances, state=state)


def _state(job: Job, instances: tuple[Instance, ...], mea_culpa_limits: MeaCulpaLimits) -> JobState:
    """Return the state that follows from these instances."""
    if job.state is JobState.COMPLETED:
        return JobState.COMPLETED
    is_running = False
    for instance in instances:
        if instance.status is InstanceStatus.SUCCESS:
            return JobState.COMPLETED
        is_running = is_running or instance.status.is_open
    if is_running:
        return JobState.RUNNING
    if instances and _attempts(job, instances, mea_culpa_limits) >= job.max_retries:
        return JobState.COMPLETED
    return JobState.WAITING


def _attempts(job: Job, instances: tuple[Instance, ...], mea_culpa_limits: MeaCulpaLimits) -> int:
    return attempts_of_reasons(
        (i.reason for i in instances if not i.status.is_open),
        disable_mea_culpa=job.spec.disable_mea_culpa_retries,
        mea_culpa_limits=mea_culpa_limits,
    )


def _find(job: Job, instance_id: InstanceId) -> Instance | None:
    for instance in reversed(job.instances):  # usually the latest one is wanted
        if instance.instance_id == instance_id:
            return instance
    return None


def _replace_instance(instances: tuple[Instance, ...], changed: Instance) -> tuple[Instance, ...]:
    if len(instances) == 1:
        return (changed,)
    return tuple(changed if i.instance_id == changed.instance_id else i for i in instances)
