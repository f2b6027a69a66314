"""Whatever happens to the jobs of a queue, it knows of each what a plain list of them knows."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import UNLIMITED, Usage
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    UNCONSTRAINED,
    ConstraintClass,
    JobConstraints,
)
from cook_jupyter.scheduling.limits.run_times import UNKNOWN_RUN_TIME, RunTime
from cook_jupyter.scheduling.queue.preemption_history import NEVER_PREEMPTED, PreemptionHistory
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex, launch_number
from cook_jupyter.scheduling.queue.queue_record import index_of, record_of
from cook_jupyter.scheduling.queue.user_tasks import UserTasks
from tests.scheduling.queues import job_id

USERS = ("bob", "ada", "carl")
HOSTS = ("a", "b", "c")
GROUPS = (GroupId("g"), GroupId("h"))
AMOUNTS = (0.0, 0.5, 1.0, 2.0, 3.0)
PRIORITIES = (50, 50, 50, 0, 70, 16_000_000)
CLASSES = (UNCONSTRAINED, ConstraintClass(gpu_model="p100"), ConstraintClass(attributes=(("zone", "x"),)))
RUN_TIMES = (UNKNOWN_RUN_TIME, RunTime(longest_ms=5), RunTime(expected_ms=3))
CONSTRAINTS = (NO_JOB_CONSTRAINTS, JobConstraints(group=GROUPS[0]), JobConstraints(group=GROUPS[1]))
HISTORIES = (NEVER_PREEMPTED, PreemptionHistory((1,)), PreemptionHistory((2, 3), True))


@dataclass(slots=True)
class Entry:
    """A job, and its task if it runs."""

    job: QueuedJob
    constraints: JobConstraints
    history: PreemptionHistory = NEVER_PREEMPTED
    start_ms: int | None = None
    task_seq: int = 0
    host: str = ""
    launch: int = 0
    is_spared: bool = False

    @property
    def runs(self) -> bool:
        return self.start_ms is not None

    @property
    def order(self) -> tuple[int, int, int, int, int]:
        """Higher priority first, running before waiting, then by start or by creation."""
        return (
            -self.job.priority,
            0 if self.runs else 1,
            self.start_ms or 0,
            self.task_seq if self.runs else 0,
            self.job.seq,
        )


class History:
    """Random changes, made to an index and to a plain mapping of its jobs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.index = QueueIndex()
        self.entries: dict[JobId, Entry] = {}  # running ones in the order in which they started
        self.numbers: dict[str, int] = {}  # of users, by their first job
        self.created = 0

    def job(self, priorities: Sequence[int] = PRIORITIES, *, plain: bool = False) -> QueuedJob:
        """A new job; a plain one demands nothing of its host."""
        self.created += 1
        draw = self.random.choice
        return QueuedJob(
            job_id(self.created),
            draw(USERS),
            draw(AMOUNTS),
            draw(AMOUNTS) * 10,
            self.created,
            gpus=draw(AMOUNTS),
            ports=draw((0, 1, 7)),
            priority=draw(priorities),
            constraints=UNCONSTRAINED if plain else draw(CLASSES),
            job_constraints=NO_JOB_CONSTRAINTS if plain else draw(CONSTRAINTS),
            run_time=UNKNOWN_RUN_TIME if plain else draw(RUN_TIMES),
        )

    def add(self, number: int) -> None:
        """Add jobs, in any order of creation."""
        is_plain = self.random.random() < 0.4
        priorities = [self.random.choice(PRIORITIES)] * 9 + [self.random.choice(PRIORITIES)]
        jobs = [self.job(priorities, plain=is_plain) for _ in range(number)]
        self.random.shuffle(jobs)
        if number == 1:
            self.index.add(jobs[0])
        else:
            self.index.add_many(jobs)
        for job in jobs:
            self.entries[job.job_id] = Entry(job, job.job_constraints)
            self.numbers.setdefault(job.user, len(self.numbers))

    def some(self, wanted: Callable[[Entry], bool]) -> Entry | None:
        """A job of this kind: often the first in the queue of its user, which is the usual case."""
        entries = [entry for entry in self.entries.values() if wanted(entry)]
        if not entries:
            return None
        entry = self.random.choice(entries)
        if self.random.random() < 0.5:
            return min((other for other in entries if other.job.user == entry.job.user), key=_order)
        return entry

    def start(self) -> None:
        """Start a waiting job on a host, perhaps with a launch number of its own."""
        entry = self.some(lambda entry: not entry.runs)
        if entry is None:
            return
        draw = self.random.choice
        entry.start_ms, entry.task_seq, entry.host = draw((0, 1, 2, 5)), draw((0, 1)), draw(HOSTS)
        launch = draw((None, 1234))
        entry.launch = launch_number(entry.start_ms, entry.task_seq) if launch is None else launch
        key = entry.job.job_id
        self.index.mark_running(key, entry.start_ms, entry.host, task_seq=entry.task_seq, launch=launch)
        self.entries[key] = self.entries.pop(key)

    def end(self) -> None:
        """Remove a job, whether it runs or waits."""
        entry = self.some(lambda _: True)
        if entry is not None:
            self.index.remove(entry.job.job_id)
            del self.entries[entry.job.job_id]

    def requeue(self) -> None:
        """Let a running job wait again, perhaps with other constraints."""
        entry = self.some(lambda entry: entry.runs)
        if entry is None:
            return
        constraints = self.random.choice((None, *CONSTRAINTS))
        self.index.requeue(entry.job.job_id, job_constraints=constraints)
        entry.start_ms, entry.is_spared = None, False
        entry.constraints = entry.constraints if constraints is None else constraints

    def spare(self) -> None:
        """Exempt a running task from preemption."""
        entry = self.some(lambda entry: entry.runs)
        if entry is not None:
            self.index.spare_running(entry.job.job_id)
            entry.is_spared = True

    def preempted(self) -> None:
        """Replace the preemptions of a job."""
        entry = self.some(lambda entry: entry.history is not NEVER_PREEMPTED) or self.some(lambda _: True)
        if entry is not None:
            entry.history = self.random.choice(HISTORIES)
            self.index.set_preemptions(entry.job.job_id, entry.history)

    def change(self, largest: int) -> None:
        """Make one change of any kind."""
        draw = self.random.choice
        draw(
            (
                *[lambda: self.add(1)] * 2,
                lambda: self.add(self.random.randint(2, largest)),
                *[self.start] * 5,
                *[self.end] * 4,
                *[self.requeue] * 2,
                self.spare,
                self.preempted,
            )
        )()


def _order(entry: Entry) -> tuple[int, int, int, int, int]:
    return entry.order


def _usage(entries: Sequence[Entry]) -> Usage:
    cpus = mem_mb = gpus = 0.0
    for entry in entries:  # all sums of these amounts are exact
        cpus, mem_mb, gpus = cpus + entry.job.cpus, mem_mb + entry.job.mem_mb, gpus + entry.job.gpus
    return Usage(count=len(entries), cpus=cpus, mem_mb=mem_mb, gpus=gpus)


def _check_jobs(index: QueueIndex, entries: Sequence[Entry]) -> None:
    """Each job has what it was added with, and the task that it was given."""
    for entry in entries:
        job = entry.job
        row = index.row_of(job.job_id)
        assert job.job_id in index
        assert (index.job_id(row), index.owner(row).name) == (job.job_id, job.user)
        assert (index.is_running(job.job_id), index.is_waiting(job.job_id)) == (entry.runs, not entry.runs)
        assert index.requested(job.job_id) == _usage([entry])
        assert index.amounts_of(row) == (job.cpus, job.mem_mb, job.gpus)
        assert (index.ports(row), index.seq(row)) == (job.ports, job.seq)
        assert index.priority_key(row) == 16_000_000 - job.priority
        assert index.constraint_class(index.class_number(row)) == job.constraints
        assert index.run_time(row) == job.run_time
        assert index.job_constraints.get(row, NO_JOB_CONSTRAINTS) == entry.constraints
        assert index.group_of(job.job_id) == entry.constraints.group
        assert index.preemptions.get(row, NEVER_PREEMPTED) == entry.history
        assert (row in index.uninterrupted) == entry.is_spared
        if entry.runs:
            assert (index.launch(row), index.hosts_of([row])) == (entry.launch, [entry.host])
    rows = [index.row_of(entry.job.job_id) for entry in entries]
    assert sorted(rows) == index.rows().tolist()
    assert index.job_constraints.keys() | index.preemptions.keys() | index.uninterrupted <= set(rows)
    assert index.knows_run_times is any(entry.job.run_time != UNKNOWN_RUN_TIME for entry in entries)


def _check_users(index: QueueIndex, entries: Sequence[Entry], numbers: dict[str, int]) -> None:
    """Each user has tasks in Cook's order, and their sums."""
    with_tasks = sorted({entry.job.user for entry in entries})
    assert index.users() == [tasks.name for tasks in index.by_name()] == with_tasks
    assert {index.name_of(number): number for number in range(index.user_count)} == numbers
    for user, number in numbers.items():
        own = sorted((entry for entry in entries if entry.job.user == user), key=_order)
        running, waiting = [entry for entry in own if entry.runs], [entry for entry in own if not entry.runs]
        usage = _usage(running)
        assert index.usage(user) == usage
        assert index.usage_sums(number) == (usage.count, usage.cpus, usage.mem_mb, usage.gpus)
        assert index.waiting_of(user) == len(waiting)
        if own:
            tasks = index.owner(index.row_of(own[0].job.job_id))
            assert index.tasks_of_job(own[0].job.job_id) is tasks
            _check_tasks(index, tasks, running, waiting)


def _check_tasks(
    index: QueueIndex, tasks: UserTasks, running: Sequence[Entry], waiting: Sequence[Entry]
) -> None:
    waiting_ids = [entry.job.job_id for entry in waiting]
    assert index.ids(tasks.started) == [entry.job.job_id for entry in running]
    assert index.ids(tasks.waiting().tolist()) == index.ids(tasks.iter_waiting()) == waiting_ids
    assert index.ids(tasks.waiting(2).tolist()) == index.ids(tasks.first_waiting(2)) == waiting_ids[:2]
    assert index.ids(tasks.iter_waiting(1)) == waiting_ids[1:]
    assert [index.waiting_before(index.row_of(job)) for job in waiting_ids] == list(range(len(waiting)))
    columns = index.columns
    cpus, mem_mb = (1.0, 20.0) if len(waiting) % 5 else (UNLIMITED, 10.0)  # usually those of the last time
    fits = [entry.job.cpus <= cpus and entry.job.mem_mb <= mem_mb for entry in waiting]
    first = fits.index(True) if True in fits else len(fits)
    assert tasks.too_large(cpus, mem_mb, columns.cpus, columns.mem) == first


def _check_totals(index: QueueIndex, entries: Sequence[Entry]) -> None:
    """The whole queue has sums, bounds, and the running tasks of each host and each group."""
    running, waiting = (
        [entry for entry in entries if entry.runs],
        [entry for entry in entries if not entry.runs],
    )
    assert (len(index), index.waiting_count, index.running_count) == (
        len(entries),
        len(waiting),
        len(running),
    )
    assert index.pool_usage() == _usage(running)
    assert index.waiting_usage() == _usage(waiting)
    for resource in (0, 1):
        requested = [(entry.job.cpus, entry.job.mem_mb)[resource] for entry in waiting]
        assert index.min_request[resource] == min(requested, default=0.0)  # these amounts are exact
        most = index.max_request[resource]
        highest = max(requested, default=0.0)
        assert highest < most <= max(highest * (1 + 2**-8), 1e-300) if requested else most == 0.0
    assert index.ids(index.running_rows()) == [entry.job.job_id for entry in running]
    for host in HOSTS:
        starts = {index.row_of(entry.job.job_id): entry.start_ms for entry in running if entry.host == host}
        assert dict(index.tasks_on(host)) == starts
    for group in GROUPS:
        hosts = Counter(entry.host for entry in running if entry.constraints.group == group)
        assert index.group_hosts(group) == hosts


def _check(history: History) -> None:
    entries = list(history.entries.values())
    _check_totals(history.index, entries)
    _check_users(history.index, entries, history.numbers)
    _check_jobs(history.index, entries)


@pytest.mark.parametrize("seed", range(6))
def test_a_queue_knows_its_jobs_after_any_changes(seed: int) -> None:
    history = History(seed)
    for _ in range(150):
        history.change(largest=40)
        _check(history)
    while history.entries:
        history.end()
    _check(history)


def test_a_queue_that_has_been_large_knows_its_jobs() -> None:
    history = History(100)
    history.add(700)
    history.add(900)  # more than the columns of an empty queue hold
    for _ in range(30):
        history.change(largest=40)
    _check(history)
    while history.entries:
        history.end()
    _check(history)
    for _ in range(20):
        history.change(largest=40)
        _check(history)


def test_a_long_list_knows_how_many_jobs_are_too_large_as_it_shrinks_from_the_front() -> None:
    index = QueueIndex()
    jobs = [QueuedJob(job_id(seq), "ada", 3.0 if seq < 2100 else 1.0, 10.0, seq) for seq in range(2500)]
    index.add_many(jobs)
    tasks = index.owner(index.row_of(jobs[0].job_id))
    for seq, job in enumerate(jobs):
        too_large = tasks.too_large(2.0, 10.0, index.columns.cpus, index.columns.mem)
        assert too_large == max(0, 2100 - seq)
        index.remove(job.job_id)
    assert index.waiting_count == 0


def test_a_long_list_that_shrinks_while_nobody_looks_is_counted_afresh() -> None:
    index = QueueIndex()
    jobs = [QueuedJob(job_id(seq), "ada", 1.0 if seq else 3.0, 10.0, seq) for seq in range(1500)]
    index.add_many(jobs)
    tasks = index.owner(index.row_of(jobs[0].job_id))
    assert tasks.too_large(2.0, 10.0, index.columns.cpus, index.columns.mem) == 1
    for job in jobs[:1024]:
        index.remove(job.job_id)
    for job in jobs[1024:1030]:
        index.remove(job.job_id)
        assert tasks.too_large(2.0, 10.0, index.columns.cpus, index.columns.mem) == 0


@pytest.mark.parametrize("seed", range(200, 206))
def test_a_queue_is_the_same_after_it_was_written_down(seed: int) -> None:
    history = History(seed)
    for _ in range(100):
        history.change(largest=40)
    again = index_of(record_of(history.index))
    entries = list(history.entries.values())
    _check_totals(again, entries)
    _check_users(again, entries, history.numbers)
    _check_jobs(again, entries)
