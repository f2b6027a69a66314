"""Constraints of single jobs, derived from their instances.

Lives here: `job_constraints_of`, to be called whenever a job begins to wait, and its parts; the placement
that a user has specified for a group.
Not here: the check of constraints on a host (`scheduling.constraints.constraints`).

Source: Cook's `constraints.clj` (`job->previous-hosts-to-avoid`, `build-estimated-completion-constraint`,
`build-checkpoint-locality-constraint`), as described in the fair-share specification, section 5.
"""

from collections.abc import Callable, Container, Iterable

from cook_jupyter.model.instance import Instance
from cook_jupyter.model.job import Group, GroupId, Job, JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.reason import AGENT_REMOVED
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
    class_in_pool,
    constraint_class_of,
    failing_class_constraint,
)

LocationOf = Callable[[str], str | None]  # the location of a cluster, by its name


def job_constraints_of(
    job: Job,
    defaults: PoolDefaults,
    *,
    location_of: LocationOf = lambda _: None,
    placed_groups: Container[GroupId] = (),
) -> JobConstraints:
    """Return the constraints of a single job; `NO_JOB_CONSTRAINTS` itself if there are none.

    Args:
        job: the job, with its instances so far.
        defaults: defaults of its pool.
        location_of: returns the location of a cluster; None if it is unknown.
        placed_groups: groups with a placement (`group_placement_of`).
    """
    spec = job.spec
    if not job.instances and spec.group is None and spec.expected_runtime_ms is None:
        return NO_JOB_CONSTRAINTS  # the usual case
    job_constraints = JobConstraints(
        avoid=previous_hosts(job.instances) if defaults.novel_host else frozenset(),
        group=spec.group if spec.group in placed_groups else None,
        location=checkpoint_location(job, location_of),
        runtime_ms=expected_runtime_ms(job, defaults),
    )
    return NO_JOB_CONSTRAINTS if job_constraints == NO_JOB_CONSTRAINTS else job_constraints


def previous_hosts(instances: Iterable[Instance]) -> frozenset[str]:
    """Return the hosts of instances that were not preempted."""
    return frozenset(instance.host for instance in instances if not instance.preempted)


def could_run(spec: JobSpec, host: Offer, defaults: PoolDefaults) -> bool:
    """Return whether an empty host takes a job, regardless of the job's instances.

    Args:
        spec: specification of the job.
        host: offer of the empty host.
        defaults: defaults of the job's pool.
    """
    constraint_class = class_in_pool(constraint_class_of(spec), defaults)
    return (
        spec.resources.fits_in(host.room + host.running)
        and failing_class_constraint(constraint_class, float(spec.gpus), host, defaults) is None
        and (host.users is None or spec.user in host.users)
    )


def checkpoint_location(job: Job, location_of: LocationOf) -> str | None:
    """Return the location of the job's checkpoint (that of its latest instance); None if it has none."""
    if not job.spec.extra.get("checkpoint") or not job.instances:
        return None
    return location_of(max(job.instances, key=lambda instance: instance.started_ms).cluster)


def expected_runtime_ms(job: Job, defaults: PoolDefaults) -> int | None:
    """Return the expected run time of the job; None if it is unknown, or the pool does not check it.

    It is the maximum of the user's estimate, multiplied, and the run times of instances whose host was
    removed; but never more than the lifetime of hosts.
    """
    if defaults.expected_runtime_multiplier is None or defaults.host_lifetime_ms is None:
        return None
    estimate = int((job.spec.expected_runtime_ms or 0) * defaults.expected_runtime_multiplier)
    lost_runtimes_ms = (_ran_ms(instance) for instance in job.instances if instance.reason == AGENT_REMOVED)
    expected_ms = min(
        max((estimate, *lost_runtimes_ms)), defaults.host_lifetime_ms - defaults.host_start_grace_ms
    )
    return expected_ms if expected_ms > 0 else None


def group_placement_of(group: Group) -> GroupPlacement:
    """Return the placement that the user has specified for a group."""
    specification = group.host_placement
    kind = PlacementKind(specification.get("type", PlacementKind.ALL.value))
    parameters = specification.get("parameters") or {}
    if kind in (PlacementKind.ALL, PlacementKind.UNIQUE):
        return GroupPlacement(kind=kind)
    return GroupPlacement(
        kind=kind, attribute=parameters["attribute"], minimum=int(parameters.get("minimum", 0))
    )


def _ran_ms(instance: Instance) -> int:
    """Return the run time of an instance; 0 if its start or its end is unknown."""
    if instance.backend_started_ms is None or instance.ended_ms is None:
        return 0
    return instance.ended_ms - instance.backend_started_ms
