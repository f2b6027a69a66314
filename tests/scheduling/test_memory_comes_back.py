"""What jobs took of the scheduler's memory, and of its time, comes back when they are gone."""

import gc
import sys
import weakref
from collections.abc import Sequence
from uuid import uuid4

import pytest

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import ConstraintClass, JobConstraints, PoolDefaults
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.limits.recent_values import MAX_UNUSED_ROUNDS, RecentValues
from cook_jupyter.scheduling.limits.run_times import RunTime
from cook_jupyter.scheduling.queue.counted_values import CountedValues
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from tests.scheduling.queues import waiting_jobs

ROUNDS = 30


def demanding(value: str) -> ConstraintClass:
    return ConstraintClass(attributes=(("run", value),))


def jobs_of(round_number: int, count: int, *, unique: bool) -> list[QueuedJob]:
    """Jobs of one submission, alike or each with demands of its own."""
    jobs = []
    for number in range(count):
        name, seq = f"{round_number}-{number}", round_number * 10_000 + number
        if unique:
            job = QueuedJob(
                JobId(name),
                "ada",
                1.0,
                1.0,
                seq,
                constraints=demanding(name),
                job_constraints=JobConstraints(group=GroupId(f"g-{name}")),
                run_time=RunTime(expected_ms=seq + 1),
            )
        else:
            job = QueuedJob(JobId(name), "ada", 1.0, 1.0, seq)
        jobs.append(job)
    return jobs


@pytest.mark.parametrize("unique", [False, True], ids=["alike", "each with demands of its own"])
@pytest.mark.parametrize("count", [10, 400], ids=["few at once", "many at once"])
@pytest.mark.parametrize("how", ["killed", "run"])
def test_jobs_that_are_gone_leave_nothing_behind(count: int, unique: bool, how: str) -> None:
    index = QueueIndex()
    index.add(QueuedJob(JobId("stays"), "bob", 1.0, 1.0, 2**38))  # the queue is never empty
    sizes, classes = [], []
    for round_number in range(ROUNDS):
        jobs = jobs_of(round_number, count, unique=unique)
        index.add_many(jobs)
        classes.append(max(index.class_number(index.row_of(job.job_id)) for job in jobs))
        assert waiting_jobs(index, "ada") == [job.job_id for job in jobs]
        for job in jobs:
            if how == "run":
                index.mark_running(job.job_id, round_number, "host")
            index.remove(job.job_id)
        sizes.append(len(index.columns.cpus))
    assert sizes[-1] == sizes[0]
    assert classes[-1] == classes[0]
    assert not index.knows_run_times
    assert not index.job_constraints


def test_jobs_hosts_and_groups_are_forgotten_with_their_last_task() -> None:
    index = QueueIndex()
    job, host, group = (str(uuid4()) for _ in range(3))  # strings that nobody else has a reference to
    before = [sys.getrefcount(name) for name in (job, host, group)]
    for seq in range(3):
        constraints = JobConstraints(group=GroupId(group))
        index.add(QueuedJob(JobId(job), "ada", 1.0, 1.0, seq, job_constraints=constraints))
        index.mark_running(JobId(job), 1, host)
        index.requeue(JobId(job))
        index.mark_running(JobId(job), 2, host)
        index.remove(JobId(job))
        del constraints
    assert [sys.getrefcount(name) for name in (job, host, group)] == before


class Value:
    """Something that only one job has."""


def test_a_value_is_forgotten_with_the_last_job_that_has_it() -> None:
    table: CountedValues[Value | None] = CountedValues(None)
    value = Value()
    forgotten = weakref.ref(value)
    table.release(table.acquire(value))
    del value
    gc.collect()
    assert forgotten() is None


def test_a_queue_that_has_become_empty_is_small_again() -> None:
    index = QueueIndex()
    for round_number in range(2):
        jobs = jobs_of(round_number, 5000, unique=False)
        index.add_many(jobs)
        assert len(index.columns.cpus) >= 5000
        for job in jobs:
            index.remove(job.job_id)
        assert len(index.columns.cpus) < 5000
    index.add(QueuedJob(JobId("next"), "ada", 2.0, 3.0, 1))
    assert waiting_jobs(index, "ada") == ["next"]
    assert index.amounts_of(index.row_of(JobId("next"))) == (2.0, 3.0, 0.0)


def test_jobs_in_reused_rows_keep_their_own_facts() -> None:
    index = QueueIndex()
    first = jobs_of(0, 100, unique=True)
    index.add_many(first)
    for job in first[::3]:
        index.remove(job.job_id)
    second = jobs_of(1, 60, unique=True)  # some rows are reused, some are new
    index.add_many(second)
    alike = jobs_of(2, 60, unique=False)
    for job in second[::2]:
        index.remove(job.job_id)
    index.add_many(alike)

    left = [job for place, job in enumerate(first) if place % 3] + second[1::2] + alike
    for job in left:
        row = index.row_of(job.job_id)
        assert index.constraint_class(index.class_number(row)) == job.constraints
        assert index.run_time(row) == job.run_time
        assert index.job_constraints.get(row, JobConstraints()) == job.job_constraints
        assert index.seq(row) == job.seq
    assert waiting_jobs(index, "ada") == [job.job_id for job in sorted(left, key=lambda job: job.seq)]


def offers(names: Sequence[str], cpus: float) -> list[Offer]:
    return [
        Offer(
            cluster="c",
            pool=PoolName("p"),
            host=name,
            room=Resources(cpus=cpus, mem_mb=1.0),
            attributes={"run": name, "HOSTNAME": name},
        )
        for name in names
    ]


def test_hosts_forget_constraints_that_nobody_has_any_longer() -> None:
    hosts = Hosts(offers(["a", "b"], cpus=0.0))
    defaults = PoolDefaults()
    first = hosts.failing_class_constraint(demanding("0-0"), 0.0, defaults), hosts.codes("attribute-0-0")[0]
    for round_number in range(4 * MAX_UNUSED_ROUNDS):
        hosts.update_from_offers(offers(["a", "b"], cpus=float(round_number)))
        for number in range(20):
            name = f"{round_number}-{number}"
            assert hosts.failing_class_constraint(demanding(name), 0.0, defaults) != [None, None]
            hosts.codes(f"attribute-{name}")
        assert hosts.failing_class_constraint(demanding("b"), 0.0, defaults)[1] is None, (
            "what is asked for stays right"
        )
        codes, values = hosts.codes("run")
        assert [codes[0], codes[1]] == [values["a"], values["b"]]
    again = hosts.failing_class_constraint(demanding("0-0"), 0.0, defaults), hosts.codes("attribute-0-0")[0]
    assert first[0] is not again[0], "it was forgotten, and made anew"
    assert first[1] is not again[1]


def test_a_value_that_is_asked_for_is_kept_and_others_are_forgotten() -> None:
    recent = RecentValues[int, str]()
    for number in range(100):
        recent.get(number, lambda: "old")
    for _ in range(3 * MAX_UNUSED_ROUNDS):
        assert recent.get(7, lambda: "made anew") == "old"
        recent.next_round()
    assert len(recent) == 1
    assert recent.get(8, lambda: "made anew") == "made anew"


def test_a_value_is_stored_once_and_forgotten_with_its_last_job() -> None:
    table = CountedValues("usual")
    assert table.acquire("usual") == 0
    first = table.acquire("other")
    assert table.acquire("other") == first != 0
    table.release(first)
    assert (len(table), table[first]) == (1, "other")
    table.release(first)
    assert not table
    assert table.acquire("third") == first, "its number is used again"
