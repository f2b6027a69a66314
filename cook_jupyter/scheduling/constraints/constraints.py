"""Constraints: which hosts may take a job, apart from their room.

Lives here: the demands of jobs on their hosts (`ConstraintClass` for those that many jobs share,
`JobConstraints` for those of a single job), the demands that pools add or rewrite, and the check of each
constraint, under Cook's names.
Not here: the derivation of job constraints (`scheduling.constraints.job_constraints`); cpus, memory and
ports, which are room, not constraints (`scheduling.matching.matching`).

Source: Cook's `constraints.clj`, as described in the fair-share specification, section 5.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Final

from cook_jupyter.model.job import GroupId, JobSpec
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.limits.lingering import runtime_limit_ms

NOVEL_HOST = "novel_host_constraint"
GPU = "gpu_host_constraint"  # the host has no gpus, or not the requested ones
NON_GPU = "non_gpu_host_constraint"  # the host is for jobs that request gpus
DISK = "disk_host_constraint"
ATTRIBUTES = "user_defined_constraint"
COMPLETION = "estimated_completion_constraint"
CHECKPOINT = "checkpoint_locality_constraint"
RESERVED = "rebalancer_reservation_constraint"
MAX_TASKS = "max_tasks_per_host_constraint"
UNIQUE = "unique_host_placement_group_constraint"
BALANCED = "balanced_host_placement_group_constraint"
ATTRIBUTE_EQUALS = "attribute_equals_host_placement_group_constraint"
OFFER_USERS = "offer_users_constraint"  # the offer is for other users only
OFFER_END = "offer_end_constraint"  # the job may run until after the host goes away

HOST_START_TIME = "host-start-time"  # attribute: start of the host, epoch seconds
# Attributes that together describe the type of a machine: a job that names one of them has chosen a type.
MACHINE_TYPE: Final = frozenset({"cpu-architecture", "node-family", "node-type"})
_REFERENCE = re.compile(r"\\(.)|\$(\d)")  # in the replacement of a `ConstraintRewrite`

Demand = tuple[str, str]  # a host attribute, and the value it must have


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintClass:
    """Demands of a job on its host that it shares with many jobs.

    Attributes:
        attributes: pairs of a host attribute and its required value.
        gpu_model, disk_type: required models; None for the pool's default.
        disk_mb: requested disk; None for the pool's default.
    """

    attributes: tuple[Demand, ...] = ()
    gpu_model: str | None = None
    disk_type: str | None = None
    disk_mb: float | None = None

    def __hash__(self) -> int:  # called several times per job; few classes differ only elsewhere
        return hash(self.attributes)


UNCONSTRAINED = ConstraintClass()


class PlacementKind(Enum):
    """How the jobs of a group are placed relative to each other."""

    ALL = "all"  # anywhere
    UNIQUE = "unique"  # each on a different host
    BALANCED = "balanced"  # evenly over the values of an attribute
    ATTRIBUTE_EQUALS = "attribute-equals"  # on hosts with equal values of an attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlacement:
    """The placement of a group's jobs. A balanced one uses at least `minimum` values of the attribute."""

    kind: PlacementKind = PlacementKind.ALL
    attribute: str = "HOSTNAME"
    minimum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConstraints:
    """Demands of a single job on its host.

    Attributes:
        avoid: earlier hosts of the job, except where it was preempted.
        group: group of the job, if the group has a placement.
        location: location of the job's checkpoint.
        runtime_ms: expected run time, which must end before the host does.
        user, longest_ms: user of the job, and the run time after which it is killed (None: never). They are
            set only if any offer is limited (`with_runtime_limit`), and concern only such offers.
    """

    avoid: frozenset[str] = frozenset()
    group: GroupId | None = None
    location: str | None = None
    runtime_ms: int | None = None
    user: str | None = None
    longest_ms: int | None = None


NO_JOB_CONSTRAINTS = JobConstraints()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintRewrite:
    """An operator's rule that rewrites constraints of users.

    Attributes:
        attribute: host attribute that replaces the given one; None keeps it.
        patterns: pairs of a regular expression and the replacement of all its matches, applied one after the
            other; `$1` stands for the match of its first group.
    """

    attribute: str | None = None
    patterns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDefaults:
    """Demands and defaults that a pool adds to those of its jobs.

    Attributes:
        constraints: demands on hosts where a job has none itself (`demands_in_pool`).
        rewritings: host attribute -> rule that rewrites constraints on it.
        novel_host: whether jobs avoid their earlier hosts; not sensible in a pool with a single host.
        gpu_model: gpu model of jobs that request gpus without a model.
        disk: whether disk is checked.
        disk_type, disk_mb: disk of jobs that do not specify it.
        disk_types: name of a disk type for users -> its name on hosts.
        host_lifetime_ms: lifetime of hosts; None if not limited.
        host_start_grace_ms: part of that which passes before a new host runs its first task.
        expected_runtime_multiplier: factor of a job's own estimate of its run time; None if the lifetime of
            hosts is not checked.
        max_tasks_per_host: maximum number of tasks per host; None if not limited.
        max_runtime_ms: run time after which every job is killed; None if not limited.
        default_runtime_ms: the same for jobs without a limit of their own.
    """

    constraints: tuple[Demand, ...] = ()
    rewritings: Mapping[str, ConstraintRewrite] = field(default_factory=dict)
    novel_host: bool = True
    gpu_model: str | None = None
    disk: bool = False
    disk_type: str | None = None
    disk_mb: float = 10240.0
    disk_types: Mapping[str, str] = field(default_factory=dict)
    host_lifetime_ms: int | None = None
    host_start_grace_ms: int = 10 * 60 * 1000
    expected_runtime_multiplier: float | None = None
    max_tasks_per_host: int | None = None
    max_runtime_ms: int | None = None
    default_runtime_ms: int | None = None

    def __hash__(self) -> int:  # the hashable fields suffice
        return hash((self.gpu_model, self.disk, self.disk_type, self.disk_mb))


def constraint_class_of(spec: JobSpec) -> ConstraintClass:
    """Return the constraint class of a job."""
    disk = spec.extra.get("disk") or {}
    return ConstraintClass(
        attributes=tuple((attribute, pattern) for attribute, _, pattern in spec.constraints),
        gpu_model=spec.env.get("COOK_GPU_MODEL") if spec.gpus else None,
        disk_type=disk.get("type"),
        disk_mb=disk.get("request"),
    )


def class_in_pool(constraint_class: ConstraintClass, defaults: PoolDefaults) -> ConstraintClass:
    """Return the constraint class that results from a job's class and its pool."""
    if not defaults.constraints and not defaults.rewritings:
        return constraint_class
    return replace(constraint_class, attributes=demands_in_pool(constraint_class.attributes, defaults))


def demands_in_pool(
    job_demands: tuple[Demand, ...], defaults: PoolDefaults, *, machine_type: Collection[str] = MACHINE_TYPE
) -> tuple[Demand, ...]:
    """Return the demands on a host: the job's, then the pool's, all rewritten.

    A demand of the job replaces the pool's on the same attribute. A demand on the type of machine replaces
    all of the pool's demands on that.

    Args:
        job_demands: demands of the job.
        defaults: demands of the pool, and the rules that rewrite demands.
        machine_type: attributes that together describe the type of a machine.
    """
    named_attributes = {attribute for attribute, _ in job_demands}
    if not named_attributes.isdisjoint(machine_type):
        named_attributes.update(machine_type)
    added = tuple(demand for demand in defaults.constraints if demand[0] not in named_attributes)
    return rewrite_demands((*job_demands, *added), defaults.rewritings)


def rewrite_demands(
    demands: tuple[Demand, ...], rewritings: Mapping[str, ConstraintRewrite]
) -> tuple[Demand, ...]:
    """Return the demands, rewritten by the operator's rules."""
    return tuple(_rewrite_demand(demand, rewritings.get(demand[0])) for demand in demands)


def _rewrite_demand(demand: Demand, rewriting: ConstraintRewrite | None) -> Demand:
    if rewriting is None:
        return demand
    attribute, value = demand
    for pattern, replacement in rewriting.patterns:
        value = re.sub(pattern, partial(_expand_references, replacement), value)
    return rewriting.attribute or attribute, value


def _expand_references(replacement: str, match: re.Match[str]) -> str:
    """Return the replacement (in Java's syntax) with references to groups replaced by their matches."""
    return _REFERENCE.sub(
        lambda reference: reference[1] if reference[1] is not None else match[int(reference[2])] or "",
        replacement,
    )


def failing_class_constraint(
    constraint_class: ConstraintClass, gpus: float, offer: Offer, defaults: PoolDefaults
) -> str | None:
    """Return the name of the first constraint of the class that fails on the host, or None.

    Args:
        constraint_class: constraint class of the job in its pool (`class_in_pool`).
        gpus: gpus that the job requests.
        offer: current offer of the host, with the assignments of the cycle.
        defaults: defaults of the pool.
    """
    if not gpus_fit(constraint_class, gpus, offer, defaults):
        return GPU if gpus else NON_GPU
    if not disk_fits(constraint_class, offer, defaults):
        return DISK
    if not attributes_equal(constraint_class.attributes, offer.attributes):
        return ATTRIBUTES
    return None


def gpus_fit(constraint_class: ConstraintClass, gpus: float, offer: Offer, defaults: PoolDefaults) -> bool:
    """Return whether the gpus of the host suit the job; on plain hosts, where gpus are room, they always do.

    A Kubernetes node allocates all its gpus of one model to one task, and then takes no other task; Mesos
    agents allocate none.
    """
    if offer.kind is HostKind.PLAIN:
        return True
    if offer.kind is HostKind.MESOS:
        return gpus == 0
    if gpus == 0:
        return not offer.gpu_models
    model = constraint_class.gpu_model or defaults.gpu_model
    return model is not None and offer.gpu_models.get(model, 0) == gpus and offer.task_count == 0


def disk_fits(constraint_class: ConstraintClass, offer: Offer, defaults: PoolDefaults) -> bool:
    """Return whether the host has the requested disk; hosts that do not allocate disk always do."""
    if not defaults.disk or offer.kind is not HostKind.KUBERNETES:
        return True
    disk_type = constraint_class.disk_type or defaults.disk_type
    if disk_type is None:
        return True
    required_mb = defaults.disk_mb if constraint_class.disk_mb is None else constraint_class.disk_mb
    return offer.disk_mb.get(defaults.disk_types.get(disk_type, disk_type), 0.0) >= required_mb


def attributes_equal(demands: tuple[Demand, ...], attributes: Mapping[str, str]) -> bool:
    """Return whether each attribute has its required value; a missing attribute has not."""
    return all(attributes.get(attribute) == value for attribute, value in demands)


def failing_job_constraint(
    job_constraints: JobConstraints, offer: Offer, defaults: PoolDefaults, now_ms: int
) -> str | None:
    """Return the name of the first failing constraint of a single job, or None.

    Not checked here: earlier hosts of the job, and groups, which depend on the assignments of the cycle
    (`failing_group_constraint`).
    """
    if job_constraints.runtime_ms is not None and not host_outlives(
        now_ms + job_constraints.runtime_ms, offer.attributes, defaults
    ):
        return COMPLETION
    if job_constraints.location is not None and offer.location != job_constraints.location:
        return CHECKPOINT
    if offer.users is not None and job_constraints.user not in offer.users:
        return OFFER_USERS
    if offer.until_ms is not None and (
        job_constraints.longest_ms is None or now_ms + job_constraints.longest_ms > offer.until_ms
    ):
        return OFFER_END
    return None


def with_runtime_limit(
    job_constraints: JobConstraints, user: str, max_runtime_ms: int | None, defaults: PoolDefaults
) -> JobConstraints:
    """Return the constraints of a job with its user and its maximum run time, for limited offers.

    Args:
        job_constraints: other constraints of the job.
        user: user of the job.
        max_runtime_ms: run time after which the job is to be killed; None if it has no limit.
        defaults: defaults of the pool.
    """
    longest_ms = runtime_limit_ms(
        max_runtime_ms, cap_ms=defaults.max_runtime_ms, default_ms=defaults.default_runtime_ms
    )
    return replace(job_constraints, user=user, longest_ms=longest_ms)


def host_outlives(ends_ms: int, attributes: Mapping[str, str], defaults: PoolDefaults) -> bool:
    """Return whether the host will live past `ends_ms`; a host of unknown age is assumed to."""
    started = attributes.get(HOST_START_TIME)
    if started is None or defaults.host_lifetime_ms is None:
        return True
    return ends_ms < float(started) * 1000 + defaults.host_lifetime_ms


def failing_group_constraint(
    placement: GroupPlacement,
    host: str,
    attributes: Mapping[str, str],
    cohosts: Mapping[str, Mapping[str, str]],
    tasks: Mapping[str, int],
) -> str | None:
    """Return the name of the group's constraint if it fails on the host, or None.

    Args:
        placement: placement of the group.
        host: name of the host.
        attributes: attributes of the host.
        cohosts: host of another task of the group, including those assigned in this cycle -> its attributes.
        tasks: host -> number of tasks of the group.
    """
    if placement.kind is PlacementKind.UNIQUE:
        return UNIQUE if host in cohosts else None
    value = host if placement.attribute == "HOSTNAME" else attributes.get(placement.attribute)
    values: dict[str | None, int] = {}
    for cohost, cohost_attributes in cohosts.items():
        key = cohost if placement.attribute == "HOSTNAME" else cohost_attributes.get(placement.attribute)
        values[key] = values.get(key, 0) + tasks[cohost]
    if placement.kind is PlacementKind.ATTRIBUTE_EQUALS:
        return None if not values or value in values else ATTRIBUTE_EQUALS
    if placement.kind is PlacementKind.BALANCED:
        if value not in values:
            return None
        smallest = min(values.values()) if len(values) >= placement.minimum else 0
        return BALANCED if smallest < values[value] == max(values.values()) else None
    return None
