"""Where each running task stands along its user's share, while a rebalance cycle decides.

Lives here: `TaskDrus`, the users' tasks with their DRUs: in the order of their launches, or in Cook's order
(by priority first). Stopping one and placing another costs what comes behind them in their users' lists, not
what the pool runs.
Not here: which tasks give way (`scheduling.rebalancing.preemption`), tasks by host
(`scheduling.rebalancing.victims`).

A task is a number: those that run come first, by user, in order; behind them the jobs that decisions of this
cycle have placed.
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
    """All users' tasks and their DRUs. Users go by their place in order of name.

    Attributes:
        names: of the users.
        rows: of each task, in the index.
        users: whose each task is.
        ties: among tasks of one DRU the smaller goes first: users by name, then what was placed last, then
            the later of what runs.
        work: what would be lost if the task were stopped, in cpu milliseconds, in gpu mode gpu milliseconds.
        running: how many tasks run; numbers from there on were placed.
        drus, dru: the scores, as a column and to be read one at a time; -inf of tasks that may not be
            preempted.
        held: cpus, mem and gpus of each task, as columns.
        cpus, mem, gpus: the same, to be read one at a time.
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
        self._place = {name: at for at, name in enumerate(self.names)}
        self._shares = [limits.share(name) for name in self.names]
        self._limited = [limits.quota(name).limits_usage for name in self.names]
        self._priority_keys: list[Sequence[Key]] = [tasks.keys for tasks in users]
        self._keys: list[list[Key] | None] = [None] * len(users)  # until changed, those of the index
        self._own: list[array[int] | None] = [None] * len(users)  # until changed, numbers in a row
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
        begun = np.array([key[1] for tasks in users for key in tasks.keys], dtype=np.float64)
        if launch_order:
            columns = index.columns
            seqs = columns.order[rows] & ((1 << SEQ_BITS) - 1)
            launches = columns.launch[rows]
            order = np.lexsort((seqs, launches, owners))
            rows, begun = rows[order], begun[order]
            self._launches, self._seqs = launches[order], seqs[order]
        self.rows: list[int] = rows.tolist()
        self.users: list[int] = owners.tolist()
        places = np.arange(len(rows)) - np.repeat(begins, lengths)
        self.ties: list[int] = ((owners << _USER_BITS) - places).tolist()
        held = [index.columns.cpus[rows], index.columns.mem[rows], index.columns.gpus[rows]]
        work = np.maximum(0.0, now_ms - begun) * held[2 if mode is DruMode.GPU else 0]
        self.work: list[float] = work.tolist()
        self._placed_keys: dict[int, Key] = {}
        self._allocate([*held, *(segmented_cumsum(column, lengths) for column in held), np.zeros(len(rows))])
        sums = dict(zip(("cpus", "mem", "gpus"), self._sums, strict=True))
        shares = index.limit_columns(limits).shares
        numbers = np.array([tasks.number for tasks in users], dtype=np.int64)[owners]
        self.drus[: len(rows)] = drus_of(
            lambda name: sums[name][: len(rows)], lambda name: shares[name][numbers], mode
        )
        spared = set(spared_rows)
        self._spared = {number for number, row in enumerate(self.rows) if row in spared} if spared else set()
        self._reserved: list[int] = []  # placed by earlier cycles
        for number in self._spared:
            self.dru[number] = -inf

    def _allocate(self, columns: Sequence[Floats]) -> None:
        """Take the columns and give them room for tasks to be placed."""
        room = np.zeros(max(256, len(columns[0])))
        grown = [np.concatenate((column, room)) for column in columns]
        self.held, self._sums, self.drus = grown[:3], grown[3:6], grown[6]
        self.cpus, self.mem, self.gpus = map(amounts, self.held)
        self._cpus_sums, self._mem_sums, self._gpus_sums = map(amounts, self._sums)
        self.dru = amounts(self.drus)

    def __len__(self) -> int:
        return len(self.rows)

    def all_tasks(self) -> list[int]:
        """Return the numbers of all tasks that were not stopped."""
        return [task for user in range(len(self.names)) for task in self.own(user)]

    def own(self, user: int) -> Sequence[int]:
        """Return the user's tasks in order."""
        own = self._own[user]
        begin = self._begins[user]
        return range(begin, begin + self._lengths[user]) if own is None else own

    def score_of(self, task: int) -> float:
        """Return the DRU of a task, whether it may be preempted or not."""
        return self._dru_of(self.users[task], *self._sums_at(task))

    def is_spared(self, task: int) -> bool:
        """Return whether a task may not be preempted: too often already, or reserved by an earlier cycle."""
        return task in self._spared

    def user_of(self, row: int) -> int:
        """Return whose the job of a row is."""
        return self._place[self._index.owner(row).name]

    def key_of(self, row: int) -> Key:
        """Return where a waiting job would stand in Cook's order: behind what runs with its priority."""
        return (self._index.priority_key(row), _NEVER, -1, self._index.seq(row))

    def dru_after(self, row: int, stopped: Collection[int]) -> float:
        """Return the DRU at which a stopped task would start again, about.

        Args:
            row: the task's job, one of `stopped`.
            stopped: jobs whose tasks are stopped, of any user.
        """
        user = self.user_of(row)
        all_amounts = self._index.amounts()
        gone = [other for other in stopped if other != row and self.user_of(other) == user]
        held = self._sums_at(self.own(user)[-1])
        left = (h - sum(column[other] for other in gone) for h, column in zip(held, all_amounts, strict=True))
        return self._dru_of(user, *left)

    def pending_dru(self, row: int) -> float:
        """Return the DRU of a waiting job if it ran.

        In launch order it is exact and counts all that the user holds. In Cook's order it is an upper bound
        (base and job may differ in what dominates) and counts what stands before the job.
        """
        user = self.user_of(row)
        own = self.own(user)
        cpus, mem, gpus = self._index.amounts()
        if self._launch_order:
            held = self._sums_at(own[-1]) if own else (0.0, 0.0, 0.0)
            return self._dru_of(user, held[0] + cpus[row], held[1] + mem[row], held[2] + gpus[row])
        before = bisect_right(self._keys_of(user), self.key_of(row))
        base = self.score_of(own[before - 1]) if before else 0.0
        return base + self._dru_of(user, cpus[row], mem[row], gpus[row])

    def own_of_lower_priority(self, row: int) -> tuple[float, list[tuple[int, float]]]:
        """Return the DRU of a waiting job in order of priority, and tasks of lower priority with theirs.

        Only tasks of the job's user that may be preempted are returned, from the highest priority down.
        """
        index, user = self._index, self.user_of(row)
        priority = index.priority_key(row)
        keys = self._priority_keys[user]
        if not keys or keys[-1][0] <= priority:
            return 0.0, []
        own = np.array(self.own(user), dtype=np.int64)
        priorities = index.columns.order[[self.rows[task] for task in own.tolist()]] >> SEQ_BITS
        order = np.argsort(priorities, kind="stable")
        own = own[order]
        sums = np.array([np.cumsum(column[own]) for column in self.held]).T.tolist()
        first = int(np.searchsorted(priorities[order], priority, side="right"))
        cpus, mem, gpus = sums[first - 1] if first else (0.0, 0.0, 0.0)
        all_cpus, all_mem, all_gpus = index.amounts()
        pending = self._dru_of(user, cpus + all_cpus[row], mem + all_mem[row], gpus + all_gpus[row])
        behind = zip(own[first:].tolist(), sums[first:], strict=True)
        return pending, [(task, self._dru_of(user, *s)) for task, s in behind if not self.is_spared(task)]

    def is_below_quota(self, row: int, *, without: Collection[int] = ()) -> bool:
        """Tell whether the user stays within quota if the waiting job of a row runs, `without` some tasks."""
        user = self.user_of(row)
        if not self._limited[user]:
            return True
        quota = self._limits.quota(self.names[user])
        own = self.own(user)
        cpus, mem, gpus = self._sums_at(own[-1]) if own else (0.0, 0.0, 0.0)
        if without:
            own = [task for task in own if task not in without]
            cpus = mem = gpus = 0.0
            for task in own:  # one after the other, as everywhere: sum() adds floats in a way of its own
                cpus, mem, gpus = cpus + self.cpus[task], mem + self.mem[task], gpus + self.gpus[task]
        all_cpus, all_mem, all_gpus = self._index.amounts()
        return quota.allows(
            Usage(
                count=len(own) + 1,
                cpus=cpus + all_cpus[row],
                mem_mb=mem + all_mem[row],
                gpus=gpus + all_gpus[row],
            )
        )

    def place(self, row: int, launch: int | None = None, *, firm: bool = False) -> int:
        """Let a waiting job count as running; return its number. `rescore` is still to be called.

        Args:
            row: the job.
            launch: launch number that was reserved for the job; None lets it stand behind all others.
            firm: whether the job keeps its place whatever this cycle decides.
        """
        number = len(self.rows)
        if number == len(self.held[0]):
            self._allocate([*self.held, *self._sums, self.drus])
        user = self.user_of(row)
        cpus, mem, gpus = self._index.amounts()
        self.cpus[number], self.mem[number], self.gpus[number] = cpus[row], mem[row], gpus[row]
        self.rows.append(row)
        self.users.append(user)
        # Before all that runs of the user, and before what was placed earlier.
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
        own, keys = self._changing(user)
        at = bisect_left(keys, key)
        own.insert(at, number)
        keys.insert(at, key)
        return number

    def stop(self, number: int) -> None:
        """Let a task no longer count. `rescore` is still to be called."""
        user = self.users[number]
        own, keys = self._changing(user)
        at = bisect_left(keys, self._key(number))
        del own[at]
        del keys[at]

    def rescore(self, stopped: Iterable[int], placed: int) -> Integers:
        """Score again what tasks changed; return those of them that may be preempted."""
        first: dict[int, Key] = {}
        for number in (*stopped, placed):
            user, key = self.users[number], self._key(number)
            first[user] = min(first.get(user, key), key)
        changed = np.concatenate([self._rescored(user, key) for user, key in first.items()])
        return changed[~np.isin(changed, self._reserved)] if self._reserved else changed

    def _rescored(self, user: int, since: Key) -> Integers:
        """Score the user's tasks from a place in the order on."""
        own, keys = self._changing(user)
        at = bisect_left(keys, since)
        if at == len(own):
            return np.empty(0, dtype=np.int64)
        numbers = np.frombuffer(own, dtype=np.int64)[at:].copy()
        share = self._shares[user]
        before = self._sums_at(own[at - 1]) if at else (0.0, 0.0, 0.0)
        if len(numbers) <= _FEW:
            cpus, mem, gpus = before
            for number in numbers.tolist():
                cpus += self.cpus[number]
                mem += self.mem[number]
                gpus += self.gpus[number]
                self._cpus_sums[number], self._mem_sums[number], self._gpus_sums[number] = cpus, mem, gpus
                self.dru[number] = (
                    -inf if number in self._spared else dru_of(cpus, mem, gpus, share, self._mode)
                )
            return numbers
        for base, column, sums in zip(before, self.held, self._sums, strict=True):
            asked = column[numbers]
            asked[0] += base
            sums[numbers] = np.cumsum(asked)
        sums_of = dict(zip(("cpus", "mem", "gpus"), self._sums, strict=True))
        shares = {"cpus": share.cpus, "mem": share.mem_mb, "gpus": share.gpus}
        self.drus[numbers] = drus_of(
            lambda name: sums_of[name][numbers], lambda name: shares[name], self._mode
        )
        for number in self._spared:
            self.dru[number] = -inf
        return numbers

    def _dru_of(self, user: int, cpus: float, mem: float, gpus: float) -> float:
        """Return the DRU of a user who holds that much."""
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

    def _changing(self, user: int) -> tuple["array[int]", list[Key]]:
        """The user's tasks and their keys, no longer those of the index."""
        own, keys = self._own[user], self._keys[user]
        if own is None or keys is None:
            begin, end = self._begins[user], self._begins[user] + self._lengths[user]
            own = self._own[user] = array("q", range(begin, end))
            keys = self._keys[user] = (
                list(zip(self._launches[begin:end].tolist(), self._seqs[begin:end].tolist(), strict=True))
                if self._launch_order
                else list(self._priority_keys[user])
            )
        return own, keys
