"""How instances and jobs live. Every legal step is decided here; no other code decides one.

Lives here: the table of an instance's life, the rule that derives a job's state from its
instances, how attempts are counted, and the verbs that change a life (launch, report,
kill, cancel, retry). All are pure: a life and an event in, a new life out.
Not here: who asks (`service`), where lives rest (`store`).

Source: Cook's `schema.clj` (`instance/update-state`, `job/update-state`,
`reasons->attempts-consumed`), as told in the fair-share specification, section 7.
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
    FREE_FAILURES,
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


def step(now: InstanceStatus, then: InstanceStatus) -> InstanceStatus:
    """Return `then` if an instance may go there from `now`, else raise IllegalTransition."""
    if then not in STEPS[now]:
        raise IllegalTransition(f"an instance cannot go from {now.value} to {then.value}")
    return then


def attempts_of_reasons(
    reasons: Iterable[ReasonName | None],
    *,
    disable_mea_culpa: bool = False,
    free: MeaCulpaLimits = FREE_FAILURES,
    table: Mapping[ReasonName, Reason] = REASONS,
) -> int:
    """Count the attempts that finished instances with these reasons used up.

    A failure that was the user's, or has no reason, counts. One that was ours counts only past
    its free limit, which is per reason and per job; `disable_mea_culpa` wins over any limit.
    """
    attempts = 0
    for name, number in Counter(reasons).items():
        reason = table.get(name) if name is not None else None
        if reason is None or not reason.mea_culpa or disable_mea_culpa:
            attempts += number
            continue
        limit = free.of(reason)
        if limit != NEVER_COUNTS:
            attempts += max(0, number - limit)
    return attempts


def attempts(job: Job, *, free: MeaCulpaLimits = FREE_FAILURES) -> int:
    """Count the attempts that the job has used up; a success counts as one."""
    return _attempts(job, job.instances, free)


def state_of(job: Job, *, free: MeaCulpaLimits = FREE_FAILURES) -> JobState:
    """Derive the job's state from its instances. A completed job stays completed."""
    return _state(job, job.instances, free)


class Verdict(Enum):
    """What a report was worth."""

    APPLIED = "applied"
    IGNORED = "ignored"  # nothing to write
    KILL = "kill"  # nothing to write, and the task must not go on: kill it


class Reported(NamedTuple):
    """What a report did.

    Attributes:
        verdict: what it was worth.
        job: as it is now, if the report was applied.
        instance: the job's instance that the report was about, as it is now.
        counts: whether the report's result is the one to keep.
    """

    verdict: Verdict
    job: Job | None = None
    instance: Instance | None = None
    counts: bool = False


def may_start(job: Job) -> bool:
    """Tell whether a new instance is allowed: the job waits and none is alive."""
    return job.state is JobState.WAITING and job.open_instance is None


def launch(job: Job, instance: Instance) -> Job:
    """Return the job with a new instance, running.

    Raises:
        IllegalTransition: the job no longer waits, or an instance of it is alive.
    """
    if not may_start(job):
        raise IllegalTransition(f"job {job.job_id} cannot start: it is {job.state.value}")
    queue_ms = max(0, instance.started_ms - job.last_waiting_ms)
    waited = instance if instance.queue_ms == queue_ms else evolve(instance, queue_ms=queue_ms)
    return evolve(job, state=JobState.RUNNING, instances=(*job.instances, waited))


def report(job: Job | None, update: StatusUpdate, *, free: MeaCulpaLimits = FREE_FAILURES) -> Reported:
    """Apply what a cluster says of an instance of `job`; `job` is None if it is not known.

    The first reason and the first times win. A task that should not be alive (unknown, its job
    completed, its instance failed) is to be killed; final reports are never answered by a kill.
    """
    instance = _find(job, update.instance_id) if job is not None else None
    alive = not update.state.is_final
    if job is None or instance is None:
        return Reported(Verdict.KILL if alive else Verdict.IGNORED)
    if alive and (job.state is JobState.COMPLETED or instance.status is InstanceStatus.FAILED):
        return Reported(Verdict.KILL)
    then = STATUS_OF_TASK_STATE[update.state]
    legal = then in STEPS[instance.status]
    if not legal and not instance.status.is_open:
        return Reported(Verdict.IGNORED)
    counts = update.result is not None and legal and not then.is_open
    after = _described(instance, update, then if legal else instance.status, has_result=counts)
    if after is instance:
        return Reported(Verdict.IGNORED)
    return Reported(Verdict.APPLIED, _with(job, after, at_ms=update.at_ms, free=free), after, counts)


def fail(
    job: Job,
    instance_id: InstanceId,
    *,
    reason: ReasonName,
    at_ms: int,
    preempted: bool = False,
    preempted_for: str | None = None,
    free: MeaCulpaLimits = FREE_FAILURES,
) -> Job:
    """Fail an open instance by our own decision (preempted, lingering, lost); else no change."""
    instance = _find(job, instance_id)
    if instance is None or not instance.status.is_open:
        return job
    failed = evolve(
        instance,
        status=step(instance.status, InstanceStatus.FAILED),
        reason=instance.reason or reason,
        ended_ms=instance.ended_ms if instance.ended_ms is not None else max(at_ms, _begun_ms(instance)),
        preempted=preempted,
        preempted_for=preempted_for,
    )
    return _with(job, failed, at_ms=at_ms, free=free)


def progress(job: Job, update: ProgressUpdate) -> Job:
    """Note how far an instance says it is; a sequence not above the last one changes nothing."""
    instance = _find(job, update.instance_id)
    if instance is None or update.sequence <= instance.progress_sequence:
        return job
    message = update.message if update.message is not None else instance.progress_message
    after = evolve(
        instance,
        progress_sequence=update.sequence,
        progress=instance.progress if update.percent is None else update.percent,
        progress_message=None if message is None else message[:MAX_PROGRESS_MESSAGE],
    )
    return evolve(job, instances=_replaced(job.instances, after))


def kill(job: Job) -> Job:
    """Complete the job at once.

    Its open instance keeps its status until its cluster reports the end, but its reason is settled now.
    """
    if job.state is JobState.COMPLETED:
        return job
    instances = tuple(
        evolve(i, reason=i.reason or KILLED_BY_USER) if i.status.is_open else i for i in job.instances
    )
    return evolve(job, state=JobState.COMPLETED, killed=True, instances=instances)


def cancel(job: Job, instance_id: InstanceId) -> Job:
    """Mark one open instance to be killed; the job may try again."""
    instance = _find(job, instance_id)
    if instance is None or not instance.status.is_open:
        return job
    after = evolve(instance, cancelled=True, reason=instance.reason or KILLED_BY_USER)
    return evolve(job, instances=_replaced(job.instances, after))


def retry(job: Job, retries: int, *, at_ms: int, free: MeaCulpaLimits = FREE_FAILURES) -> Job:
    """Allow `retries` attempts in all; a completed job with attempts left waits again.

    An instance that is still being killed counts as running: the job waits when that has ended.

    Raises:
        Conflict: more attempts than that were used already. The text is Cook's.
    """
    used = attempts(job, free=free)
    if used > retries:
        raise Conflict("Retries would be less than attempts-consumed")
    allowed = evolve(job, max_retries=retries)
    if job.state is not JobState.COMPLETED or used >= retries:
        return allowed
    if job.open_instance is not None:
        return evolve(allowed, state=JobState.RUNNING, killed=False)
    return evolve(allowed, state=JobState.WAITING, last_waiting_ms=at_ms, killed=False)


def _described(
    instance: Instance, update: StatusUpdate, status: InstanceStatus, *, has_result: bool
) -> Instance:
    """The instance with what the report tells of it, itself if that is nothing; what was told first stays."""
    news: dict[str, object] = {}
    if status is not instance.status:
        news["status"] = status
    if status is InstanceStatus.FAILED and instance.reason is None:
        news["reason"] = update.reason if update.reason in REASONS else UNMAPPED
    elif status is InstanceStatus.SUCCESS and instance.reason is not None:
        news["reason"] = None
    began_ms: int | None = None
    if instance.backend_started_ms is None:
        began = update.state is TaskState.RUNNING or update.state is TaskState.STARTING
        began_ms = update.at_ms if began else update.began_ms
        if began_ms is not None:
            news["backend_started_ms"] = max(began_ms, instance.started_ms)
    if instance.ended_ms is None and update.state.is_final:
        news["ended_ms"] = max(update.at_ms, _begun_ms(instance), began_ms or 0)
    if update.exit_code is not None and update.exit_code != instance.exit_code:
        news["exit_code"] = update.exit_code
    if update.sandbox is not None and update.sandbox != instance.sandbox:
        news["sandbox"] = update.sandbox
    if update.peak_mem_mb is not None and update.peak_mem_mb != instance.peak_mem_mb:
        news["peak_mem_mb"] = update.peak_mem_mb
    if has_result and not instance.has_result:
        news["has_result"] = True
    return evolve(instance, **news) if news else instance


def _begun_ms(instance: Instance) -> int:
    """When the instance began, as far as is known; hosts' clocks differ, but nothing ends before it."""
    return max(instance.started_ms, instance.backend_started_ms or instance.started_ms)


def _with(job: Job, instance: Instance, *, at_ms: int, free: MeaCulpaLimits) -> Job:
    """The job with a changed instance, its state derived again."""
    instances = _replaced(job.instances, instance)
    succeeded = instance.status is InstanceStatus.SUCCESS
    state = JobState.COMPLETED if succeeded else _state(job, instances, free)
    if state is JobState.WAITING and job.state is not JobState.WAITING:
        return evolve(job, instances=instances, state=state, last_waiting_ms=at_ms)
    return evolve(job, instances=instances, state=state)


def _state(job: Job, instances: tuple[Instance, ...], free: MeaCulpaLimits) -> JobState:
    """The state of the job if these were its instances."""
    if job.state is JobState.COMPLETED:
        return JobState.COMPLETED
    is_running = False
    for instance in instances:
        if instance.status is InstanceStatus.SUCCESS:
            return JobState.COMPLETED
        is_running = is_running or instance.status.is_open
    if is_running:
        return JobState.RUNNING
    if instances and _attempts(job, instances, free) >= job.max_retries:
        return JobState.COMPLETED
    return JobState.WAITING


def _attempts(job: Job, instances: tuple[Instance, ...], free: MeaCulpaLimits) -> int:
    return attempts_of_reasons(
        (i.reason for i in instances if not i.status.is_open),
        disable_mea_culpa=job.spec.disable_mea_culpa_retries,
        free=free,
    )


def _find(job: Job, instance_id: InstanceId) -> Instance | None:
    for instance in reversed(job.instances):  # mostly the youngest is asked for
        if instance.instance_id == instance_id:
            return instance
    return None


def _replaced(instances: tuple[Instance, ...], changed: Instance) -> tuple[Instance, ...]:
    if len(instances) == 1:
        return (changed,)
    return tuple(changed if i.instance_id == changed.instance_id else i for i in instances)
