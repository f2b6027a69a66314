"""Matching: assign jobs to hosts greedily, each to the host that it fills best.

Lives here: `match`.
Not here: which host a job fills best (`scheduling.matching.scalar`, `matching.columnar`), which jobs
(`scheduling.ranking.considerable`), the cycle around it (`scheduling.matching.cycle`).

Source: Cook's use of Netflix Fenzo (`cpuMemBinPacker`), as described in the fair-share specification, section
5.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cook_jupyter.model.decisions import Match, Refusal
from cook_jupyter.scheduling.constraints.constraints import NO_JOB_CONSTRAINTS, ConstraintClass, PoolDefaults
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.limits.cycle_limits import GOOD_ENOUGH
from cook_jupyter.scheduling.matching.columnar import ColumnarPlacer
from cook_jupyter.scheduling.matching.scalar import ScalarPlacer
from cook_jupyter.scheduling.queue.task_request import TaskRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchSettings:
    """How a pool matches.

    Attributes:
        good_enough: fitness above which the search for a host ends with the current batch of hosts; with 1.0
            every host is compared for every job.
        defaults: demands that the pool adds to those of its jobs.
        columnar_from: number of hosts from which on hosts are compared in columns; the decisions are the
            same.
    """

    good_enough: float = GOOD_ENOUGH
    defaults: PoolDefaults = field(default_factory=PoolDefaults)
    columnar_from: int = 24


MATCH_DEFAULTS = MatchSettings()


class Placer(Protocol):
    """Assigns jobs to hosts, and keeps account of the room that is left."""

    def place(self, request: TaskRequest) -> int | None:
        """Assign the job to a host and return the position of the host; None if no host takes the job."""

    def refusal(self, request: TaskRequest) -> Refusal:
        """Return why no host takes the job now."""

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """Return whether any host has that much room left."""


def match(
    requests: Iterable[TaskRequest],
    hosts: Hosts,
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
    min_request: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
) -> tuple[list[Match], list[Refusal], int]:
    """Assign each job in turn to the host that it fills best, among those that may take it.

    Matching ends after the first refused job at whose turn no host has room for `min_request`: no later job
    could be placed, and none is reported. A refusal counts hosts as they are at the turn of its job.

    Args:
        requests: jobs in queue order; read no further than needed.
        hosts: hosts with their room.
        settings: how the pool matches.
        placement_context: groups, reservations and other facts that constraints read.
        min_request: returns cpus and memory that every job requests at least.

    Returns:
        matches and refusals, each in queue order, and the number of jobs considered.
    """
    placer = _placer(hosts, settings, placement_context)
    ports = _Ports(hosts)
    failures = _Failures(placement_context)
    matches: list[Match] = []
    refusals: list[Refusal] = []
    room_changed = True
    for request in requests:
        position = None if failures.any and failures.cover(request) else placer.place(request)
        if position is None:
            refusals.append(failures.refusal(request, placer))
            if room_changed and not placer.has_room(*min_request()):
                break
            room_changed = False
        else:
            offer = hosts.offers[position]
            assigned_ports = ports.take(position, request.ports) if request.ports else ()
            matches.append(
                Match(job_id=request.job_id, host=offer.host, cluster=offer.cluster, ports=assigned_ports)
            )
            room_changed = True
            failures.room_changed()
    return matches, refusals, len(matches) + len(refusals)


def refusal_of(
    request: TaskRequest,
    hosts: Hosts,
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
) -> Refusal:
    """Return why no host takes the job now; an empty refusal if a host takes it."""
    placer = _placer(hosts, settings, placement_context)
    if placer.place(request) is not None:
        return Refusal(job_id=request.job_id)
    return placer.refusal(request)


def _placer(hosts: Hosts, settings: MatchSettings, placement_context: PlacementContext) -> Placer:
    kind = ScalarPlacer if len(hosts) < max(1, settings.columnar_from) else ColumnarPlacer
    return kind(hosts, settings.good_enough, settings.defaults, placement_context)


class _Failures:
    """Jobs that found no host in this cycle. Larger jobs with the same constraints fail, too.

    Room only shrinks during a cycle, so a failure holds until the end of the cycle. The host counts of a
    refusal do not: they hold for the moment at which the job was considered, and are reused only until
    another job is placed.
    """

    def __init__(self, placement_context: PlacementContext) -> None:
        self._reserving = placement_context.reservations
        self._failed: dict[tuple[ConstraintClass, float], list[TaskRequest]] = {}
        self.any = False
        self._same: dict[tuple[float, float, float, int, ConstraintClass], Refusal] = {}

    def room_changed(self) -> None:
        """Discard the host counts of refusals, because a job was placed."""
        if self._same:
            self._same.clear()

    def cover(self, request: TaskRequest) -> bool:
        """Return whether the job cannot be placed because a smaller one could not."""
        if request.job_constraints is not NO_JOB_CONSTRAINTS or request.job_id in self._reserving:
            return False
        failed = self._failed.get((request.constraints, request.gpus))
        return failed is not None and any(
            smaller.cpus <= request.cpus
            and smaller.mem_mb <= request.mem_mb
            and smaller.ports <= request.ports
            for smaller in failed
        )

    def refusal(self, request: TaskRequest, placer: Placer) -> Refusal:
        """Return the refusal of a job that cannot be placed, and record the failure."""
        if request.job_constraints is not NO_JOB_CONSTRAINTS or request.job_id in self._reserving:
            return placer.refusal(request)
        shape = (request.cpus, request.mem_mb, request.gpus, request.ports, request.constraints)
        same = self._same.get(shape)
        if same is not None:
            return Refusal(job_id=request.job_id, resources=same.resources, constraints=same.constraints)
        self.any = True
        refusal = self._same[shape] = placer.refusal(request)
        failed = self._failed.setdefault((request.constraints, request.gpus), [])
        failed[:] = [
            larger
            for larger in failed
            if not (
                request.cpus <= larger.cpus
                and request.mem_mb <= larger.mem_mb
                and request.ports <= larger.ports
            )
        ]
        failed.append(request)
        return refusal


class _Ports:
    """Assigns free ports of hosts, lowest first."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._free: dict[int, list[int]] = {}

    def take(self, position: int, count: int) -> tuple[int, ...]:
        """Take that many free ports of the host at a position, and return them."""
        free = self._free.get(position)
        if free is None:
            ranges = self._hosts.offers[position].ports
            numbers = {port for low, high in ranges for port in range(low, high + 1)}
            free = self._free[position] = sorted(numbers, reverse=True)
        return tuple(free.pop() for _ in range(count))
