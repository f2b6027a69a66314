"""In which order a rebalance cycle takes waiting jobs, and which of them it takes again."""

from collections.abc import Sequence

import numpy as np
import pytest

from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.job import JobId
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.arrays import Floats
from cook_jupyter.scheduling.rebalancing.beneficiaries import BeneficiaryQueue

NO_ROOM = Resources()


class Cycle:
    """A cycle of users whose DRU is what they hold; jobs are named after their user."""

    def __init__(self, **held: float) -> None:
        self.held = held
        self.over_quota: set[str] = set()
        self.requests: dict[str, tuple[float, float, float]] = {}

    def user_of(self, job_id: JobId) -> str:
        return job_id.split("-", maxsplit=1)[0]

    def pending_dru(self, job_id: JobId) -> float:
        return self.held[self.user_of(job_id)]

    def is_within_quota(self, job_id: JobId) -> bool:
        return job_id not in self.over_quota

    def requests_of(self, jobs: Sequence[str]) -> tuple[Floats, Floats, Floats]:
        rows = np.array([self.requests.get(job, (1.0, 1.0, 0.0)) for job in jobs]).reshape(-1, 3)
        return rows[:, 0], rows[:, 1], rows[:, 2]


def ids(*names: str) -> list[JobId]:
    """The ids of jobs with these names."""
    return list(map(JobId, names))


def next_jobs(queue: BeneficiaryQueue) -> list[JobId]:
    """The jobs that are taken when nothing is decided for any."""
    jobs = []
    while (following := queue.pop()) is not None:
        jobs.append(following[0])
        queue.pass_over(following[0])
    return jobs


def a_decision(job: str, *, victims: Sequence[str] = (), displaced: Sequence[str] = ()) -> Preemption:
    return Preemption(
        beneficiary=JobId(job),
        host="host",
        cluster="",
        victims=tuple(ids(*victims)),
        displaced=tuple(ids(*displaced)),
    )


def test_the_next_job_is_that_of_the_user_with_the_least_usage() -> None:
    queue = BeneficiaryQueue(Cycle(ada=2.0, bob=1.0), ids("ada-1", "bob-1", "bob-2"))

    assert queue.pop() == ("bob-1", 1.0)


def test_between_equal_users_the_ranking_decides() -> None:
    assert next_jobs(BeneficiaryQueue(Cycle(ada=1.0, bob=1.0), ids("bob-1", "ada-1"))) == ["bob-1", "ada-1"]


def test_a_user_who_got_room_comes_after_users_who_now_have_less() -> None:
    cycle = Cycle(ada=1.0, bob=1.5)
    queue = BeneficiaryQueue(cycle, ids("ada-1", "ada-2", "bob-1"))
    queue.pop()

    cycle.held["ada"] = 2.0
    queue.apply(a_decision("ada-1"), NO_ROOM)

    assert next_jobs(queue) == ["bob-1", "ada-2"]


def test_jobs_behind_one_over_quota_are_not_considered() -> None:
    cycle = Cycle(ada=1.0, bob=2.0)
    cycle.over_quota = {"ada-1"}

    assert next_jobs(BeneficiaryQueue(cycle, ids("ada-1", "ada-2", "bob-1"))) == ["ada-1", "bob-1"]


@pytest.mark.parametrize(
    ("room", "again"),
    [
        (Resources(cpus=2, mem_mb=20, gpus=1), ["ada-1"]),
        (Resources(cpus=1.9, mem_mb=20, gpus=1), []),
        (Resources(cpus=2, mem_mb=19, gpus=1), []),
        (Resources(cpus=2, mem_mb=20, gpus=0), []),
    ],
)
def test_a_job_is_considered_again_when_victims_leave_the_room_that_it_needs(
    room: Resources, again: list[str]
) -> None:
    cycle = Cycle(ada=1.0, bob=2.0)
    cycle.requests = {"ada-1": (2.0, 20.0, 1.0), "bob-1": (2.0, 20.0, 0.0)}
    queue = BeneficiaryQueue(cycle, ids("ada-1", "bob-1"))
    queue.pop()
    queue.pass_over(JobId("ada-1"))
    queue.pop()

    queue.apply(a_decision("bob-1", victims=("cyd-1",)), room)

    assert next_jobs(queue) == again


def test_a_job_is_considered_again_when_a_task_of_its_user_was_preempted() -> None:
    queue = BeneficiaryQueue(Cycle(ada=1.0, bob=2.0), ids("ada-1", "bob-1"))
    queue.pop()
    queue.pass_over(JobId("ada-1"))
    queue.pop()

    queue.apply(a_decision("bob-1", victims=("ada-9",)), NO_ROOM)

    assert next_jobs(queue) == ["ada-1"]


def test_a_user_with_a_preempted_task_comes_earlier() -> None:
    cycle = Cycle(ada=3.0, bob=1.0, cyd=2.0)
    queue = BeneficiaryQueue(cycle, ids("bob-1", "cyd-1", "ada-1"))
    queue.pop()

    cycle.held["ada"] = 0.5
    queue.apply(a_decision("bob-1", victims=("ada-9",)), NO_ROOM)

    assert next_jobs(queue) == ["ada-1", "cyd-1"]


def test_a_decision_without_victims_makes_no_job_considered_again() -> None:
    queue = BeneficiaryQueue(Cycle(ada=1.0, bob=2.0), ids("ada-1", "bob-1"))
    queue.pop()
    queue.pass_over(JobId("ada-1"))
    queue.pop()

    queue.apply(a_decision("bob-1"), Resources(cpus=9, mem_mb=9))

    assert next_jobs(queue) == []


def test_a_job_that_lost_its_room_to_another_is_considered_again() -> None:
    queue = BeneficiaryQueue(Cycle(ada=1.0, bob=2.0), ids("ada-1", "bob-1"))
    queue.pop()
    queue.apply(a_decision("ada-1"), NO_ROOM)
    queue.pop()

    queue.apply(a_decision("bob-1", displaced=("ada-1",)), NO_ROOM)

    assert next_jobs(queue) == ["ada-1"]


def test_a_job_is_considered_at_most_four_times() -> None:
    cycle = Cycle(ada=1.0, bob=2.0)
    queue = BeneficiaryQueue(cycle, ids("ada-1", *(f"bob-{number}" for number in range(9))))
    times = 0
    for _ in range(9):
        following = queue.pop()
        if following is not None and following[0] == "ada-1":
            times += 1
            queue.pass_over(JobId("ada-1"))
            following = queue.pop()
        assert following is not None
        queue.apply(a_decision(following[0], victims=("ada-9",)), NO_ROOM)

    assert times == 4


def test_jobs_of_users_whose_tasks_were_not_stopped_are_not_taken_again() -> None:
    queue = BeneficiaryQueue(Cycle(ada=1.0, bob=2.0, cyd=3.0), ids("ada-1", "bob-1", "cyd-1"))
    for job in ("ada-1", "bob-1"):
        queue.pop()
        queue.pass_over(JobId(job))
    queue.pop()

    queue.apply(a_decision("cyd-1", victims=("ada-9",)), NO_ROOM)

    assert next_jobs(queue) == ["ada-1"]


def test_a_job_that_was_taken_again_is_pending_once() -> None:
    cycle = Cycle(ada=1.0, bob=2.0)
    queue = BeneficiaryQueue(cycle, ids("ada-1", "bob-1", "bob-2"))
    queue.pop()
    queue.pass_over(JobId("ada-1"))
    cycle.held["ada"] = 5.0
    for job in ("bob-1", "bob-2"):
        assert queue.pop() == (job, 2.0)
        queue.apply(a_decision(job, victims=("ada-9",)), Resources(cpus=9, mem_mb=9))

    assert next_jobs(queue) == ["ada-1"]
