"""Tasks by host in descending order of DRU, with the room that stopping the first of them would free.

Lives here: `VictimTable`, which finds the hosts where the room for a job costs the tasks of the highest DRUs.
The first tasks of all hosts are one column, their second tasks the next. A decision reads as many columns as
its job needs victims, and ends where all further tasks have lower DRUs than the best host so far.
Not here: DRUs (`scheduling.rebalancing.task_drus`), constraints of jobs on hosts
(`scheduling.rebalancing.candidates`), the final choice among the tasks of a host
(`scheduling.rebalancing.preemption`).

Hosts are sorted in the columns by capacity (number of tasks for which there is place), in descending order,
so that a column ends where hosts have no place for more tasks.
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

_FEW: Final = 24  # changed tasks up to which updating one by one is faster than in columns
_NOTHING: Final = Resources()
_NO_HOSTS: Final = np.empty(0, dtype=np.int64)


class VictimThreshold(NamedTuple):
    """The DRUs of tasks that may be preempted for a beneficiary.

    Attributes:
        safe_dru: DRU below which tasks are never preempted.
        beneficiary_dru: DRU of the beneficiary.
        min_dru_gap: least DRU gap between victim and beneficiary (exclusive).
    """

    safe_dru: float
    beneficiary_dru: float
    min_dru_gap: float

    def allows(self, dru: float) -> bool:
        """Return whether a task of this DRU may be preempted."""
        return dru >= self.safe_dru and dru - self.beneficiary_dru > self.min_dru_gap

    def allowed_mask(self, drus: Floats) -> Mask:
        """Return a mask of the DRUs that allow preemption."""
        allowed: Mask = (drus >= self.safe_dru) & (drus - self.beneficiary_dru > self.min_dru_gap)
        return allowed


class _Column(NamedTuple):
    """The n-th tasks of all hosts, and the room that stopping the first n tasks would free."""

    drus: Floats
    cpus: Floats
    mem: Floats
    gpus: Floats
    most: list[float]  # upper bounds of the cpus and memory in the column


class VictimTable:
    """The tasks of all hosts. Hosts are identified by their position in order of name.

    Attributes:
        tasks_at: tasks of each host, in descending order of DRU.
        spare: spare room of each host; None where it is not known.
    """

    def __init__(
        self,
        task_drus: TaskDrus,
        positions: Sequence[int],
        spare: Sequence[Resources | None],
        *,
        least_work_lost: bool,
        freed_gpus_count: bool,
    ) -> None:
        self._task_drus = task_drus
        self._least_work_lost = least_work_lost
        self._freed_gpus_count = freed_gpus_count
        self.spare = list(spare)
        rooms = [(-1.0, -1.0, -1.0) if r is None else (r.cpus, r.mem_mb, r.gpus) for r in spare]
        self._spare = np.array(rooms).reshape(-1, 3).T.copy()
        self._spare_bounds = [float(column.max(initial=0.0)) for column in self._spare[:2]]  # bounds
        self._allocate(np.array(positions, dtype=np.int64), np.zeros(len(positions), dtype=np.int64))
        self.tasks_at: list[list[int]] = []
        self._build(np.arange(len(positions)))

    # --- queries

    def with_spare_room(self, cpus: float, mem: float, gpus: float) -> Integers:
        """Return the hosts with enough spare room."""
        if self._spare_bounds[0] < cpus or self._spare_bounds[1] < mem:
            return _NO_HOSTS
        enough = (self._spare[0] >= cpus) & (self._spare[1] >= mem)
        if gpus:
            enough &= self._spare[2] >= gpus
        return np.flatnonzero(enough)

    def best_hosts(
        self, cpus: float, mem: float, gpus: float, threshold: VictimThreshold, open_to: Mask | None
    ) -> set[int]:
        """Return the hosts on which the lowest DRU of the necessary victims is highest.

        Args:
            cpus: required cpus.
            mem: required memory.
            gpus: required gpus.
            threshold: threshold of preemptible tasks.
            open_to: mask of the hosts to consider; None for all.
        """
        best, positions = -inf, set[int]()
        allowed = None if open_to is None else open_to[self._position]
        for drus, all_cpus, all_mem, all_gpus, bounds in self._columns:
            if bounds[0] < cpus or bounds[1] < mem:
                continue
            top = drus.max()
            if top < best or not threshold.allows(top):
                break
            enough = all_cpus >= cpus
            enough &= all_mem >= mem
            if gpus:
                enough &= all_gpus >= gpus
            if allowed is not None:
                enough &= allowed[: len(enough)]
            fitting_slots = enough.nonzero()[0]
            if not len(fitting_slots):
                continue
            fitting_drus = drus[fitting_slots]
            highest = float(fitting_drus.max())
            if highest < best or not threshold.allows(highest):
                continue
            if highest > best:
                best, positions = highest, set()
            positions.update(self._position[fitting_slots[fitting_drus == highest]].tolist())
        return positions

    def scores(self, cpus: float, mem: float, gpus: float, threshold: VictimThreshold) -> Floats:
        """Return by position the lowest DRU of the necessary victims; -inf where preemption is impossible."""
        scores = np.full(len(self.tasks_at), -inf)
        for drus, all_cpus, all_mem, all_gpus, bounds in self._columns:
            if bounds[0] < cpus or bounds[1] < mem:
                continue
            if not threshold.allows(drus.max()):
                break
            enough = (all_cpus >= cpus) & (all_mem >= mem)
            if gpus:
                enough &= all_gpus >= gpus
            np.maximum(scores[: len(drus)], np.where(enough, drus, -inf), out=scores[: len(drus)])
        scores[~threshold.allowed_mask(scores)] = -inf
        by_position = np.empty_like(scores)
        by_position[self._position] = scores
        return by_position

    def sort(self, tasks: list[int]) -> None:
        """Sort tasks in the order in which they are preempted."""
        dru, work, ties = self._task_drus.dru, self._task_drus.work, self._task_drus.ties
        if self._least_work_lost:
            tasks.sort(key=lambda task: (-dru[task], work[task], ties[task]))
        else:
            tasks.sort(key=lambda task: (-dru[task], ties[task]))

    def position_of(self, task: int) -> int:
        """Return the position of a task's host."""
        return self._where[task]

    # --- updates

    def apply(
        self, position: int, stopped: Sequence[int], placed: int, spare: Resources, changed: Integers
    ) -> None:
        """Apply a decision.

        Args:
            position: position of the host.
            stopped: tasks of the host that are stopped.
            placed: task of the beneficiary.
            spare: room that is left on the host.
            changed: tasks on any host whose DRU has changed.
        """
        if placed >= len(self._where):
            self._allocate(self._wheres, self._depths)
        self._where[placed] = position
        host_tasks = self.tasks_at[position]
        for task in stopped:
            host_tasks.remove(task)
        host_tasks.append(placed)
        self.spare[position] = spare
        self._spare[:, position] = (spare.cpus, spare.mem_mb, spare.gpus)
        bounds = self._spare_bounds
        bounds[0], bounds[1] = max(bounds[0], spare.cpus), max(bounds[1], spare.mem_mb)
        if len(host_tasks) > self._capacity[position]:
            self._build(np.fromiter(chain.from_iterable(self.tasks_at), np.int64))
            return
        out_of_order = self._update(changed, position) if len(changed) <= _FEW else self._update_all(changed)
        out_of_order.add(position)
        for unordered in out_of_order:
            self._refresh(unordered)

    def _update(self, changed: Integers, skipped_position: int) -> set[int]:
        """Write the DRUs of a few tasks; return the hosts whose order may have changed."""
        out_of_order: set[int] = set()
        drus, starts, dru = self._dru, self._starts, self._task_drus.dru
        for task in changed.tolist():
            position = self._where[task]
            if position == skipped_position:
                continue
            depth, slot = self._depth[task], self._slot[position]
            new_dru = dru[task]
            drus[starts[depth] + slot] = new_dru
            last = depth + 1 == len(self.tasks_at[position])
            if (depth and drus[starts[depth - 1] + slot] <= new_dru) or not (
                last or drus[starts[depth + 1] + slot] < new_dru
            ):
                out_of_order.add(position)
        return out_of_order

    def _update_all(self, changed: Integers) -> set[int]:
        """Write the DRUs of many tasks, in columns; return the hosts whose order may have changed."""
        positions, depths = self._wheres[changed], self._depths[changed]
        slots = self._slots[positions]
        starts = np.array(self._starts)
        cells = starts[depths] + slots
        drus = self._drus
        drus[cells] = self._task_drus.drus[changed]
        above = starts[np.maximum(depths - 1, 0)] + slots
        wrong = (depths > 0) & (drus[above] <= drus[cells])
        lasts = self._lengths[positions] - 1
        below = starts[np.minimum(depths + 1, np.maximum(lasts, 0))] + slots
        wrong |= (depths < lasts) & (drus[below] >= drus[cells])
        return set(positions[wrong].tolist())

    def _refresh(self, position: int) -> None:
        """Sort a host's tasks, and write their entries."""
        tasks = self.tasks_at[position]
        self.sort(tasks)
        dru, freed_gpus_count = self._task_drus.dru, self._freed_gpus_count
        held_cpus, held_mem, held_gpus = self._task_drus.cpus, self._task_drus.mem, self._task_drus.gpus
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
            bounds = column.most
            bounds[0] = max(bounds[0], cpus)
            bounds[1] = max(bounds[1], mem)
        for depth in range(len(tasks), self._filled[position]):
            self._dru[self._starts[depth] + slot] = -inf
        self._filled[position] = len(tasks)
        self._lengths[position] = len(tasks)

    # --- building

    def _allocate(self, wheres: Integers, depths: Integers) -> None:
        """Store the hosts and depths of tasks, with capacity for as many tasks as there are DRUs."""
        self._wheres = np.zeros(len(self._task_drus.drus), dtype=np.int64)
        self._depths = np.zeros(len(self._task_drus.drus), dtype=np.int64)
        self._wheres[: len(wheres)] = wheres
        self._depths[: len(depths)] = depths
        self._where, self._depth = counts(self._wheres), counts(self._depths)

    def _build(self, numbers: Integers) -> None:
        """Build the columns for these tasks."""
        task_drus = self._task_drus
        count = len(self.spare)
        positions = self._wheres[numbers]
        ties = np.array(task_drus.ties, dtype=np.int64)[numbers]
        keys = [ties, -task_drus.drus[numbers], positions]
        if self._least_work_lost:
            keys.insert(1, np.array(task_drus.work)[numbers])
        order = np.lexsort(keys)
        numbers, positions = numbers[order], positions[order]
        self._lengths = np.bincount(positions, minlength=count)
        begins = np.cumsum(self._lengths) - self._lengths
        tasks = numbers.tolist()
        self.tasks_at = [
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
        sizes = count - sizes  # number of hosts with place for more than that many tasks
        starts = np.cumsum(sizes) - sizes
        self._capacity: list[int] = capacities.tolist()
        self._slot: list[int] = self._slots.tolist()
        self._filled: list[int] = self._lengths.tolist()
        self._starts: list[int] = starts.tolist()
        cells = starts[depths] + self._slots[positions]
        total = int(sizes.sum())
        self._drus = np.full(total, -inf)
        self._drus[cells] = task_drus.drus[numbers]
        flat = []
        firsts = begins[self._lengths > 0]
        freed = (*task_drus.held[:2], task_drus.held[2] * float(self._freed_gpus_count))
        for column, spare in zip(freed, np.maximum(self._spare, 0.0), strict=True):
            amounts_held = column[numbers]
            amounts_held[firsts] += spare[self._lengths > 0]
            sums = np.zeros(total)
            sums[cells] = segmented_cumsum(amounts_held, self._lengths)
            flat.append(sums)
        self._dru = amounts(self._drus)
        self._cpus, self._mem, self._gpus = map(amounts, flat)
        self._columns: list[_Column] = []
        for begin, size in zip(self._starts, sizes.tolist(), strict=True):
            drus, cpus, mem, gpus = (column[begin : begin + size] for column in (self._drus, *flat))
            self._columns.append(_Column(drus, cpus, mem, gpus, [float(cpus.max()), float(mem.max())]))
