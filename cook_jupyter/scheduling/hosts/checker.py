"""Checks of constraints on single hosts during a cycle.

Lives here: `ConstraintChecker`, which checks the constraints one after the other and keeps account of the
cycle's assignments; `PlacementContext`, the facts that constraints read besides job and host.
Not here: the constraints themselves (`scheduling.constraints.constraints`), room
(`scheduling.matching.scalar`, `matching.columnar`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.constraints.constraints import (
    MAX_TASKS,
    NO_JOB_CONSTRAINTS,
    NOVEL_HOST,
    RESERVED,
    UNCONSTRAINED,
    ConstraintClass,
    GroupPlacement,
    PlacementKind,
    PoolDefaults,
    class_in_pool,
    failing_class_constraint,
    failing_group_constraint,
    failing_job_constraint,
)
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.task_request import TaskRequest


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementContext:
    """Facts that constraints read besides the job and the host.

    Attributes:
        reservations: job -> the host that is reserved for it and closed to other jobs.
        groups: placements of groups.
        group_hosts: returns the hosts of a group's running tasks with their numbers of tasks; None for those
            of the pool of the decision.
        attributes: host -> its attributes, for hosts that run tasks of a group but have no offer.
        limited: host -> offer of the empty host, for hosts whose offer ends or is for some users only. Only
            preemption reads it, because it considers hosts without an offer, too.
        now_ms: the time, for jobs that must end before their host does.
    """

    reservations: Mapping[JobId, str] = field(default_factory=dict)
    groups: Mapping[GroupId, GroupPlacement] = field(default_factory=dict)
    group_hosts: Callable[[GroupId], Mapping[str, int]] | None = None
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    limited: Mapping[str, Offer] = field(default_factory=dict)
    now_ms: int = 0

    def hosts_of(self, group: GroupId) -> Mapping[str, int]:
        """Return the hosts of a group's running tasks, with the number of tasks on each."""
        return {} if self.group_hosts is None else self.group_hosts(group)


NO_PLACEMENT_CONTEXT = PlacementContext()


class ConstraintChecker:
    """Checks which hosts may take a job, apart from their room. Record each assignment of the cycle."""

    def __init__(self, hosts: Hosts, defaults: PoolDefaults, placement_context: PlacementContext) -> None:
        # With the assignments of the cycle, as far as constraints read them.
        self._offers = hosts.offers if hosts.all_plain else hosts.offers.copy()
        self._position = hosts.position
        self._defaults = defaults
        self._placement_context = placement_context
        self._reserved = frozenset(placement_context.reservations.values())
        self._hosts = hosts
        self._all_plain = hosts.all_plain
        self._by_class: dict[tuple[ConstraintClass, float], list[str | None]] = {}
        self._pool_demands = bool(defaults.constraints)
        self._changed: set[int] = set()  # positions of nodes with assignments of the cycle
        self._cohosts: dict[GroupId, dict[str, int]] = {}
        self._assigned = [0] * len(hosts) if defaults.max_tasks_per_host is not None else []

    def failing_at(self, request: TaskRequest) -> Callable[[int], str | None] | None:
        """Return a function from positions to the failing constraint; None if none fails anywhere."""
        failing_class_at = self.failing_class_at(request.constraints, request.gpus)
        plain = request.job_constraints is NO_JOB_CONSTRAINTS and not self._hosts.is_limited
        if plain and not self._reserved and not self._assigned:
            return None if failing_class_at is None else failing_class_at.__getitem__
        return lambda position: self._fails(request, failing_class_at, position)

    def failing_class_at(self, constraint_class: ConstraintClass, gpus: float) -> list[str | None] | None:
        """Return the first failing constraint of a class at each position; None if none fails anywhere."""
        if (
            self._all_plain
            and not self._pool_demands
            and (constraint_class is UNCONSTRAINED or not constraint_class.attributes)
        ):
            return None
        failing = self._by_class.get((constraint_class, gpus))
        if failing is None:
            in_pool = class_in_pool(constraint_class, self._defaults)
            failing = self._hosts.failing_class_constraint(in_pool, gpus, self._defaults)
            self._by_class[constraint_class, gpus] = failing = failing if self._all_plain else failing.copy()
            for position in self._changed:
                failing[position] = failing_class_constraint(
                    in_pool, gpus, self._offers[position], self._defaults
                )
        return failing

    def record_assignment(self, position: int, request: TaskRequest) -> None:
        """Record that the job is assigned to the host at a position."""
        offer = self._offers[position]
        if offer.kind is HostKind.KUBERNETES:
            self._offers[position] = with_task(offer, request, self._defaults)
            self._changed.add(position)
            for (constraint_class, gpus), failing in self._by_class.items():
                in_pool = class_in_pool(constraint_class, self._defaults)
                failing[position] = failing_class_constraint(
                    in_pool, gpus, self._offers[position], self._defaults
                )
        if self._assigned:
            self._assigned[position] += 1
        if request.job_constraints.group is not None:
            hosts = self._hosts_of(request.job_constraints.group)
            hosts[offer.host] = hosts.get(offer.host, 0) + 1

    def _fails(
        self, request: TaskRequest, failing_class_at: list[str | None] | None, position: int
    ) -> str | None:
        offer = self._offers[position]
        job_constraints = request.job_constraints
        if offer.host in job_constraints.avoid:
            return NOVEL_HOST
        if failing_class_at is not None and failing_class_at[position] is not None:
            return failing_class_at[position]
        failed = failing_job_constraint(
            job_constraints, offer, self._defaults, self._placement_context.now_ms
        )
        if failed is not None:
            return failed
        if (
            offer.host in self._reserved
            and self._placement_context.reservations.get(request.job_id) != offer.host
        ):
            return RESERVED
        max_tasks = self._defaults.max_tasks_per_host
        if (
            max_tasks is not None
            and self._hosts.offers[position].task_count + self._assigned[position] >= max_tasks
        ):
            return MAX_TASKS
        placement = (
            None
            if job_constraints.group is None
            else self._placement_context.groups.get(job_constraints.group)
        )
        if job_constraints.group is None or placement is None or placement.kind is PlacementKind.ALL:
            return None
        hosts = self._hosts_of(job_constraints.group)
        cohosts = {host: self._attributes(host) for host in hosts}
        return failing_group_constraint(placement, offer.host, offer.attributes, cohosts, hosts)

    def _hosts_of(self, group: GroupId) -> dict[str, int]:
        if group not in self._cohosts:
            self._cohosts[group] = dict(self._placement_context.hosts_of(group))
        return self._cohosts[group]

    def _attributes(self, host: str) -> Mapping[str, str]:
        position = self._position.get(host)
        return (
            self._placement_context.attributes.get(host, {})
            if position is None
            else self._offers[position].attributes
        )


def with_task(node: Offer, request: TaskRequest, defaults: PoolDefaults) -> Offer:
    """Return the offer of a Kubernetes node after a job was assigned to it."""
    disk = dict(node.disk_mb)
    disk_type = request.constraints.disk_type or defaults.disk_type
    if defaults.disk and disk_type is not None:
        requested_mb = request.constraints.disk_mb
        host_disk_type = defaults.disk_types.get(disk_type, disk_type)
        disk[host_disk_type] = disk.get(host_disk_type, 0.0) - (
            defaults.disk_mb if requested_mb is None else requested_mb
        )
    return replace(node, task_count=node.task_count + 1, disk_mb=disk)
