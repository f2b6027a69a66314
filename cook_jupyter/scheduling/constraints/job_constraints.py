"""What one job demands of its host beyond what all jobs of its kind do: it follows from the job's life.

Lives here: `particulars_of`, to be asked whenever a job begins to wait, and what it is made of; how a group
wants its jobs placed, as its user said it.
Not here: what these demands mean on a host (`scheduling.constraints.constraints`).

Source: Cook's `constraints.clj` (`job->previous-hosts-to-avoid`, `build-estimated-completion-constraint`,
`build-checkpoint-locality-constraint`), as told in the fair-share specification, section 5.
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


def particulars_of(
    job: Job,
    defaults: PoolDefaults,
    *,
    location_of: LocationOf = lambda _: None,
    placed_groups: Container[GroupId] = (),
) -> JobConstraints:
    """Return what the job alone demands of its host; `NO_JOB_CONSTRAINTS` itself if nothing.

    Args:
        job: with its instances so far.
        defaults: what its pool says of all jobs.
        location_of: where a cluster is; None for one that is not known.
        placed_groups: the groups that want their jobs placed in some way (`group_placement_of`).
    """
    spec = job.spec
    if not job.instances and spec.group is None and spec.expected_runtime_ms is None:
        return NO_JOB_CONSTRAINTS  # as of most jobs
    found = JobConstraints(
        avoid=previous_hosts(job.instances) if defaults.novel_host else frozenset(),
        group=spec.group if spec.group in placed_groups else None,
        location=checkpoint_location(job, location_of),
        runtime_ms=expected_runtime_ms(job, defaults),
    )
    return NO_JOB_CONSTRAINTS if found == NO_JOB_CONSTRAINTS else found


def previous_hosts(instances: Iterable[Instance]) -> frozenset[str]:
    """Return the hosts that instances ran on, but for those that made way for others' jobs there."""
    return frozenset(instance.host for instance in instances if not instance.preempted)


def could_run(spec: JobSpec, host: Offer, defaults: PoolDefaults) -> bool:
    """Return whether an empty host takes a job's user, and has the room and attributes that it demands.

    Args:
        spec: the job.
        host: the host as if it were empty.
        defaults: what the pool of the job demands of hosts.
    """
    wanted = class_in_pool(constraint_class_of(spec), defaults)
    return (
        spec.resources.fits_in(host.room + host.running)
        and failing_class_constraint(wanted, float(spec.gpus), host, defaults) is None
        and (host.users is None or spec.user in host.users)
    )


def checkpoint_location(job: Job, location_of: LocationOf) -> str | None:
    """Return where the job's checkpoint lies: with its latest instance's cluster; None if it has none."""
    if not job.spec.extra.get("checkpoint") or not job.instances:
        return None
    return location_of(max(job.instances, key=lambda instance: instance.started_ms).cluster)


def expected_runtime_ms(job: Job, defaults: PoolDefaults) -> int | None:
    """Return how long the job is expected to run; None if nothing is known, or the pool does not ask.

    It is the longer of the user's own estimate, multiplied, and what it ran on hosts that were removed under
    it; but no longer than any host lives to see.
    """
    if defaults.expected_runtime_multiplier is None or defaults.host_lifetime_ms is None:
        return None
    estimate = int((job.spec.expected_runtime_ms or 0) * defaults.expected_runtime_multiplier)
    lost = (_ran_ms(instance) for instance in job.instances if instance.reason == AGENT_REMOVED)
    longest = min(max((estimate, *lost)), defaults.host_lifetime_ms - defaults.host_start_grace_ms)
    return longest if longest > 0 else None


def group_placement_of(group: Group) -> GroupPlacement:
    """Return how a group wants its jobs placed, out of what its user sent."""
    said = group.host_placement
    kind = PlacementKind(said.get("type", PlacementKind.ALL.value))
    parameters = said.get("parameters") or {}
    if kind in (PlacementKind.ALL, PlacementKind.UNIQUE):
        return GroupPlacement(kind=kind)
    return GroupPlacement(
        kind=kind, attribute=parameters["attribute"], minimum=int(parameters.get("minimum", 0))
    )


def _ran_ms(instance: Instance) -> int:
    """How long an instance ran; 0 if its start or its end is not known."""
    if instance.backend_started_ms is None or instance.ended_ms is None:
        return 0
    return instance.ended_ms - instance.backend_started_ms
