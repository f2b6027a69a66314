"""Where each running task stands along its user's share, while a rebalance cycle decides.

Lives here: `Standings`, the users' tasks in Cook's order with their DRUs. Stopping one and placing another
costs what comes behind them in their users' lists, not what the pool runs.
Not here: which tasks give way (`scheduling.preemption`), tasks by host (`scheduling.preemption_table`).

A task is a number: those that run come first, by user, in order; behind them the jobs that decisions of this
cycle have placed.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import numpy as np

from cook_jupyter.model.limits import Usage, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.merging import sums_along
from cook_jupyter.scheduling.tables import Floats, Integers, amounts

Key = tuple[int, int, int, int]  # what orders a user's tasks: priority, start, seqs

_NEVER: Final = 1 << 62  # the start of what never started
_FEW: Final = 32  # up to this many tasks, one by one is faster than by columns
_USER_BITS: Final = 40  # of a tie-break; above them stands the user


class Standings:
    """All users' tasks and their DRUs. Users go by their place in order of name.

    Attributes:
        names: of the users.
        rows: of each task, in the index.
        users: whose each task is.
        ties: among tasks of one DRU the smaller goes first: users by name, then what was placed last, then
            the later of what runs.
        work: what would be lost if the task were stopped, in cpu milliseconds, in gpu mode gpu milliseconds.
        running: how many tasks run; numbers from there on were placed.
        drus, dru: the scores, as a column and to be read one at a time.
        held: cpus, mem and gpus of each task, as columns.
        cpus, mem, gpus: the same, to be read one at a time.
    """

    def __init__(self, index: QueueIndex, limits: UserLimits, mode: DruMode, now_ms: int) -> None:
        self._index = index
        self._limits = limits
        self._gpu_mode = mode is DruMode.GPU
        users = index.by_name()
        self.names = [tasks.name for tasks in users]
        self._place = {name: at for at, name in enumerate(self.names)}
        self._shares = [limits.share(name) for name in self.names]
        self._first_keys: list[list[Key]] = [tasks.keys for tasks in users]
        self._keys = self._first_keys.copy()
        self._own: list[array[int] | None] = [None] * len(users)  # until changed, numbers in a row
        lengths = np.array([len(keys) for keys in self._keys], dtype=np.int64)
        begins = np.cumsum(lengths) - lengths
        self._begins: list[int] = begins.tolist()
        self.running = int(lengths.sum())
        started = array("i")
        for tasks in users:
            started.extend(tasks.started)
        rows = np.array(started, dtype=np.int32)
        owners = np.repeat(np.arange(len(users)), lengths)
        self.rows: list[int] = started.tolist()
        self.users: list[int] = owners.tolist()
        places = np.arange(len(rows)) - np.repeat(begins, lengths)
        self.ties: list[int] = ((owners << _USER_BITS) - places).tolist()
        held = [index.columns.cpus[rows], index.columns.mem[rows], index.columns.gpus[rows]]
        begun = np.array([key[1] for keys in self._keys for key in keys], dtype=np.float64)
        work = np.maximum(0.0, now_ms - begun) * held[2 if self._gpu_mode else 0]
        self.work: list[float] = work.tolist()
        self._placed_keys: dict[int, Key] = {}
        self._allocate([*held, *(sums_along(column, lengths) for column in held), np.zeros(len(rows))])
        shares = np.array([(s.cpus, s.mem_mb, s.gpus) for s in self._shares]).reshape(-1, 3)[owners]
        cpus_sums, mem_sums, gpus_sums = (column[: len(rows)] for column in self._sums)
        self.drus[: len(rows)] = (
            gpus_sums / shares[:, 2]
            if self._gpu_mode
            else np.maximum(mem_sums / shares[:, 1], cpus_sums / shares[:, 0])
        )

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
        return range(begin, begin + len(self._keys[user])) if own is None else own

    def user_of(self, row: int) -> int:
        """Return whose the job of a row is."""
        return self._place[self._index.owner(row).name]

    def key_of(self, row: int) -> Key:
        """Return where a waiting job would stand: behind what runs with the same priority."""
        return (self._index.priority_key(row), _NEVER, -1, self._index.seq(row))

    def pending_dru(self, row: int) -> float:
        """Return the DRU of a waiting job if it ran, at most: base and job may differ in what dominates."""
        user = self.user_of(row)
        before = bisect_right(self._keys[user], self.key_of(row))
        base = self.dru[self.own(user)[before - 1]] if before else 0.0
        share = self._shares[user]
        cpus, mem, gpus = self._index.amounts()
        if self._gpu_mode:
            return base + gpus[row] / share.gpus
        return base + max(mem[row] / share.mem_mb, cpus[row] / share.cpus)

    def is_below_quota(self, row: int, *, without: Collection[int] = ()) -> bool:
        """Tell whether the user stays within quota if the waiting job of a row runs, `without` some tasks."""
        user = self.user_of(row)
        quota = self._limits.quota(self.names[user])
        if not quota.limits_usage:
            return True
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

    def place(self, row: int) -> int:
        """Let a waiting job count as running; return its number. `rescore` is still to be called."""
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
        key = self._placed_keys[number] = self.key_of(row)
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
        """Score again what tasks changed; return the numbers of those whose DRU is another now, or is new."""
        first: dict[int, Key] = {}
        for number in (*stopped, placed):
            user, key = self.users[number], self._key(number)
            first[user] = min(first.get(user, key), key)
        changed = [self._rescored(user, key) for user, key in first.items()]
        return np.concatenate(changed)

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
                    gpus / share.gpus if self._gpu_mode else max(mem / share.mem_mb, cpus / share.cpus)
                )
            return numbers
        for base, column, sums in zip(before, self.held, self._sums, strict=True):
            asked = column[numbers]
            asked[0] += base
            sums[numbers] = np.cumsum(asked)
        all_cpus, all_mem, all_gpus = (sums[numbers] for sums in self._sums)
        self.drus[numbers] = (
            all_gpus / share.gpus
            if self._gpu_mode
            else np.maximum(all_mem / share.mem_mb, all_cpus / share.cpus)
        )
        return numbers

    def _sums_at(self, number: int) -> tuple[float, float, float]:
        return self._cpus_sums[number], self._mem_sums[number], self._gpus_sums[number]

    def _key(self, number: int) -> Key:
        placed = self._placed_keys.get(number)
        if placed is not None:
            return placed
        user = self.users[number]
        return self._first_keys[user][number - self._begins[user]]

    def _changing(self, user: int) -> tuple["array[int]", list[Key]]:
        """The user's tasks and their keys, no longer those of the index."""
        own = self._own[user]
        if own is None:
            own = self._own[user] = array("q", self.own(user))
            self._keys[user] = self._keys[user].copy()
        return own, self._keys[user]
