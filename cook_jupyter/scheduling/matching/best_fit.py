"""An index of hosts by free resources, which finds the host that a job fills most.

Lives here: `BestFit`, which keeps the hosts of a size sorted by free cpus, and those with equal free cpus by
free memory. So only one host is compared for each number of free cpus, and few of those numbers: a host that
would have more cpus left than the best host so far has left in total cannot be better.
Not here: the choice of a good host before the best is found, constraints (`scheduling.matching.columnar`).

It handles only amounts that add up without rounding: then the free resources of a host determine how full it
is, and two hosts of a size that differ in only one resource never have the same fitness.
"""

from bisect import bisect_left, insort
from math import inf, nan
from typing import Final

import numpy as np

from cook_jupyter.scheduling.arrays import Floats
from cook_jupyter.scheduling.hosts.columns import HostColumns
from cook_jupyter.scheduling.hosts.room import HostRoom
from cook_jupyter.scheduling.queue.task_request import TaskRequest

_PARTS: Final = 1024.0  # per cpu or MB: amounts are whole numbers of these parts
_MAX_AMOUNT: Final = 2.0**36  # cpus or MB up to which different sums, and quotients of sums, stay different
_MAX_SIZES: Final = 4  # different host sizes; with more, columns are faster
_MAX_LEVELS: Final = 72  # different numbers of free cpus, summed over sizes; with more, columns are faster
_SLACK: Final = 1e-9  # far more than the rounding error of a fill


class _Size:
    """Hosts of one size.

    Attributes:
        cpus, mem_mb: the size.
        levels: the different numbers of free cpus, in ascending order.
        hosts: for each level, its hosts as pairs of free memory and position, in ascending order.
    """

    __slots__ = ("cpus", "hosts", "levels", "mem_mb")

    def __init__(self, cpus: float, mem_mb: float) -> None:
        self.cpus = cpus
        self.mem_mb = mem_mb
        self.levels: list[float] = []
        self.hosts: list[list[tuple[float, int]]] = []


class BestFit:
    """All hosts, indexed by free resources. Choices and changes take microseconds for any number of hosts."""

    __slots__ = ("_free", "_room", "_size_of", "_sizes")

    def __init__(self, room: HostRoom, free: Floats, whole: Floats) -> None:
        """Build the index; call `best_fit` instead.

        Args:
            room: room of the hosts.
            free: free resources: a row of cpus and a row of memory.
            whole: resources of the empty hosts, likewise.
        """
        self._room = room
        self._free: list[tuple[float, float]] = list(zip(*free.tolist(), strict=True))  # as indexed
        order = np.lexsort((free[1], free[0], whole[1], whole[0]))
        keys = np.stack((whole[0], whole[1], free[0]))[:, order]
        differs = np.diff(keys, axis=1, prepend=nan) != 0
        starts_size = differs[:2].any(axis=0)
        starts = np.flatnonzero(starts_size | differs[2])
        hosts = list(zip(free[1][order].tolist(), order.tolist(), strict=True))
        size_of = np.empty(len(order), dtype=np.int64)
        size_of[order] = np.cumsum(starts_size) - 1
        self._size_of: list[int] = size_of.tolist()
        self._sizes: list[_Size] = []
        ends = [*starts[1:].tolist(), len(hosts)]
        for begin, end, is_new in zip(starts.tolist(), ends, starts_size[starts].tolist(), strict=True):
            cpus, mem_mb, level = keys[:, begin].tolist()
            if is_new:
                self._sizes.append(_Size(cpus, mem_mb))
            self._sizes[-1].levels.append(level)
            self._sizes[-1].hosts.append(hosts[begin:end])

    def refresh(self, host: int) -> None:
        """Update the index after a change of the host."""
        free = self._room.left(host)
        cpus, mem_mb = self._free[host]
        self._free[host] = free
        size = self._sizes[self._size_of[host]]
        levels, hosts = size.levels, size.hosts
        index = bisect_left(levels, cpus)
        hosts_of_level = hosts[index]
        del hosts_of_level[bisect_left(hosts_of_level, (mem_mb, host))]
        if not hosts_of_level:
            del levels[index]
            del hosts[index]
        cpus, mem_mb = free
        index = bisect_left(levels, cpus)
        if index < len(levels) and levels[index] == cpus:
            insort(hosts[index], (mem_mb, host))
        else:
            levels.insert(index, cpus)
            hosts.insert(index, [(mem_mb, host)])

    def choose(self, request: TaskRequest) -> tuple[int, float]:
        """Return the first of the fittest hosts for the job, and its fitness; -1, -1 if it fits on none.

        The job must be one for which `suits` is true.
        """
        cpus_requested, mem_requested = request.cpus, request.mem_mb
        memory_key = (mem_requested, -1)
        best, best_fitness = -1, -1.0
        bound = inf  # of the remainder, as a part of a host: a host with more cannot be the best
        for size in self._sizes:
            whole_cpus, whole_mem = size.cpus, size.mem_mb
            begin = bisect_left(size.levels, cpus_requested)
            for cpus, hosts_of_level in zip(size.levels[begin:], size.hosts[begin:], strict=True):
                remainder = (cpus - cpus_requested) / whole_cpus
                if remainder > bound:
                    break
                index = bisect_left(hosts_of_level, memory_key)
                if index == len(hosts_of_level):
                    continue
                mem_mb, host = hosts_of_level[index]
                remainder += (mem_mb - mem_requested) / whole_mem
                if remainder > bound:
                    continue
                fitness = self._room.fitness(host, request)
                if fitness > best_fitness or (fitness == best_fitness and host < best):
                    best, best_fitness = host, fitness
                    bound = remainder + _SLACK
        return best, best_fitness


def suits(request: TaskRequest) -> bool:
    """Return whether cpus and memory alone decide on the host for the job, without rounding."""
    cpus, mem_mb = request.cpus, request.mem_mb
    return (
        not request.gpus
        and not request.ports
        and cpus <= _MAX_AMOUNT
        and mem_mb <= _MAX_AMOUNT
        and (cpus * _PARTS).is_integer()
        and (mem_mb * _PARTS).is_integer()
    )


def best_fit(room: HostRoom, columns: HostColumns) -> BestFit | None:
    """Build the index; return None if amounts might be rounded, or too few hosts are alike."""
    amounts = np.stack((*room.room[:2], *room.used[:2], columns.run_cpus, columns.run_mem))
    if not (np.abs(amounts) <= _MAX_AMOUNT).all():
        return None
    parts = amounts * _PARTS
    if (np.rint(parts) != parts).any():
        return None
    whole = amounts[:2] + amounts[4:]
    if not (whole > 0).all() or len(set(map(tuple, whole.T.tolist()))) > _MAX_SIZES:
        return None
    free = amounts[:2] - amounts[2:4]
    levels = len(set(zip(whole[0].tolist(), free[0].tolist(), strict=True)))
    return None if levels > _MAX_LEVELS else BestFit(room, free, whole)
