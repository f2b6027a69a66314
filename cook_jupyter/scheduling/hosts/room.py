"""What thousands of hosts have, and what one cycle has put there: exactly, and about.

Lives here: `HostRoom`, the exact numbers, and `FillEstimates`, in single precision, of all hosts or of one of
each that are alike.
Not here: which host a job gets (`scheduling.matching.columnar`), columns that outlive a cycle
(`scheduling.hosts.columns`).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.scheduling.arrays import Amounts, Floats, Integers, amounts
from cook_jupyter.scheduling.hosts.columns import HostColumns, Singles, left_estimate
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.queue.task_request import TaskRequest

Mask = npt.NDArray[np.bool_]

_FEW: Final = 12  # hosts up to which one by one is faster than by columns
_HUGE: Final = 1e30  # more than anybody asks for
_FAR: Final = 1e6  # more than any fill of a host with room
_NUMBERS_OF_CPUS: Final = 8  # for which estimates are kept
RESOURCES: Final = ("cpus", "mem", "gpus", "ports")


class HostRoom:
    """Room, use and what the cycle has added, exactly.

    Attributes:
        used: what the cycle has put on each host: a row for each of `RESOURCES`.
        room: what was free before.
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

    def takes(self, host: int, request: TaskRequest) -> bool:
        """Tell whether the host has room for the job."""
        used, room = self._used_at, self._room_at
        return (
            used[0][host] + request.cpus <= room[0][host]
            and used[1][host] + request.mem_mb <= room[1][host]
            and (not request.gpus or used[2][host] + request.gpus <= room[2][host])
            and (not request.ports or used[3][host] + request.ports <= room[3][host])
        )

    def fills(self, hosts: Integers, request: TaskRequest) -> Floats:
        """Return how full each of the hosts would be with the job, 0..2; -1 where it does not fit."""
        if len(hosts) <= _FEW:
            return np.array(
                [self.fill(host, request) if self.takes(host, request) else -1.0 for host in hosts.tolist()]
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
        """Return how full the host would be with the job, 0..2, as if it fitted."""
        used, run, whole = self._used_at, self._run_at, self._whole_at
        return (run[0][host] + used[0][host] + request.cpus) / whole[0][host] + (
            run[1][host] + used[1][host] + request.mem_mb
        ) / whole[1][host]

    def fitness(self, host: int, request: TaskRequest) -> float:
        """Return the fitness of the host with the job, as if it fitted."""
        return fitness_of(self.fill(host, request))

    def left(self, host: int) -> tuple[float, float]:
        """Return what is free of cpus and memory."""
        used, room = self._used_at, self._room_at
        return room[0][host] - used[0][host], room[1][host] - used[1][host]

    def put(self, host: int, request: TaskRequest) -> None:
        """Put the job on the host."""
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
            left_estimate(room[0][host] - cpus, whole_cpus),
            left_estimate(room[1][host] - mem, whole_mem),
        )


class FillEstimates:
    """About how full some hosts would be with a job, in few passes over all of them.

    Attributes:
        hosts: the position of the host in each slot.
        count: how many slots there are.
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
        """Take all hosts, or some, with room in the columns for all."""
        rough = columns.rough
        size = len(rough.fill)
        self._room = room
        self.count = size if hosts is None else len(hosts)
        self.hosts: Integers = np.arange(size)
        taken = (rough.fill, rough.per_cpu, rough.per_mb, rough.left_cpus, rough.left_mem)
        if hosts is None:
            columns_taken = [column.copy() for column in taken]
        else:
            self.hosts[: self.count] = hosts
            columns_taken = [np.concatenate((column[hosts], column[self.count :])) for column in taken]
        self._fill, self._per_cpu, self._per_mb, self._left_cpus, self._left_mem = columns_taken
        self._cells = [amounts(column) for column in (self._fill, self._left_cpus, self._left_mem)]
        self._per_cpu_at = amounts(self._per_cpu)
        self._filled: dict[float, tuple[Singles, Amounts]] = {}  # with so many cpus; far below 0: no room
        self._out: Singles = np.empty(size, dtype=np.float32)
        self._fits: Mask = np.empty(size, dtype=bool)

    def look_again(self, slot: int, host: int) -> None:
        """Learn that the host in the slot has changed."""
        fill_at, cpus_at, mem_at = self._cells
        fill, left, mem_at[slot] = self._room.estimates(host)
        fill_at[slot], cpus_at[slot] = fill, left
        for cpus, (_, filled) in self._filled.items():
            filled[slot] = fill + cpus * self._per_cpu_at[slot] if cpus <= left else -_FAR

    def add(self, host: int, like: int) -> int:
        """Give one more host a slot, of the same size as that in another; returns its slot."""
        slot = self.count
        self.count += 1
        self.hosts[slot] = host
        self._per_cpu[slot] = self._per_cpu[like]
        self._per_mb[slot] = self._per_mb[like]
        self.look_again(slot, host)
        return slot

    def of(self, request: TaskRequest, begin: int, end: int, is_open: Mask | None = None) -> Singles:
        """Return about how full each host would be with the job, one added, for the slots from begin to end.

        The exact fill is no farther than `ERROR` away. Not above 0 where the job surely does not fit; it may
        still not fit elsewhere. Good until the next call.
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
        np.add(out, self._filled_with(cpus, part), out=out)
        np.multiply(out, fits, out=out)
        return out

    @property
    def told(self) -> Singles:
        """What `of` has told last of each slot."""
        return self._out[: self.count]

    def _filled_with(self, cpus: float, part: slice) -> Singles:
        """About how full hosts would be with so many cpus more. Most jobs ask for one of a few numbers."""
        known = self._filled.get(cpus)
        if known is not None:
            return known[0][part]
        some = slice(None) if len(self._filled) < _NUMBERS_OF_CPUS else part
        filled: Singles = self._per_cpu[some] * np.float32(cpus)
        filled += self._fill[some]
        filled -= (self._left_cpus[some] < cpus) * np.float32(_FAR)
        if some is part:
            return filled
        self._filled[cpus] = filled, amounts(filled)
        return filled[part]


ERROR: Final = 1e-6


class DistinctHosts:
    """Estimates of one host of each that are alike and of each that the cycle has changed.

    A host that was not changed is as good as the one that stands for it, and comes after it.
    """

    def __init__(self, room: HostRoom, columns: HostColumns, changed: Integers) -> None:
        self._state_of = columns.states
        order = np.argsort(self._state_of, kind="stable")
        self._alike: list[int] = order.tolist()  # hosts by state
        in_order = self._state_of[order]
        first = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1])))
        self._at: list[int] = first.tolist()  # of each state, who stands for it
        self._end: list[int] = [*self._at[1:], len(self._alike)]
        self._slot_of: dict[int, int] = dict(zip(order[first].tolist(), range(len(first)), strict=True))
        self._changed: set[int] = set()
        self.estimates = FillEstimates(room, columns, order[first])
        for host in changed.tolist():
            self.look_again(host)

    def look_again(self, host: int) -> None:
        """Learn that the cycle has put something on the host."""
        state = int(self._state_of[host])
        if host in self._changed:
            self.estimates.look_again(self._slot_of[host], host)
            return
        self._changed.add(host)
        slot = self._slot_of.get(host)
        if slot is None:
            like = self._slot_of[self._alike[self._at[state]]] if self._at[state] < self._end[state] else 0
            self._slot_of[host] = self.estimates.add(host, like)
            return
        self.estimates.look_again(slot, host)
        at = self._at[state]
        while at < self._end[state] and self._alike[at] in self._changed:
            at += 1
        self._at[state] = at
        if at < self._end[state]:
            self._slot_of[self._alike[at]] = self.estimates.add(self._alike[at], slot)
