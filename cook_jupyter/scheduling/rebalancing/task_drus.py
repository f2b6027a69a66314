"""The DRUs of running tasks during a rebalance cycle.

Lives here: `TaskDrus`, the tasks of all users with their DRUs, in launch order or in Cook's order (by
priority first). The cost of stopping one task and placing another depends on the later tasks of the two
users, not on the size of the pool.
Not here: the choice of victims (`scheduling.rebalancing.preemption`), tasks by host
(`scheduling.rebalancing.victims`).

Tasks are numbered: first running tasks, by user and in order, then the jobs that decisions of this cycle have
placed.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import Final

import numpy as np

from cook_jupyter.model.limits import Usage, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.arrays import SEQ_BITS, Floats, Integers, amounts
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.dru import dru_of, drus_of
from cook_jupyter.scheduling.ranking.merge import segmented_cumsum

Key = tuple[int, ...]  # what orders a user's tasks: priority, start, seqs; or launch number, seq

_NEVER: Final = 1 << 62  # the start, or the launch number, of what never started
_FEW: Final = 32  # up to this many tasks, one by one is faster than by columns
_USER_BITS: Final = 40  # of a tie-break; above them stands the user


class TaskDrus:
    """The tasks of all users and their DRUs. Users are numbered in order of name, tasks in order of user.

    Attributes:
        names: names of the users.
        rows: row of each task in the index.
        users: number of the user of each task.
        ties: sort key among tasks of equal DRU: by name of the user, then the job placed last, then the
            running task that started last.
        work: work that is lost if the task is stopped, in cpu milliseconds (gpu milliseconds in gpu mode).
        running: number of running tasks; tasks with higher numbers were placed by decisions.
        drus, dru: DRUs as a column, and for access to single values; -inf for spared tasks.
        held: cpus, mem and gpus of each task, as columns.
        cpus, mem, gpus: the same, for access to single values.
    """

    def __init__(
        self,
        index: QueueIndex,
        limits: UserLimits,
        mode: DruMode,
        now_ms: int,
        *,
        launch_order: bool = False,
        spared_rows: Collection[int] = (),
    ) -> None:
        self._index = index
        self._limits = limits
        self._mode = mode
        self._launch_order = launch_order
        users = index.by_name()
        self.names = [tasks.name for tasks in users]
        self._place = {name: number for number, name in enumerate(self.names)}
        self._shares = [limits.share(name) for name in self.names]
        self._limited = [limits.quota(name).limits_usage for name in self.names]
        self._priority_keys: list[Sequence[Key]] = [tasks.keys for tasks in users]
        self._keys: list[list[Key] | None] = [None] * len(users)  # None: those of the index, unchanged
        self._tasks: list[array[int] | None] = [None] * len(users)  # None: consecutive numbers, unchanged
        lengths = np.array([len(tasks.keys) for tasks in users], dtype=np.int64)
        begins = np.cumsum(lengths) - lengths
        self._lengths: list[int] = lengths.tolist()
        self._begins: list[int] = begins.tolist()
        self.running = int(lengths.sum())
        started = array("i")
        for tasks in users:
            started.extend(tasks.started)
        rows = np.array(started, dtype=np.int32)
        owners = np.repeat(np.arange(len(users)), lengths)
        start_ms = np.array([key[1] for tasks in users for key in tasks.keys], dtype=np.float64)
        if launch_order:
            columns = index.columns
            seqs = columns.order[rows] & ((1 << SEQ_BITS) - 1)
            launches = columns.launch[rows]
            order = np.lexsort((seqs, launches, owners))
            rows, start_ms = rows[order], start_ms[order]
            self._launches, self._seqs = launches[order], seqs[order]
        self.rows: list[int] = rows.tolist()
        self.users: list[int] = owners.tolist()
        places = np.arange(len(rows)) - np.repeat(begins, lengths)
        self.ties: list[int] = ((owners << _USER_BITS) - places).tolist()
        amounts_held = [index.columns.cpus[rows], index.columns.mem[rows], index.columns.gpus[rows]]
        work = np.maximum(0.0, now_ms - start_ms) * amounts_held[2 if mode is DruMode.GPU else 0]
        self.work: list[float] = work.tolist()
        self._placed_keys: dict[int, Key] = {}
        self._allocate(
            [
                *amounts_held,
                *(segmented_cumsum(column, lengths) for column in amounts_held),
                np.zeros(len(rows)),
            ]
        )
        sums = dict(zip(("cpus", "mem", "gpus"), self._sums, strict=True))
        shares = index.limit_columns(limits).shares
        numbers = np.array([tasks.number for tasks in users], dtype=np.int64)[owners]
        self.drus[: len(rows)] = drus_of(
            lambda name: sums[name][: len(rows)], lambda name: shares[name][numbers], mode
        )
        spared = set(spared_rows)
        self._spared = {number for number, row in enumerate(self.rows) if row in spared} if spared else set()
        self._reserved: list[int] = []  # jobs placed by earlier cycles
        for number in self._spared:
            self.dru[number] = -inf

    def _allocate(self, columns: Sequence[Floats]) -> None:
        """Store the columns with capacity for tasks to be placed."""
        room = np.zeros(max(256, len(columns[0])))
        grown = [np.concatenate((column, room)) for column in columns]
        self.held, self._sums, self.drus = grown[:3], grown[3:6], grown[6]
        self.cpus, self.mem, self.gpus = map(amounts, self.held)
        self._cpus_sums, self._mem_sums, self._gpus_sums = map(amounts, self._sums)
        self.dru = amounts(self.drus)

    def all_tasks(self) -> list[int]:
        """Return the numbers of all tasks that were not stopped."""
        return [task for user in range(len(self.names)) for task in self.tasks_of(user)]

    def tasks_of(self, user: int) -> Sequence[int]:
        """Return the tasks of a user, in order."""
        changed = self._tasks[user]
        begin = self._begins[user]
        return range(begin, begin + self._lengths[user]) if changed is None else changed

    def score_of(self, task: int) -> float:
        """Return the DRU of a task, spared or not."""
        return self._dru_of(self.users[task], *self._sums_at(task))

    def is_spared(self, task: int) -> bool:
        """Return whether a task may not be preempted."""
        return task in self._spared

    def user_of(self, row: int) -> int:
        """Return the number of the user of the job in a row."""
        return self._place[self._index.owner(row).name]

    def key_of(self, row: int) -> Key:
        """Return the sort key of a waiting job in Cook's order: after the running tasks of its priority."""
        return (self._index.priority_key(row), _NEVER, -1, self._index.seq(row))

    def dru_after(self, row: int, stopped: Collection[int]) -> float:
        """Return the approximate DRU with which a stopped task would start again.

        Args:
            row: row of the task's job, one of `stopped`.
            stopped: rows of the jobs whose tasks are stopped, of any user.
        """
        user = self.user_of(row)
        all_amounts = self._index.amounts()
        stopped_rows = [
            stopped_row for stopped_row in stopped if stopped_row != row and self.user_of(stopped_row) == user
        ]
        sums = self._sums_at(self.tasks_of(user)[-1])
        remaining = (
            h - sum(column[stopped_row] for stopped_row in stopped_rows)
            for h, column in zip(sums, all_amounts, strict=True)
        )
        return self._dru_of(user, *remaining)

    def pending_dru(self, row: int) -> float:
        """Return the DRU that a waiting job would have if it ran.

        In launch order it is exact and counts everything that the user holds. In Cook's order it counts the
        tasks before the job, and is an upper bound, because their dominant resource and that of the job may
        differ.
        """
        user = self.user_of(row)
        user_tasks = self.tasks_of(user)
        cpus, mem, gpus = self._index.amounts()
        if self._launch_order:
            sums = self._sums_at(user_tasks[-1]) if user_tasks else (0.0, 0.0, 0.0)
            return self._dru_of(user, sums[0] + cpus[row], sums[1] + mem[row], sums[2] + gpus[row])
        tasks_before = bisect_right(self._keys_of(user), self.key_of(row))
        base = self.score_of(user_tasks[tasks_before - 1]) if tasks_before else 0.0
        return base + self._dru_of(user, cpus[row], mem[row], gpus[row])

    def lower_priority_tasks(self, row: int) -> tuple[float, list[tuple[int, float]]]:
        """Return the DRU of a waiting job in order of priority, and tasks of lower priority with their DRUs.

        Only preemptible tasks of the job's user are returned, in descending order of priority.
        """
        index, user = self._index, self.user_of(row)
        priority = index.priority_key(row)
        keys = self._priority_keys[user]
        if not keys or keys[-1][0] <= priority:
            return 0.0, []
        user_tasks = np.array(self.tasks_of(user), dtype=np.int64)
        priorities = index.columns.order[[self.rows[task] for task in user_tasks.tolist()]] >> SEQ_BITS
        order = np.argsort(priorities, kind="stable")
        user_tasks = user_tasks[order]
        sums = np.array([np.cumsum(column[user_tasks]) for column in self.held]).T.tolist()
        first_lower = int(np.searchsorted(priorities[order], priority, side="right"))
        cpus, mem, gpus = sums[first_lower - 1] if first_lower else (0.0, 0.0, 0.0)
        all_cpus, all_mem, all_gpus = index.amounts()
        pending = self._dru_of(user, cpus + all_cpus[row], mem + all_mem[row], gpus + all_gpus[row])
        lower = zip(user_tasks[first_lower:].tolist(), sums[first_lower:], strict=True)
        return pending, [(task, self._dru_of(user, *s)) for task, s in lower if not self.is_spared(task)]

    def is_within_quota(self, row: int, *, without: Collection[int] = ()) -> bool:
        """Return whether the user of a waiting job stays within quota if it runs, `without` some tasks."""
        user = self.user_of(row)
        if not self._limited[user]:
            return True
        quota = self._limits.quota(self.names[user])
        user_tasks = self.tasks_of(user)
        cpus, mem, gpus = self._sums_at(user_tasks[-1]) if user_tasks else (0.0, 0.0, 0.0)
        if without:
            user_tasks = [task for task in user_tasks if task not in without]
            cpus = mem = gpus = 0.0
            for task in user_tasks:  # in a loop, because `sum` adds floats in a different way
                cpus, mem, gpus = cpus + self.cpus[task], mem + self.mem[task], gpus + self.gpus[task]
        all_cpus, all_mem, all_gpus = self._index.amounts()
        return quota.allows(
            Usage(
                count=len(user_tasks) + 1,
                cpus=cpus + all_cpus[row],
                mem_mb=mem + all_mem[row],
                gpus=gpus + all_gpus[row],
            )
        )

    def add(self, row: int, launch: int | None = None, *, firm: bool = False) -> int:
        """Count a waiting job as running, and return its number. Call `rescore` afterwards.

        Args:
            row: row of the job.
            launch: launch number that is reserved for the job; None places it after all others.
            firm: whether the job is spared from further decisions of this cycle.
        """
        number = len(self.rows)
        if number == len(self.held[0]):
            self._allocate([*self.held, *self._sums, self.drus])
        user = self.user_of(row)
        cpus, mem, gpus = self._index.amounts()
        self.cpus[number], self.mem[number], self.gpus[number] = cpus[row], mem[row], gpus[row]
        self.rows.append(row)
        self.users.append(user)
        # Before the user's running tasks, and before jobs that were placed earlier.
        self.ties.append((user << _USER_BITS) - number - 1)
        self.work.append(0.0)
        if not self._launch_order:
            key = self.key_of(row)
        elif launch is None:
            key = (_NEVER, number)
        else:
            key = (launch, self._index.seq(row))
            self._spared.add(number)
            self._reserved.append(number)
        if firm:
            self._spared.add(number)
        self._placed_keys[number] = key
        user_tasks, keys = self._changed_tasks_of(user)
        position = bisect_left(keys, key)
        user_tasks.insert(position, number)
        keys.insert(position, key)
        return number

    def remove(self, number: int) -> None:
        """Remove a stopped task. Call `rescore` afterwards."""
        user = self.users[number]
        user_tasks, keys = self._changed_tasks_of(user)
        position = bisect_left(keys, self._key(number))
        del user_tasks[position]
        del keys[position]

    def rescore(self, stopped: Iterable[int], placed: int) -> Integers:
        """Compute the DRUs that have changed, and return those tasks except reserved jobs."""
        first_keys: dict[int, Key] = {}
        for number in (*stopped, placed):
            user, key = self.users[number], self._key(number)
            first_keys[user] = min(first_keys.get(user, key), key)
        changed = np.concatenate([self._rescore_user(user, key) for user, key in first_keys.items()])
        return changed[~np.isin(changed, self._reserved)] if self._reserved else changed

    def _rescore_user(self, user: int, first_key: Key) -> Integers:
        """Compute the DRUs of a user's tasks from a key in the order on."""
        user_tasks, keys = self._changed_tasks_of(user)
        position = bisect_left(keys, first_key)
        if position == len(user_tasks):
            return np.empty(0, dtype=np.int64)
        numbers = np.frombuffer(user_tasks, dtype=np.int64)[position:].copy()
        share = self._shares[user]
        sums_before = self._sums_at(user_tasks[position - 1]) if position else (0.0, 0.0, 0.0)
        if len(numbers) <= _FEW:
            cpus, mem, gpus = sums_before
            for number in numbers.tolist():
                cpus += self.cpus[number]
                mem += self.mem[number]
                gpus += self.gpus[number]
                self._cpus_sums[number], self._mem_sums[number], self._gpus_sums[number] = cpus, mem, gpus
                self.dru[number] = (
                    -inf if number in self._spared else dru_of(cpus, mem, gpus, share, self._mode)
                )
            return numbers
        for base, column, sums in zip(sums_before, self.held, self._sums, strict=True):
            amounts_held = column[numbers]
            amounts_held[0] += base
            sums[numbers] = np.cumsum(amounts_held)
        sums_of = dict(zip(("cpus", "mem", "gpus"), self._sums, strict=True))
        shares = {"cpus": share.cpus, "mem": share.mem_mb, "gpus": share.gpus}
        self.drus[numbers] = drus_of(
            lambda name: sums_of[name][numbers], lambda name: shares[name], self._mode
        )
        for number in self._spared:
            self.dru[number] = -inf
        return numbers

    def _dru_of(self, user: int, cpus: float, mem: float, gpus: float) -> float:
        """Return the DRU of amounts that a user holds."""
        return dru_of(cpus, mem, gpus, self._shares[user], self._mode)

    def _sums_at(self, number: int) -> tuple[float, float, float]:
        return self._cpus_sums[number], self._mem_sums[number], self._gpus_sums[number]

    def _key(self, number: int) -> Key:
        placed = self._placed_keys.get(number)
        if placed is not None:
            return placed
        if self._launch_order:
            return (int(self._launches[number]), int(self._seqs[number]))
        user = self.users[number]
        return self._priority_keys[user][number - self._begins[user]]

    def _keys_of(self, user: int) -> Sequence[Key]:
        """Return the keys of the user's tasks in Cook's order."""
        changed = self._keys[user]
        return self._priority_keys[user] if changed is None else changed

    def _changed_tasks_of(self, user: int) -> tuple["array[int]", list[Key]]:
        """Return the user's tasks and their keys as lists to be changed."""
        user_tasks, keys = self._tasks[user], self._keys[user]
        if user_tasks is None or keys is None:
            begin, end = self._begins[user], self._begins[user] + self._lengths[user]
            user_tasks = self._tasks[user] = array("q", range(begin, end))
            keys = self._keys[user] = (
                list(zip(self._launches[begin:end].tolist(), self._seqs[begin:end].tolist(), strict=True))
                if self._launch_order
                else list(self._priority_keys[user])
            )
        return user_tasks, keys
