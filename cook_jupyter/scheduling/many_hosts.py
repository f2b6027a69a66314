"""Placing jobs on thousands of hosts, in columns.

Lives here: `ManyHosts`, which decides as `few_hosts.FewHosts` does.
Not here: constraints (`scheduling.rules`), the columns of hosts that outlive a cycle (`scheduling.hosts`).

Three things make it fast. Hosts in the same *state* (size, room, use) fill equally well: a state is looked at
once, however many hosts are in it. Jobs of the same shape share a *view*, what they would fill each state to;
only states that were touched since are looked at again. And a host that filled best does so even better with
one more job of that shape: it stays the choice for as long as it has room.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.offer import HostKind
from cook_jupyter.scheduling.asks import Ask
from cook_jupyter.scheduling.constraints import (
    MAX_TASKS,
    NO_PARTICULARS,
    RESERVED,
    ConstraintClass,
    PoolDefaults,
)
from cook_jupyter.scheduling.few_hosts import BATCH, fill_of
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.rules import HostRules, Surroundings
from cook_jupyter.scheduling.tables import Floats, Integers, amounts

Mask = npt.NDArray[np.bool_]

_NO_FIT: Final = -1.0
_OUT: Final = 1e6  # taken off where a job does not fit: more than any fill
_FEW: Final = 6  # states up to which one by one is faster than by columns
_VIEWS: Final = 64  # shapes whose views are kept
_STRIDE: Final = 40 * BATCH  # hosts that are looked at at once for a good one, at first
_FULL: Final = 2.0  # no fill is above it
_NEAR: Final = 64  # hosts among which to look for the next one of a state first

# Rows of the table of states. `base` is what runs and what the cycle has assigned, together.
_ROOM, _USED = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)  # cpus, mem, gpus, ports, tasks
_BASE_CPUS, _BASE_MEM, _TOTAL_CPUS, _TOTAL_MEM, _ROWS = 10, 11, 12, 13, 14


class ManyHosts:
    """Hosts by state. Placing a job costs what there are states, or less where its shape was seen before."""

    def __init__(
        self, hosts: Hosts, good_enough: float, defaults: PoolDefaults, surroundings: Surroundings
    ) -> None:
        self._good = fill_of(good_enough)
        self._rules = HostRules(hosts, defaults, surroundings)
        self._reservations = surroundings.reservations
        self._offers = hosts.offers
        self._host_count = len(hosts)
        self._simple = (
            hosts.all_plain and defaults.max_tasks_per_host is None
        )  # rules follow only groups then
        self._begin(hosts, defaults)
        self._classes: dict[tuple[ConstraintClass, float], _ClassHosts] = {}
        self._views: dict[tuple[float, float, float, int, ConstraintClass], _View] = {}
        self._touched: list[int] = []  # states, in the order in which they changed

    def place(self, ask: Ask) -> int | None:
        """See `Placer`."""
        view = self._view(ask)
        if ask.particulars is not NO_PARTICULARS or (self._reservations and ask.job_id in self._reservations):
            return self._place_particular(ask, view)
        state, host = view.last, view.host
        if state < 0 or view.fills[state] < 0.0:
            host = self._best(ask, view)
            if host < 0:
                return None
            state = int(self._state_of[host])
        state = self._book(host, state, ask)
        view.fills[state] = self._fill_one(ask, view.open, state)
        view.seen = len(self._touched)
        view.last, view.host = state, host
        view.dull = min(view.dull, state // BATCH * BATCH)
        return host

    def refusal(self, ask: Ask) -> Refusal:
        """See `Placer`."""
        fails = self._rules.of(ask)
        if ask.particulars is not NO_PARTICULARS or ask.job_id in self._reservations:
            return self._refusal_by_host(ask, fails)
        of_class = self._class(ask)
        constraints = of_class.counts(self._rules)
        table, count = self._table, self._count
        hosts = self._members[:count] * of_class.open[:count]
        full = table[_USED[4], :count] + 1 > table[_ROOM[4], :count]
        if full.any():
            constraints[MAX_TASKS] = int(hosts[full].sum())
            hosts = np.where(full, 0, hosts)
        resources: dict[str, int] = {}
        asked = (("cpus", ask.cpus), ("mem", ask.mem_mb), ("gpus", ask.gpus), ("ports", float(ask.ports)))
        for row, (name, amount) in enumerate(asked):
            short = int(hosts[table[_USED[row], :count] + amount > table[_ROOM[row], :count]].sum())
            if short:
                resources[name] = short
        return Refusal(
            job_id=ask.job_id,
            resources=resources,
            constraints={name: number for name, number in constraints.items() if number},
        )

    def has_room(self, cpus: float, mem_mb: float) -> bool:
        """See `Placer`."""
        table, count = self._table, self._count
        room = table[_USED[0], :count] + cpus <= table[_ROOM[0], :count]
        room &= table[_USED[1], :count] + mem_mb <= table[_ROOM[1], :count]
        return bool(room.any())

    # --- states

    def _begin(self, hosts: Hosts, defaults: PoolDefaults) -> None:
        """Fill the table of states from the columns of hosts."""
        columns = hosts.columns
        most = defaults.max_tasks_per_host
        room_tasks = np.full(len(hosts), np.inf) if most is None else most - columns.tasks
        state_of, first, members = columns.states(by_tasks=most is not None)
        self._state_of: Integers = state_of.copy()
        self._count = len(first)
        self._each_its_own = len(first) == len(hosts)
        table = np.zeros((_ROWS, len(hosts)))  # no state is without a host, so there are never more
        for row, column in zip(
            _ROOM,
            (columns.room_cpus, columns.room_mem, columns.room_gpus, columns.ports, room_tasks),
            strict=True,
        ):
            table[row, : self._count] = column[first]
        table[_BASE_CPUS, : self._count] = columns.run_cpus[first]
        table[_BASE_MEM, : self._count] = columns.run_mem[first]
        total_cpus = (columns.room_cpus + columns.run_cpus)[first]
        total_mem = (columns.room_mem + columns.run_mem)[first]
        table[_TOTAL_CPUS, : self._count] = np.where(total_cpus == 0, 1.0, total_cpus)
        table[_TOTAL_MEM, : self._count] = np.where(total_mem == 0, 1.0, total_mem)
        self._table: Floats = table
        self._cells = [amounts(row) for row in table]
        self._first: Integers = np.zeros(table.shape[1], dtype=np.int64)  # each state's host of lowest name
        self._first[: self._count] = first
        self._members: Integers = np.zeros(table.shape[1], dtype=np.int64)  # how many hosts it has
        self._members[: self._count] = members

    def _book(self, host: int, state: int, ask: Ask) -> int:
        """Put the job on the host; returns the state that the host is in then."""
        if self._members[state] > 1:
            state = self._own_state(host, state)
        cells = self._cells
        offer = self._offers[host]
        cells[5][state] += ask.cpus
        cells[6][state] += ask.mem_mb
        cells[7][state] += ask.gpus
        cells[8][state] += ask.ports
        cells[9][state] += 1.0
        cells[_BASE_CPUS][state] = offer.running.cpus + cells[5][state]
        cells[_BASE_MEM][state] = offer.running.mem_mb + cells[6][state]
        if not self._simple or ask.particulars is not NO_PARTICULARS:
            self._rules.assigned(host, ask)
            if offer.kind is HostKind.KUBERNETES:
                for of_class in self._classes.values():
                    of_class.look_again(host, state)
        self._touched.append(state)
        return state

    def _own_state(self, host: int, state: int) -> int:
        """Take a host out of a state that it shares, into one of its own, equal so far."""
        own = self._new_state(state)
        self._members[state] -= 1
        self._members[own] = 1
        self._first[own] = host
        self._state_of[host] = own
        if self._first[state] == host:
            near = self._state_of[host + 1 : host + 1 + _NEAR] == state
            after = int(near.argmax())
            if not near[after]:
                after = int((self._state_of[host + 1 :] == state).argmax())
            self._first[state] = host + 1 + after
        return own

    def _part(self, state: int, open_hosts: Mask) -> None:
        """Take the hosts that are not open out of a state, into one that they share."""
        members = np.flatnonzero(self._state_of == state)
        is_open = open_hosts[members]
        closed = members[~is_open]
        other = self._new_state(state)
        self._state_of[closed] = other
        self._members[other] = len(closed)
        self._members[state] -= len(closed)
        self._first[other] = closed[0]
        self._first[state] = members[is_open][0]
        for view in self._views.values():
            view.last = -1  # its host may be in another state now

    def _new_state(self, like: int) -> int:
        """Add a state equal to another."""
        new = self._count
        self._count += 1
        self._table[:, new] = self._table[:, like]
        for of_class in self._classes.values():
            of_class.open[new] = of_class.open[like]
        for view in self._views.values():
            if view.reach == new:
                view.fills[new] = view.fills[like]
                view.reach = new + 1
        return new

    # --- what a shape fills

    def _view(self, ask: Ask) -> "_View":
        """What the job would fill each state to, up to date."""
        shape = (ask.cpus, ask.mem_mb, ask.gpus, ask.ports, ask.constraints)
        view = self._views.get(shape)
        if view is None:
            of_class = self._class(ask)
            view = _View(np.empty(self._table.shape[1]), of_class.open)
            view.seen = len(self._touched)
            if len(self._views) >= _VIEWS:
                del self._views[next(iter(self._views))]
            self._views[shape] = view
        elif view.seen < len(self._touched):
            touched = self._touched[view.seen :]
            if len(touched) <= _FEW:
                for state in touched:
                    view.fills[state] = self._fill_one(ask, view.open, state)
            else:
                states = np.array(touched)
                view.fills[states] = self._fills(ask, view.open[states], self._table[:, states])
            view.dull = min(view.dull, min(touched) // BATCH * BATCH)
            view.seen = len(self._touched)
            view.last = -1
        return view

    def _look_at(self, ask: Ask, view: "_View", states: int) -> None:
        """Let the view reach that many states."""
        part = slice(view.reach, states)
        view.fills[part] = self._fills(ask, view.open[part], self._table[:, part])
        view.reach = states

    @staticmethod
    def _fills(ask: Ask, is_open: Mask, table: Floats) -> Floats:
        """The fill of each column of a table of states; `_NO_FIT` where the job may not or cannot go."""
        fits = is_open & (table[_USED[0]] + ask.cpus <= table[_ROOM[0]])
        fits &= table[_USED[1]] + ask.mem_mb <= table[_ROOM[1]]
        if ask.gpus:
            fits &= table[_USED[2]] + ask.gpus <= table[_ROOM[2]]
        if ask.ports:
            fits &= table[_USED[3]] + ask.ports <= table[_ROOM[3]]
        if table[_ROOM[4], 0] < np.inf:
            fits &= table[_USED[4]] + 1.0 <= table[_ROOM[4]]
        fills: Floats = table[_BASE_CPUS] + ask.cpus
        fills /= table[_TOTAL_CPUS]
        of_mem = table[_BASE_MEM] + ask.mem_mb
        of_mem /= table[_TOTAL_MEM]
        fills += of_mem
        # Much faster than a choice by mask, and exact: what fits loses nothing.
        fills -= ~fits * _OUT
        return fills

    def _fill_one(self, ask: Ask, is_open: Mask, state: int) -> float:
        """The same for one state."""
        cells = self._cells
        if (
            not is_open[state]
            or cells[5][state] + ask.cpus > cells[0][state]
            or cells[6][state] + ask.mem_mb > cells[1][state]
            or (ask.gpus and cells[7][state] + ask.gpus > cells[2][state])
            or (ask.ports and cells[8][state] + ask.ports > cells[3][state])
            or cells[9][state] + 1.0 > cells[4][state]
        ):
            return _NO_FIT
        return (cells[_BASE_CPUS][state] + ask.cpus) / cells[_TOTAL_CPUS][state] + (
            cells[_BASE_MEM][state] + ask.mem_mb
        ) / cells[_TOTAL_MEM][state]

    def _best(self, ask: Ask, view: "_View") -> int:
        """The host to take; -1 if the job fits none."""
        if self._each_its_own and self._good < _FULL:
            host = self._first_good(ask, view)
            if host >= 0:
                return host
        if view.reach < self._count:
            self._look_at(ask, view, self._count)
        fills = view.fills[: self._count]
        best = int(fills.argmax())
        most = fills[best]
        if most < 0.0:
            return -1
        if most > self._good:
            first_good = int(self._first[: len(fills)][fills > self._good].min())
            batch = first_good - first_good % BATCH
            return batch + int(fills[self._state_of[batch : batch + BATCH]].argmax())
        alike = np.flatnonzero(fills == most)
        return int(self._first[alike].min()) if len(alike) > 1 else int(self._first[best])

    def _first_good(self, ask: Ask, view: "_View") -> int:
        """The host to take in the first batch with a good one; -1 if there is none. Reaches no further."""
        stride = _STRIDE
        while view.dull < self._count:
            begin = view.dull
            end = min(max(view.reach, begin + stride), self._count)
            if end > view.reach:
                self._look_at(ask, view, end)
                stride *= 2
            good = view.fills[begin:end] > self._good
            at = int(good.argmax())
            if good[at]:
                batch = view.dull = (begin + at) // BATCH * BATCH
                return batch + int(view.fills[batch : min(batch + BATCH, end)].argmax())
            view.dull = end
        return -1

    # --- what only one job demands

    def _place_particular(self, ask: Ask, view: "_View") -> int | None:
        """Place a job whose constraints are its own: best host first, until one passes them."""
        fails = self._rules.of(ask)
        if view.reach < self._count:
            self._look_at(ask, view, self._count)
        fills = self._fills_for_anyone(ask) if ask.job_id in self._reservations else view.fills
        by_host = fills[self._state_of]
        while True:
            host = int(by_host.argmax())
            if by_host[host] < 0.0:
                return None
            if by_host[host] > self._good:
                batch = int((by_host > self._good).argmax()) // BATCH * BATCH
                host = batch + int(by_host[batch : batch + BATCH].argmax())
            if fails is None or fails(host) is None:
                self._book(host, int(self._state_of[host]), ask)
                return host
            by_host[host] = _NO_FIT

    def _fills_for_anyone(self, ask: Ask) -> Floats:
        """Fills also of hosts that are reserved: for a job that may be the one they are kept for."""
        everywhere = np.ones(self._count, dtype=bool)
        return self._fills(ask, everywhere, self._table[:, : self._count])

    def _refusal_by_host(self, ask: Ask, fails: Callable[[int], str | None] | None) -> Refusal:
        cells = self._cells
        resources: Counter[str] = Counter()
        constraints: Counter[str] = Counter()
        asked = (("cpus", ask.cpus), ("mem", ask.mem_mb), ("gpus", ask.gpus), ("ports", float(ask.ports)))
        for host, state in enumerate(self._state_of.tolist()):
            failed = None if fails is None else fails(host)
            if failed is not None:
                constraints[failed] += 1
                continue
            for row, (name, amount) in enumerate(asked):
                if cells[_USED[row]][state] + amount > cells[_ROOM[row]][state]:
                    resources[name] += 1
        return Refusal(job_id=ask.job_id, resources=dict(resources), constraints=dict(constraints))

    # --- constraint classes

    def _class(self, ask: Ask) -> "_ClassHosts":
        """Where jobs of the class may go, by state; states whose hosts differ in that are parted."""
        key = (ask.constraints, ask.gpus)
        known = self._classes.get(key)
        if known is not None:
            return known
        open_hosts = np.ones(self._host_count, dtype=bool)
        names = self._rules.of_class(ask.constraints, ask.gpus)
        if names is not None:
            open_hosts[[host for host, name in enumerate(names) if name is not None]] = False
        open_hosts[self._rules.reserved_at] = False
        of_state = np.bincount(self._state_of, weights=open_hosts, minlength=self._count)
        for state in np.flatnonzero((of_state > 0) & (of_state < self._members[: self._count])).tolist():
            self._part(state, open_hosts)
        is_open = np.zeros(self._table.shape[1], dtype=bool)
        is_open[self._state_of[open_hosts]] = True
        known = self._classes[key] = _ClassHosts(names, is_open)
        return known


class _View:
    """What jobs of one shape would fill each state to."""

    __slots__ = ("dull", "fills", "host", "last", "open", "reach", "seen")

    def __init__(self, fills: Floats, is_open: Mask) -> None:
        self.fills = fills
        self.open = is_open
        self.dull = 0  # how many of the first states are known not to become good; whole batches
        self.reach = 0  # how many states it has looked at; what is behind has no meaning yet
        self.seen = 0  # how many of the touched states it knows
        self.last = -1  # the state that the last job of the shape went to, if it was the last to change
        self.host = -1


class _ClassHosts:
    """Where jobs of one constraint class may go."""

    __slots__ = ("_counts", "_names", "open")

    def __init__(self, names: list[str | None] | None, is_open: Mask) -> None:
        self._names = names  # by host; kept up by the rules
        self.open = is_open  # by state
        self._counts: dict[str, int] | None = None

    def look_again(self, host: int, state: int) -> None:
        """Learn that what the class says of a host may have changed; the host has its state alone."""
        if self._names is not None:
            self.open[state] = self.open[state] and self._names[host] is None
            self._counts = None

    def counts(self, rules: HostRules) -> dict[str, int]:
        """Return how many hosts fail which constraint."""
        if self._counts is None:
            names = self._names
            failed = Counter(name for name in names or () if name is not None)
            kept = sum(names is None or names[host] is None for host in rules.reserved_at)
            if kept:
                failed[RESERVED] = kept
            self._counts = dict(failed)
        return dict(self._counts)
