"""Matching: jobs onto hosts, greedily, each on the host that it fills best.

Lives here: `match`.
Not here: which host a job fills best (`scheduling.matching.scalar`, `matching.columnar`), which jobs
(`scheduling.ranking.considerable`), the cycle around it (`scheduling.matching.cycle`).

Source: Cook's use of Netflix Fenzo (`cpuMemBinPacker`), as told in the fair-share specification, section 5.
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
        good_enough: past this fitness no further hosts are looked at than those of the batch in hand;
            1.0 looks at every host for every job.
        defaults: what the pool adds to its jobs' demands.
        columnar_from: from this many hosts on, hosts are looked at as columns; the decisions are the same.
    """

    good_enough: float = GOOD_ENOUGH
    defaults: PoolDefaults = field(default_factory=PoolDefaults)
    columnar_from: int = 24


MATCH_DEFAULTS = MatchSettings()


class Placer(Protocol):
    """Hosts while jobs are put on them."""

    def place(self, request: TaskRequest) -> int | None:
        """Return the position of the host that takes the job, and book the room there; None if none does."""

    def refusal(self, request: TaskRequest) -> Refusal:
        """Say why no host takes the job now."""

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """Tell whether any host has that much left."""


def match(
    requests: Iterable[TaskRequest],
    hosts: Hosts,
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
    least: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
) -> tuple[list[Match], list[Refusal], int]:
    """Give each job in turn the host that it fills best, among those that may take it.

    Matching ends behind the first refused job at whose turn no host has room for `least`: no job behind it
    could be placed, and none is reported. A refusal counts hosts as they are at the turn of its job.

    Args:
        requests: jobs in queue order; read no further than needed.
        hosts: hosts with their room.
        settings: how the pool matches.
        placement_context: facts about groups, reservations and hosts.
        least: cpus and memory that no job asks less than.

    Returns:
        matches and refusals, each in queue order, and how many jobs were looked at.
    """
    placer = _placer(hosts, settings, placement_context)
    ports = _Ports(hosts)
    known = _Failures(placement_context)
    matches: list[Match] = []
    refusals: list[Refusal] = []
    room_changed = True
    for request in requests:
        at = None if known.any and known.cover(request) else placer.place(request)
        if at is None:
            refusals.append(known.refusal(request, placer))
            if room_changed and not placer.has_room(*least()):
                break
            room_changed = False
        else:
            offer = hosts.offers[at]
            taken = ports.take(at, request.ports) if request.ports else ()
            matches.append(Match(job_id=request.job_id, host=offer.host, cluster=offer.cluster, ports=taken))
            room_changed = True
            known.room_changed()
    return matches, refusals, len(matches) + len(refusals)


def refusal_of(
    request: TaskRequest,
    hosts: Hosts,
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
) -> Refusal:
    """Say why no host takes the job at this moment; an empty refusal if one does."""
    placer = _placer(hosts, settings, placement_context)
    if placer.place(request) is not None:
        return Refusal(job_id=request.job_id)
    return placer.refusal(request)


def _placer(hosts: Hosts, settings: MatchSettings, placement_context: PlacementContext) -> Placer:
    kind = ScalarPlacer if len(hosts) < max(1, settings.columnar_from) else ColumnarPlacer
    return kind(hosts, settings.good_enough, settings.defaults, placement_context)


class _Failures:
    """Jobs that failed in this cycle: who asks at least as much, under the same constraints, fails too.

    Room only shrinks in a cycle, so a failure holds until its end. The counts of a refusal do not: they are
    those of the moment when the job was looked at, and are used again only while no job is placed.
    """

    def __init__(self, placement_context: PlacementContext) -> None:
        self._reserving = placement_context.reservations
        self._failed: dict[tuple[ConstraintClass, float], list[TaskRequest]] = {}
        self.any = False
        self._same: dict[tuple[float, float, float, int, ConstraintClass], Refusal] = {}

    def room_changed(self) -> None:
        """Forget the counts of refusals: a job was placed."""
        if self._same:
            self._same.clear()

    def cover(self, request: TaskRequest) -> bool:
        """Tell whether the job cannot be placed either."""
        if request.job_constraints is not NO_JOB_CONSTRAINTS or request.job_id in self._reserving:
            return False
        failed = self._failed.get((request.constraints, request.gpus))
        return failed is not None and any(
            less.cpus <= request.cpus and less.mem_mb <= request.mem_mb and less.ports <= request.ports
            for less in failed
        )

    def refusal(self, request: TaskRequest, placer: Placer) -> Refusal:
        """Return the refusal of a job that cannot be placed, and learn from it."""
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
            more
            for more in failed
            if not (
                request.cpus <= more.cpus and request.mem_mb <= more.mem_mb and request.ports <= more.ports
            )
        ]
        failed.append(request)
        return refusal


class _Ports:
    """Hands out free ports of hosts, lowest first."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._free: dict[int, list[int]] = {}

    def take(self, at: int, count: int) -> tuple[int, ...]:
        """Return that many ports of the host at a position; they are taken then."""
        free = self._free.get(at)
        if free is None:
            ranges = self._hosts.offers[at].ports
            numbers = {port for first, last in ranges for port in range(first, last + 1)}
            free = self._free[at] = sorted(numbers, reverse=True)
        return tuple(free.pop() for _ in range(count))
