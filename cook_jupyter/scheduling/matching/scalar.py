"""Placement of jobs on few hosts, one host at a time.

Lives here: `ScalarPlacer`. For the single host of a laptop it takes some microseconds per job.
Not here: the same decisions for thousands of hosts (`scheduling.matching.columnar`).
"""

from typing import Final

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.hosts.checker import ConstraintChecker, PlacementContext
from cook_jupyter.scheduling.hosts.columns import port_count
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.task_request import TaskRequest

BATCH: Final = 10  # hosts that are compared before the search ends with a good one


class ScalarPlacer:
    """Compares hosts one by one. For the single host of a laptop it takes about 3 µs per job."""

    def __init__(
        self, hosts: Hosts, good_enough: float, defaults: PoolDefaults, placement_context: PlacementContext
    ) -> None:
        self._good_enough = good_enough
        self._checker = ConstraintChecker(hosts, defaults, placement_context)
        self._room = [_Room(offer) for offer in hosts.offers]

    def place(self, request: TaskRequest) -> int | None:
        """See `Placer`."""
        failing_at = self._checker.failing_at(request)
        best, best_fill, best_fitness = -1, -1.0, -1.0
        good_enough = self._good_enough
        cpus, mem = request.cpus, request.mem_mb
        for position, room in enumerate(self._room):
            if best_fitness > good_enough and position % BATCH == 0:
                break
            if failing_at is not None and failing_at(position) is not None:
                continue
            if (
                room.cpus_used + cpus > room.cpus
                or room.mem_used + mem > room.mem
                or (request.ports and room.ports_used + request.ports > room.ports)
                or (request.gpus and room.plain and room.gpus_used + request.gpus > room.gpus)
            ):
                continue
            fill = (room.cpus_running + room.cpus_used + cpus) / room.cpus_total + (
                room.mem_running + room.mem_used + mem
            ) / room.mem_total
            if fill > best_fill:  # otherwise the fitness cannot be greater either
                fitness = fitness_of(fill)
                if fitness > best_fitness:
                    best, best_fill, best_fitness = position, fill, fitness
        if best < 0:
            return None
        room = self._room[best]
        room.cpus_used += cpus
        room.mem_used += mem
        room.ports_used += request.ports
        room.gpus_used += request.gpus
        self._checker.record_assignment(best, request)
        return best

    def refusal(self, request: TaskRequest) -> Refusal:
        """See `Placer`."""
        failing_at = self._checker.failing_at(request)
        resources: dict[str, int] = {}
        constraints: dict[str, int] = {}
        for position, room in enumerate(self._room):
            failed = None if failing_at is None else failing_at(position)
            if failed is not None:
                constraints[failed] = constraints.get(failed, 0) + 1
                continue
            for name, short in (
                ("cpus", room.cpus_used + request.cpus > room.cpus),
                ("mem", room.mem_used + request.mem_mb > room.mem),
                ("ports", request.ports and room.ports_used + request.ports > room.ports),
                ("gpus", request.gpus and room.plain and room.gpus_used + request.gpus > room.gpus),
            ):
                if short:
                    resources[name] = resources.get(name, 0) + 1
        return Refusal(job_id=request.job_id, resources=resources, constraints=constraints)

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """See `Placer`."""
        return any(
            room.cpus_used + cpus <= room.cpus and room.mem_used + mem_mb <= room.mem for room in self._room
        )


class _Room:
    """The room of one host, and what the cycle has placed there."""

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
        # Only jobs that request none of a resource fit on a host without it: its fill is 0, not 0 / 0.
        self.cpus_total = self.cpus + self.cpus_running or 1.0
        self.mem_total = self.mem + self.mem_running or 1.0
        self.ports = port_count(offer)
        self.plain = offer.kind is HostKind.PLAIN
        self.cpus_used = self.mem_used = self.gpus_used = 0.0
        self.ports_used = 0
