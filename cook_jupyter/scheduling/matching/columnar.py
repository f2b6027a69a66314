"""Placement of jobs on thousands of hosts, in columns.

Lives here: `ColumnarPlacer`, which makes the same decisions as `scalar.ScalarPlacer`.
Not here: constraints (`scheduling.hosts.masks`), columns that are kept between cycles
(`scheduling.hosts.columns`).

Two properties make it fast. First, the fill of each host with the job is *estimated* for all hosts at once,
in single precision and in few passes; the exact fill is computed only for the few hosts whose estimate is the
best or close to it. Second, the host that a job fills best is filled even better by another job of the same
shape, so it remains the choice as long as it has room. When jobs of one shape take host after host, the next
hosts are sorted once (`_next_hosts`). When jobs have many shapes, hosts are indexed by their free resources
(`scheduling.matching.best_fit`).
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

_TOLERANCE: Final = 4 * ERROR
_MIN_HOSTS_IN_A_ROW: Final = 3  # hosts that jobs of one shape take in a row before the next hosts are sorted
_LOOKAHEAD: Final = 256  # hosts that are sorted in advance
_FIRST_HOSTS: Final = 200 * BATCH  # hosts among which a good one is searched first
_MAX_FITNESS: Final = fitness_of(2.0)  # the fitness of a full host
_MIN_CHOICES: Final = 16  # choices of single hosts before hosts are indexed by free resources,
_HOSTS_PER_CHOICE: Final = 200  # plus one for this many hosts
_MAX_MISSES: Final = 8  # twice the failures of that index minus its successes, beyond which it is dropped
_MIN_TIED: Final = 64  # equally good hosts from which on only one of each kind is compared


class ColumnarPlacer:
    """Compares hosts in columns: a few passes per job, or nearly nothing for a job like the one before it."""

    def __init__(
        self, hosts: Hosts, good_enough: float, defaults: PoolDefaults, placement_context: PlacementContext
    ) -> None:
        self._good_enough = good_enough
        # Hosts with estimates above this may be good. The job certainly does not fit where the estimate is 0
        # or less.
        self._good_estimate = max(0.0, fill_near(good_enough) + 1.0 - _TOLERANCE)
        self._masks = ConstraintMasks(hosts, defaults, placement_context)
        self._reservations = placement_context.reservations
        self._columns = hosts.columns
        self._room = HostRoom(hosts.columns)
        self._all = FillEstimates(self._room, hosts.columns)
        self._distinct_hosts: DistinctHosts | None = None
        self._best_fit: BestFit | None = None
        self._choices = (
            _MIN_CHOICES + len(hosts) // _HOSTS_PER_CHOICE
        )  # left before it is built; good hosts do not count
        self._is_kept = len(hosts) > 2 * _FIRST_HOSTS  # whether it was built, or is not worthwhile
        self._misses = 0  # see `_MAX_MISSES`
        self._changes: list[int] = []  # hosts with new jobs; the numbers below count those already applied to
        self._seen, self._seen_distinct, self._seen_fit = 0, 0, 0  # `_all`, `_distinct_hosts`, `_best_fit`
        self._shape: tuple[object, ...] = ()  # of the last job, if the next of this shape may take its host
        self._host = -1  # of the last job
        self._hosts_in_a_row = 0  # that jobs of that shape have taken
        self._next_hosts: list[int] = []  # in reverse order

    def place(self, request: TaskRequest) -> int | None:
        """See `Placer`."""
        shape = request[1:6]
        alike = request.job_constraints is NO_JOB_CONSTRAINTS and request.job_id not in self._reservations
        if alike and shape == self._shape:
            host = self._host if self._room.fits(self._host, request) else self._next(request)
        else:
            host = self._choose(request, self._masks.open_to(request))
            self._hosts_in_a_row = 0
            self._next_hosts.clear()
            self._shape = shape if alike and self._masks.steady else ()
        if host < 0:
            self._shape = ()
            return None
        self._room.assign(host, request)
        self._changes.append(host)
        self._host = host
        if not self._masks.steady or not alike:
            self._masks.record_assignment(host, request)
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
        amounts = (request.cpus, request.mem_mb, request.gpus, float(request.ports))
        for name, amount, used, room in zip(
            RESOURCES, amounts, self._room.used, self._room.room, strict=True
        ):
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

    # --- a single host

    def _choose(self, request: TaskRequest, is_open: Mask | None) -> int:
        """Return the host to take; -1 if the job fits on none."""
        if is_open is None:
            fit = self._current_best_fit()
            if fit is not None and suits(request):
                host, fitness = fit.choose(request)
                if fitness <= self._good_enough:
                    self._misses -= self._misses > 0
                    return host
                self._misses += 2  # the first good host is to be taken, which may be another one
                if self._misses > _MAX_MISSES:
                    self._best_fit = None
        elif not is_open.any():
            return -1
        if self._distinct_hosts is not None and is_open is None:
            for host in _distinct(self._changes[self._seen_distinct :]):
                self._distinct_hosts.refresh(host)
            self._seen_distinct = len(self._changes)
            return self._choose_among(self._distinct_hosts.estimates, request, None)
        self._refresh_estimates()
        estimates = self._all
        begin = 0
        if estimates.count > 2 * _FIRST_HOSTS and self._good_enough < _MAX_FITNESS:
            begin = _FIRST_HOSTS
            fills = estimates.estimate(request, 0, begin, is_open)
            host = self._first_good(estimates, request, fills, int(fills.argmax()))
            if host >= 0:
                self._choices += 1
                return host
        return self._choose_among(estimates, request, is_open, begin)

    def _choose_among(
        self, estimates: FillEstimates, request: TaskRequest, is_open: Mask | None, begin: int = 0
    ) -> int:
        """Return the host to take among those of some estimates; none of the slots before `begin` is good."""
        estimates.estimate(request, begin, estimates.count, is_open)
        fills = estimates.latest
        slot = int(fills.argmax())
        host = self._first_good(estimates, request, fills, slot)
        if host >= 0:
            self._choices += 1
            return host
        return self._choose_fullest(estimates, request, fills, slot)

    def _current_best_fit(self) -> BestFit | None:
        """Return the updated index by free resources; None if it is not built yet, or not faster."""
        if not self._is_kept:
            self._choices -= 1
            if self._choices > 0:
                return None
            self._is_kept = True
            self._best_fit = best_fit(self._room, self._columns)
            self._seen_fit = len(self._changes)
        fit = self._best_fit
        if fit is not None:
            for host in _distinct(self._changes[self._seen_fit :]):
                fit.refresh(host)
            self._seen_fit = len(self._changes)
        return fit

    def _refresh_estimates(self) -> None:
        if self._seen < len(self._changes):
            for host in _distinct(self._changes[self._seen :]):
                self._all.refresh(host, host)
            self._seen = len(self._changes)

    def _first_good(
        self, estimates: FillEstimates, request: TaskRequest, fills: Singles, fullest: int
    ) -> int:
        """Return the best host of the first batch with a good one; -1 if there is none."""
        threshold = self._good_estimate
        if fills[fullest] <= threshold:
            return -1
        if estimates is self._all:
            good = fills > threshold
            begin = 0
            while begin < len(good):
                begin += int(good[begin:].argmax())
                if not good[begin]:
                    return -1
                end = (begin // BATCH + 1) * BATCH
                is_good_in_batch = good[begin:end].tolist()
                host = self._best_good(
                    [begin + offset for offset, is_good in enumerate(is_good_in_batch) if is_good], request
                )
                if host >= 0:
                    return host
                begin = end
            return -1
        hosts = estimates.hosts[: len(fills)][fills > threshold]
        while len(hosts):
            batches = hosts // BATCH
            is_first = batches == batches.min()
            host = self._best_good(np.sort(hosts[is_first]).tolist(), request)
            if host >= 0:
                return host
            hosts = hosts[~is_first]
        return -1

    def _best_good(self, hosts: list[int], request: TaskRequest) -> int:
        """Return the first of the fittest hosts of a batch if it is good enough; else -1."""
        room = self._room
        best, best_fitness = -1, self._good_enough
        for host in hosts:
            if room.fits(host, request):
                fitness = room.fitness(host, request)
                if fitness > best_fitness:
                    best, best_fitness = host, fitness
        return best

    def _choose_fullest(
        self, estimates: FillEstimates, request: TaskRequest, fills: Singles, slot: int
    ) -> int:
        """Return the first host that the job fills most; -1 if it fits on none. Overwrites the estimates."""
        while fills[slot] > 0.0:
            top = float(fills[slot])
            fills[slot] = 0.0
            second = int(fills.argmax())
            if fills[second] < top - _TOLERANCE:
                host = int(estimates.hosts[slot])
                if self._room.fits(host, request):
                    return host
                slot = second
                continue
            fills[slot] = top
            slots = np.flatnonzero(fills >= top - _TOLERANCE)  # all that may be the fullest, or equally full
            hosts = estimates.hosts[slots]
            if len(hosts) > _MIN_TIED and self._distinct_hosts is None:
                self._distinct_hosts = self._hosts_by_state()
            exact = self._room.fills(hosts, request)
            max_fill = exact.max()
            if max_fill > top - 1.0 - _TOLERANCE + 2 * ERROR:  # no other host can be as full
                fitnesses = fitnesses_of(exact)  # fills that differ in the last bits may have equal fitness
                return int(hosts[fitnesses == fitnesses.max()].min())
            fills[slots[exact < 0.0]] = 0.0
            slot = int(fills.argmax())
        return -1

    def _hosts_by_state(self) -> DistinctHosts:
        """Return estimates with one host of each kind, for the rest of the cycle."""
        self._seen_distinct = len(self._changes)
        return DistinctHosts(self._room, self._columns, np.flatnonzero(self._room.used.any(axis=0)))

    # --- hosts in a row

    def _next(self, request: TaskRequest) -> int:
        """Return the next host when that of the last job is full; -1 if there is none."""
        if not self._next_hosts:
            is_open = self._masks.open_to(request)
            self._hosts_in_a_row += 1
            if self._hosts_in_a_row < _MIN_HOSTS_IN_A_ROW:
                return self._choose(request, is_open)
            self._next_hosts = self._in_order(request, is_open)
            if not self._next_hosts:
                return self._choose(request, is_open)
        return self._next_hosts.pop()

    def _in_order(self, request: TaskRequest, is_open: Mask | None) -> list[int]:
        """Return the next hosts for jobs of this shape, as far as they are certain, in reverse order."""
        self._refresh_estimates()
        fills = self._all.estimate(request, 0, self._all.count, is_open)
        good = np.flatnonzero(fills > self._good_estimate)
        if len(good):
            positions = good[:_LOOKAHEAD]
            if len(good) > _LOOKAHEAD:
                positions = positions[positions // BATCH < positions[-1] // BATCH]  # whole batches
            exact = self._room.fills(positions, request)
            fitnesses = fitnesses_of(exact)
            is_good = (exact >= 0.0) & (fitnesses > self._good_enough)
            positions, fitnesses = positions[is_good], fitnesses[is_good]
            if len(positions) or len(good) > _LOOKAHEAD:
                return _last_first(positions, np.lexsort((positions, -fitnesses, positions // BATCH)))
        bound = 0.0
        if len(fills) > _LOOKAHEAD:
            bound = float(np.partition(fills, len(fills) - _LOOKAHEAD)[len(fills) - _LOOKAHEAD])
        positions = np.flatnonzero(fills >= bound - _TOLERANCE if bound > 0.0 else fills > 0.0)
        exact = self._room.fills(positions, request)
        certain = exact > bound - 1.0 - 2 * ERROR if bound > 0.0 else exact >= 0.0
        positions, exact = positions[certain], exact[certain]
        return _last_first(positions, np.lexsort((positions, -fitnesses_of(exact))))


def _distinct(hosts: list[int]) -> Iterable[int]:
    return hosts if len(hosts) < 2 else set(hosts)


def _last_first(hosts: Integers, order: Integers) -> list[int]:
    reversed_hosts: list[int] = hosts[order][::-1].tolist()
    return reversed_hosts
