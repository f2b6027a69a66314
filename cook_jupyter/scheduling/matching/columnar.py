"""Placing jobs on thousands of hosts, in columns.

Lives here: `ColumnarPlacer`, which decides as `scalar.ScalarPlacer` does.
Not here: constraints (`scheduling.hosts.masks`), the columns of hosts that outlive a cycle
(`scheduling.hosts.columns`).

Two things make it fast. What a job would fill each host to is *estimated* for all hosts at once, in single
precision and in few passes; only the few hosts whose estimate is as good as the best, or nearly so, are
looked at exactly. And a host that filled best does so even better with one more job of that shape: it stays
the choice for as long as it has room. When jobs of one shape follow each other on host after host, the next
hosts are put in order once (`_upcoming`). When jobs of many shapes come, hosts are kept by what is free of
them (`scheduling.matching.best_fit`).
"""

from collections.abc import Iterable
from typing import Final

import numpy as np

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.scheduling.arrays import Integers
from cook_jupyter.scheduling.constraints.constraints import NO_JOB_CONSTRAINTS, PoolDefaults
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.columns import Singles
from cook_jupyter.scheduling.hosts.fitness import fill_near, fitness_of, fitnesses_of
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.hosts.masks import ConstraintMasks
from cook_jupyter.scheduling.hosts.room import ERROR, RESOURCES, DistinctHosts, FillEstimates, HostRoom, Mask
from cook_jupyter.scheduling.matching.best_fit import BestFit, best_fit, suits
from cook_jupyter.scheduling.matching.scalar import BATCH
from cook_jupyter.scheduling.queue.task_request import TaskRequest

_NEARLY: Final = 4 * ERROR
_HABIT: Final = 3  # hosts that jobs of one shape took in a row, from which on the next are put in order
_AHEAD: Final = 256  # how many are
_FIRST: Final = 200 * BATCH  # hosts among which to look for a good one first
_FULL: Final = fitness_of(2.0)  # no host is fitter
_FIRST_CHOICES: Final = 16  # of one host each, from which on hosts are kept by what is free of them,
_HOSTS_A_CHOICE: Final = 200  # and one more for so many hosts
_MISSES: Final = 8  # twice the times that this could not tell, less those it could, up to which it is kept
_TIED: Final = 64  # hosts that are as good as each other, from which on one of each is looked at


class ColumnarPlacer:
    """Hosts in columns. Placing a job costs a few passes over them, or nearly nothing after one like it."""

    def __init__(
        self, hosts: Hosts, good_enough: float, defaults: PoolDefaults, placement_context: PlacementContext
    ) -> None:
        self._good_enough = good_enough
        # Estimates above this may be of good hosts. Not above 0 means that the host surely does not fit.
        self._good_estimate = max(0.0, fill_near(good_enough) + 1.0 - _NEARLY)
        self._masks = ConstraintMasks(hosts, defaults, placement_context)
        self._reservations = placement_context.reservations
        self._columns = hosts.columns
        self._room = HostRoom(hosts.columns)
        self._all = FillEstimates(self._room, hosts.columns)
        self._one_of_each: DistinctHosts | None = None
        self._best_fit: BestFit | None = None
        self._choices = (
            _FIRST_CHOICES + len(hosts) // _HOSTS_A_CHOICE
        )  # before it is made; good ones do not count
        self._is_kept = len(hosts) > 2 * _FIRST  # it was made, or is not worth it
        self._misses = 0  # it could not tell that much more often than it could
        self._changes: list[int] = []  # hosts that jobs were put on; up to where they were looked at again by
        self._seen, self._seen_alike, self._seen_fit = 0, 0, 0  # `_all`, `_one_of_each`, `_best_fit`
        self._shape: tuple[object, ...] = ()  # of the last job, if the next of its shape may follow it
        self._host = -1  # where it went
        self._moves = 0  # how many hosts jobs of that shape have taken in a row
        self._upcoming: list[int] = []  # the next ones, last first

    def place(self, request: TaskRequest) -> int | None:
        """See `Placer`."""
        shape = request[1:6]
        alike = request.job_constraints is NO_JOB_CONSTRAINTS and request.job_id not in self._reservations
        if alike and shape == self._shape:
            host = self._host if self._room.takes(self._host, request) else self._next(request)
        else:
            host = self._choose(request, self._masks.open_to(request))
            self._moves = 0
            self._upcoming.clear()
            self._shape = shape if alike and self._masks.steady else ()
        if host < 0:
            self._shape = ()
            return None
        self._room.put(host, request)
        self._changes.append(host)
        self._host = host
        if not self._masks.steady or not alike:
            self._masks.assigned(host, request)
        return host

    def refusal(self, request: TaskRequest) -> Refusal:
        """See `Placer`."""
        out = np.zeros(self._all.count, dtype=bool)
        constraints: dict[str, int] = {}
        for name, failing in self._masks.failing(request):
            number = int(np.count_nonzero(failing & ~out))
            if number:
                constraints[name] = number
            out |= failing
        resources: dict[str, int] = {}
        if out.all():
            return Refusal(job_id=request.job_id, constraints=constraints)
        asked = (request.cpus, request.mem_mb, request.gpus, float(request.ports))
        for name, amount, used, room in zip(RESOURCES, asked, self._room.used, self._room.room, strict=True):
            if not amount and name in ("gpus", "ports"):
                continue
            number = int(np.count_nonzero((used + amount > room) & ~out))
            if number:
                resources[name] = number
        return Refusal(job_id=request.job_id, resources=resources, constraints=constraints)

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """See `Placer`."""
        used, room = self._room.used, self._room.room
        return bool(((used[0] + cpus <= room[0]) & (used[1] + mem_mb <= room[1])).any())

    # --- one host

    def _choose(self, request: TaskRequest, is_open: Mask | None) -> int:
        """The host to take; -1 if the job fits none."""
        if is_open is None:
            fit = self._fitting()
            if fit is not None and suits(request):
                host, fitness = fit.choose(request)
                if fitness <= self._good_enough:
                    self._misses -= self._misses > 0
                    return host
                self._misses += 2  # a good one is to be taken, and the first such may be another
                if self._misses > _MISSES:
                    self._best_fit = None
        elif not is_open.any():
            return -1
        if self._one_of_each is not None and is_open is None:
            for host in _each_once(self._changes[self._seen_alike :]):
                self._one_of_each.look_again(host)
            self._seen_alike = len(self._changes)
            return self._choose_among(self._one_of_each.estimates, request, None)
        self._catch_up()
        those = self._all
        begin = 0
        if those.count > 2 * _FIRST and self._good_enough < _FULL:
            begin = _FIRST
            fills = those.of(request, 0, begin, is_open)
            host = self._first_good(those, request, fills, int(fills.argmax()))
            if host >= 0:
                self._choices += 1
                return host
        return self._choose_among(those, request, is_open, begin)

    def _choose_among(
        self, those: FillEstimates, request: TaskRequest, is_open: Mask | None, begin: int = 0
    ) -> int:
        """The same among those hosts; of the slots before `begin` it is known that none is good."""
        those.of(request, begin, those.count, is_open)
        fills = those.told
        slot = int(fills.argmax())
        host = self._first_good(those, request, fills, slot)
        if host >= 0:
            self._choices += 1
            return host
        return self._fullest(those, request, fills, slot)

    def _fitting(self) -> BestFit | None:
        """The hosts by what is free, up to date; None while few were chosen, and if that is not faster."""
        if not self._is_kept:
            self._choices -= 1
            if self._choices > 0:
                return None
            self._is_kept = True
            self._best_fit = best_fit(self._room, self._columns)
            self._seen_fit = len(self._changes)
        fit = self._best_fit
        if fit is not None:
            for host in _each_once(self._changes[self._seen_fit :]):
                fit.look_again(host)
            self._seen_fit = len(self._changes)
        return fit

    def _catch_up(self) -> None:
        if self._seen < len(self._changes):
            for host in _each_once(self._changes[self._seen :]):
                self._all.look_again(host, host)
            self._seen = len(self._changes)

    def _first_good(self, those: FillEstimates, request: TaskRequest, fills: Singles, fullest: int) -> int:
        """The best host of the first batch with a good one; -1 if there is none."""
        least = self._good_estimate
        if fills[fullest] <= least:
            return -1
        if those is self._all:
            good = fills > least
            begin = 0
            while begin < len(good):
                begin += int(good[begin:].argmax())
                if not good[begin]:
                    return -1
                end = (begin // BATCH + 1) * BATCH
                ahead = good[begin:end].tolist()
                host = self._best_good([begin + at for at, is_good in enumerate(ahead) if is_good], request)
                if host >= 0:
                    return host
                begin = end
            return -1
        hosts = those.hosts[: len(fills)][fills > least]
        while len(hosts):
            batches = hosts // BATCH
            is_first = batches == batches.min()
            host = self._best_good(np.sort(hosts[is_first]).tolist(), request)
            if host >= 0:
                return host
            hosts = hosts[~is_first]
        return -1

    def _best_good(self, hosts: list[int], request: TaskRequest) -> int:
        """Return the first of the fittest hosts of a batch, if it is good enough; else -1."""
        room = self._room
        best, most = -1, self._good_enough
        for host in hosts:
            if room.takes(host, request):
                fitness = room.fitness(host, request)
                if fitness > most:
                    best, most = host, fitness
        return best

    def _fullest(self, those: FillEstimates, request: TaskRequest, fills: Singles, slot: int) -> int:
        """The first of the hosts that the job fills most; -1 if it fits none. Spoils the estimates."""
        while fills[slot] > 0.0:
            top = float(fills[slot])
            fills[slot] = 0.0
            second = int(fills.argmax())
            if fills[second] < top - _NEARLY:
                host = int(those.hosts[slot])
                if self._room.takes(host, request):
                    return host
                slot = second
                continue
            fills[slot] = top
            slots = np.flatnonzero(fills >= top - _NEARLY)  # all that may be the fullest, or as full
            hosts = those.hosts[slots]
            if len(hosts) > _TIED and self._one_of_each is None:
                self._one_of_each = self._alike()
            exact = self._room.fills(hosts, request)
            most = exact.max()
            if most > top - 1.0 - _NEARLY + 2 * ERROR:  # no other host can come up to that
                fitnesses = fitnesses_of(exact)  # fills that differ in the last bits may be equally fit
                return int(hosts[fitnesses == fitnesses.max()].min())
            fills[slots[exact < 0.0]] = 0.0
            slot = int(fills.argmax())
        return -1

    def _alike(self) -> DistinctHosts:
        """One host of each, for the rest of the cycle."""
        self._seen_alike = len(self._changes)
        return DistinctHosts(self._room, self._columns, np.flatnonzero(self._room.used.any(axis=0)))

    # --- many hosts in a row

    def _next(self, request: TaskRequest) -> int:
        """The host to take after one like the last job's has none left; -1 if there is none."""
        if not self._upcoming:
            is_open = self._masks.open_to(request)
            self._moves += 1
            if self._moves < _HABIT:
                return self._choose(request, is_open)
            self._upcoming = self._in_order(request, is_open)
            if not self._upcoming:
                return self._choose(request, is_open)
        return self._upcoming.pop()

    def _in_order(self, request: TaskRequest, is_open: Mask | None) -> list[int]:
        """The next hosts for jobs of this shape, as far as they are certain, last first."""
        self._catch_up()
        fills = self._all.of(request, 0, self._all.count, is_open)
        good = np.flatnonzero(fills > self._good_estimate)
        if len(good):
            some = good[:_AHEAD]
            if len(good) > _AHEAD:
                some = some[some // BATCH < some[-1] // BATCH]  # whole batches
            exact = self._room.fills(some, request)
            fitnesses = fitnesses_of(exact)
            is_good = (exact >= 0.0) & (fitnesses > self._good_enough)
            some, fitnesses = some[is_good], fitnesses[is_good]
            if len(some) or len(good) > _AHEAD:
                return _last_first(some, np.lexsort((some, -fitnesses, some // BATCH)))
        bound = 0.0
        if len(fills) > _AHEAD:
            bound = float(np.partition(fills, len(fills) - _AHEAD)[len(fills) - _AHEAD])
        some = np.flatnonzero(fills >= bound - _NEARLY if bound > 0.0 else fills > 0.0)
        exact = self._room.fills(some, request)
        certain = exact > bound - 1.0 - 2 * ERROR if bound > 0.0 else exact >= 0.0
        some, exact = some[certain], exact[certain]
        return _last_first(some, np.lexsort((some, -fitnesses_of(exact))))


def _each_once(hosts: list[int]) -> Iterable[int]:
    return hosts if len(hosts) < 2 else set(hosts)


def _last_first(hosts: Integers, order: Integers) -> list[int]:
    found: list[int] = hosts[order][::-1].tolist()
    return found
