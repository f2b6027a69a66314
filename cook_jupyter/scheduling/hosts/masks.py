"""Checks of constraints on all hosts of a pool at once, for thousands of hosts.

Lives here: `ConstraintMasks`, which checks the constraints of `checker.ConstraintChecker` for all hosts, and
keeps account of the cycle's assignments.
Not here: the meaning of each constraint (`scheduling.constraints.constraints`), room
(`scheduling.matching.columnar`).
"""

from collections.abc import Iterable, Iterator
from math import inf, nan
from typing import Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.job import GroupId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.arrays import Floats, Integers
from cook_jupyter.scheduling.constraints.constraints import (
    ATTRIBUTE_EQUALS,
    ATTRIBUTES,
    BALANCED,
    CHECKPOINT,
    COMPLETION,
    DISK,
    GPU,
    HOST_START_TIME,
    MAX_TASKS,
    NO_JOB_CONSTRAINTS,
    NON_GPU,
    NOVEL_HOST,
    OFFER_END,
    OFFER_USERS,
    RESERVED,
    UNIQUE,
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
    class_in_pool,
)
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.task_request import TaskRequest

Mask = npt.NDArray[np.bool_]

_KINDS: Final = {HostKind.PLAIN: 0, HostKind.MESOS: 1, HostKind.KUBERNETES: 2}


class ConstraintMasks:
    """Checks which hosts may take a job, apart from their room. Record each assignment of the cycle.

    Attributes:
        steady: whether assignments of the cycle change nothing for jobs without job constraints.
    """

    def __init__(self, hosts: Hosts, defaults: PoolDefaults, placement_context: PlacementContext) -> None:
        self._hosts = hosts
        self._defaults = defaults
        self._placement_context = placement_context
        self._max_tasks = defaults.max_tasks_per_host
        self.steady = hosts.all_plain and self._max_tasks is None
        self._open_to_all = (
            hosts.all_plain and not defaults.constraints and not placement_context.reservations
        )
        self._tasks = None if self.steady else hosts.columns.tasks.copy()
        self._disks: dict[str, Floats] = {}  # type -> free disk of nodes after the assignments
        self._open: dict[tuple[ConstraintClass, float], Mask | None] = {}
        self._lacking_attributes: dict[tuple[tuple[str, str], ...], Mask] = {}
        self._groups: dict[GroupId, _Group] = {}
        self._reserved: Mask | None = None
        if placement_context.reservations:
            self._reserved = self._at(placement_context.reservations.values())

    def open_to(self, request: TaskRequest) -> Mask | None:
        """Return a mask of the hosts that may take the job; None if all may. Not to be modified."""
        is_special = request.job_constraints is not NO_JOB_CONSTRAINTS or (
            self._reserved is not None and request.job_id in self._placement_context.reservations
        )
        if is_special or not self.steady or self._hosts.is_limited:
            return self._open_now(request)
        if self._open_to_all and not request.constraints.attributes:
            return None
        key = (request.constraints, request.gpus)
        if key not in self._open:
            self._open[key] = self._open_now(request)
        return self._open[key]

    def _open_now(self, request: TaskRequest) -> Mask | None:
        closed: Mask | None = None
        for _, failing in self.failing(request):
            closed = failing if closed is None else closed | failing
        return None if closed is None else ~closed

    def failing(self, request: TaskRequest) -> Iterator[tuple[str, Mask]]:
        """Yield the constraints that may fail, in Cook's order, with a mask of the hosts where they do."""
        job_constraints = request.job_constraints
        if job_constraints.avoid:
            yield NOVEL_HOST, self._at(job_constraints.avoid)
        constraint_class = class_in_pool(request.constraints, self._defaults)
        if not self._hosts.all_plain:
            yield GPU if request.gpus else NON_GPU, self._unsuitable_gpus(constraint_class, request.gpus)
            disk = self._disk_of(constraint_class)
            if disk is not None:
                yield DISK, self._nodes() & (self._free_disk(disk[0]) < disk[1])
        if constraint_class.attributes:
            yield ATTRIBUTES, self._hosts_lacking(constraint_class.attributes)
        yield from self._failing_job_constraints(job_constraints)
        if self._reserved is not None:
            reserved_host = self._placement_context.reservations.get(request.job_id)
            yield (
                RESERVED,
                self._reserved if reserved_host is None else self._reserved & ~self._at((reserved_host,)),
            )
        if self._max_tasks is not None and self._tasks is not None:
            yield MAX_TASKS, self._tasks >= self._max_tasks
        group = None if job_constraints.group is None else self._group(job_constraints.group)
        if group is not None:
            failing = group.failing()
            if failing is not None:
                yield group.name, failing

    def record_assignment(self, position: int, request: TaskRequest) -> None:
        """Record that the job is assigned to the host at a position."""
        if self._tasks is not None:
            self._tasks[position] += 1
            if self._hosts.offers[position].kind is HostKind.KUBERNETES:
                disk = self._disk_of(request.constraints)
                if disk is not None:
                    self._free_disk(disk[0])[position] -= disk[1]
        if request.job_constraints.group is not None:
            group = self._group(request.job_constraints.group)
            if group is not None:
                group.add_task(position)

    # --- each constraint

    def _at(self, names: Iterable[str]) -> Mask:
        """Return a mask of the hosts of these names."""
        position = self._hosts.position
        mask = np.zeros(len(self._hosts), dtype=bool)
        mask[[position[name] for name in names if name in position]] = True
        return mask

    def _nodes(self) -> Mask:
        nodes: Mask = self._kinds() == _KINDS[HostKind.KUBERNETES]
        return nodes

    def _kinds(self) -> npt.NDArray[np.int8]:
        return self._hosts.fact("kind", lambda offer: _KINDS[offer.kind], np.int8)

    def _unsuitable_gpus(self, constraint_class: ConstraintClass, gpus: float) -> Mask:
        if not gpus:
            gives: Mask = self._hosts.fact("gpu node", _gives_gpus, np.bool_)
            return gives
        model = constraint_class.gpu_model or self._defaults.gpu_model
        kinds = self._kinds()
        unsuitable: Mask = kinds != _KINDS[HostKind.PLAIN]
        if model is not None and self._tasks is not None:
            of_model = self._hosts.fact(
                ("gpus", model), lambda offer: offer.gpu_models.get(model, 0), np.float64
            )
            suitable = (kinds == _KINDS[HostKind.KUBERNETES]) & (of_model == gpus) & (self._tasks == 0)
            unsuitable &= ~suitable
        return unsuitable

    def _disk_of(self, constraint_class: ConstraintClass) -> tuple[str, float] | None:
        """Return type and MB of the disk that jobs of a class need on nodes; None if not checked."""
        defaults = self._defaults
        disk_type = constraint_class.disk_type or defaults.disk_type
        if not defaults.disk or disk_type is None:
            return None
        required_mb = defaults.disk_mb if constraint_class.disk_mb is None else constraint_class.disk_mb
        return defaults.disk_types.get(disk_type, disk_type), required_mb

    def _free_disk(self, disk_type: str) -> Floats:
        free = self._disks.get(disk_type)
        if free is None:
            fact = self._hosts.fact(
                ("disk", disk_type), lambda offer: offer.disk_mb.get(disk_type, 0.0), np.float64
            )
            free = self._disks[disk_type] = fact.copy()
        return free

    def _hosts_lacking(self, demands: tuple[tuple[str, str], ...]) -> Mask:
        """Return a mask of the hosts that lack one of the attributes."""
        unlike = self._lacking_attributes.get(demands)
        if unlike is None:
            unlike = np.zeros(len(self._hosts), dtype=bool)
            for attribute, value in demands:
                codes, values = self._hosts.codes(attribute)
                unlike |= codes != values.get(value, -1)
            self._lacking_attributes[demands] = unlike
        return unlike

    def _failing_job_constraints(self, job_constraints: JobConstraints) -> Iterator[tuple[str, Mask]]:
        lifetime = self._defaults.host_lifetime_ms
        if job_constraints.runtime_ms is not None and lifetime is not None:
            started = self._hosts.fact("start", _start_s, np.float64)
            # An unknown start is NaN, and no comparison with NaN is true: such hosts are assumed to outlive
            # the job.
            yield (
                COMPLETION,
                self._placement_context.now_ms + job_constraints.runtime_ms >= started * 1000 + lifetime,
            )
        if job_constraints.location is not None:
            location = job_constraints.location
            yield (
                CHECKPOINT,
                self._hosts.fact(("elsewhere", location), lambda offer: offer.location != location, np.bool_),
            )
        if self._hosts.is_limited:
            user = job_constraints.user
            yield (
                OFFER_USERS,
                self._hosts.fact(
                    ("for others than", user),
                    lambda offer: offer.users is not None and user not in offer.users,
                    np.bool_,
                ),
            )
            ends_ms = (
                inf
                if job_constraints.longest_ms is None
                else self._placement_context.now_ms + job_constraints.longest_ms
            )
            yield OFFER_END, ends_ms > self._hosts.fact("until", _until_ms, np.float64)

    def _group(self, group: GroupId) -> "_Group | None":
        group_state = self._groups.get(group)
        if group_state is None:
            placement = self._placement_context.groups.get(group)
            if placement is None or placement.kind is PlacementKind.ALL:
                return None
            group_state = self._groups[group] = _Group(placement, self._hosts, group, self._placement_context)
        return group_state


class _Group:
    """The tasks of one group, counted by the value that its placement compares."""

    __slots__ = ("_codes", "_counts", "_kind", "_minimum", "name")

    def __init__(
        self, placement: GroupPlacement, hosts: Hosts, group: GroupId, placement_context: PlacementContext
    ) -> None:
        self._kind = placement.kind
        self._minimum = placement.minimum
        self.name = _NAMES[placement.kind]
        tasks = placement_context.hosts_of(group)
        by_host = placement.kind is PlacementKind.UNIQUE or placement.attribute == "HOSTNAME"
        counts: dict[int, int] = {}
        if by_host:
            self._codes: Integers = np.arange(len(hosts))
            next_code = len(hosts)  # hosts that offer nothing now have values too
            for host, number in tasks.items():
                index = hosts.position.get(host)
                if index is None:
                    index, next_code = next_code, next_code + 1
                counts[index] = number
            size = next_code
        else:
            codes, host_values = hosts.codes(placement.attribute)
            values = dict(host_values)
            self._codes = codes.astype(np.int64)
            for host, number in tasks.items():
                index = hosts.position.get(host)
                attributes = (
                    placement_context.attributes.get(host, {})
                    if index is None
                    else hosts.offers[index].attributes
                )
                code = values.setdefault(attributes.get(placement.attribute), len(values))
                counts[code] = counts.get(code, 0) + number
            size = len(values)
        self._counts: Integers = np.zeros(size, dtype=np.int64)
        self._counts[list(counts)] = list(counts.values())

    def add_task(self, position: int) -> None:
        """Record one more task on the host at a position."""
        self._counts[self._codes[position]] += 1

    def failing(self) -> Mask | None:
        """Return a mask of the hosts that must not take a further task of the group; None if all may."""
        is_used = self._counts > 0
        if not is_used.any():
            return None
        if self._kind is PlacementKind.UNIQUE:
            return is_used[self._codes]
        if self._kind is PlacementKind.ATTRIBUTE_EQUALS:
            return ~is_used[self._codes]
        largest = self._counts.max()
        smallest = self._counts[is_used].min() if is_used.sum() >= self._minimum else 0
        if smallest == largest:
            return None
        fullest: Mask = self._counts == largest
        return fullest[self._codes]


_NAMES: Final = {
    PlacementKind.UNIQUE: UNIQUE,
    PlacementKind.BALANCED: BALANCED,
    PlacementKind.ATTRIBUTE_EQUALS: ATTRIBUTE_EQUALS,
}


def _gives_gpus(offer: Offer) -> bool:
    return offer.kind is HostKind.KUBERNETES and bool(offer.gpu_models)


def _until_ms(offer: Offer) -> float:
    return inf if offer.until_ms is None else float(offer.until_ms)


def _start_s(offer: Offer) -> float:
    started = offer.attributes.get(HOST_START_TIME)
    return nan if started is None else float(started)
