"""Constraints: which hosts may take a job at all, whatever room they have.

Lives here: what a job may demand of its host (`ConstraintClass` for what many jobs share, `JobConstraints`
for what is one job's own), what its pool adds to that or makes of it, and the hard constraints that follow,
each named as Cook names it to its users.
Not here: where a job's particulars come from (`scheduling.constraints.job_constraints`); cpus, memory and
ports, which are room, not constraints (`scheduling.matching.matching`).

Source: Cook's `constraints.clj`, as told in the fair-share specification, section 5.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Final

from cook_jupyter.model.job import GroupId, JobSpec
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.limits.lingering import longest_ms

NOVEL_HOST = "novel_host_constraint"
GPU = "gpu_host_constraint"  # the host has none, or not these
NON_GPU = "non_gpu_host_constraint"  # the host is for jobs that ask for gpus
DISK = "disk_host_constraint"
ATTRIBUTES = "user_defined_constraint"
COMPLETION = "estimated_completion_constraint"
CHECKPOINT = "checkpoint_locality_constraint"
RESERVED = "rebalancer_reservation_constraint"
MAX_TASKS = "max_tasks_per_host_constraint"
UNIQUE = "unique_host_placement_group_constraint"
BALANCED = "balanced_host_placement_group_constraint"
ATTRIBUTE_EQUALS = "attribute_equals_host_placement_group_constraint"
OFFER_USERS = "offer_users_constraint"  # the offer is for other users
OFFER_END = "offer_end_constraint"  # the job may run on when the host goes away

HOST_START_TIME = "host-start-time"  # attribute: when the host came up, epoch seconds
# Attributes that say together what machine a host is: who names one of them has chosen.
MACHINE_TYPE: Final = frozenset({"cpu-architecture", "node-family", "node-type"})
_REFERENCE = re.compile(r"\\(.)|\$(\d)")  # in the replacement of a `ConstraintRewrite`

Demand = tuple[str, str]  # a host attribute, and the value it must have


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintClass:
    """What a job demands of its host besides room, as far as many jobs demand the same.

    Attributes:
        attributes: pairs of a host attribute and the value it must have.
        gpu_model, disk_type: None stands for the pool's default.
        disk_mb: disk asked for; None stands for the pool's default.
    """

    attributes: tuple[Demand, ...] = ()
    gpu_model: str | None = None
    disk_type: str | None = None
    disk_mb: float | None = None

    def __hash__(self) -> int:  # asked for several times per job; classes that differ elsewhere only are few
        return hash(self.attributes)


UNCONSTRAINED = ConstraintClass()


class PlacementKind(Enum):
    """How a group wants its jobs placed relative to each other."""

    ALL = "all"  # no matter how
    UNIQUE = "unique"  # each on a host of its own
    BALANCED = "balanced"  # evenly over the values of an attribute
    ATTRIBUTE_EQUALS = "attribute-equals"  # all where an attribute has the same value


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlacement:
    """How a group wants its jobs placed. A balanced one spreads over at least `minimum` values."""

    kind: PlacementKind = PlacementKind.ALL
    attribute: str = "HOSTNAME"
    minimum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConstraints:
    """What one job demands of its host that other jobs of its kind do not.

    Attributes:
        avoid: hosts it has failed on (Cook: any earlier host, unless it was preempted there).
        group: the group it belongs to, if the group has a placement.
        location: where its checkpoint lies.
        runtime_ms: how long it is expected to run; its host must live longer.
        user, longest_ms: its user, and after what run time it is ended (None: never). They are set where some
            offers are limited (`particulars_for_limited`), and matter to those alone.
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
    """What an operator makes of a user's constraint.

    Attributes:
        attribute: the host attribute that is asked for instead; None keeps it.
        patterns: pairs of a regular expression and what is put in place of all that it finds, one pair after
            the other; `$1` stands for what its first group found.
    """

    attribute: str | None = None
    patterns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDefaults:
    """What a pool adds to what its jobs say themselves.

    Attributes:
        constraints: what is demanded of hosts where the job has no demand of its own (`demands_in_pool`).
        rewritings: host attribute -> what constraints on it become.
        novel_host: whether a job keeps off the hosts it ran on before. A pool with a single host cannot
            afford that.
        gpu_model: of a job that asks for gpus without naming a model.
        disk: whether disk is checked at all.
        disk_type, disk_mb: of a job that does not say.
        disk_types: what users call a disk type -> what hosts call it.
        host_lifetime_ms: how long hosts live; None if they live on.
        host_start_grace_ms: how much of that passes before a new host runs its first task.
        expected_runtime_multiplier: what a job's own estimate of its run time is multiplied by; None: nobody
            asks whether a host lives long enough.
        max_tasks_per_host: how many tasks one host may run.
        max_runtime_ms: run time after which every job is ended; None if there is none.
        default_runtime_ms: the same for jobs that do not limit theirs.
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

    def __hash__(self) -> int:  # of what can be hashed
        return hash((self.gpu_model, self.disk, self.disk_type, self.disk_mb))


def constraint_class_of(spec: JobSpec) -> ConstraintClass:
    """Return what the job demands of its host besides room."""
    disk = spec.extra.get("disk") or {}
    return ConstraintClass(
        attributes=tuple((attribute, pattern) for attribute, _, pattern in spec.constraints),
        gpu_model=spec.env.get("COOK_GPU_MODEL") if spec.gpus else None,
        disk_type=disk.get("type"),
        disk_mb=disk.get("request"),
    )


def class_in_pool(wanted: ConstraintClass, defaults: PoolDefaults) -> ConstraintClass:
    """Return the class with what its pool makes of its demands; it alone is to be looked at."""
    if not defaults.constraints and not defaults.rewritings:
        return wanted
    return replace(wanted, attributes=demands_in_pool(wanted.attributes, defaults))


def demands_in_pool(
    own: tuple[Demand, ...], defaults: PoolDefaults, *, machine_type: Collection[str] = MACHINE_TYPE
) -> tuple[Demand, ...]:
    """Return what is demanded of a host: the job's own demands, then the pool's, all as rewritten.

    The pool's demand on an attribute gives way to the job's; those on the type of machine do so together.

    Args:
        own: of the job.
        defaults: what the pool adds, and how constraints are rewritten.
        machine_type: the attributes that say together what machine a host is.
    """
    named = {attribute for attribute, _ in own}
    if not named.isdisjoint(machine_type):
        named.update(machine_type)
    added = tuple(demand for demand in defaults.constraints if demand[0] not in named)
    return rewritten((*own, *added), defaults.rewritings)


def rewritten(demands: tuple[Demand, ...], rewritings: Mapping[str, ConstraintRewrite]) -> tuple[Demand, ...]:
    """Return the demands with what an operator has made of them."""
    return tuple(_rewritten(demand, rewritings.get(demand[0])) for demand in demands)


def _rewritten(demand: Demand, rewriting: ConstraintRewrite | None) -> Demand:
    if rewriting is None:
        return demand
    attribute, value = demand
    for pattern, replacement in rewriting.patterns:
        value = re.sub(pattern, partial(_filled_in, replacement), value)
    return rewriting.attribute or attribute, value


def _filled_in(replacement: str, found: re.Match[str]) -> str:
    """The replacement, written as for Java, with its references to groups filled in."""
    return _REFERENCE.sub(
        lambda reference: reference[1] if reference[1] is not None else found[int(reference[2])] or "",
        replacement,
    )


def failing_class_constraint(
    wanted: ConstraintClass, gpus: float, offer: Offer, defaults: PoolDefaults
) -> str | None:
    """Return the name of the first constraint of the class that fails on the host, or None.

    Args:
        wanted: the constraint class of the job, as it is in the pool (`class_in_pool`).
        gpus: how many gpus the job asks for.
        offer: the host as it is now, what the cycle assigned included.
        defaults: what the pool adds.
    """
    if not gpus_fit(wanted, gpus, offer, defaults):
        return GPU if gpus else NON_GPU
    if not disk_fits(wanted, offer, defaults):
        return DISK
    if not attributes_equal(wanted.attributes, offer.attributes):
        return ATTRIBUTES
    return None


def gpus_fit(wanted: ConstraintClass, gpus: float, offer: Offer, defaults: PoolDefaults) -> bool:
    """Tell whether the host's kind of gpus suits the job. On plain hosts gpus are room, so any does.

    A Kubernetes node gives all its gpus of one model to one task, and takes no other task then; Mesos
    agents give none.
    """
    if offer.kind is HostKind.PLAIN:
        return True
    if offer.kind is HostKind.MESOS:
        return gpus == 0
    if gpus == 0:
        return not offer.gpu_models
    model = wanted.gpu_model or defaults.gpu_model
    return model is not None and offer.gpu_models.get(model, 0) == gpus and offer.task_count == 0


def disk_fits(wanted: ConstraintClass, offer: Offer, defaults: PoolDefaults) -> bool:
    """Tell whether the host has the disk the job asks for; hosts that do not give out disk always do."""
    if not defaults.disk or offer.kind is not HostKind.KUBERNETES:
        return True
    named = wanted.disk_type or defaults.disk_type
    if named is None:
        return True
    asked = defaults.disk_mb if wanted.disk_mb is None else wanted.disk_mb
    return offer.disk_mb.get(defaults.disk_types.get(named, named), 0.0) >= asked


def attributes_equal(demands: tuple[Demand, ...], attributes: Mapping[str, str]) -> bool:
    """Tell whether each attribute has the wanted value; a missing one has not."""
    return all(attributes.get(attribute) == value for attribute, value in demands)


def failing_job_constraint(
    own: JobConstraints, offer: Offer, defaults: PoolDefaults, now_ms: int
) -> str | None:
    """Return the name of the first of the job's own constraints, past the novel host's, that fails, or None.

    Groups are not looked at: they depend on what the cycle has assigned so far (`failing_group_constraint`).
    """
    if own.runtime_ms is not None and not host_outlives(now_ms + own.runtime_ms, offer.attributes, defaults):
        return COMPLETION
    if own.location is not None and offer.location != own.location:
        return CHECKPOINT
    if offer.users is not None and own.user not in offer.users:
        return OFFER_USERS
    if offer.until_ms is not None and (own.longest_ms is None or now_ms + own.longest_ms > offer.until_ms):
        return OFFER_END
    return None


def particulars_for_limited(
    own: JobConstraints, user: str, max_runtime_ms: int | None, defaults: PoolDefaults
) -> JobConstraints:
    """Return the particulars of a job where some offers are for a time or for some users only.

    Args:
        own: what the job demands anywhere.
        user: the user of the job.
        max_runtime_ms: run time after which the job wants to be ended; None if it does not.
        defaults: what the pool adds.
    """
    longest = longest_ms(
        max_runtime_ms, cap_ms=defaults.max_runtime_ms, default_ms=defaults.default_runtime_ms
    )
    return replace(own, user=user, longest_ms=longest)


def host_outlives(ends_ms: int, attributes: Mapping[str, str], defaults: PoolDefaults) -> bool:
    """Tell whether the host will live past `ends_ms`; a host of unknown age is trusted to."""
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
        placement: what the group wants.
        host: the host in question.
        attributes: its attributes.
        cohosts: hosts of the group's other tasks, also of those assigned in this cycle -> attributes.
        tasks: how many tasks of the group each cohost has.
    """
    if placement.kind is PlacementKind.UNIQUE:
        return UNIQUE if host in cohosts else None
    value = host if placement.attribute == "HOSTNAME" else attributes.get(placement.attribute)
    values: dict[str | None, int] = {}
    for cohost, theirs in cohosts.items():
        key = cohost if placement.attribute == "HOSTNAME" else theirs.get(placement.attribute)
        values[key] = values.get(key, 0) + tasks[cohost]
    if placement.kind is PlacementKind.ATTRIBUTE_EQUALS:
        return None if not values or value in values else ATTRIBUTE_EQUALS
    if placement.kind is PlacementKind.BALANCED:
        most = max(values.values(), default=0)
        least = min(values.values(), default=0) if len(values) >= placement.minimum else 0
        if not values or value not in values or least == most or values[value] < most:
            return None
        return BALANCED
    return None
