"""The DRUs of tasks while a rebalance cycle decides."""

from math import inf

import pytest

from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.rebalancing import task_drus as task_drus_module
from cook_jupyter.scheduling.rebalancing.task_drus import TaskDrus
from tests.scheduling.queues import an_index, job_id

LIMITS = UserLimits(default_share=Share(cpus=10.0, mem_mb=100.0, gpus=1.0))


@pytest.mark.parametrize(
    ("amounts", "mode", "dru"),
    [
        ({"cpus": 5.0}, DruMode.DEFAULT, 0.5),
        ({"mem": 70.0}, DruMode.DEFAULT, 0.7),
        ({"gpus": 2.0}, DruMode.GPU, 2.0),
    ],
)
def test_the_dru_of_a_job_of_the_highest_priority_counts_only_the_job(
    amounts: dict[str, float], mode: DruMode, dru: float
) -> None:
    nothing = {"cpus": 0.0, "mem": 0.0, "gpus": 0.0}
    running = {**nothing, "seq": 1, "user": "ada", "cpus": 20.0, "gpus": 3.0, "priority": 10, "start_ms": 1}
    waiting = {**nothing, "seq": 2, "user": "ada", "priority": 90, **amounts}
    index = an_index([running, waiting])
    task_drus = TaskDrus(index, LIMITS, mode, 10, launch_order=True)

    pending, lower = task_drus.lower_priority_tasks(index.row_of(job_id(2)))

    assert pending == pytest.approx(dru)
    assert lower == [(0, 3.0 if mode is DruMode.GPU else 2.0)]


@pytest.mark.parametrize(
    ("resource", "quota"),
    [("cpus", Quota(cpus=2.0)), ("mem", Quota(mem_mb=2.0)), ("gpus", Quota(gpus=2.0))],
)
def test_a_job_is_within_quota_once_enough_of_its_users_tasks_are_stopped(
    resource: str, quota: Quota
) -> None:
    nothing = {"user": "ada", "cpus": 0.0, "mem": 0.0, "gpus": 0.0}
    tasks = [nothing | {"seq": seq, resource: 1.0, "start_ms": seq} for seq in (1, 2, 3)]
    index = an_index([*tasks, nothing | {"seq": 4, resource: 1.0}])
    row = index.row_of(job_id(4))
    task_drus = TaskDrus(index, UserLimits(default_quota=quota), DruMode.DEFAULT, 10)

    assert [task_drus.is_within_quota(row, without=stopped) for stopped in ((), (0,), (0, 2))] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("launch_order", [True, False])
def test_a_placed_job_loses_no_work_and_goes_before_its_users_other_tasks(launch_order: bool) -> None:
    shape = {"cpus": 2.0, "mem": 1.0, "gpus": 3.0}
    tasks = [{**shape, "seq": seq, "user": "ada", "start_ms": seq} for seq in (1, 2, 3)]
    tasks += [{**shape, "seq": 4, "user": "bob", "start_ms": 4}]
    waiting = [{**shape, "seq": seq, "user": user} for seq, user in ((5, "bob"), (6, "ada"), (7, "ada"))]
    index = an_index([*tasks, *waiting])
    task_drus = TaskDrus(index, LIMITS, DruMode.DEFAULT, 10, launch_order=launch_order)

    placed = [task_drus.add(index.row_of(job_id(seq))) for seq in (5, 6, 7)]

    assert placed == [4, 5, 6]
    assert task_drus.work == [18.0, 16.0, 14.0, 12.0, 0.0, 0.0, 0.0]
    assert sorted(range(7), key=task_drus.ties.__getitem__) == [6, 5, 2, 1, 0, 4, 3]
    assert TaskDrus(index, LIMITS, DruMode.GPU, 10).work == [27.0, 24.0, 21.0, 18.0]


@pytest.mark.parametrize("launch_order", [True, False])
@pytest.mark.parametrize(
    ("resource", "quota", "mode", "dru"),
    [
        ("cpus", Quota(cpus=1.0), DruMode.DEFAULT, 0.1),
        ("mem", Quota(mem_mb=1.0), DruMode.DEFAULT, 0.01),
        ("gpus", Quota(gpus=1.0), DruMode.GPU, 1.0),
    ],
)
def test_a_user_without_tasks_holds_nothing(
    resource: str, quota: Quota, mode: DruMode, dru: float, launch_order: bool
) -> None:
    nothing = {"user": "ada", "cpus": 0.0, "mem": 0.0, "gpus": 0.0}
    index = an_index([nothing | {"seq": 1, resource: 1.0}])
    limits = UserLimits(default_share=LIMITS.default_share, default_quota=quota)
    task_drus = TaskDrus(index, limits, mode, 10, launch_order=launch_order)
    row = index.row_of(job_id(1))

    assert task_drus.is_within_quota(row)
    assert task_drus.pending_dru(row) == dru


def test_a_placed_job_goes_before_all_running_tasks_of_the_only_user() -> None:
    shape = {"cpus": 2.0, "mem": 1.0, "gpus": 0.0, "user": "ada"}
    index = an_index([*({**shape, "seq": seq, "start_ms": seq} for seq in (1, 2)), {**shape, "seq": 3}])
    task_drus = TaskDrus(index, LIMITS, DruMode.DEFAULT, 10)
    task_drus.add(index.row_of(job_id(3)))

    assert task_drus.ties[2] < task_drus.ties[1] < task_drus.ties[0]


@pytest.mark.parametrize("few", [0, 32])  # tasks up to which sums are computed one by one
@pytest.mark.parametrize("launch_order", [True, False])
@pytest.mark.parametrize("mode", list(DruMode))
def test_drus_after_a_change_are_those_of_the_tasks_that_are_left(
    mode: DruMode, launch_order: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_drus_module, "_FEW", few)
    tasks = [
        {
            "seq": seq,
            "user": "ada",
            "cpus": float(seq),
            "mem": 10.0 * (5 - seq),
            "gpus": seq * 2.0,
            "start_ms": seq,
        }
        for seq in range(1, 6)
    ]
    other = {"seq": 9, "user": "bob", "cpus": 3.0, "mem": 7.0, "gpus": 5.0}
    index = an_index([*tasks, other])
    spared_row = index.row_of(job_id(4))
    drus = TaskDrus(index, LIMITS, mode, 10, launch_order=launch_order, spared_rows=[spared_row])

    for stopped in (0, 2):
        drus.remove(stopped)
    changed = drus.rescore((0, 2), drus.add(index.row_of(job_id(9))))

    left = TaskDrus(an_index([tasks[1], tasks[3], tasks[4], {**other, "start_ms": 1}]), LIMITS, mode, 10)
    assert sorted(changed.tolist()) == [1, 3, 4, 5]
    assert [drus.score_of(task) for task in (1, 3, 4, 5)] == [left.dru[task] for task in range(4)]
    assert [drus.dru[task] for task in (1, 4, 5)] == [left.dru[task] for task in (0, 2, 3)]
    assert drus.dru[3] == -inf
