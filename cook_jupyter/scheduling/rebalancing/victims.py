"""Tasks by host, from the highest DRU down, with what stopping the first few of them would free.

Lives here: `VictimTable`, which finds the hosts where the room for a job costs the tasks that are furthest
along. All hosts' first tasks are one column, their second tasks the next: a decision reads as many columns as
its job needs victims, and stops where all further tasks are nearer to their share than the best host found.
Not here: scores (`scheduling.rebalancing.task_drus`), which hosts a job may go to at all
(`scheduling.rebalancing.candidates`), which of a host's tasks are stopped in the end
(`scheduling.rebalancing.preemption`).

Hosts stand in the columns in order of how many tasks there is place for, so that shorter columns end where
hosts have no more.
"""

from collections.abc import Sequence
from itertools import chain
from math import inf
from typing import Final, NamedTuple

import numpy as np

from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.arrays import Floats, Integers, amounts, counts
from cook_jupyter.scheduling.ranking.merge import segmented_cumsum
from cook_jupyter.scheduling.ranking.ranking import Mask
from cook_jupyter.scheduling.rebalancing.task_drus import TaskDrus

_FEW: Final = 24  # up to this many changed tasks, one by one is faster than by columns
_NOTHING: Final = Resources()
_NO_HOSTS: Final = np.empty(0, dtype=np.int64)


class VictimThreshold(NamedTuple):
    """From which DRU on a task may be preempted.

    Attributes:
        safe: none below this.
        pending: the DRU of the beneficiary.
        by: by more than this a victim's must exceed it.
    """

    safe: float
    pending: float
    by: float

    def allows(self, dru: float) -> bool:
        """Tell whether a task of that DRU may be preempted."""
        return dru >= self.safe and dru - self.pending > self.by

    def allows_each(self, drus: Floats) -> Mask:
        """Tell the same of many tasks."""
        allowed: Mask = (drus >= self.safe) & (drus - self.pending > self.by)
        return allowed


class _Column(NamedTuple):
    """The tasks at one place in their hosts' order; what it would free to stop them and those before them."""

    drus: Floats
    cpus: Floats
    mem: Floats
    gpus: Floats
    most: list[float]  # cpus and memory that no host has more of here; a bound, not the maximum


class VictimTable:
    """The hosts' tasks. Hosts go by their position in order of name.

    Attributes:
        at: the tasks on each host, from the highest DRU down.
        spare: the spare room on each host; None where there is no entry for it.
    """

    def __init__(
        self,
        standings: TaskDrus,
        positions: Sequence[int],
        spare: Sequence[Resources | None],
        *,
        least_work_lost: bool,
        freed_gpus_count: bool,
    ) -> None:
        self._standings = standings
        self._least_work_lost = least_work_lost
        self._freed_gpus_count = freed_gpus_count
        self.spare = list(spare)
        rooms = [(-1.0, -1.0, -1.0) if r is None else (r.cpus, r.mem_mb, r.gpus) for r in spare]
        self._spare = np.array(rooms).reshape(-1, 3).T.copy()
        self._most_spare = [float(column.max(initial=0.0)) for column in self._spare[:2]]  # bounds
        self._allocate(np.array(positions, dtype=np.int64), np.zeros(len(positions), dtype=np.int64))
        self.at: list[list[int]] = []
        self._build(np.arange(len(positions)))

    # --- questions

    def with_spare_room(self, cpus: float, mem: float, gpus: float) -> Integers:
        """Return the hosts whose spare room alone suffices."""
        if self._most_spare[0] < cpus or self._most_spare[1] < mem:
            return _NO_HOSTS
        enough = (self._spare[0] >= cpus) & (self._spare[1] >= mem)
        if gpus:
            enough &= self._spare[2] >= gpus
        return np.flatnonzero(enough)

    def best(
        self, cpus: float, mem: float, gpus: float, least: VictimThreshold, open_to: Mask | None
    ) -> set[int]:
        """Return the hosts where the last task that must go to make room has the highest DRU.

        Args:
            cpus: how many are asked for.
            mem: how much memory is asked for.
            gpus: how many are asked for.
            least: which DRUs will do.
            open_to: which hosts come into question, by position; None if all do.
        """
        best, found = -inf, set[int]()
        allowed = None if open_to is None else open_to[self._position]
        for drus, all_cpus, all_mem, all_gpus, most in self._columns:
            if most[0] < cpus or most[1] < mem:
                continue
            top = drus.max()
            if top < best or not least.allows(top):
                break
            enough = all_cpus >= cpus
            enough &= all_mem >= mem
            if gpus:
                enough &= all_gpus >= gpus
            if allowed is not None:
                enough &= allowed[: len(enough)]
            slots = enough.nonzero()[0]
            if not len(slots):
                continue
            there = drus[slots]
            highest = float(there.max())
            if highest < best or not least.allows(highest):
                continue
            if highest > best:
                best, found = highest, set()
            found.update(self._position[slots[there == highest]].tolist())
        return found

    def scores(self, cpus: float, mem: float, gpus: float, least: VictimThreshold) -> Floats:
        """Return by position the DRU of the last task that must go to make room; -inf where none will do."""
        scores = np.full(len(self.at), -inf)
        for drus, all_cpus, all_mem, all_gpus, most in self._columns:
            if most[0] < cpus or most[1] < mem:
                continue
            if not least.allows(drus.max()):
                break
            enough = (all_cpus >= cpus) & (all_mem >= mem)
            if gpus:
                enough &= all_gpus >= gpus
            np.maximum(scores[: len(drus)], np.where(enough, drus, -inf), out=scores[: len(drus)])
        scores[~least.allows_each(scores)] = -inf
        by_position = np.empty_like(scores)
        by_position[self._position] = scores
        return by_position

    def sort(self, tasks: list[int]) -> None:
        """Put tasks in the order in which they are preempted."""
        dru, work, ties = self._standings.dru, self._standings.work, self._standings.ties
        if self._least_work_lost:
            tasks.sort(key=lambda task: (-dru[task], work[task], ties[task]))
        else:
            tasks.sort(key=lambda task: (-dru[task], ties[task]))

    def position_of(self, task: int) -> int:
        """Return where a task is."""
        return self._where[task]

    # --- changes

    def advance(
        self, at: int, stopped: Sequence[int], placed: int, spare: Resources, changed: Integers
    ) -> None:
        """Follow a decision.

        Args:
            at: the host.
            stopped: which of its tasks go.
            placed: the task that comes.
            spare: the room that is left.
            changed: all tasks whose DRU is another now, here or elsewhere.
        """
        if placed >= len(self._where):
            self._allocate(self._wheres, self._depths)
        self._where[placed] = at
        here = self.at[at]
        for task in stopped:
            here.remove(task)
        here.append(placed)
        self.spare[at] = spare
        self._spare[:, at] = (spare.cpus, spare.mem_mb, spare.gpus)
        most = self._most_spare
        most[0], most[1] = max(most[0], spare.cpus), max(most[1], spare.mem_mb)
        if len(here) > self._capacity[at]:
            self._build(np.fromiter(chain.from_iterable(self.at), np.int64))
            return
        out_of_order = self._update(changed, at) if len(changed) <= _FEW else self._update_all(changed)
        out_of_order.add(at)
        for position in out_of_order:
            self._refresh(position)

    def _update(self, changed: Integers, leaving_out: int) -> set[int]:
        """Write the DRUs of a few tasks; return the hosts whose order may have changed by it."""
        out_of_order: set[int] = set()
        drus, starts, dru = self._dru, self._starts, self._standings.dru
        for task in changed.tolist():
            position = self._where[task]
            if position == leaving_out:
                continue
            depth, slot = self._depth[task], self._slot[position]
            now = dru[task]
            drus[starts[depth] + slot] = now
            last = depth + 1 == len(self.at[position])
            if (depth and drus[starts[depth - 1] + slot] <= now) or not (
                last or drus[starts[depth + 1] + slot] < now
            ):
                out_of_order.add(position)
        return out_of_order

    def _update_all(self, changed: Integers) -> set[int]:
        """The same in columns. What is written for the host of the decision is written again later."""
        positions, depths = self._wheres[changed], self._depths[changed]
        slots = self._slots[positions]
        starts = np.array(self._starts)
        cells = starts[depths] + slots
        drus = self._drus
        drus[cells] = self._standings.drus[changed]
        above = starts[np.maximum(depths - 1, 0)] + slots
        wrong = (depths > 0) & (drus[above] <= drus[cells])
        lasts = self._lengths[positions] - 1
        below = starts[np.minimum(depths + 1, np.maximum(lasts, 0))] + slots
        wrong |= (depths < lasts) & (drus[below] >= drus[cells])
        return set(positions[wrong].tolist())

    def _refresh(self, position: int) -> None:
        """Sort a host's tasks again and write all that is said of them."""
        tasks = self.at[position]
        self.sort(tasks)
        dru, freed_gpus_count = self._standings.dru, self._freed_gpus_count
        held_cpus, held_mem, held_gpus = self._standings.cpus, self._standings.mem, self._standings.gpus
        all_dru, all_cpus, all_mem, all_gpus = self._dru, self._cpus, self._mem, self._gpus
        slot = self._slot[position]
        spare = self.spare[position] or _NOTHING
        cpus, mem, gpus = spare.cpus, spare.mem_mb, spare.gpus
        for depth, (task, start, column) in enumerate(zip(tasks, self._starts, self._columns, strict=False)):
            cpus += held_cpus[task]
            mem += held_mem[task]
            if freed_gpus_count:
                gpus += held_gpus[task]
            cell = start + slot
            all_dru[cell] = dru[task]
            all_cpus[cell] = cpus
            all_mem[cell] = mem
            all_gpus[cell] = gpus
            self._depth[task] = depth
            most = column.most
            most[0] = max(most[0], cpus)
            most[1] = max(most[1], mem)
        for depth in range(len(tasks), self._filled[position]):
            self._dru[self._starts[depth] + slot] = -inf
        self._filled[position] = len(tasks)
        self._lengths[position] = len(tasks)

    # --- building

    def _allocate(self, wheres: Integers, depths: Integers) -> None:
        """Take what is said of tasks' places, with room for as many as there are standings."""
        self._wheres = np.zeros(len(self._standings.drus), dtype=np.int64)
        self._depths = np.zeros(len(self._standings.drus), dtype=np.int64)
        self._wheres[: len(wheres)] = wheres
        self._depths[: len(depths)] = depths
        self._where, self._depth = counts(self._wheres), counts(self._depths)

    def _build(self, numbers: Integers) -> None:
        """Lay out the columns anew, for these tasks."""
        standings = self._standings
        count = len(self.spare)
        positions = self._wheres[numbers]
        ties = np.array(standings.ties, dtype=np.int64)[numbers]
        keys = [ties, -standings.drus[numbers], positions]
        if self._least_work_lost:
            keys.insert(1, np.array(standings.work)[numbers])
        order = np.lexsort(keys)
        numbers, positions = numbers[order], positions[order]
        self._lengths = np.bincount(positions, minlength=count)
        begins = np.cumsum(self._lengths) - self._lengths
        tasks = numbers.tolist()
        self.at = [
            tasks[begin : begin + length]
            for begin, length in zip(begins.tolist(), self._lengths.tolist(), strict=True)
        ]
        depths = np.arange(len(numbers)) - np.repeat(begins, self._lengths)
        self._depths[numbers] = depths

        capacities = 2 * self._lengths + 4
        self._position = np.argsort(-capacities, kind="stable")
        self._slots = np.empty(count, dtype=np.int64)
        self._slots[self._position] = np.arange(count)
        sizes = np.searchsorted(np.sort(capacities), np.arange(capacities.max(initial=0)), side="right")
        sizes = count - sizes  # hosts with place for that many tasks and one more
        starts = np.cumsum(sizes) - sizes
        self._capacity: list[int] = capacities.tolist()
        self._slot: list[int] = self._slots.tolist()
        self._filled: list[int] = self._lengths.tolist()
        self._starts: list[int] = starts.tolist()
        cells = starts[depths] + self._slots[positions]
        total = int(sizes.sum())
        self._drus = np.full(total, -inf)
        self._drus[cells] = standings.drus[numbers]
        flat = []
        first = begins[self._lengths > 0]
        freed = (*standings.held[:2], standings.held[2] * float(self._freed_gpus_count))
        for column, spare in zip(freed, np.maximum(self._spare, 0.0), strict=True):
            held = column[numbers]
            held[first] += spare[self._lengths > 0]
            sums = np.zeros(total)
            sums[cells] = segmented_cumsum(held, self._lengths)
            flat.append(sums)
        self._dru = amounts(self._drus)
        self._cpus, self._mem, self._gpus = map(amounts, flat)
        self._columns: list[_Column] = []
        for begin, size in zip(self._starts, sizes.tolist(), strict=True):
            drus, cpus, mem, gpus = (column[begin : begin + size] for column in (self._drus, *flat))
            self._columns.append(_Column(drus, cpus, mem, gpus, [float(cpus.max()), float(mem.max())]))
