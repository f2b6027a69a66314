"""Which hosts a job may not go to in one cycle, whatever room they have.

Lives here: `ConstraintChecker`, which applies the constraints one after the other and follows what the cycle
assigns, and `PlacementContext`, the facts they need besides job and host.
Not here: each constraint itself (`scheduling.constraints.constraints`), room
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
    """What else bears on where a job may go.

    Attributes:
        reservations: job -> the host that is kept for it; closed to all others.
        groups: how groups of jobs want to be placed.
        group_hosts: hosts of a group's running tasks and how many run there; None stands for those of the
            pool that is decided for.
        attributes: of hosts that run a group's tasks but have no offer now.
        limited: hosts that are for a time or for some users only, as if they were empty. Matching reads that
            off their offers; preemption also looks at hosts that have no offer now.
        now_ms: when this is decided, for jobs whose host must live on until they end.
    """

    reservations: Mapping[JobId, str] = field(default_factory=dict)
    groups: Mapping[GroupId, GroupPlacement] = field(default_factory=dict)
    group_hosts: Callable[[GroupId], Mapping[str, int]] | None = None
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    limited: Mapping[str, Offer] = field(default_factory=dict)
    now_ms: int = 0

    def hosts_of(self, group: GroupId) -> Mapping[str, int]:
        """Return the hosts of a group's running tasks and how many run there."""
        return {} if self.group_hosts is None else self.group_hosts(group)


NO_PLACEMENT_CONTEXT = PlacementContext()


class ConstraintChecker:
    """Which hosts a job may not go to, room aside. Follows what the cycle assigns."""

    def __init__(self, hosts: Hosts, defaults: PoolDefaults, placement_context: PlacementContext) -> None:
        # As the cycle leaves them, where that matters to constraints.
        self._offers = hosts.offers if hosts.all_plain else hosts.offers.copy()
        self._position = hosts.position
        self._defaults = defaults
        self._placement_context = placement_context
        self._reserved = frozenset(placement_context.reservations.values())
        self._hosts = hosts
        self._all_plain = hosts.all_plain
        self._by_class: dict[tuple[ConstraintClass, float], list[str | None]] = {}
        self._pool_demands = bool(defaults.constraints)
        self._changed: set[int] = set()  # positions of nodes that the cycle has put tasks on
        self._cohosts: dict[GroupId, dict[str, int]] = {}
        self._assigned = [0] * len(hosts) if defaults.max_tasks_per_host is not None else []

    def of(self, request: TaskRequest) -> Callable[[int], str | None] | None:
        """Return what names the constraint that fails at a position; None if none fails anywhere."""
        of_class = self.of_class(request.constraints, request.gpus)
        plain = request.job_constraints is NO_JOB_CONSTRAINTS and not self._hosts.is_limited
        if plain and not self._reserved and not self._assigned:
            return None if of_class is None else of_class.__getitem__
        return lambda at: self._fails(request, of_class, at)

    def of_class(self, wanted: ConstraintClass, gpus: float) -> list[str | None] | None:
        """Return the first failing constraint of the class at each position; None if none fails anywhere."""
        if self._all_plain and not self._pool_demands and (wanted is UNCONSTRAINED or not wanted.attributes):
            return None
        known = self._by_class.get((wanted, gpus))
        if known is None:
            in_pool = class_in_pool(wanted, self._defaults)
            known = self._hosts.failing_class_constraint(in_pool, gpus, self._defaults)
            self._by_class[wanted, gpus] = known = known if self._all_plain else known.copy()
            for at in self._changed:
                known[at] = failing_class_constraint(in_pool, gpus, self._offers[at], self._defaults)
        return known

    def assigned(self, at: int, request: TaskRequest) -> None:
        """Learn that the job goes to the host at that position."""
        offer = self._offers[at]
        if offer.kind is HostKind.KUBERNETES:
            self._offers[at] = with_task(offer, request, self._defaults)
            self._changed.add(at)
            for (wanted, gpus), known in self._by_class.items():
                in_pool = class_in_pool(wanted, self._defaults)
                known[at] = failing_class_constraint(in_pool, gpus, self._offers[at], self._defaults)
        if self._assigned:
            self._assigned[at] += 1
        if request.job_constraints is not NO_JOB_CONSTRAINTS and request.job_constraints.group is not None:
            hosts = self._hosts_of(request.job_constraints.group)
            hosts[offer.host] = hosts.get(offer.host, 0) + 1

    def _fails(self, request: TaskRequest, of_class: list[str | None] | None, at: int) -> str | None:
        offer = self._offers[at]
        own = request.job_constraints
        if offer.host in own.avoid:
            return NOVEL_HOST
        if of_class is not None and of_class[at] is not None:
            return of_class[at]
        failed = failing_job_constraint(own, offer, self._defaults, self._placement_context.now_ms)
        if failed is not None:
            return failed
        if (
            offer.host in self._reserved
            and self._placement_context.reservations.get(request.job_id) != offer.host
        ):
            return RESERVED
        most = self._defaults.max_tasks_per_host
        if most is not None and self._hosts.offers[at].task_count + self._assigned[at] >= most:
            return MAX_TASKS
        placement = None if own.group is None else self._placement_context.groups.get(own.group)
        if own.group is None or placement is None or placement.kind is PlacementKind.ALL:
            return None
        hosts = self._hosts_of(own.group)
        cohosts = {host: self._attributes(host) for host in hosts}
        return failing_group_constraint(placement, offer.host, offer.attributes, cohosts, hosts)

    def _hosts_of(self, group: GroupId) -> dict[str, int]:
        if group not in self._cohosts:
            self._cohosts[group] = dict(self._placement_context.hosts_of(group))
        return self._cohosts[group]

    def _attributes(self, host: str) -> Mapping[str, str]:
        at = self._position.get(host)
        return self._placement_context.attributes.get(host, {}) if at is None else self._offers[at].attributes


def with_task(node: Offer, request: TaskRequest, defaults: PoolDefaults) -> Offer:
    """Return a Kubernetes node with the job on it: its gpus are taken, the disk the job asks for is gone."""
    disk = dict(node.disk_mb)
    named = request.constraints.disk_type or defaults.disk_type
    if defaults.disk and named is not None:
        asked = request.constraints.disk_mb
        found = defaults.disk_types.get(named, named)
        disk[found] = disk.get(found, 0.0) - (defaults.disk_mb if asked is None else asked)
    return replace(node, task_count=node.task_count + 1, disk_mb=disk)
