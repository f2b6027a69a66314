"""The queue index: all waiting jobs and running tasks of one pool, as columns in Cook's order.

Lives here: `QueueIndex`. It is updated with each change of a job, so that the cost of a cycle depends on the
changes and not on the number of jobs. The text of a job stays in the store: a waiting job takes about 250
bytes here, 60 for its numbers and the rest for its uuid and the mapping from that to its row.
Not here: DRUs and the order between users (`scheduling.ranking.dru`, `scheduling.ranking.ranking`),
decisions.

The order of one user's tasks is Cook's (fair-share specification, section 3): higher priority first; then
running tasks by start, then waiting jobs by creation. A job's row is an internal number, which is
reused after the job is removed; outside this package jobs are identified by their ids.
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
_MAX_LAUNCH_MS: Final[int] = (1 << 63 - LAUNCH_BITS) - 1 - (1 << 20)  # leaves room to add to the number


class QueuedJob(NamedTuple):
    """A job, as the queue stores it.

    Attributes:
        job_id: uuid of the job.
        user: owner of the job.
        cpus, mem_mb, gpus, ports: amounts that the job requests.
        seq: position in the order of creation, below 2**39.
        priority: 0..16,000,000.
        constraints: constraints that many jobs share (`constraints.constraint_class_of`).
        job_constraints: constraints of this job alone.
        run_time: expected and maximum run time.
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
        """Return the queued job of a specification."""
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


def launch_number(launched_ms: int, sequence: int = 0) -> int:
    """Return a number that orders launches by time, and those of one millisecond by `sequence` (below 2**20).

    It fits in 64 bits: times beyond 2**43 ms (the year 2248), which occur only in simulations, are equal.
    """
    bounded_ms = min(max(launched_ms, -_MAX_LAUNCH_MS), _MAX_LAUNCH_MS)
    return (bounded_ms << LAUNCH_BITS) + sequence


class QueueIndex:
    """All tasks of one pool. A single change takes microseconds, even with 100,000 jobs of one user.

    Not thread-safe. Rows and columns are for this package; other callers use ids.
    """

    def __init__(self) -> None:
        self._rows: dict[JobId, int] = {}
        self._ids: list[JobId | None] = [None]  # row 0 is padding
        self._free: list[int] = []
        self._users: dict[str, UserTasks] = {}
        self._by_number: list[UserTasks] = []
        self._in_order: list[UserTasks] = []  # by name; rebuilt when a user is added
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
        self._cpus_bounds, self._mem_bounds = AmountBounds(), AmountBounds()  # of waiting jobs
        self._limit_columns: tuple[UserLimits, int, LimitColumns] | None = None
        self._allocate(Columns(_INITIAL_ROWS))

    # --- changes

    def add(self, job: QueuedJob) -> None:
        """Add a waiting job.

        Raises:
            Conflict: the index has the job already.
            InvalidRequest: a number of the job is out of range; nothing was added.
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
        self._add_waiting(row, tasks)

    def add_users(self, names: Iterable[str]) -> None:
        """Add users before any of their jobs; they are numbered in this order."""
        for name in names:
            self._user(name)

    def add_many(self, jobs: Sequence[QueuedJob]) -> None:
        """Add many waiting jobs; several times faster than `add` for each.

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
        rows = self._allocate_rows(ids)
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
            (row, constraints_of_job)
            for row, constraints_of_job in zip(rows.tolist(), job_constraints, strict=True)
            if constraints_of_job is not NO_JOB_CONSTRAINTS
        )
        self._waiting_count += len(ids)
        self._cpus_bounds.add_many(columns.cpus[rows])
        self._mem_bounds.add_many(columns.mem[rows])
        self._merge(rows)

    def _merge(self, rows: Rows) -> None:
        """Insert new rows into the lists of their users."""
        columns = self.columns
        rows = rows[np.lexsort((columns.order[rows], columns.user[rows]))]
        owner = columns.user[rows]
        ends = np.flatnonzero(np.diff(owner, append=-1)) + 1
        begin = 0
        for end, number in zip(ends.tolist(), owner[ends - 1].tolist(), strict=True):
            self._by_number[number].merge_waiting(rows[begin:end], columns.order)
            begin = end

    def mark_running(
        self, job_id: JobId, start_ms: int, host: str = "", *, task_seq: int = 0, launch: int | None = None
    ) -> None:
        """Mark a waiting job as running on a host.

        Args:
            job_id: the job.
            start_ms: time of the start.
            host: the host.
            task_seq: order of equal starts.
            launch: launch number (`launch_number`); None derives it from `start_ms` and `task_seq`.

        Raises:
            NotFound: the index does not have the job.
            Conflict: the job runs already.
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
            position = bisect_left(tasks.keys, key)
            tasks.keys.insert(position, key)
            tasks.started.insert(position, row)
            tasks.sums = None
        self._state[row] = _RUNNING
        self._launch[row] = launch_number(start_ms, task_seq) if launch is None else launch
        self._hosts[row] = host
        self._tasks_on.setdefault(host, {})[row] = start_ms
        self._count_group_task(row, host, 1)
        self._waiting_count -= 1
        self._running_count += 1
        self._forget_request(row)

    def remove(self, job_id: JobId) -> None:
        """Remove a job that will not run again.

        A job that was killed while its task runs must remain until that task has ended, because it holds
        room.

        Raises:
            NotFound: the index does not have the job.
        """
        row = self.row_of(job_id)
        if self._state[row] == _RUNNING:
            self._remove_running(row)
        else:
            self._by_number[self._user_of[row]].remove_waiting(row, self._order)
            self._waiting_count -= 1
            self._forget_request(row)
        self._state[row] = _FREE
        self.job_constraints.pop(row, None)
        self.preemptions.pop(row, None)
        self._run_times.release(self._run_time_of[row])
        self._run_time_of[row] = 0
        self._classes.release(self._class_of[row])
        self._class_of[row] = 0
        del self._rows[job_id]
        self._ids[row] = None
        self._free.append(row)
        if not self._rows and len(self._ids) > _INITIAL_ROWS:
            self._ids, self._free = [None], []
            self._allocate(Columns(_INITIAL_ROWS))

    def spare_running(self, job_id: JobId) -> None:
        """Exempt the running task of a job from preemption until the task ends.

        Raises:
            NotFound: the index does not have the job.
            Conflict: the job waits.
        """
        row = self.row_of(job_id)
        if self._state[row] != _RUNNING:
            raise Conflict(f"job {job_id} waits, so no task of it can be spared")
        self.uninterrupted.add(row)

    def requeue(self, job_id: JobId, *, job_constraints: JobConstraints | None = None) -> None:
        """Mark a running job as waiting, at its original position.

        Args:
            job_id: the job.
            job_constraints: new constraints of the job; None keeps the present ones.

        Raises:
            NotFound: the index does not have the job.
            Conflict: the job waits already.
        """
        row = self.row_of(job_id)
        if self._state[row] != _RUNNING:
            raise Conflict(f"job {job_id} waits already")
        self._remove_running(row)
        if job_constraints is not None:
            self.job_constraints.pop(row, None)
            if job_constraints != NO_JOB_CONSTRAINTS:
                self.job_constraints[row] = job_constraints
        self._add_waiting(row, self._by_number[self._user_of[row]])

    def set_preemptions(self, job_id: JobId, history: PreemptionHistory) -> None:
        """Replace the preemption history of a job.

        Raises:
            NotFound: the index does not have the job.
        """
        row = self.row_of(job_id)
        if history == NEVER_PREEMPTED:
            self.preemptions.pop(row, None)
        else:
            self.preemptions[row] = history

    # --- queries

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._rows

    def __len__(self) -> int:
        return self._waiting_count + self._running_count

    @property
    def waiting_count(self) -> int:
        """The number of waiting jobs."""
        return self._waiting_count

    @property
    def running_count(self) -> int:
        """The number of running tasks."""
        return self._running_count

    @property
    def user_count(self) -> int:
        """The number of users that ever had a task here."""
        return len(self._by_number)

    def is_waiting(self, job_id: JobId) -> bool:
        """Return whether the index has the job and it waits."""
        row = self._rows.get(job_id)
        return row is not None and self._state[row] == _WAITING

    def is_running(self, job_id: JobId) -> bool:
        """Return whether the index has the job and it runs."""
        row = self._rows.get(job_id)
        return row is not None and self._state[row] == _RUNNING

    def users(self) -> Sequence[str]:
        """Return all users with a task, by name."""
        return sorted(name for name, tasks in self._users.items() if tasks.keys or tasks.waiting_count)

    def usage(self, user: str) -> Usage:
        """Return the usage of the user's running tasks."""
        tasks = self._users.get(user)
        if tasks is None:
            return Usage()
        cpus, mem, gpus = self.sums_of(tasks)
        return Usage(count=len(tasks.keys), cpus=cpus, mem_mb=mem, gpus=gpus)

    def pool_usage(self) -> Usage:
        """Return the usage of all running tasks, added up by user in order of name."""
        count, cpus, mem, gpus = 0, 0.0, 0.0, 0.0
        for tasks in self.by_name():
            if tasks.keys:
                sums = self.sums_of(tasks)
                count += len(tasks.keys)
                cpus, mem, gpus = cpus + sums[0], mem + sums[1], gpus + sums[2]
        return Usage(count=count, cpus=cpus, mem_mb=mem, gpus=gpus)

    def waiting_usage(self) -> Usage:
        """Return the sum of all waiting jobs' requests, added up in no particular order."""
        columns = self.columns
        rows = np.flatnonzero(columns.state == _WAITING)
        cpus, mem, gpus = (
            float(amounts[rows].sum()) for amounts in (columns.cpus, columns.mem, columns.gpus)
        )
        return Usage(count=len(rows), cpus=cpus, mem_mb=mem, gpus=gpus)

    def waiting_of(self, user: str) -> int:
        """Return the number of waiting jobs of a user."""
        tasks = self._users.get(user)
        return 0 if tasks is None else tasks.waiting_count

    def group_of(self, job_id: JobId) -> GroupId | None:
        """Return the job's group if that has a placement; else None."""
        job_constraints = self.job_constraints.get(self.row_of(job_id))
        return None if job_constraints is None else job_constraints.group

    def requested(self, job_id: JobId) -> Usage:
        """Return the amounts that a job requests.

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
        """Return the tasks of the job's user; None if the index does not have the job."""
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
        """Return the tasks of the user of the job in a row."""
        return self._by_number[self._user_of[row]]

    def owners(self, rows: Rows) -> list[UserTasks]:
        """Return the tasks of the users of jobs by row."""
        return [self._by_number[number] for number in self.columns.user[rows].tolist()]

    def ids(self, rows: Iterable[int]) -> list[JobId]:
        """Return the ids of jobs by row."""
        ids = self._ids
        return [ids[row] or _NO_JOB for row in rows]

    def job_id(self, row: int) -> JobId:
        """Return the id of a job by row."""
        return self._ids[row] or _NO_JOB

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
        """Return cpus, mem and gpus by row, for access to single values."""
        return self._cpus, self._mem, self._gpus

    def amounts_of(self, row: int) -> tuple[float, float, float]:
        """Return cpus, mem and gpus of one job."""
        return self._cpus[row], self._mem[row], self._gpus[row]

    def priority_key(self, row: int) -> int:
        """Return the sort key of the job's priority; the highest priority has the smallest key."""
        return self._order[row] >> SEQ_BITS

    def order_key(self, row: int) -> int:
        """Return the unique sort key of a waiting job, by priority, then by creation."""
        return self._order[row]

    def seq(self, row: int) -> int:
        """Return the job's position in the order of creation."""
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
        """Return the hosts of running tasks, by row."""
        hosts = self._hosts
        return [hosts[row] for row in rows]

    def tasks_on(self, host: str) -> Mapping[int, int]:
        """Return the running tasks of a host: row -> start, epoch milliseconds."""
        return self._tasks_on.get(host, _NO_TASKS)

    def run_time(self, row: int) -> RunTime:
        """Return the run time of a job."""
        return self._run_times[self._run_time_of[row]]

    def run_time_of(self, number: int) -> RunTime:
        """Return a run time by its number."""
        return self._run_times[number]

    @property
    def knows_run_times(self) -> bool:
        """Whether the run time of any job is known or limited."""
        return bool(self._run_times)

    def waiting_before(self, row: int) -> int:
        """Return the number of waiting jobs of the same user before a waiting job."""
        return self.owner(row).position_of(row, self._order)

    def ports(self, row: int) -> int:
        """Return the number of ports that the job requests."""
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
        """Return the number of running tasks of a group by host."""
        return self._group_hosts.get(group, {})

    def constraint_class(self, number: int) -> ConstraintClass:
        """Return a constraint class by its number."""
        return self._classes[number]

    @property
    def min_request(self) -> tuple[float, float]:
        """The least cpus and the least memory of waiting jobs, each rounded down to nine binary digits."""
        return self._cpus_bounds.minimum, self._mem_bounds.minimum

    @property
    def max_request(self) -> tuple[float, float]:
        """Cpus and memory that every waiting job requests less than; close to the maximum."""
        return self._cpus_bounds.maximum, self._mem_bounds.maximum

    def limit_columns(self, limits: UserLimits) -> LimitColumns:
        """Return shares and quotas by number of user; computed once per value of `limits`."""
        cached = self._limit_columns
        if cached is None or cached[0] is not limits or cached[1] != len(self._by_number):
            names = [tasks.name for tasks in self._by_number]
            cached = (limits, len(names), LimitColumns(names, limits))
            self._limit_columns = cached
        return cached[2]

    # --- internal

    def _user(self, name: str) -> UserTasks:
        tasks = self._users.get(name)
        if tasks is None:
            tasks = self._users[name] = UserTasks(name, len(self._by_number))
            self._by_number.append(tasks)
        return tasks

    def _add_waiting(self, row: int, tasks: UserTasks) -> None:
        tasks.insert_waiting(row, self._order)
        self._state[row] = _WAITING
        self._waiting_count += 1
        self._cpus_bounds.add(self._cpus_bits[row])
        self._mem_bounds.add(self._mem_bits[row])

    def _forget_request(self, row: int) -> None:
        self._cpus_bounds.remove(self._cpus_bits[row])
        self._mem_bounds.remove(self._mem_bits[row])

    def _remove_running(self, row: int) -> None:
        tasks = self._by_number[self._user_of[row]]
        position = tasks.started.index(row)
        del tasks.started[position]
        del tasks.keys[position]
        tasks.sums = None if tasks.keys else (0.0, 0.0, 0.0)
        host = self._hosts.pop(row)
        tasks_on = self._tasks_on[host]
        del tasks_on[row]
        if not tasks_on:
            del self._tasks_on[host]
        self.uninterrupted.discard(row)
        self._count_group_task(row, host, -1)
        self._running_count -= 1

    def _count_group_task(self, row: int, host: str, change: int) -> None:
        job_constraints = self.job_constraints.get(row)
        if job_constraints is None or job_constraints.group is None:
            return
        hosts = self._group_hosts.setdefault(job_constraints.group, {})
        hosts[host] = hosts.get(host, 0) + change
        if not hosts[host]:
            del hosts[host]
            if not hosts:
                del self._group_hosts[job_constraints.group]

    def _allocate_rows(self, job_ids: Sequence[JobId]) -> Rows:
        """Return rows for new jobs: first rows of removed jobs, then new ones."""
        reused = min(len(self._free), len(job_ids))
        still_free = len(self._free) - reused
        rows, self._free[still_free:] = self._free[still_free:], []
        first_new = len(self._ids)
        added = len(job_ids) - reused
        self._reserve(first_new + added)
        for row, job_id in zip(rows, job_ids, strict=False):
            self._ids[row] = job_id
        self._ids.extend(job_ids[reused:])
        rows.extend(range(first_new, first_new + added))
        self._rows.update(zip(job_ids, rows, strict=True))
        return np.array(rows, dtype=np.int32)

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
    """Require that the columns can store the numbers of a job.

    Raises:
        InvalidRequest: a number is of the wrong type, or out of range.
    """
    # One expression for all numbers: NaN fails it, and a valid job takes half a microsecond.
    try:
        if (
            0.0 <= job.cpus <= UNLIMITED
            and 0.0 <= job.mem_mb <= UNLIMITED
            and 0.0 <= job.gpus <= UNLIMITED
            and 0 <= job.ports <= _MAX_PORTS
            and 0 <= job.priority <= HIGHEST_PRIORITY
            and 0 <= job.seq <= _SEQ_MASK
            and isinstance(job.ports | job.priority | job.seq, int)
        ):
            return
    except TypeError:
        pass  # reported below
    for name, highest, whole in zip(_NAMES, _HIGHEST, _WHOLE, strict=True):
        value: Any = getattr(job, name)
        is_number = isinstance(value, Integral if whole else Real)
        if not (is_number and 0 <= value <= highest):
            kind = "a whole number" if whole else "a number"
            raise InvalidRequest(
                f"job {job.job_id}: {name} is {value!r}; it must be {kind} from 0 to {highest:,}"
            )


def _are_valid(numbers: npt.NDArray[Any], highest: float, whole: bool) -> bool:
    """Return whether all numbers of a column are in range; False also for an array of another type."""
    return numbers.dtype.kind in ("i" if whole else "if") and bool(
        numbers.min() >= 0 and numbers.max() <= highest
    )


_MAX_PORTS: Final = 2**31 - 1
# Names of a job's numbers in the order of `QueuedJob`, their maxima, and whether they are integers.
_NAMES: Final = ("cpus", "mem_mb", "seq", "gpus", "ports", "priority")
_HIGHEST: Final = (UNLIMITED, UNLIMITED, _SEQ_MASK, UNLIMITED, _MAX_PORTS, HIGHEST_PRIORITY)
_WHOLE: Final = (False, False, True, False, True, True)
_NO_JOB: Final = JobId("")  # id of the job of an unused row
_NO_TASKS: Final[Mapping[int, int]] = MappingProxyType({})
_INITIAL_ROWS: Final = 1024  # capacity of an empty index
_FEW: Final = 32  # jobs below which adding them one by one is faster than in columns
_name = attrgetter("name")
