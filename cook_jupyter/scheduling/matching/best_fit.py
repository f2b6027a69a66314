"""The host that a job fills most, found by looking where it fits best.

Lives here: `BestFit`, which keeps the hosts of a size by free cpus, and those with as many free cpus by free
memory. So a job looks at one host for each number of free cpus, and at few of those numbers: more cpus left
over than the best host so far leaves in all cannot be better.
Not here: good hosts that are taken before the best is found, constraints (`scheduling.matching.columnar`).

Only for amounts that add up without rounding: then what is free says all about how full a host is, and two
hosts of a size that differ in one resource only never have the same fitness.
"""

from bisect import bisect_left, insort
from math import inf, nan
from typing import Final

import numpy as np

from cook_jupyter.scheduling.arrays import Floats
from cook_jupyter.scheduling.hosts.columns import HostColumns
from cook_jupyter.scheduling.hosts.room import HostRoom
from cook_jupyter.scheduling.queue.task_request import TaskRequest

_PARTS: Final = 1024.0  # of a cpu or MB: amounts are whole numbers of these
_MOST: Final = 2.0**36  # cpus or MB; up to here sums of amounts, and quotients of sums, stay apart
_SIZES: Final = 4  # of hosts; with more, columns are faster
_LEVELS: Final = 72  # numbers of free cpus that there are of each size, added up, likewise
_SLACK: Final = 1e-9  # far more than rounding makes of a fill


class _Size:
    """Hosts of one size.

    Attributes:
        cpus, mem_mb: the size.
        levels: the numbers of free cpus there are, in order.
        hosts: for each of them, the hosts with so many: free memory and position, in order.
    """

    __slots__ = ("cpus", "hosts", "levels", "mem_mb")

    def __init__(self, cpus: float, mem_mb: float) -> None:
        self.cpus = cpus
        self.mem_mb = mem_mb
        self.levels: list[float] = []
        self.hosts: list[list[tuple[float, int]]] = []


class BestFit:
    """All hosts by what is free. Choosing one and changing one take some microseconds, however many."""

    __slots__ = ("_free", "_room", "_size_of", "_sizes")

    def __init__(self, room: HostRoom, left: Floats, whole: Floats) -> None:
        """Use `best_fit`.

        Args:
            room: what hosts have.
            left: what is free: a row of cpus and one of memory.
            whole: what there is, likewise.
        """
        self._room = room
        self._free: list[tuple[float, float]] = list(
            zip(*left.tolist(), strict=True)
        )  # as they are kept here
        order = np.lexsort((left[1], left[0], whole[1], whole[0]))
        kept = np.stack((whole[0], whole[1], left[0]))[:, order]
        differs = np.diff(kept, axis=1, prepend=nan) != 0
        starts_size = differs[:2].any(axis=0)
        begins = np.flatnonzero(starts_size | differs[2])
        hosts = list(zip(left[1][order].tolist(), order.tolist(), strict=True))
        size_of = np.empty(len(order), dtype=np.int64)
        size_of[order] = np.cumsum(starts_size) - 1
        self._size_of: list[int] = size_of.tolist()
        self._sizes: list[_Size] = []
        ends = [*begins[1:].tolist(), len(hosts)]
        for begin, end, is_new in zip(begins.tolist(), ends, starts_size[begins].tolist(), strict=True):
            cpus, mem_mb, level = kept[:, begin].tolist()
            if is_new:
                self._sizes.append(_Size(cpus, mem_mb))
            self._sizes[-1].levels.append(level)
            self._sizes[-1].hosts.append(hosts[begin:end])

    def look_again(self, host: int) -> None:
        """Learn that the host has changed."""
        free = self._room.left(host)
        cpus, mem_mb = self._free[host]
        self._free[host] = free
        size = self._sizes[self._size_of[host]]
        levels, hosts = size.levels, size.hosts
        at = bisect_left(levels, cpus)
        those = hosts[at]
        del those[bisect_left(those, (mem_mb, host))]
        if not those:
            del levels[at]
            del hosts[at]
        cpus, mem_mb = free
        at = bisect_left(levels, cpus)
        if at < len(levels) and levels[at] == cpus:
            insort(hosts[at], (mem_mb, host))
        else:
            levels.insert(at, cpus)
            hosts.insert(at, [(mem_mb, host)])

    def choose(self, request: TaskRequest) -> tuple[int, float]:
        """Return the first of the fittest hosts for the job, and its fitness; -1, -1 if it fits none.

        The job must be one that `suits`.
        """
        asked_cpus, asked_mem = request.cpus, request.mem_mb
        wanted = (asked_mem, -1)
        best, most = -1, -1.0
        bound = inf  # of what is left over, as parts of a host: with more, no host can be the best
        for size in self._sizes:
            whole_cpus, whole_mem = size.cpus, size.mem_mb
            begin = bisect_left(size.levels, asked_cpus)
            for cpus, those in zip(size.levels[begin:], size.hosts[begin:], strict=True):
                over = (cpus - asked_cpus) / whole_cpus
                if over > bound:
                    break
                at = bisect_left(those, wanted)
                if at == len(those):
                    continue
                mem_mb, host = those[at]
                over += (mem_mb - asked_mem) / whole_mem
                if over > bound:
                    continue
                fitness = self._room.fitness(host, request)
                if fitness > most or (fitness == most and host < best):
                    best, most = host, fitness
                    bound = over + _SLACK
        return best, most


def suits(request: TaskRequest) -> bool:
    """Tell whether a host may be chosen for the job by cpus and memory alone, and without rounding."""
    cpus, mem_mb = request.cpus, request.mem_mb
    return (
        not request.gpus
        and not request.ports
        and cpus <= _MOST
        and mem_mb <= _MOST
        and (cpus * _PARTS).is_integer()
        and (mem_mb * _PARTS).is_integer()
    )


def best_fit(room: HostRoom, columns: HostColumns) -> BestFit | None:
    """Return the hosts by what is free; None if amounts might be rounded, or too few hosts are alike."""
    amounts = np.stack((*room.room[:2], *room.used[:2], columns.run_cpus, columns.run_mem))
    if not (np.abs(amounts) <= _MOST).all():
        return None
    parts = amounts * _PARTS
    if (np.rint(parts) != parts).any():
        return None
    whole = amounts[:2] + amounts[4:]
    if not (whole > 0).all() or len(set(map(tuple, whole.T.tolist()))) > _SIZES:
        return None
    left = amounts[:2] - amounts[2:4]
    levels = len(set(zip(whole[0].tolist(), left[0].tolist(), strict=True)))
    return None if levels > _LEVELS else BestFit(room, left, whole)
