"""The commands of a store as plain functions, shared by all implementations.

Lives here: one function per command of `store.base.Store`. It looks up jobs in a changeset, checks the
request, applies `model.lifecycle`, and records the outcome in the changeset. Checks that can fail the whole
command come before any change.
Not here: transactions, disks and listeners (`store.memory`, `store.sqlite`).
"""

from collections.abc import Collection, Sequence
from math import isfinite

from cook_jupyter.errors import Conflict, IllegalTransition, InvalidRequest, NotFound
from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, StatusUpdate
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.pool import PoolName
from cook_jupyter.store.base import Failure
from cook_jupyter.store.changeset import Changeset

IMPLICIT_GROUP_NAME = "defaultgroup"  # Cook's name of a group that exists only because a job names it


def submit(
    changeset: Changeset, specs: Sequence[JobSpec], groups: Sequence[Group], *, now_ms: int, grow_groups: bool
) -> Sequence[GroupId]:
    """Add jobs and groups: see Store.submit."""
    non_finite = [spec.job_id for spec in specs if not (isfinite(spec.cpus) and isfinite(spec.mem_mb))]
    if non_finite:  # JSON has no such number, and no host has that much
        raise InvalidRequest(f"cpus and mem must be finite numbers; they are not in {', '.join(non_finite)}")
    touched = (
        _check_groups(changeset, specs, groups, grow_groups=grow_groups)
        if groups or _any_has_group(specs)
        else {}
    )
    ids = [spec.job_id for spec in specs]
    used = changeset.existing_jobs(ids)
    if used or len(set(ids)) < len(ids):
        used |= {i for i in ids if ids.count(i) > 1}
        duplicate_ids = ", ".join(dict.fromkeys(i for i in ids if i in used))
        raise Conflict(f"The following job UUIDs were already used: {duplicate_ids}")
    changeset.groups.update((i, group) for i, group in touched.items() if group is not None)
    for spec in specs:
        changeset.add(spec, now_ms=now_ms)
    return tuple(touched)


def launch(changeset: Changeset, instances: Sequence[Instance]) -> Sequence[tuple[JobSpec, Instance]]:
    """Add instances to the jobs that may still start: see Store.launch."""
    launched = []
    for instance in instances:
        job = changeset.job(instance.job_id)
        if job is None:
            continue
        try:
            after = lifecycle.launch(job, instance)
        except IllegalTransition:
            continue
        if changeset.has_instance(instance.instance_id):
            raise Conflict(f"instance {instance.instance_id} exists already; give each attempt its own id")
        launched_instance = after.instances[-1]
        changeset.instance_jobs[launched_instance.instance_id] = job.spec.job_id
        changeset.alter(job, after, instance=launched_instance)
        launched.append((job.spec, launched_instance))
    return launched


def report(changeset: Changeset, updates: Sequence[StatusUpdate]) -> Sequence[Verdict]:
    """Apply status updates of clusters: see Store.report."""
    verdicts = []
    free = changeset.free
    for update in updates:
        job = changeset.job_of(update.instance_id)
        verdict, after, instance, counts = lifecycle.report(job, update, mea_culpa_limits=free)
        if job is not None and after is not None:
            changeset.alter(job, after, instance=instance, result=update.result if counts else None)
        verdicts.append(verdict)
    return verdicts


def progress(changeset: Changeset, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
    """Record progress: see Store.progress."""
    exists = []
    for update in updates:
        job = changeset.job_of(update.instance_id)
        if job is not None:
            _alter_if_changed(changeset, job, lifecycle.progress(job, update), update.instance_id)
        exists.append(job is not None)
    return exists


def fail(changeset: Changeset, failures: Sequence[Failure]) -> Sequence[bool]:
    """Fail open instances by decision of the scheduler: see Store.fail."""
    done = []
    for failure in failures:
        job = changeset.job(failure.job_id)
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
            mea_culpa_limits=changeset.free,
        )
        done.append(_alter_if_changed(changeset, job, after, failure.instance_id))
    return done


def kill_jobs(changeset: Changeset, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
    """Complete jobs immediately: see Store.kill_jobs."""
    _require_jobs(changeset, job_ids)
    still_open: dict[InstanceId, None] = {}
    for job_id in job_ids:
        job = _require(changeset.job(job_id), job_id)
        after = lifecycle.kill(job)
        open_instance = after.open_instance
        if after is not job:
            changeset.alter(job, after, instance=open_instance)
        still_open.update((i.instance_id, None) for i in after.instances if i.status.is_open)
    return tuple(still_open)


def cancel_waiting(changeset: Changeset, job_ids: Sequence[JobId]) -> Sequence[JobId]:
    """Complete the jobs that are waiting: see Store.cancel_waiting."""
    _require_jobs(changeset, job_ids)
    cancelled: list[JobId] = []
    for job_id in dict.fromkeys(job_ids):
        job = _require(changeset.job(job_id), job_id)
        if job.state is JobState.WAITING:
            changeset.alter(job, lifecycle.kill(job))
            cancelled.append(job_id)
    return tuple(cancelled)


def cancel_instances(changeset: Changeset, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
    """Mark instances as cancelled: see Store.cancel_instances."""
    missing = [i for i in instance_ids if changeset.job_of(i) is None]
    if missing:
        raise _not_found("instances", missing)
    still_open: dict[InstanceId, None] = {}
    for instance_id in instance_ids:
        job = _require(changeset.job_of(instance_id), instance_id)
        if _instance(job, instance_id).status.is_open:
            after = lifecycle.cancel(job, instance_id)
            if after != job:
                changeset.alter(job, after, instance=_instance(after, instance_id))
            still_open[instance_id] = None
    return tuple(still_open)


def retry(changeset: Changeset, job_ids: Sequence[JobId], retries: Sequence[int], *, now_ms: int) -> None:
    """Set the total number of attempts of each job: see Store.retry."""
    _require_jobs(changeset, job_ids)
    for job_id, total in zip(job_ids, retries, strict=True):
        job = _require(changeset.job(job_id), job_id)
        after = lifecycle.retry(job, total, at_ms=now_ms, mea_culpa_limits=changeset.free)
        if after != job:
            changeset.alter(job, after)


def set_limits(changeset: Changeset, entries: Sequence[LimitEntry]) -> None:
    """Store shares and quotas: see Store.set_limits."""
    changeset.limits.extend(entries)


def retract_limits(changeset: Changeset, kind: str, user: str, pool: PoolName) -> None:
    """Remove all limits of a kind that a user has in a pool: see Store.retract_limits."""
    changeset.limits.append((kind, user, pool))


def set_text(changeset: Changeset, key: str, value: str) -> None:
    """Store a short text under a key: see Store.set_text."""
    changeset.texts[key] = value


def _any_has_group(specs: Sequence[JobSpec]) -> bool:
    return any(spec.group is not None for spec in specs)


def _check_groups(
    changeset: Changeset, specs: Sequence[JobSpec], groups: Sequence[Group], *, grow_groups: bool
) -> dict[GroupId, Group | None]:
    """Return the groups that a submission creates (with their value) or extends (with None), in order.

    Raises:
        InvalidRequest: a given group is already stored, or a stored group may not grow.
    """
    given = {group.group_id: group for group in groups}
    job_groups = dict.fromkeys(spec.group for spec in specs if spec.group is not None)
    stored = changeset.existing_groups(tuple({**given, **job_groups}))
    used_ids = [i for i in given if i in stored]
    if used_ids or len(given) < len(groups):
        raise InvalidRequest(
            f"The following group UUIDs have already been used: {', '.join(used_ids or given)}"
        )
    extended_ids = [i for i in job_groups if i in stored]
    if extended_ids and not grow_groups:
        raise InvalidRequest(
            f"The following groups exist already and may not grow: {', '.join(extended_ids)}; "
            "set override-group-immutability to add jobs to them"
        )
    touched: dict[GroupId, Group | None] = dict(given)
    for group_id in job_groups:
        if group_id not in given:
            implicit = Group(group_id=group_id, name=IMPLICIT_GROUP_NAME)
            touched[group_id] = None if group_id in stored else implicit
    return touched


def _alter_if_changed(changeset: Changeset, job: Job, after: Job, instance_id: InstanceId) -> bool:
    if after is job:
        return False
    changeset.alter(job, after, instance=_instance(after, instance_id))
    return True


def _instance(job: Job, instance_id: InstanceId) -> Instance:
    """Return the instance of a job with this id, which must exist; the newest is checked first."""
    return next(i for i in reversed(job.instances) if i.instance_id == instance_id)


def _require_jobs(changeset: Changeset, job_ids: Sequence[JobId]) -> None:
    existing = changeset.existing_jobs(job_ids)
    missing = [i for i in job_ids if i not in existing]
    if missing:
        raise _not_found("jobs", missing)


def _require(job: Job | None, name: str) -> Job:
    if job is None:
        raise _not_found("jobs", [name])
    return job


def _not_found(kind: str, missing: Collection[str]) -> NotFound:
    missing_ids = tuple(dict.fromkeys(missing))
    return NotFound(f"The following {kind} are not known: {', '.join(missing_ids)}", missing=missing_ids)
