"""Matching: jobs onto hosts, greedily, each on the host that it fills best.

Lives here: `match`, and how well a job fits a host.
Not here: which jobs (`scheduling.considerable`), which hosts may take a job whatever their room
(`scheduling.constraints`), the cycle around it (`scheduling.cycle`).

Source: Cook's use of Netflix Fenzo (`cpuMemBinPacker`), as told in the fair-share specification, section 5.
Fenzo weighs 15 % resource sets, of which Cook has none, and 50 % soft constraints, of which Cook has none and
which then count in full; so a fitness lies between 0.5 and 0.85.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from cook_jupyter.model.decisions import Match, Refusal
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.constraints import (
    MAX_TASKS,
    NO_PARTICULARS,
    NOVEL_HOST,
    RESERVED,
    UNCONSTRAINED,
    ConstraintClass,
    GroupPlacement,
    Particulars,
    PlacementKind,
    PoolDefaults,
    fails_class,
    fails_particulars,
    group_fails,
)
from cook_jupyter.scheduling.hosts import Hosts, port_count

GOOD_ENOUGH = 0.8
BATCH = 10  # hosts that are looked at before stopping at a good one


class Ask(NamedTuple):
    """What one job asks of a host."""

    job_id: JobId
    cpus: float
    mem_mb: float
    gpus: float = 0.0
    ports: int = 0
    constraints: ConstraintClass = UNCONSTRAINED
    particulars: Particulars = NO_PARTICULARS


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What else bears on where a job may go.

    Attributes:
        reservations: job -> the host that is kept for it; closed to all others.
        groups: how groups of jobs want to be placed.
        group_hosts: hosts of a group's running tasks and how many run there.
        attributes: of hosts that run a group's tasks but have no offer now.
    """

    reservations: Mapping[JobId, str] = field(default_factory=dict)
    groups: Mapping[GroupId, GroupPlacement] = field(default_factory=dict)
    group_hosts: Callable[[GroupId], Mapping[str, int]] = lambda _: {}
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


MATCH_DEFAULTS = MatchSettings()
NO_SURROUNDINGS = Surroundings()


class Placer(Protocol):
    """Hosts while jobs are put on them."""

    def place(self, ask: Ask) -> int | None:
        """Return the position of the host that takes the job, and book the room there; None if none does."""

    def refusal(self, ask: Ask) -> Refusal:
        """Say why no host takes the job now."""

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """Tell whether any host has that much left."""


def match(
    asks: Iterable[Ask],
    hosts: Hosts,
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    surroundings: Surroundings = NO_SURROUNDINGS,
    least: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
) -> tuple[list[Match], list[Refusal], int]:
    """Give each job in turn the host that it fills best, among those that may take it.

    Args:
        asks: jobs in queue order; read no further than needed.
        hosts: where there is room.
        settings: how the pool matches.
        surroundings: what else bears on it.
        least: cpus and memory that no job asks less than. When no host has that much left, matching ends.

    Returns:
        matches and refusals, each in queue order, and how many jobs were looked at.
    """
    placer = FewHosts(hosts, settings, surroundings)
    ports = _Ports(hosts)
    known = _Failures(surroundings)
    matches: list[Match] = []
    refusals: list[Refusal] = []
    room_changed = True
    for ask in asks:
        at = None if known.cover(ask) else placer.place(ask)
        if at is None:
            refusals.append(known.refusal(ask, placer))
            if room_changed and not placer.has_room(*least()):
                break
            room_changed = False
        else:
            offer = hosts.offers[at]
            taken = ports.take(at, ask.ports) if ask.ports else ()
            matches.append(Match(job_id=ask.job_id, host=offer.host, cluster=offer.cluster, ports=taken))
            room_changed = True
    return matches, refusals, len(matches) + len(refusals)


def refusal_of(
    ask: Ask,
    hosts: Hosts,
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    surroundings: Surroundings = NO_SURROUNDINGS,
) -> Refusal:
    """Say why no host takes the job at this moment; an empty refusal if one does."""
    placer = FewHosts(hosts, settings, surroundings)
    if placer.place(ask) is not None:
        return Refusal(job_id=ask.job_id)
    return placer.refusal(ask)


def fitness(cpu_fill: float, mem_fill: float) -> float:
    """Return how well a host is filled, 0.5..0.85, from how full its cpus and memory would be (0..1)."""
    return 0.5 + 0.35 * ((cpu_fill + mem_fill) / 2)


class FewHosts:
    """Hosts looked at one by one. For a laptop's one host this takes some three microseconds per job."""

    def __init__(self, hosts: Hosts, settings: MatchSettings, surroundings: Surroundings) -> None:
        self._offers = list(hosts.offers)  # as the cycle leaves them, where that matters to constraints
        self._settings = settings
        self._constraints = _Constraints(self._offers, hosts.position, settings.defaults, surroundings)
        self._room = [_Room(offer) for offer in self._offers]

    def place(self, ask: Ask) -> int | None:
        """See `Placer`."""
        fails = self._constraints.of(ask)
        best, best_fitness = -1, 0.0
        good_enough = self._settings.good_enough
        cpus, mem = ask.cpus, ask.mem_mb
        for at, room in enumerate(self._room):
            if at % BATCH == 0 and best_fitness > good_enough:
                break
            if fails is not None and fails(at) is not None:
                continue
            if (
                room.cpus_used + cpus > room.cpus
                or room.mem_used + mem > room.mem
                or (ask.ports and room.ports_used + ask.ports > room.ports)
                or (ask.gpus and room.plain and room.gpus_used + ask.gpus > room.gpus)
            ):
                continue
            fit = fitness(
                (room.cpus_running + room.cpus_used + cpus) / room.cpus_total,
                (room.mem_running + room.mem_used + mem) / room.mem_total,
            )
            if fit > best_fitness:
                best, best_fitness = at, fit
        if best < 0:
            return None
        room = self._room[best]
        room.cpus_used += cpus
        room.mem_used += mem
        room.ports_used += ask.ports
        room.gpus_used += ask.gpus
        self._constraints.assigned(best, ask)
        return best

    def refusal(self, ask: Ask) -> Refusal:
        """See `Placer`."""
        fails = self._constraints.of(ask)
        resources: dict[str, int] = {}
        constraints: dict[str, int] = {}
        for at, room in enumerate(self._room):
            failed = None if fails is None else fails(at)
            if failed is not None:
                constraints[failed] = constraints.get(failed, 0) + 1
                continue
            for name, short in (
                ("cpus", room.cpus_used + ask.cpus > room.cpus),
                ("mem", room.mem_used + ask.mem_mb > room.mem),
                ("ports", room.ports_used + ask.ports > room.ports),
                ("gpus", room.plain and room.gpus_used + ask.gpus > room.gpus),
            ):
                if short:
                    resources[name] = resources.get(name, 0) + 1
        return Refusal(job_id=ask.job_id, resources=resources, constraints=constraints)

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """See `Placer`."""
        return any(
            room.cpus_used + cpus <= room.cpus and room.mem_used + mem_mb <= room.mem for room in self._room
        )


class _Room:
    """What one host has and what the cycle has put there."""

    __slots__ = (
        "cpus",
        "cpus_running",
        "cpus_total",
        "cpus_used",
        "gpus",
        "gpus_used",
        "mem",
        "mem_running",
        "mem_total",
        "mem_used",
        "plain",
        "ports",
        "ports_used",
    )

    def __init__(self, offer: Offer) -> None:
        self.cpus, self.mem, self.gpus = offer.room.cpus, offer.room.mem_mb, offer.room.gpus
        self.cpus_running, self.mem_running = offer.running.cpus, offer.running.mem_mb
        # A host without any of a resource is full of it to nobody's harm: only jobs that ask for none fit.
        self.cpus_total = self.cpus + self.cpus_running or 1.0
        self.mem_total = self.mem + self.mem_running or 1.0
        self.ports = port_count(offer)
        self.plain = offer.kind is HostKind.PLAIN
        self.cpus_used = self.mem_used = self.gpus_used = 0.0
        self.ports_used = 0


class _Constraints:
    """Which hosts a job may not go to, room aside. Follows what the cycle assigns."""

    def __init__(
        self,
        offers: list[Offer],
        position: Mapping[str, int],
        defaults: PoolDefaults,
        surroundings: Surroundings,
    ) -> None:
        self._offers = offers
        self._position = position
        self._defaults = defaults
        self._surroundings = surroundings
        self._reserved = frozenset(surroundings.reservations.values())
        self._all_plain = all(offer.kind is HostKind.PLAIN for offer in offers)
        self._by_class: dict[tuple[ConstraintClass, float], list[str | None]] = {}
        self._cohosts: dict[GroupId, dict[str, int]] = {}
        self._assigned = [0] * len(offers) if defaults.max_tasks_per_host is not None else []

    @property
    def depend_on_job(self) -> bool:
        """Whether even jobs without particulars see hosts differently from each other."""
        return bool(self._reserved)

    def of(self, ask: Ask) -> Callable[[int], str | None] | None:
        """Return what names the constraint that fails at a position; None if none fails anywhere."""
        of_class: list[str | None] | None = None
        if not (self._all_plain and ask.constraints == UNCONSTRAINED):
            of_class = self.of_class(ask.constraints, ask.gpus)
        if ask.particulars is NO_PARTICULARS and not self._reserved and not self._assigned:
            return None if of_class is None else of_class.__getitem__
        return lambda at: self._fails(ask, of_class, at)

    def of_class(self, wanted: ConstraintClass, gpus: float) -> list[str | None]:
        """Return the first failing constraint of the class at each position."""
        known = self._by_class.get((wanted, gpus))
        if known is None:
            known = [fails_class(wanted, gpus, offer, self._defaults) for offer in self._offers]
            self._by_class[wanted, gpus] = known
        return known

    def assigned(self, at: int, ask: Ask) -> None:
        """Learn that the job goes to the host at that position."""
        offer = self._offers[at]
        if offer.kind is HostKind.KUBERNETES:
            self._offers[at] = self._with_task(offer, ask)
            for (wanted, gpus), known in self._by_class.items():
                known[at] = fails_class(wanted, gpus, self._offers[at], self._defaults)
        if self._assigned:
            self._assigned[at] += 1
        group = ask.particulars.group
        if group is not None:
            hosts = self._hosts_of(group)
            hosts[offer.host] = hosts.get(offer.host, 0) + 1

    def _fails(self, ask: Ask, of_class: list[str | None] | None, at: int) -> str | None:
        offer = self._offers[at]
        own = ask.particulars
        if offer.host in own.avoid:
            return NOVEL_HOST
        if of_class is not None and of_class[at] is not None:
            return of_class[at]
        failed = fails_particulars(own, offer, self._defaults)
        if failed is not None:
            return failed
        if offer.host in self._reserved and self._surroundings.reservations.get(ask.job_id) != offer.host:
            return RESERVED
        most = self._defaults.max_tasks_per_host
        if most is not None and offer.task_count + self._assigned[at] >= most:
            return MAX_TASKS
        placement = None if own.group is None else self._surroundings.groups.get(own.group)
        if own.group is None or placement is None or placement.kind is PlacementKind.ALL:
            return None
        hosts = self._hosts_of(own.group)
        cohosts = {host: self._attributes(host) for host in hosts}
        return group_fails(placement, offer.host, offer.attributes, cohosts, hosts)

    def _hosts_of(self, group: GroupId) -> dict[str, int]:
        if group not in self._cohosts:
            self._cohosts[group] = dict(self._surroundings.group_hosts(group))
        return self._cohosts[group]

    def _attributes(self, host: str) -> Mapping[str, str]:
        at = self._position.get(host)
        return self._surroundings.attributes.get(host, {}) if at is None else self._offers[at].attributes

    def _with_task(self, offer: Offer, ask: Ask) -> Offer:
        """The node with the job on it: its gpus are taken, and the disk the job asks for is gone."""
        disk = dict(offer.disk_mb)
        named = ask.constraints.disk_type or self._defaults.disk_type
        if self._defaults.disk and named is not None:
            asked = ask.constraints.disk_mb
            found = self._defaults.disk_types.get(named, named)
            disk[found] = disk.get(found, 0.0) - (self._defaults.disk_mb if asked is None else asked)
        return replace(offer, task_count=offer.task_count + 1, disk_mb=disk)


class _Failures:
    """What has failed in this cycle: who asks at least as much, under the same constraints, fails too."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._reserving = surroundings.reservations
        self._failed: dict[tuple[ConstraintClass, float], list[Ask]] = {}
        self._same: dict[tuple[float, float, float, int, ConstraintClass], Refusal] = {}

    def cover(self, ask: Ask) -> bool:
        """Tell whether the job cannot be placed either."""
        if ask.particulars is not NO_PARTICULARS or ask.job_id in self._reserving:
            return False
        failed = self._failed.get((ask.constraints, ask.gpus))
        return failed is not None and any(
            less.cpus <= ask.cpus and less.mem_mb <= ask.mem_mb and less.ports <= ask.ports for less in failed
        )

    def refusal(self, ask: Ask, placer: Placer) -> Refusal:
        """Return the refusal of a job that cannot be placed, and learn from it."""
        if ask.particulars is not NO_PARTICULARS or ask.job_id in self._reserving:
            return placer.refusal(ask)
        shape = (ask.cpus, ask.mem_mb, ask.gpus, ask.ports, ask.constraints)
        same = self._same.get(shape)
        if same is not None:
            return Refusal(job_id=ask.job_id, resources=same.resources, constraints=same.constraints)
        refusal = self._same[shape] = placer.refusal(ask)
        failed = self._failed.setdefault((ask.constraints, ask.gpus), [])
        failed[:] = [
            more
            for more in failed
            if not (ask.cpus <= more.cpus and ask.mem_mb <= more.mem_mb and ask.ports <= more.ports)
        ]
        failed.append(ask)
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
