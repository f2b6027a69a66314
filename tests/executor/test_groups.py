"""Groups and other demands on hosts, as options: what reaches the scheduler, and what comes back."""

import os
from uuid import uuid4

import pytest

from cook_jupyter.client.submission import (
    HostPlacement,
    PlacementParameters,
    StragglerHandling,
    StragglerParameters,
)
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import InvalidRequest, Unsatisfiable
from cook_jupyter.executor import CookExecutor, Group
from tests.waiting import HANG_S

SOON_S = HANG_S


@pytest.mark.parametrize(
    "wrong",
    [
        {"placement": "somewhere"},
        {"placement": "balanced", "attribute": "rack"},
        {"placement": "balanced", "minimum": 2},
        {"placement": "balanced", "attribute": "rack", "minimum": 0},
        {"placement": "attribute-equals"},
        {"placement": "unique", "attribute": "rack"},
        {"placement": "unique", "minimum": 2},
        {"stragglers": (1.0, 2.0)},
        {"stragglers": (0.5, 1.0)},
        {"uuid": "not one"},
    ],
    ids=str,
)
def test_a_group_whose_parts_do_not_go_together_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        Group(**wrong)  # type: ignore[arg-type]


def test_a_group_is_told_once_and_grows_with_each_job(executor: CookExecutor, started: JobClient) -> None:
    group = Group(placement="balanced", attribute="HOSTNAME", minimum=1, stragglers=(0.5, 2.0), name="both")
    joined = executor.with_(group=group)

    first = joined.submit(os.getpid)
    first.result(SOON_S)
    second = joined.submit(os.getpid)
    second.result(SOON_S)

    (told,) = started.groups([group.uuid])
    assert sorted(told.jobs) == sorted([first.key, second.key])
    assert told.name == "both"
    assert told.host_placement == HostPlacement(
        type="balanced", parameters=PlacementParameters(attribute="HOSTNAME", minimum=1)
    )
    assert told.straggler_handling == StragglerHandling(
        type="quantile-deviation", parameters=StragglerParameters(quantile=0.5, multiplier=2.0)
    )


def test_jobs_of_another_session_join_by_the_same_value_or_by_its_uuid(
    executor: CookExecutor, started: JobClient
) -> None:
    group = Group(placement="unique")
    keys = [executor.with_(group=group).submit(os.getpid).key]
    executor.shutdown()

    for named in (group, group.uuid, group.uuid.upper()):
        with CookExecutor(started, cpus=0.1, mem_mb=200, group=named) as other:
            future = other.submit(os.getpid)
            future.result(SOON_S)
            keys.append(future.key)

    (told,) = started.groups([group.uuid])
    assert sorted(told.jobs) == sorted(keys)


def test_a_group_that_nobody_described_is_made_of_the_jobs_that_name_it(
    executor: CookExecutor, started: JobClient
) -> None:
    uuid = str(uuid4())
    joined = executor.with_(group=uuid)
    keys = []
    for _ in range(2):
        future = joined.submit(os.getpid)
        future.result(SOON_S)
        keys.append(future.key)

    assert sorted(started.groups([uuid])[0].jobs) == sorted(keys)


def test_constraints_and_expected_run_times_reach_the_scheduler(
    executor: CookExecutor, started: JobClient
) -> None:
    here = os.uname().nodename
    future = executor.with_(constraints={"HOSTNAME": here}, expected_runtime_s=1.5, max_runtime_s=60).submit(
        pow, 2, 3
    )

    assert future.result(SOON_S) == 8
    job = started.job(future.key)
    assert job.constraints == (("HOSTNAME", "EQUALS", here),)
    assert (job.expected_runtime_ms, job.max_runtime_ms) == (1500, 60_000)


def test_a_constraint_that_no_host_meets_is_refused_at_submission(executor: CookExecutor) -> None:
    with pytest.raises(Unsatisfiable, match="No host has rack = seven"):
        executor.with_(constraints={"rack": "seven"}).submit(pow, 2, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"constraints": {"rack": 7}},
        {"expected_runtime_s": 0},
        {"expected_runtime_s": 61.0, "max_runtime_s": 60.0},
        {"group": 7},
    ],
    ids=str,
)
def test_demands_that_cannot_be_are_refused_at_once(executor: CookExecutor, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        executor.with_(**wrong)


def test_how_tasks_give_way_is_told_and_set(started: JobClient) -> None:
    before = started.rebalancer()
    try:
        assert started.set_rebalancer(min_dru_diff=0.25).min_dru_diff == 0.25
        assert started.rebalancer().safe_dru_threshold == before.safe_dru_threshold
    finally:
        started.set_rebalancer(min_dru_diff=before.min_dru_diff)


def test_the_monitor_tells_pools(started: JobClient) -> None:
    assert set(started.monitor().pools) <= {
        pool.name for pool in started.pools()
    }  # none before its first look
