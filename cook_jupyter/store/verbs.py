"""What each verb of the store does, for every twin alike.

Lives here: one plain function per verb of `store.base.Store`. It looks at a draft, checks, lets
`model.lifecycle` decide, and notes the outcome in the draft. It checks all before it notes
anything whose failure would be the whole verb's.
Not here: transactions, disks, listeners (the twins).
"""

from collections.abc import Collection, Sequence
from math import isfinite

from cook_jupyter.errors import Conflict, IllegalTransition, InvalidRequest, NotFound
from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, StatusUpdate
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.store.base import Failure
from cook_jupyter.store.draft import Draft

IMPLICIT_GROUP_NAME = "defaultgroup"  # Cook's name for a group that a job named and nobody described


def submit(
    draft: Draft, specs: Sequence[JobSpec], groups: Sequence[Group], *, now_ms: int, grow_groups: bool
) -> Sequence[GroupId]:
    """Add jobs and groups: see Store.submit."""
    endless = [spec.job_id for spec in specs if not (isfinite(spec.cpus) and isfinite(spec.mem_mb))]
    if endless:  # JSON knows no such number, and no host has as much
        raise InvalidRequest(f"cpus and mem must be finite numbers; they are not in {', '.join(endless)}")
    touched = (
        _check_groups(draft, specs, groups, grow_groups=grow_groups) if groups or _grouped(specs) else {}
    )
    ids = [spec.job_id for spec in specs]
    used = draft.known_jobs(ids)
    if used or len(set(ids)) < len(ids):
        used |= {i for i in ids if ids.count(i) > 1}
        named = ", ".join(dict.fromkeys(i for i in ids if i in used))
        raise Conflict(f"The following job UUIDs were already used: {named}")
    draft.groups.update((i, group) for i, group in touched.items() if group is not None)
    for spec in specs:
        draft.add(spec, now_ms=now_ms)
    return tuple(touched)


def launch(draft: Draft, instances: Sequence[Instance]) -> Sequence[tuple[JobSpec, Instance]]:
    """Add instances to the jobs that may start: see Store.launch."""
    launched = []
    for instance in instances:
        job = draft.job(instance.job_id)
        if job is None:
            continue
        try:
            after = lifecycle.launch(job, instance)
        except IllegalTransition:
            continue
        if draft.knows_instance(instance.instance_id):
            raise Conflict(f"instance {instance.instance_id} exists already; give each attempt its own id")
        placed = after.instances[-1]
        draft.placed[placed.instance_id] = job.spec.job_id
        draft.alter(job, after, instance=placed)
        launched.append((job.spec, placed))
    return launched


def report(draft: Draft, updates: Sequence[StatusUpdate]) -> Sequence[Verdict]:
    """Apply what clusters report: see Store.report."""
    verdicts = []
    free = draft.free
    for update in updates:
        job = draft.job_of(update.instance_id)
        verdict, after, instance, counts = lifecycle.report(job, update, free=free)
        if job is not None and after is not None:
            draft.alter(job, after, instance=instance, result=update.result if counts else None)
        verdicts.append(verdict)
    return verdicts


def progress(draft: Draft, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
    """Note progress: see Store.progress."""
    known = []
    for update in updates:
        job = draft.job_of(update.instance_id)
        if job is not None:
            _alter_if_new(draft, job, lifecycle.progress(job, update), update.instance_id)
        known.append(job is not None)
    return known


def fail(draft: Draft, failures: Sequence[Failure]) -> Sequence[bool]:
    """Fail open instances by our own decision: see Store.fail."""
    done = []
    for failure in failures:
        job = draft.job(failure.job_id)
        if job is None:
            done.append(False)
            continue
        after = lifecycle.fail(
            job,
            failure.instance_id,
            reason=failure.reason,
            at_ms=failure.at_ms,
            preempted=failure.preempted,
            preempted_for=failure.preempted_for,
            free=draft.free,
        )
        done.append(_alter_if_new(draft, job, after, failure.instance_id))
    return done


def kill_jobs(draft: Draft, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
    """Complete jobs at once: see Store.kill_jobs."""
    _require_jobs(draft, job_ids)
    still_open: dict[InstanceId, None] = {}
    for job_id in job_ids:
        job = _known(draft.job(job_id), job_id)
        after = lifecycle.kill(job)
        alive = after.open_instance
        if after is not job:
            draft.alter(job, after, instance=alive)
        still_open.update((i.instance_id, None) for i in after.instances if i.status.is_open)
    return tuple(still_open)


def cancel_waiting(draft: Draft, job_ids: Sequence[JobId]) -> Sequence[JobId]:
    """Complete the jobs that wait: see Store.cancel_waiting."""
    _require_jobs(draft, job_ids)
    cancelled: list[JobId] = []
    for job_id in dict.fromkeys(job_ids):
        job = _known(draft.job(job_id), job_id)
        if job.state is JobState.WAITING:
            draft.alter(job, lifecycle.kill(job))
            cancelled.append(job_id)
    return tuple(cancelled)


def cancel_instances(draft: Draft, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
    """Mark instances to be killed: see Store.cancel_instances."""
    missing = [i for i in instance_ids if draft.job_of(i) is None]
    if missing:
        raise _not_found("instances", missing)
    still_open: dict[InstanceId, None] = {}
    for instance_id in instance_ids:
        job = _known(draft.job_of(instance_id), instance_id)
        if _instance(job, instance_id).status.is_open:
            after = lifecycle.cancel(job, instance_id)
            if after != job:
                draft.alter(job, after, instance=_instance(after, instance_id))
            still_open[instance_id] = None
    return tuple(still_open)


def retry(draft: Draft, job_ids: Sequence[JobId], retries: Sequence[int], *, now_ms: int) -> None:
    """Set the total attempts of each job: see Store.retry."""
    _require_jobs(draft, job_ids)
    for job_id, total in zip(job_ids, retries, strict=True):
        job = _known(draft.job(job_id), job_id)
        after = lifecycle.retry(job, total, at_ms=now_ms, free=draft.free)
        if after != job:
            draft.alter(job, after)


def set_limits(draft: Draft, entries: Sequence[LimitEntry]) -> None:
    """Store shares and quotas: see Store.set_limits."""
    draft.limits.extend(entries)


def retract_limits(draft: Draft, kind: str, user: str, pool: str) -> None:
    """Remove all limits of a kind that a user has in a pool: see Store.retract_limits."""
    draft.limits.append((kind, user, pool))


def remember(draft: Draft, key: str, value: str) -> None:
    """Keep a small text: see Store.remember."""
    draft.texts[key] = value


def _grouped(specs: Sequence[JobSpec]) -> bool:
    return any(spec.group is not None for spec in specs)


def _check_groups(
    draft: Draft, specs: Sequence[JobSpec], groups: Sequence[Group], *, grow_groups: bool
) -> dict[GroupId, Group | None]:
    """The groups that the submission creates (with their value) or extends (None), in order."""
    given = {group.group_id: group for group in groups}
    named = dict.fromkeys(spec.group for spec in specs if spec.group is not None)
    stored = draft.known_groups(tuple({**given, **named}))
    taken = [i for i in given if i in stored]
    if taken or len(given) < len(groups):
        raise InvalidRequest(f"The following group UUIDs have already been used: {', '.join(taken or given)}")
    grown = [i for i in named if i in stored]
    if grown and not grow_groups:
        raise InvalidRequest(
            f"The following groups exist already and may not grow: {', '.join(grown)}; "
            "set override-group-immutability to add jobs to them"
        )
    touched: dict[GroupId, Group | None] = dict(given)
    for group_id in named:
        if group_id not in given:
            implicit = Group(group_id=group_id, name=IMPLICIT_GROUP_NAME)
            touched[group_id] = None if group_id in stored else implicit
    return touched


def _alter_if_new(draft: Draft, job: Job, after: Job, instance_id: InstanceId) -> bool:
    if after is job:
        return False
    draft.alter(job, after, instance=_instance(after, instance_id))
    return True


def _instance(job: Job, instance_id: InstanceId) -> Instance:
    """The instance of `job` with this id, which is known to be there; the youngest is looked at first."""
    return next(i for i in reversed(job.instances) if i.instance_id == instance_id)


def _require_jobs(draft: Draft, job_ids: Sequence[JobId]) -> None:
    known = draft.known_jobs(job_ids)
    missing = [i for i in job_ids if i not in known]
    if missing:
        raise _not_found("jobs", missing)


def _known(job: Job | None, name: str) -> Job:
    if job is None:
        raise _not_found("jobs", [name])
    return job


def _not_found(what: str, missing: Collection[str]) -> NotFound:
    named = tuple(dict.fromkeys(missing))
    return NotFound(f"The following {what} are not known: {', '.join(named)}", missing=named)
