"""The room of thousands of hosts during a cycle, exact and estimated.

Lives here: `HostRoom`, exact numbers; `FillEstimates`, in single precision, of all hosts or of one of each
kind.
Not here: the choice of a host (`scheduling.matching.columnar`), columns that are kept between cycles
(`scheduling.hosts.columns`).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.scheduling.arrays import Amounts, Floats, Integers, amounts
from cook_jupyter.scheduling.hosts.columns import HostColumns, Singles, free_estimate
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.queue.task_request import TaskRequest

Mask = npt.NDArray[np.bool_]

_FEW: Final = 12  # hosts up to which computing one by one is faster than in columns
_HUGE: Final = 1e30  # more than any request
_FAR: Final = 1e6  # more than any fill of a host with room
_MAX_CACHED_CPUS: Final = 8  # for which estimates are cached
RESOURCES: Final = ("cpus", "mem", "gpus", "ports")


class HostRoom:
    """Room of hosts and assignments of the cycle, exactly.

    Attributes:
        used: resources that the cycle has assigned on each host, a row for each of `RESOURCES`.
        room: resources that were free before, likewise.
    """

    __slots__ = ("_columns", "_room_at", "_run_at", "_used_at", "_whole_at", "room", "used")

    def __init__(self, columns: HostColumns) -> None:
        self._columns = columns
        rough = columns.rough
        self.used: Floats = np.zeros((4, len(columns.room_cpus)))
        self.room = (columns.room_cpus, columns.room_mem, columns.room_gpus, columns.ports)
        self._used_at = [amounts(row) for row in self.used]
        self._room_at = [amounts(column) for column in self.room]
        self._run_at = amounts(columns.run_cpus), amounts(columns.run_mem)
        self._whole_at = amounts(rough.whole_cpus), amounts(rough.whole_mem)

    def fits(self, host: int, request: TaskRequest) -> bool:
        """Return whether the host has room for the job."""
        used, room = self._used_at, self._room_at
        return (
            used[0][host] + request.cpus <= room[0][host]
            and used[1][host] + request.mem_mb <= room[1][host]
            and (not request.gpus or used[2][host] + request.gpus <= room[2][host])
            and (not request.ports or used[3][host] + request.ports <= room[3][host])
        )

    def fills(self, hosts: Integers, request: TaskRequest) -> Floats:
        """Return the fill of some hosts with the job, 0..2; -1 where it does not fit."""
        if len(hosts) <= _FEW:
            return np.array(
                [self.fill(host, request) if self.fits(host, request) else -1.0 for host in hosts.tolist()]
            )
        used = self.used[:, hosts]
        fits = (used[0] + request.cpus <= self.room[0][hosts]) & (
            used[1] + request.mem_mb <= self.room[1][hosts]
        )
        if request.gpus:
            fits &= used[2] + request.gpus <= self.room[2][hosts]
        if request.ports:
            fits &= used[3] + request.ports <= self.room[3][hosts]
        columns, rough = self._columns, self._columns.rough
        fills = (columns.run_cpus[hosts] + used[0] + request.cpus) / rough.whole_cpus[hosts]
        fills += (columns.run_mem[hosts] + used[1] + request.mem_mb) / rough.whole_mem[hosts]
        return np.where(fits, fills, -1.0)

    def fill(self, host: int, request: TaskRequest) -> float:
        """Return the fill of the host with the job, 0..2, whether it fits or not."""
        used, run, whole = self._used_at, self._run_at, self._whole_at
        return (run[0][host] + used[0][host] + request.cpus) / whole[0][host] + (
            run[1][host] + used[1][host] + request.mem_mb
        ) / whole[1][host]

    def fitness(self, host: int, request: TaskRequest) -> float:
        """Return the fitness of the host with the job, whether it fits or not."""
        return fitness_of(self.fill(host, request))

    def left(self, host: int) -> tuple[float, float]:
        """Return the free cpus and memory of the host."""
        used, room = self._used_at, self._room_at
        return room[0][host] - used[0][host], room[1][host] - used[1][host]

    def assign(self, host: int, request: TaskRequest) -> None:
        """Assign the job to the host."""
        used = self._used_at
        used[0][host] += request.cpus
        used[1][host] += request.mem_mb
        if request.gpus:
            used[2][host] += request.gpus
        if request.ports:
            used[3][host] += request.ports

    def estimates(self, host: int) -> tuple[float, float, float]:
        """Return 1 + fill of the host, its free cpus and its free memory (MiB): see `EstimateColumns`."""
        used, run, whole, room = self._used_at, self._run_at, self._whole_at, self._room_at
        cpus, mem = used[0][host], used[1][host]
        whole_cpus, whole_mem = whole[0][host], whole[1][host]
        return (
            1.0 + (run[0][host] + cpus) / whole_cpus + (run[1][host] + mem) / whole_mem,
            free_estimate(room[0][host] - cpus, whole_cpus),
            free_estimate(room[1][host] - mem, whole_mem),
        )


class FillEstimates:
    """Estimates of the fill of hosts with a job, in few passes over all of them.

    Attributes:
        hosts: position of the host in each slot.
        count: number of slots.
    """

    __slots__ = (
        "_cells",
        "_fill",
        "_filled",
        "_fits",
        "_left_cpus",
        "_left_mem",
        "_out",
        "_per_cpu",
        "_per_cpu_at",
        "_per_mb",
        "_room",
        "count",
        "hosts",
    )

    def __init__(self, room: HostRoom, columns: HostColumns, hosts: Integers | None = None) -> None:
        """Use all hosts, or some, with capacity for all."""
        rough = columns.rough
        size = len(rough.fill)
        self._room = room
        self.count = size if hosts is None else len(hosts)
        self.hosts: Integers = np.arange(size)
        source_columns = (rough.fill, rough.per_cpu, rough.per_mb, rough.left_cpus, rough.left_mem)
        if hosts is None:
            copies = [column.copy() for column in source_columns]
        else:
            self.hosts[: self.count] = hosts
            copies = [np.concatenate((column[hosts], column[self.count :])) for column in source_columns]
        self._fill, self._per_cpu, self._per_mb, self._left_cpus, self._left_mem = copies
        self._cells = [amounts(column) for column in (self._fill, self._left_cpus, self._left_mem)]
        self._per_cpu_at = amounts(self._per_cpu)
        self._filled: dict[float, tuple[Singles, Amounts]] = {}  # by cpus of the job; far below 0: no room
        self._out: Singles = np.empty(size, dtype=np.float32)
        self._fits: Mask = np.empty(size, dtype=bool)

    def refresh(self, slot: int, host: int) -> None:
        """Update the estimates of a changed host in its slot."""
        fill_at, cpus_at, mem_at = self._cells
        fill, free_cpus, mem_at[slot] = self._room.estimates(host)
        fill_at[slot], cpus_at[slot] = fill, free_cpus
        for cpus, (_, filled) in self._filled.items():
            filled[slot] = fill + cpus * self._per_cpu_at[slot] if cpus <= free_cpus else -_FAR

    def add(self, host: int, model_slot: int) -> int:
        """Add a slot for a host of the same size as the host in `model_slot`, and return the slot."""
        slot = self.count
        self.count += 1
        self.hosts[slot] = host
        self._per_cpu[slot] = self._per_cpu[model_slot]
        self._per_mb[slot] = self._per_mb[model_slot]
        self.refresh(slot, host)
        return slot

    def estimate(self, request: TaskRequest, begin: int, end: int, is_open: Mask | None = None) -> Singles:
        """Return the estimated fill of each host with the job, plus 1, for the slots from begin to end.

        The error is at most `ERROR`. The job certainly does not fit where the estimate is 0 or less; it may
        not fit elsewhere, either. The result is valid until the next call.
        """
        cpus, mem = min(request.cpus, _HUGE), min(request.mem_mb, _HUGE)
        part = slice(begin, end)
        out, fits = self._out[part], self._fits[part]
        np.greater_equal(self._left_mem[part], mem, out=fits)
        if request.gpus or request.ports:
            hosts = self.hosts[part]
            for row, amount in ((2, request.gpus), (3, request.ports)):
                if amount:
                    fits &= (self._room.used[row] + amount <= self._room.room[row])[hosts]
        if is_open is not None:
            np.logical_and(fits, is_open[part], out=fits)
        np.multiply(self._per_mb[part], mem, out=out)
        np.add(out, self._fill_with_cpus(cpus, part), out=out)
        np.multiply(out, fits, out=out)
        return out

    @property
    def latest(self) -> Singles:
        """The latest results of `estimate` for all slots."""
        return self._out[: self.count]

    def _fill_with_cpus(self, cpus: float, part: slice) -> Singles:
        """Return the estimated fill with additional cpus; cached, as most jobs request common numbers."""
        cached = self._filled.get(cpus)
        if cached is not None:
            return cached[0][part]
        cells = slice(None) if len(self._filled) < _MAX_CACHED_CPUS else part
        filled: Singles = self._per_cpu[cells] * np.float32(cpus)
        filled += self._fill[cells]
        filled -= (self._left_cpus[cells] < cpus) * np.float32(_FAR)
        if cells is part:
            return filled
        self._filled[cpus] = filled, amounts(filled)
        return filled[part]


ERROR: Final = 1e-6


class DistinctHosts:
    """Estimates of one host of each kind, and of every host that the cycle has changed.

    An unchanged host is as good as the representative of its kind, and comes after it.
    """

    def __init__(self, room: HostRoom, columns: HostColumns, changed: Integers) -> None:
        self._state_of = columns.states
        order = np.argsort(self._state_of, kind="stable")
        self._hosts_by_state: list[int] = order.tolist()  # sorted by state
        in_order = self._state_of[order]
        firsts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1])))
        self._at: list[int] = firsts.tolist()  # index of the representative of each state
        self._end: list[int] = [*self._at[1:], len(self._hosts_by_state)]
        self._slot_of: dict[int, int] = dict(zip(order[firsts].tolist(), range(len(firsts)), strict=True))
        self._changed: set[int] = set()
        self.estimates = FillEstimates(room, columns, order[firsts])
        for host in changed.tolist():
            self.refresh(host)

    def refresh(self, host: int) -> None:
        """Update the estimates after an assignment to the host."""
        state = int(self._state_of[host])
        if host in self._changed:
            self.estimates.refresh(self._slot_of[host], host)
            return
        self._changed.add(host)
        slot = self._slot_of.get(host)
        if slot is None:
            representative = self._hosts_by_state[self._at[state]]
            self._slot_of[host] = self.estimates.add(host, self._slot_of[representative])
            return
        self.estimates.refresh(slot, host)
        index = self._at[state]
        while index < self._end[state] and self._hosts_by_state[index] in self._changed:
            index += 1
        self._at[state] = index
        if index < self._end[state]:
            self._slot_of[self._hosts_by_state[index]] = self.estimates.add(self._hosts_by_state[index], slot)
