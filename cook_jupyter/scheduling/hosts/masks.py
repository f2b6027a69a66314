"""The constraints of all hosts of a pool at once: boolean columns, for thousands of hosts.

Lives here: `ConstraintMasks`, which decides for all hosts what `checker.ConstraintChecker` decides for one,
and follows what the cycle assigns.
Not here: what each constraint means (`scheduling.constraints.constraints`), room
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
    """Which hosts a job may not go to, room aside. Follows what the cycle assigns.

    Attributes:
        steady: what the cycle assigns changes nothing for jobs without particulars.
    """

    def __init__(self, hosts: Hosts, defaults: PoolDefaults, placement_context: PlacementContext) -> None:
        self._hosts = hosts
        self._defaults = defaults
        self._placement_context = placement_context
        self._most = defaults.max_tasks_per_host
        self.steady = hosts.all_plain and self._most is None
        self._free_for_all = (
            hosts.all_plain and not defaults.constraints and not placement_context.reservations
        )
        self._tasks = None if self.steady else hosts.columns.tasks.copy()
        self._disks: dict[str, Floats] = {}  # free on nodes, less what was assigned; by type
        self._open: dict[tuple[ConstraintClass, float], Mask | None] = {}
        self._unlike: dict[tuple[tuple[str, str], ...], Mask] = {}
        self._groups: dict[GroupId, _Group] = {}
        self._reserved: Mask | None = None
        if placement_context.reservations:
            self._reserved = self._at(placement_context.reservations.values())

    def open_to(self, request: TaskRequest) -> Mask | None:
        """Return which hosts may take the job, room aside; None if all may. Not to be changed."""
        own = request.job_constraints is not NO_JOB_CONSTRAINTS or (
            self._reserved is not None and request.job_id in self._placement_context.reservations
        )
        if own or not self.steady or self._hosts.is_limited:
            return self._open_now(request)
        if self._free_for_all and not request.constraints.attributes:
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
        """Yield the constraints that may fail, in Cook's order, each with the hosts where it does."""
        own = request.job_constraints
        if own.avoid:
            yield NOVEL_HOST, self._at(own.avoid)
        wanted = class_in_pool(request.constraints, self._defaults)
        if not self._hosts.all_plain:
            yield GPU if request.gpus else NON_GPU, self._wrong_gpus(wanted, request.gpus)
            disk = self._disk_of(wanted)
            if disk is not None:
                yield DISK, self._nodes() & (self._free_disk(disk[0]) < disk[1])
        if wanted.attributes:
            yield ATTRIBUTES, self._without(wanted.attributes)
        yield from self._failing_job_constraints(own)
        if self._reserved is not None:
            kept = self._placement_context.reservations.get(request.job_id)
            yield RESERVED, self._reserved if kept is None else self._reserved & ~self._at((kept,))
        if self._most is not None and self._tasks is not None:
            yield MAX_TASKS, self._tasks >= self._most
        group = None if own.group is None else self._group(own.group)
        if group is not None:
            failing = group.failing()
            if failing is not None:
                yield group.name, failing

    def assigned(self, at: int, request: TaskRequest) -> None:
        """Learn that the job goes to the host at that position."""
        if self._tasks is not None:
            self._tasks[at] += 1
            if self._hosts.offers[at].kind is HostKind.KUBERNETES:
                disk = self._disk_of(request.constraints)
                if disk is not None:
                    self._free_disk(disk[0])[at] -= disk[1]
        if request.job_constraints.group is not None:
            group = self._group(request.job_constraints.group)
            if group is not None:
                group.count_at(at)

    # --- each constraint

    def _at(self, names: Iterable[str]) -> Mask:
        """The hosts of these names."""
        position = self._hosts.position
        mask = np.zeros(len(self._hosts), dtype=bool)
        mask[[position[name] for name in names if name in position]] = True
        return mask

    def _nodes(self) -> Mask:
        nodes: Mask = self._kinds() == _KINDS[HostKind.KUBERNETES]
        return nodes

    def _kinds(self) -> npt.NDArray[np.int8]:
        return self._hosts.fact("kind", lambda offer: _KINDS[offer.kind], np.int8)

    def _wrong_gpus(self, wanted: ConstraintClass, gpus: float) -> Mask:
        if not gpus:
            gives: Mask = self._hosts.fact("gpu node", _gives_gpus, np.bool_)
            return gives
        model = wanted.gpu_model or self._defaults.gpu_model
        kinds = self._kinds()
        wrong: Mask = kinds != _KINDS[HostKind.PLAIN]
        if model is not None and self._tasks is not None:
            of_model = self._hosts.fact(
                ("gpus", model), lambda offer: offer.gpu_models.get(model, 0), np.float64
            )
            right = (kinds == _KINDS[HostKind.KUBERNETES]) & (of_model == gpus) & (self._tasks == 0)
            wrong &= ~right
        return wrong

    def _disk_of(self, wanted: ConstraintClass) -> tuple[str, float] | None:
        """Type and MB of the disk that jobs of the class get on nodes; None if disk does not matter."""
        defaults = self._defaults
        named = wanted.disk_type or defaults.disk_type
        if not defaults.disk or named is None:
            return None
        asked = defaults.disk_mb if wanted.disk_mb is None else wanted.disk_mb
        return defaults.disk_types.get(named, named), asked

    def _free_disk(self, disk_type: str) -> Floats:
        free = self._disks.get(disk_type)
        if free is None:
            fact = self._hosts.fact(
                ("disk", disk_type), lambda offer: offer.disk_mb.get(disk_type, 0.0), np.float64
            )
            free = self._disks[disk_type] = fact.copy()
        return free

    def _without(self, demands: tuple[tuple[str, str], ...]) -> Mask:
        """The hosts that lack one of the attributes."""
        unlike = self._unlike.get(demands)
        if unlike is None:
            unlike = np.zeros(len(self._hosts), dtype=bool)
            for attribute, value in demands:
                codes, values = self._hosts.codes(attribute)
                unlike |= codes != values.get(value, -1)
            self._unlike[demands] = unlike
        return unlike

    def _failing_job_constraints(self, own: JobConstraints) -> Iterator[tuple[str, Mask]]:
        lifetime = self._defaults.host_lifetime_ms
        if own.runtime_ms is not None and lifetime is not None:
            started = self._hosts.fact("start", _start_s, np.float64)
            # Of unknown age is not a number, and no comparison with that is true: such hosts are trusted.
            yield COMPLETION, self._placement_context.now_ms + own.runtime_ms >= started * 1000 + lifetime
        if own.location is not None:
            location = own.location
            yield (
                CHECKPOINT,
                self._hosts.fact(("elsewhere", location), lambda offer: offer.location != location, np.bool_),
            )
        if self._hosts.is_limited:
            user = own.user
            yield (
                OFFER_USERS,
                self._hosts.fact(
                    ("for others than", user),
                    lambda offer: offer.users is not None and user not in offer.users,
                    np.bool_,
                ),
            )
            ends_ms = inf if own.longest_ms is None else self._placement_context.now_ms + own.longest_ms
            yield OFFER_END, ends_ms > self._hosts.fact("until", _until_ms, np.float64)

    def _group(self, group: GroupId) -> "_Group | None":
        known = self._groups.get(group)
        if known is None:
            placement = self._placement_context.groups.get(group)
            if placement is None or placement.kind is PlacementKind.ALL:
                return None
            known = self._groups[group] = _Group(placement, self._hosts, group, self._placement_context)
        return known


class _Group:
    """The tasks of one group, counted by the value that matters to its placement."""

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
            beyond = len(hosts)  # hosts that offer nothing now have values too
            for host, number in tasks.items():
                at = hosts.position.get(host)
                if at is None:
                    at, beyond = beyond, beyond + 1
                counts[at] = number
            size = beyond
        else:
            codes, known = hosts.codes(placement.attribute)
            values = dict(known)
            self._codes = codes.astype(np.int64)
            for host, number in tasks.items():
                at = hosts.position.get(host)
                theirs = (
                    placement_context.attributes.get(host, {}) if at is None else hosts.offers[at].attributes
                )
                code = values.setdefault(theirs.get(placement.attribute), len(values))
                counts[code] = counts.get(code, 0) + number
            size = len(values)
        self._counts: Integers = np.zeros(size, dtype=np.int64)
        self._counts[list(counts)] = list(counts.values())

    def count_at(self, at: int) -> None:
        """Learn that one more task goes to the host at a position."""
        self._counts[self._codes[at]] += 1

    def failing(self) -> Mask | None:
        """Return where one more task of the group must not go; None if it may go anywhere."""
        taken = self._counts > 0
        if not taken.any():
            return None
        if self._kind is PlacementKind.UNIQUE:
            return taken[self._codes]
        if self._kind is PlacementKind.ATTRIBUTE_EQUALS:
            return ~taken[self._codes]
        most = self._counts.max()
        least = self._counts[taken].min() if taken.sum() >= self._minimum else 0
        if least == most:
            return None
        full: Mask = self._counts == most
        return full[self._codes]


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
