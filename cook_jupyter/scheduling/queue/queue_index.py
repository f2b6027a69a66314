"""The queue index: every waiting job and running task of one pool, as columns, kept in Cook's order.

Lives here: `QueueIndex`. It follows what happens to jobs one change at a time, or many, so that a cycle costs
what changed and not what exists. The text of a job stays in the store: one waiting job costs about 250 bytes
here, of which 60 are its numbers and the rest its uuid and the way from that to them.
Not here: scores and the order between users (`scheduling.ranking.dru`, `scheduling.ranking.ranking`),
decisions of any kind.

The order of one user's tasks is Cook's (fair-share specification, section 3): higher priority first; then
running tasks by start, then waiting jobs by creation. A job's row is an internal number, used again when the
job is gone: outside this package jobs go by their ids.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cook_jupyter.errors import Conflict, InvalidRequest, NotFound
from cook_jupyter.model.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY, GroupId, JobId, JobSpec
from cook_jupyter.model.limits import UNLIMITED, Usage, UserLimits
from cook_jupyter.scheduling.arrays import (
    LAUNCH_BITS,
    SEQ_BITS,
    Amounts,
    Columns,
    LimitColumns,
    Rows,
    amounts,
    counts,
)
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    UNCONSTRAINED,
    ConstraintClass,
    JobConstraints,
    constraint_class_of,
)
from cook_jupyter.scheduling.limits.run_times import UNKNOWN_RUN_TIME, RunTime
from cook_jupyter.scheduling.queue.bounds import AmountBounds, bits
from cook_jupyter.scheduling.queue.counted_values import CountedValues
from cook_jupyter.scheduling.queue.preemption_history import NEVER_PREEMPTED, PreemptionHistory
from cook_jupyter.scheduling.queue.user_tasks import UserTasks

_SEQ_MASK: Final = (1 << SEQ_BITS) - 1

_FREE: Final = 0
_WAITING: Final = 1
_RUNNING: Final = 2
_FARTHEST_MS: Final[int] = (
    (1 << 63 - LAUNCH_BITS) - 1 - (1 << 20)
)  # above it is place for numbers that count on


class QueuedJob(NamedTuple):
    """What the queue must know of a job.

    Attributes:
        job_id: its uuid.
        user: whose it is.
        cpus, mem_mb, gpus, ports: what it asks for.
        seq: its place in the order of creation, below 2**39.
        priority: 0..16,000,000.
        constraints: what it demands of hosts, as many jobs do (`constraints.constraint_class_of`).
        job_constraints: what it alone demands.
        run_time: what is stated about its run time.
    """

    job_id: JobId
    user: str
    cpus: float
    mem_mb: float
    seq: int
    gpus: float = 0.0
    ports: int = 0
    priority: int = DEFAULT_PRIORITY
    constraints: ConstraintClass = UNCONSTRAINED
    job_constraints: JobConstraints = NO_JOB_CONSTRAINTS
    run_time: RunTime = UNKNOWN_RUN_TIME

    @classmethod
    def of(cls, spec: JobSpec, seq: int, job_constraints: JobConstraints = NO_JOB_CONSTRAINTS) -> "QueuedJob":
        """Return what the queue must know of this job."""
        return cls(
            spec.job_id,
            spec.user,
            spec.cpus,
            spec.mem_mb,
            seq,
            spec.gpus,
            spec.ports,
            spec.priority,
            constraint_class_of(spec) if spec.constraints or spec.gpus or spec.extra else UNCONSTRAINED,
            job_constraints,
            RunTime.of(spec),
        )


def launch_number(launched_ms: int, place: int = 0) -> int:
    """Return a number that orders launches by time, those of one millisecond by `place` (below 2**20).

    It fits in 64 bits: times beyond 2**43 ms (the year 2248), which only simulations have, are all alike.
    """
    within = min(max(launched_ms, -_FARTHEST_MS), _FARTHEST_MS)
    return (within << LAUNCH_BITS) + place


class QueueIndex:
    """All tasks of one pool. Single changes take microseconds, also with 100,000 jobs of one user.

    Not for several threads. Rows and columns are for this package; callers use ids.
    """

    def __init__(self) -> None:
        self._rows: dict[JobId, int] = {}
        self._ids: list[JobId | None] = [None]  # row 0 is nobody's: it pads
        self._free: list[int] = []
        self._users: dict[str, UserTasks] = {}
        self._by_number: list[UserTasks] = []
        self._in_order: list[UserTasks] = []  # by name; made anew when somebody is new
        self._classes = CountedValues(UNCONSTRAINED)
        self.job_constraints: dict[int, JobConstraints] = {}  # by row; most jobs have none
        self.preemptions: dict[int, PreemptionHistory] = {}  # by row, of jobs that were ever preempted
        self.uninterrupted: set[int] = set()  # rows of running tasks that are never preempted
        self._run_times = CountedValues(UNKNOWN_RUN_TIME)
        self._hosts: dict[int, str] = {}  # of running tasks, by row
        self._tasks_on: dict[str, dict[int, int]] = {}  # host -> row of a running task -> its start
        self._group_hosts: dict[GroupId, dict[str, int]] = {}  # hosts of a group's running tasks
        self._waiting_count = 0
        self._running_count = 0
        self._asked_cpus, self._asked_mem = AmountBounds(), AmountBounds()  # of waiting jobs
        self._limit_columns: tuple[UserLimits, int, LimitColumns] | None = None
        self._allocate(Columns(_FEW_ROWS))

    # --- changes

    def add(self, job: QueuedJob) -> None:
        """Take in a waiting job.

        Raises:
            Conflict: the index has it already.
            InvalidRequest: one of its numbers is out of range; nothing was added.
        """
        if job.job_id in self._rows:
            raise Conflict(f"job {job.job_id} is in the queue already")
        require_valid(job)
        self._add(job)

    def _add(self, job: QueuedJob) -> None:
        tasks = self._user(job.user)
        row = self._free.pop() if self._free else self._new_row()
        self._rows[job.job_id] = row
        self._ids[row] = job.job_id
        self._cpus[row] = job.cpus
        self._mem[row] = job.mem_mb
        self._gpus[row] = job.gpus
        self._ports[row] = job.ports
        self._order[row] = ((HIGHEST_PRIORITY - job.priority) << SEQ_BITS) | job.seq
        self._user_of[row] = tasks.number
        self._class_of[row] = self._classes.acquire(job.constraints)
        self._run_time_of[row] = self._run_times.acquire(job.run_time)
        if job.job_constraints is not NO_JOB_CONSTRAINTS:
            self.job_constraints[row] = job.job_constraints
        self._wait(row, tasks)

    def add_users(self, names: Iterable[str]) -> None:
        """Take in users before any job of theirs; they are numbered in this order."""
        for name in names:
            self._user(name)

    def add_many(self, jobs: Sequence[QueuedJob]) -> None:
        """Take in many waiting jobs at once: what `add` does for each, several times faster.

        Raises:
            Conflict: the index has one of the jobs already, or one is given twice; nothing was added.
            InvalidRequest: a number of one of the jobs is out of range; nothing was added.
        """
        count = len(jobs)
        new_ids = {job.job_id for job in jobs}
        if len(new_ids) < count or not self._rows.keys().isdisjoint(new_ids):
            raise Conflict("one of the jobs is in the queue already, or was given twice")
        if count < _FEW:
            for job in jobs:
                require_valid(job)
            for job in jobs:
                self._add(job)
            return
        ids, users, *columns_of_jobs, classes, job_constraints, run_times = zip(*jobs, strict=True)
        numbers_of_jobs = [np.array(column) for column in columns_of_jobs]
        if not all(map(_are_valid, numbers_of_jobs, _HIGHEST, _WHOLE)):
            for job in jobs:
                require_valid(job)
        cpus, mem, seqs, gpus, ports, priorities = numbers_of_jobs
        user_numbers = {user: self._user(user).number for user in dict.fromkeys(users)}
        rows = self._take_rows(ids)
        columns = self.columns
        columns.cpus[rows] = cpus
        columns.mem[rows] = mem
        columns.gpus[rows] = gpus
        columns.ports[rows] = ports
        columns.order[rows] = ((HIGHEST_PRIORITY - priorities) << SEQ_BITS) | seqs
        columns.user[rows] = list(map(user_numbers.__getitem__, users))
        if classes.count(UNCONSTRAINED) < count:
            columns.constraints[rows] = list(map(self._classes.acquire, classes))
        if run_times.count(UNKNOWN_RUN_TIME) < count:
            columns.run_time[rows] = list(map(self._run_times.acquire, run_times))
        columns.state[rows] = _WAITING
        self.job_constraints.update(
            (row, own)
            for row, own in zip(rows.tolist(), job_constraints, strict=True)
            if own is not NO_JOB_CONSTRAINTS
        )
        self._waiting_count += len(ids)
        self._asked_cpus.add_many(columns.cpus[rows])
        self._asked_mem.add_many(columns.mem[rows])
        self._merge(rows)

    def _merge(self, rows: Rows) -> None:
        """Put new rows into their users' lists."""
        columns = self.columns
        rows = rows[np.lexsort((columns.order[rows], columns.user[rows]))]
        owner = columns.user[rows]
        ends = np.flatnonzero(np.diff(owner, append=-1)) + 1
        begin = 0
        for end, number in zip(ends.tolist(), owner[ends - 1].tolist(), strict=True):
            self._by_number[number].merge_waiting(rows[begin:end], columns.order)
            begin = end

    def start(
        self, job_id: JobId, start_ms: int, host: str = "", *, task_seq: int = 0, launch: int | None = None
    ) -> None:
        """Let a waiting job run on a host.

        Args:
            job_id: the job.
            start_ms: time of the start.
            host: the host.
            task_seq: order of equal starts.
            launch: launch number (`launch_number`); None derives it from `start_ms` and `task_seq`.

        Raises:
            NotFound: the index does not have the job.
            Conflict: it runs already.
        """
        row = self.row_of(job_id)
        if self._state[row] != _WAITING:
            raise Conflict(f"job {job_id} runs already")
        tasks = self._by_number[self._user_of[row]]
        tasks.remove_waiting(row, self._order)
        order = self._order[row]
        key = (order >> SEQ_BITS, start_ms, task_seq, order & _SEQ_MASK)
        if not tasks.keys or tasks.keys[-1] < key:
            tasks.keys.append(key)
            tasks.started.append(row)
            if tasks.sums is not None:
                cpus, mem, gpus = tasks.sums
                tasks.sums = (cpus + self._cpus[row], mem + self._mem[row], gpus + self._gpus[row])
        else:
            at = bisect_left(tasks.keys, key)
            tasks.keys.insert(at, key)
            tasks.started.insert(at, row)
            tasks.sums = None
        self._state[row] = _RUNNING
        self._launch[row] = launch_number(start_ms, task_seq) if launch is None else launch
        self._hosts[row] = host
        self._tasks_on.setdefault(host, {})[row] = start_ms
        self._count_in_group(row, host, 1)
        self._waiting_count -= 1
        self._running_count += 1
        self._forget_asked(row)

    def end(self, job_id: JobId) -> None:
        """Forget a job: its task ended for good, or it was killed while it waited.

        A job that was killed while a task of it ran stays until that task has ended: it holds room.

        Raises:
            NotFound: the index does not have the job.
        """
        row = self.row_of(job_id)
        if self._state[row] == _RUNNING:
            self._stop(row)
        else:
            self._by_number[self._user_of[row]].remove_waiting(row, self._order)
            self._waiting_count -= 1
            self._forget_asked(row)
        self._state[row] = _FREE
        self.job_constraints.pop(row, None)
        self.preemptions.pop(row, None)
        self._run_times.release(self._run_time_of[row])
        self._run_time_of[row] = 0
        self._classes.release(self._class_of[row])
        self._class_of[row] = 0
        del self._rows[job_id]
        self._ids[row] = None
        self._cpus[row] = self._mem[row] = self._gpus[row] = 0.0
        self._free.append(row)
        if not self._rows and len(self._ids) > _FEW_ROWS:
            self._ids, self._free = [None], []
            self._allocate(Columns(_FEW_ROWS))

    def let_finish(self, job_id: JobId) -> None:
        """Spare the running task of a job from preemption until the task ends.

        Raises:
            NotFound: the index does not have the job.
            Conflict: the job waits.
        """
        row = self.row_of(job_id)
        if self._state[row] != _RUNNING:
            raise Conflict(f"job {job_id} waits, so no task of it can be spared")
        self.uninterrupted.add(row)

    def requeue(self, job_id: JobId, *, job_constraints: JobConstraints | None = None) -> None:
        """Let a running job wait, at its old place; `job_constraints` replaces its own if given.

        Raises:
            NotFound: the index does not have the job.
            Conflict: it waits already.
        """
        row = self.row_of(job_id)
        if self._state[row] != _RUNNING:
            raise Conflict(f"job {job_id} waits already")
        self._stop(row)
        if job_constraints is not None:
            self.job_constraints.pop(row, None)
            if job_constraints != NO_JOB_CONSTRAINTS:
                self.job_constraints[row] = job_constraints
        self._wait(row, self._by_number[self._user_of[row]])

    def set_preemptions(self, job_id: JobId, history: PreemptionHistory) -> None:
        """Replace what is known of the preemptions of a job.

        Raises:
            NotFound: the index does not have the job.
        """
        row = self.row_of(job_id)
        if history == NEVER_PREEMPTED:
            self.preemptions.pop(row, None)
        else:
            self.preemptions[row] = history

    # --- questions

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._rows

    def __len__(self) -> int:
        return self._waiting_count + self._running_count

    @property
    def waiting_count(self) -> int:
        """How many jobs wait."""
        return self._waiting_count

    @property
    def running_count(self) -> int:
        """How many tasks run."""
        return self._running_count

    @property
    def user_count(self) -> int:
        """How many users ever had a task here."""
        return len(self._by_number)

    def is_waiting(self, job_id: JobId) -> bool:
        """Tell whether the job is here and waits."""
        row = self._rows.get(job_id)
        return row is not None and self._state[row] == _WAITING

    def is_running(self, job_id: JobId) -> bool:
        """Tell whether the job is here and has a running task."""
        row = self._rows.get(job_id)
        return row is not None and self._state[row] == _RUNNING

    def users(self) -> Sequence[str]:
        """Return all users with a task, by name."""
        return sorted(name for name, tasks in self._users.items() if tasks.keys or tasks.waiting_count)

    def usage(self, user: str) -> Usage:
        """Return what the user's running tasks hold."""
        tasks = self._users.get(user)
        if tasks is None:
            return Usage()
        cpus, mem, gpus = self.sums_of(tasks)
        return Usage(count=len(tasks.keys), cpus=cpus, mem_mb=mem, gpus=gpus)

    def pool_usage(self) -> Usage:
        """Return what all running tasks hold, summed by user in order of name."""
        count, cpus, mem, gpus = 0, 0.0, 0.0, 0.0
        for tasks in self.by_name():
            if tasks.keys:
                sums = self.sums_of(tasks)
                count += len(tasks.keys)
                cpus, mem, gpus = cpus + sums[0], mem + sums[1], gpus + sums[2]
        return Usage(count=count, cpus=cpus, mem_mb=mem, gpus=gpus)

    def waiting_usage(self) -> Usage:
        """Return what all waiting jobs ask for together, added up in no particular order."""
        columns = self.columns
        rows = np.flatnonzero(columns.state == _WAITING)
        cpus, mem, gpus = (
            float(amounts[rows].sum()) for amounts in (columns.cpus, columns.mem, columns.gpus)
        )
        return Usage(count=len(rows), cpus=cpus, mem_mb=mem, gpus=gpus)

    def waiting_of(self, user: str) -> int:
        """Return how many jobs of the user wait."""
        tasks = self._users.get(user)
        return 0 if tasks is None else tasks.waiting_count

    def group_of(self, job_id: JobId) -> GroupId | None:
        """Return the job's group, if it places its jobs in some way."""
        own = self.job_constraints.get(self.row_of(job_id))
        return None if own is None else own.group

    def asked(self, job_id: JobId) -> Usage:
        """Return what one job asks for.

        Raises:
            NotFound: the index does not have the job.
        """
        row = self.row_of(job_id)
        return Usage(count=1, cpus=self._cpus[row], mem_mb=self._mem[row], gpus=self._gpus[row])

    # --- for this package

    def by_name(self) -> Sequence[UserTasks]:
        """Return the users that have tasks, in ascending order of name."""
        if len(self._in_order) < len(self._by_number):
            self._in_order = sorted(self._by_number, key=_name)
        return [tasks for tasks in self._in_order if tasks.keys or tasks.waiting_count]

    def tasks_of_job(self, job_id: JobId) -> UserTasks | None:
        """Return the tasks of the job's user; None if the job is not here."""
        row = self._rows.get(job_id)
        return None if row is None else self._by_number[self._user_of[row]]

    def row_of(self, job_id: JobId) -> int:
        """Return the job's row.

        Raises:
            NotFound: the index does not have the job.
        """
        row = self._rows.get(job_id)
        if row is None:
            raise NotFound(f"job {job_id} is not in the queue", missing=(job_id,))
        return row

    def owner(self, row: int) -> UserTasks:
        """Return the user of the job of a row."""
        return self._by_number[self._user_of[row]]

    def owners(self, rows: Rows) -> list[UserTasks]:
        """Return the users of jobs by row."""
        return [self._by_number[number] for number in self.columns.user[rows].tolist()]

    def ids(self, rows: Iterable[int]) -> list[JobId]:
        """Return the ids of jobs by row."""
        ids = self._ids
        return [ids[row] or "" for row in rows]

    def job_id(self, row: int) -> JobId:
        """Return the id of a job by row."""
        return self._ids[row] or ""

    def sums_of(self, tasks: UserTasks) -> tuple[float, float, float]:
        """Return cpus, mem and gpus of the user's running tasks, added up in order."""
        if tasks.sums is None:
            cpus = mem = gpus = 0.0
            for row in tasks.started:
                cpus += self._cpus[row]
                mem += self._mem[row]
                gpus += self._gpus[row]
            tasks.sums = (cpus, mem, gpus)
        return tasks.sums

    def amounts(self) -> tuple[Amounts, Amounts, Amounts]:
        """Return cpus, mem and gpus by row, to be read one at a time."""
        return self._cpus, self._mem, self._gpus

    def amounts_of(self, row: int) -> tuple[float, float, float]:
        """Return cpus, mem and gpus of one job."""
        return self._cpus[row], self._mem[row], self._gpus[row]

    def priority_key(self, row: int) -> int:
        """Return what orders jobs by priority: smaller is more important."""
        return self._order[row] >> SEQ_BITS

    def order_key(self, row: int) -> int:
        """Return what orders waiting jobs: by priority, then as they were created; no two have the same."""
        return self._order[row]

    def seq(self, row: int) -> int:
        """Return the job's place in the order of creation."""
        return self._order[row] & _SEQ_MASK

    def launch(self, row: int) -> int:
        """Return the launch number of a running task."""
        return self._launch[row]

    def rows(self) -> Rows:
        """Return the rows of all jobs, in ascending order."""
        return np.flatnonzero(self.columns.state != _FREE).astype(np.int32)

    def running_rows(self) -> list[int]:
        """Return the rows of running tasks in the order in which they started."""
        return list(self._hosts)

    def hosts_of(self, rows: Iterable[int]) -> list[str]:
        """Return where running tasks run, by row."""
        hosts = self._hosts
        return [hosts[row] for row in rows]

    def tasks_on(self, host: str) -> Mapping[int, int]:
        """Return the running tasks of a host: row -> start, epoch milliseconds."""
        return self._tasks_on.get(host, _NO_TASKS)

    def run_time(self, row: int) -> RunTime:
        """Return what is stated about the run time of a job."""
        return self._run_times[self._run_time_of[row]]

    def run_time_of(self, number: int) -> RunTime:
        """Return what is stated about run times, by its number."""
        return self._run_times[number]

    @property
    def knows_run_times(self) -> bool:
        """Whether anything is stated about the run time of any job."""
        return bool(self._run_times)

    def waiting_before(self, row: int) -> int:
        """Return how many waiting jobs of the same user come before a waiting job."""
        return self.owner(row).position_of(row, self._order)

    def ports(self, row: int) -> int:
        """Return how many ports the job asks for."""
        return self._ports[row]

    def class_number(self, row: int) -> int:
        """Return the number of the job's constraint class."""
        return self._class_of[row]

    def usage_sums(self, number: int) -> tuple[float, float, float, float]:
        """Return count, cpus, mem and gpus of the running tasks of a user, by number."""
        tasks = self._by_number[number]
        return (float(len(tasks.keys)), *self.sums_of(tasks))

    def name_of(self, number: int) -> str:
        """Return the name of a user by number."""
        return self._by_number[number].name

    def group_hosts(self, group: GroupId) -> dict[str, int]:
        """Return how many tasks of the group run on which host."""
        return self._group_hosts.get(group, {})

    def constraint_class(self, number: int) -> ConstraintClass:
        """Return a constraint class by its number."""
        return self._classes[number]

    @property
    def least(self) -> tuple[float, float]:
        """Least cpus and least memory of the waiting jobs, each rounded down to nine binary digits."""
        return self._asked_cpus.least, self._asked_mem.least

    @property
    def most(self) -> tuple[float, float]:
        """Cpus and memory that every waiting job asks less than; hardly above the maximum."""
        return self._asked_cpus.most, self._asked_mem.most

    def limit_columns(self, limits: UserLimits) -> LimitColumns:
        """Return shares and quotas by number of user; made once per value of `limits`."""
        known = self._limit_columns
        if known is None or known[0] is not limits or known[1] != len(self._by_number):
            names = [tasks.name for tasks in self._by_number]
            known = (limits, len(names), LimitColumns(names, limits))
            self._limit_columns = known
        return known[2]

    # --- inside

    def _user(self, name: str) -> UserTasks:
        tasks = self._users.get(name)
        if tasks is None:
            tasks = self._users[name] = UserTasks(name, len(self._by_number))
            self._by_number.append(tasks)
        return tasks

    def _wait(self, row: int, tasks: UserTasks) -> None:
        tasks.insert_waiting(row, self._order)
        self._state[row] = _WAITING
        self._waiting_count += 1
        self._asked_cpus.add(self._cpus_bits[row])
        self._asked_mem.add(self._mem_bits[row])

    def _forget_asked(self, row: int) -> None:
        self._asked_cpus.remove(self._cpus_bits[row])
        self._asked_mem.remove(self._mem_bits[row])

    def _stop(self, row: int) -> None:
        tasks = self._by_number[self._user_of[row]]
        at = tasks.started.index(row)
        del tasks.started[at]
        del tasks.keys[at]
        tasks.sums = None if tasks.keys else (0.0, 0.0, 0.0)
        host = self._hosts.pop(row)
        tasks_on = self._tasks_on[host]
        del tasks_on[row]
        if not tasks_on:
            del self._tasks_on[host]
        self.uninterrupted.discard(row)
        self._count_in_group(row, host, -1)
        self._running_count -= 1

    def _count_in_group(self, row: int, host: str, by: int) -> None:
        own = self.job_constraints.get(row)
        if own is None or own.group is None:
            return
        hosts = self._group_hosts.setdefault(own.group, {})
        hosts[host] = hosts.get(host, 0) + by
        if not hosts[host]:
            del hosts[host]
            if not hosts:
                del self._group_hosts[own.group]

    def _take_rows(self, job_ids: Sequence[JobId]) -> Rows:
        """Return rows for new jobs: those of jobs that are gone, and then new ones."""
        reused = min(len(self._free), len(job_ids))
        kept = len(self._free) - reused
        taken, self._free[kept:] = self._free[kept:], []
        first = len(self._ids)
        added = len(job_ids) - reused
        self._reserve(first + added)
        for row, job_id in zip(taken, job_ids, strict=False):
            self._ids[row] = job_id
        self._ids.extend(job_ids[reused:])
        taken.extend(range(first, first + added))
        self._rows.update(zip(job_ids, taken, strict=True))
        return np.array(taken, dtype=np.int32)

    def _new_row(self) -> int:
        row = len(self._ids)
        self._reserve(row + 1)
        self._ids.append(None)
        return row

    def _reserve(self, rows: int) -> None:
        if rows > len(self.columns.cpus):
            self._allocate(self.columns.grown(max(rows, len(self.columns.cpus) * 3 // 2)))

    def _allocate(self, columns: Columns) -> None:
        self.columns = columns
        self._cpus = amounts(columns.cpus)
        self._mem = amounts(columns.mem)
        self._cpus_bits = bits(columns.cpus)
        self._mem_bits = bits(columns.mem)
        self._gpus = amounts(columns.gpus)
        self._order = counts(columns.order)
        self._launch = counts(columns.launch)
        self._user_of = counts(columns.user)
        self._class_of = counts(columns.constraints)
        self._ports = counts(columns.ports)
        self._run_time_of = counts(columns.run_time)
        self._state = counts(columns.state)


def require_valid(job: QueuedJob) -> None:
    """Require that the columns can hold the numbers of a job.

    Raises:
        InvalidRequest: one of them is not a number of its kind, or out of range.
    """
    # One comparison chain for all: NaN fails it, and a valid job costs half a microsecond.
    try:
        if (
            0.0 <= job.cpus <= UNLIMITED
            and 0.0 <= job.mem_mb <= UNLIMITED
            and 0.0 <= job.gpus <= UNLIMITED
            and 0 <= job.ports <= _MOST_PORTS
            and 0 <= job.priority <= HIGHEST_PRIORITY
            and 0 <= job.seq <= _SEQ_MASK
            and isinstance(job.ports | job.priority | job.seq, int)
        ):
            return
    except TypeError:
        pass  # which of them is told below
    for name, highest, whole in zip(_NAMES, _HIGHEST, _WHOLE, strict=True):
        value: Any = getattr(job, name)
        is_number = isinstance(value, Integral if whole else Real)
        if not (is_number and 0 <= value <= highest):
            kind = "a whole number" if whole else "a number"
            raise InvalidRequest(
                f"job {job.job_id}: {name} is {value!r}; it must be {kind} from 0 to {highest:,}"
            )


def _are_valid(numbers: npt.NDArray[Any], highest: float, whole: bool) -> bool:
    """Tell whether all numbers of a column are in range; False also if that cannot be told from the array."""
    return numbers.dtype.kind in ("i" if whole else "if") and bool(
        numbers.min() >= 0 and numbers.max() <= highest
    )


_MOST_PORTS: Final = 2**31 - 1
# Names of a job's numbers in the order of `QueuedJob`, the highest of each, and which are whole.
_NAMES: Final = ("cpus", "mem_mb", "seq", "gpus", "ports", "priority")
_HIGHEST: Final = (UNLIMITED, UNLIMITED, _SEQ_MASK, UNLIMITED, _MOST_PORTS, HIGHEST_PRIORITY)
_WHOLE: Final = (False, False, True, False, True, True)
_NO_TASKS: Final[Mapping[int, int]] = MappingProxyType({})
_FEW_ROWS: Final = 1024  # whoever has no job has room for so many
_FEW: Final = 32  # below this many jobs, one by one is faster than by columns
_name = attrgetter("name")
