"""Placing jobs on thousands of hosts, in columns.

Lives here: `ManyHosts`, which decides as `few_hosts.FewHosts` does.
Not here: constraints (`scheduling.host_masks`), the columns of hosts that outlive a cycle
(`scheduling.host_columns`).

Two things make it fast. What a job would fill each host to is *estimated* for all hosts at once, in single
precision and in few passes; only the few hosts whose estimate is as good as the best, or nearly so, are
looked at exactly. And a host that filled best does so even better with one more job of that shape: it stays
the choice for as long as it has room. When jobs of one shape follow each other on host after host, the next
hosts are put in order once (`_upcoming`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.scheduling.asks import Ask
from cook_jupyter.scheduling.constraints import NO_PARTICULARS, PoolDefaults
from cook_jupyter.scheduling.few_hosts import BATCH, fill_of
from cook_jupyter.scheduling.host_columns import Estimates, left_estimate
from cook_jupyter.scheduling.host_masks import HostMasks, Mask
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.rules import Surroundings
from cook_jupyter.scheduling.tables import Floats, Integers, amounts

_ERROR: Final = 1e-6  # an estimated fill is no farther from the exact one
_NEARLY: Final = 4 * _ERROR
_FEW: Final = 8  # hosts up to which one by one is faster than by columns
_HABIT: Final = 3  # hosts that jobs of one shape took in a row, from which on the next are put in order
_AHEAD: Final = 256  # how many are
_HUGE: Final = 1e30  # more than anybody asks for


class ManyHosts:
    """Hosts in columns. Placing a job costs a few passes over them, or nearly nothing after one like it."""

    def __init__(
        self, hosts: Hosts, good_enough: float, defaults: PoolDefaults, surroundings: Surroundings
    ) -> None:
        self._good = fill_of(good_enough)
        self._masks = HostMasks(hosts, defaults, surroundings)
        self._reservations = surroundings.reservations
        count = len(hosts)
        columns = self._columns = hosts.columns
        rough = self._rough = columns.rough
        self._fill = rough.fill.copy()
        self._left_cpus = rough.left_cpus.copy()
        self._left_mem = rough.left_mem.copy()
        self._fill_at, self._left_cpus_at, self._left_mem_at = (
            amounts(column) for column in (self._fill, self._left_cpus, self._left_mem)
        )
        self._used: Floats = np.zeros((4, count))  # by this cycle: cpus, mem, gpus, ports
        self._room = (columns.room_cpus, columns.room_mem, columns.room_gpus, columns.ports)
        self._used_at = [amounts(row) for row in self._used]
        self._room_at = [amounts(column) for column in self._room]
        self._run_at = amounts(columns.run_cpus), amounts(columns.run_mem)
        self._whole_at = amounts(rough.whole_cpus), amounts(rough.whole_mem)
        self._stale: list[int] = []  # hosts whose estimates are behind
        self._fills: Estimates = np.empty(count, dtype=np.float32)
        self._scratch: Estimates = np.empty(count, dtype=np.float32)
        self._fits: Mask = np.empty(count, dtype=bool)
        self._fits_too: Mask = np.empty(count, dtype=bool)
        self._shape: tuple[object, ...] = ()  # of the last job, if the next of its shape may follow it
        self._host = -1  # where it went
        self._changes = 0  # how many hosts jobs of that shape have taken in a row
        self._upcoming: list[int] = []  # the next ones, last first

    def place(self, ask: Ask) -> int | None:
        """See `Placer`."""
        shape = ask[1:6]
        if (
            shape == self._shape
            and ask.particulars is NO_PARTICULARS
            and ask.job_id not in self._reservations
        ):
            host = self._host
            if not self._takes(host, ask):
                host = self._next(ask)
        else:
            host = self._choose(ask, self._masks.open_to(ask))
            self._changes = 0
            self._upcoming.clear()
            alike = ask.particulars is NO_PARTICULARS and ask.job_id not in self._reservations
            self._shape = shape if alike and self._masks.steady else ()
        if host < 0:
            self._shape = ()
            return None
        self._book(host, ask)
        return host

    def refusal(self, ask: Ask) -> Refusal:
        """See `Placer`."""
        out = np.zeros(len(self._fill), dtype=bool)
        constraints: dict[str, int] = {}
        for name, failing in self._masks.failing(ask):
            number = int(np.count_nonzero(failing & ~out))
            if number:
                constraints[name] = number
            out |= failing
        resources: dict[str, int] = {}
        asked = (ask.cpus, ask.mem_mb, ask.gpus, float(ask.ports))
        for name, amount, used, room in zip(_RESOURCES, asked, self._used, self._room, strict=True):
            number = int(np.count_nonzero((used + amount > room) & ~out))
            if number:
                resources[name] = number
        return Refusal(job_id=ask.job_id, resources=resources, constraints=constraints)

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """See `Placer`."""
        used, room = self._used, self._room
        return bool(((used[0] + cpus <= room[0]) & (used[1] + mem_mb <= room[1])).any())

    # --- one host, exactly

    def _takes(self, host: int, ask: Ask) -> bool:
        """Tell whether the host has room for the job."""
        used, room = self._used_at, self._room_at
        return (
            used[0][host] + ask.cpus <= room[0][host]
            and used[1][host] + ask.mem_mb <= room[1][host]
            and (not ask.gpus or used[2][host] + ask.gpus <= room[2][host])
            and (not ask.ports or used[3][host] + ask.ports <= room[3][host])
        )

    def _fill_with(self, host: int, ask: Ask) -> float:
        """How full the host would be with the job."""
        used, run, whole = self._used_at, self._run_at, self._whole_at
        return (run[0][host] + used[0][host] + ask.cpus) / whole[0][host] + (
            run[1][host] + used[1][host] + ask.mem_mb
        ) / whole[1][host]

    def _book(self, host: int, ask: Ask) -> None:
        """Put the job on the host."""
        used = self._used_at
        used[0][host] += ask.cpus
        used[1][host] += ask.mem_mb
        if ask.gpus:
            used[2][host] += ask.gpus
        if ask.ports:
            used[3][host] += ask.ports
        if host != self._host or not self._stale:
            self._stale.append(host)
            self._host = host
        if not self._masks.steady or ask.particulars is not NO_PARTICULARS:
            self._masks.assigned(host, ask)

    # --- all hosts, about

    def _estimate(self, ask: Ask, is_open: Mask | None) -> Estimates:
        """About how full each host would be with the job, one added; 0 where the job surely does not fit."""
        for host in self._stale:
            self._estimate_anew(host)
        self._stale.clear()
        cpus, mem = min(ask.cpus, _HUGE), min(ask.mem_mb, _HUGE)
        fills, scratch, fits, fits_too = self._fills, self._scratch, self._fits, self._fits_too
        rough = self._rough
        np.greater_equal(self._left_cpus, cpus, out=fits)
        np.greater_equal(self._left_mem, mem, out=fits_too)
        np.logical_and(fits, fits_too, out=fits)
        for amount, used, room in ((ask.gpus, 2, 2), (ask.ports, 3, 3)):
            if amount:
                fits &= self._used[used] + amount <= self._room[room]
        if is_open is not None:
            np.logical_and(fits, is_open, out=fits)
        np.multiply(rough.per_cpu, cpus, out=fills)
        np.multiply(rough.per_mb, mem, out=scratch)
        np.add(fills, scratch, out=fills)
        np.add(fills, self._fill, out=fills)
        np.multiply(fills, fits, out=fills)
        return fills

    def _estimate_anew(self, host: int) -> None:
        used, run, whole, room = self._used_at, self._run_at, self._whole_at, self._room_at
        self._fill_at[host] = (
            1.0
            + (run[0][host] + used[0][host]) / whole[0][host]
            + (run[1][host] + used[1][host]) / whole[1][host]
        )
        self._left_cpus_at[host] = left_estimate(room[0][host] - used[0][host], whole[0][host])
        self._left_mem_at[host] = left_estimate(room[1][host] - used[1][host], whole[1][host])

    def _exactly(self, hosts: Integers, ask: Ask) -> Floats:
        """How full each of the hosts would be with the job; -1 where it does not fit."""
        if len(hosts) <= _FEW:
            return np.array(
                [self._fill_with(host, ask) if self._takes(host, ask) else -1.0 for host in hosts.tolist()]
            )
        columns, rough = self._columns, self._rough
        used = self._used[:, hosts]
        fits = (used[0] + ask.cpus <= columns.room_cpus[hosts]) & (
            used[1] + ask.mem_mb <= columns.room_mem[hosts]
        )
        if ask.gpus:
            fits &= used[2] + ask.gpus <= columns.room_gpus[hosts]
        if ask.ports:
            fits &= used[3] + ask.ports <= columns.ports[hosts]
        fills = (columns.run_cpus[hosts] + used[0] + ask.cpus) / rough.whole_cpus[hosts]
        fills += (columns.run_mem[hosts] + used[1] + ask.mem_mb) / rough.whole_mem[hosts]
        return np.where(fits, fills, -1.0)

    # --- choosing

    def _choose(self, ask: Ask, is_open: Mask | None) -> int:
        """The host to take; -1 if the job fits none."""
        fills = self._estimate(ask, is_open)
        host = int(fills.argmax())
        if fills[host] > self._good + 1.0 - _NEARLY:
            host = self._first_good(ask, fills)
            if host >= 0:
                return host
        return self._fullest(ask, fills)

    def _first_good(self, ask: Ask, fills: Estimates) -> int:
        """The best host of the first batch with a good one; -1 if there is none."""
        good = np.flatnonzero(fills > self._good + 1.0 - _NEARLY)
        begin = 0
        while begin < len(good):
            batch = good[begin] // BATCH
            some = good[begin : begin + BATCH]
            some = some[some // BATCH == batch]
            exact = self._exactly(some, ask)
            best = int(exact.argmax())
            if exact[best] > self._good:
                return int(some[best])
            begin += len(some)
        return -1

    def _fullest(self, ask: Ask, fills: Estimates) -> int:
        """The host that the job fills most; -1 if it fits none. Drops wrong estimates."""
        while True:
            top = float(fills.max(initial=0.0))
            if top <= 0.0:
                return -1
            candidates = np.flatnonzero(fills >= top - _NEARLY)
            exact = self._exactly(candidates, ask)
            best = int(exact.argmax())
            if exact[best] > top - 1.0 - _NEARLY + _ERROR:  # no other host can come up to that
                return int(candidates[best])
            fills[candidates[exact < 0.0]] = 0.0

    def _next(self, ask: Ask) -> int:
        """The host to take after one like the last job's has none left; -1 if there is none."""
        if not self._upcoming:
            is_open = self._masks.open_to(ask)
            self._changes += 1
            if self._changes < _HABIT:
                return self._choose(ask, is_open)
            self._upcoming = self._in_order(ask, self._estimate(ask, is_open))
            if not self._upcoming:
                return self._choose(ask, is_open)
        return self._upcoming.pop()

    def _in_order(self, ask: Ask, fills: Estimates) -> list[int]:
        """The next hosts for jobs of this shape, as far as they are certain, last first."""
        good = np.flatnonzero(fills > self._good + 1.0 - _NEARLY)
        if len(good):
            some = good[:_AHEAD]
            if len(good) > _AHEAD:
                some = some[some // BATCH < some[-1] // BATCH]  # whole batches
            exact = self._exactly(some, ask)
            some, exact = some[exact > self._good], exact[exact > self._good]
            if len(some) or len(good) > _AHEAD:
                return _last_first(some, np.lexsort((some, -exact, some // BATCH)))
        bound = 0.0
        if len(fills) > _AHEAD:
            bound = float(np.partition(fills, len(fills) - _AHEAD)[len(fills) - _AHEAD])
        some = np.flatnonzero(fills >= bound - _NEARLY) if bound else np.flatnonzero(fills)
        exact = self._exactly(some, ask)
        certain = exact > bound - 1.0 - 2 * _ERROR if bound else exact >= 0.0
        some, exact = some[certain], exact[certain]
        return _last_first(some, np.lexsort((some, -exact)))


_RESOURCES: Final = ("cpus", "mem", "gpus", "ports")


def _last_first(hosts: Integers, order: Sequence[int] | Integers) -> list[int]:
    found: list[int] = hosts[order][::-1].tolist()
    return found
