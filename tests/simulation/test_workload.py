"""Generated workloads are reproducible, and have the requested size and pattern."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.simulation.traces import read_hosts, read_trace, write_hosts, write_trace
from cook_jupyter.simulation.workload import SCENARIOS, Normal, Workload, generate


def a_workload(scenario: str = "office", *, jobs: int = 2000, seed: int = 7) -> Workload:
    return generate(scenario, jobs=jobs, users=20, hosts=10, cpus_per_host=16, seed=seed)


def columns(workload: Workload) -> list[object]:
    values = (getattr(workload, field.name) for field in dataclasses.fields(workload))
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]


def load_of(workload: Workload) -> float:
    requested = float((workload.cpus * workload.run_time_ms).sum())
    return requested / (len(workload.hosts) * workload.cpus_per_host * int(workload.submit_ms[-1]))


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_equal_seeds_give_equal_workloads_and_other_seeds_others(scenario: str) -> None:
    assert columns(a_workload(scenario)) == columns(a_workload(scenario))
    assert columns(a_workload(scenario)) != columns(a_workload(scenario, seed=8))


@given(
    scenario=st.sampled_from(sorted(SCENARIOS)),
    users=st.integers(4, 40),
    extra_jobs=st.integers(0, 500),
    hosts=st.integers(1, 9),
    cpus_per_host=st.integers(1, 8),
    mem_mb_per_host=st.floats(100.0, 10_000.0),
    seed=st.integers(0, 9),
)
def test_a_workload_has_the_requested_size_and_every_job_fits_a_host(
    scenario: str,
    users: int,
    extra_jobs: int,
    hosts: int,
    cpus_per_host: int,
    mem_mb_per_host: float,
    seed: int,
) -> None:
    jobs = users + extra_jobs

    workload = generate(
        scenario,
        jobs=jobs,
        users=users,
        hosts=hosts,
        cpus_per_host=cpus_per_host,
        mem_mb_per_host=mem_mb_per_host,
        seed=seed,
    )

    assert len(workload) == jobs == len(set(workload.uuids))
    assert len(workload.hosts) == hosts
    assert len(set(workload.users)) == users
    assert set(workload.user.tolist()) == set(range(users))
    assert workload.submit_ms[0] == 0
    assert (np.diff(workload.submit_ms) >= 0).all()
    assert (workload.run_time_ms > 0).all()
    assert workload.cpus.min() >= 1
    assert workload.cpus.max() <= cpus_per_host
    assert workload.mem_mb.min() > 0
    assert workload.mem_mb.max() <= mem_mb_per_host


def test_the_load_is_the_ratio_of_requested_to_available_resources() -> None:
    light, heavy = (
        generate(
            "steady", jobs=3000, users=5, hosts=4, cpus_per_host=8, mem_mb_per_host=1e6, load=load, seed=1
        )
        for load in (0.5, 2.0)
    )

    assert load_of(light) == pytest.approx(0.5, rel=0.01)
    assert load_of(heavy) == pytest.approx(2.0, rel=0.01)


def test_memory_counts_towards_the_load_where_it_is_scarcer_than_cpus() -> None:
    tight = generate("steady", jobs=1000, users=5, hosts=4, cpus_per_host=64, mem_mb_per_host=8192)

    assert load_of(tight) < 0.2 < SCENARIOS["steady"].load


def test_a_hog_submits_half_of_all_jobs_before_the_others_have_submitted_a_tenth() -> None:
    workload = a_workload("one-hog")
    hogs = workload.user == workload.users.index("hog")

    assert hogs.sum() == 1000
    early_jobs_of_others = (~hogs & (workload.submit_ms <= workload.submit_ms[hogs].max())).sum()
    assert early_jobs_of_others < 100


def test_in_bursts_most_users_submit_nothing_most_of_the_time() -> None:
    workload = a_workload("bursts")
    hour = workload.submit_ms * 100 // (workload.submit_ms[-1] + 1)

    assert len(set(zip(hour.tolist(), workload.user.tolist(), strict=True))) < 0.15 * 100 * 20


def test_there_are_a_hundred_short_jobs_for_each_long_one() -> None:
    workload = a_workload("short-against-long", jobs=10_100)
    long = np.char.startswith(np.array(workload.users), "long")[workload.user]

    assert long.sum() == 100
    assert workload.run_time_ms[long].min() > workload.run_time_ms[~long].max()


@given(mean=st.floats(-10, 10), deviation=st.floats(0, 10), seed=st.integers(0, 9))
def test_values_are_drawn_between_floor_and_ceiling(mean: float, deviation: float, seed: int) -> None:
    drawn = Normal(mean=mean, deviation=deviation, floor=-2.0, ceiling=3.0).draw(
        np.random.default_rng(seed), 50
    )

    assert -2.0 <= drawn.min() <= drawn.max() <= 3.0


def test_an_even_share_divides_all_hosts_among_all_users() -> None:
    share = a_workload().even_share

    assert (share.cpus, share.mem_mb) == (10 * 16 / 20, 10 * 16 * 4096.0 / 20)


def test_a_workload_can_be_written_and_read_back(tmp_path: Path) -> None:
    workload = a_workload()

    write_trace(tmp_path / "trace.json", workload.trace())
    write_hosts(tmp_path / "hosts.json", workload.sim_hosts())

    trace = read_trace(tmp_path / "trace.json")
    assert trace == workload.trace()
    assert [job.user for job in trace] == [workload.users[user] for user in workload.user]
    assert [(job.submit_ms, job.run_time_ms, job.cpus, job.mem_mb) for job in trace] == list(
        zip(workload.submit_ms, workload.run_time_ms, workload.cpus, workload.mem_mb, strict=True)
    )
    assert read_hosts(tmp_path / "hosts.json") == workload.sim_hosts()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scenario": "peace"}, "unknown scenario 'peace'"),
        ({"users": 1}, "at least 2 users"),
        ({"jobs": 3}, "a job for each"),
        ({"hosts": 0}, "positive and finite"),
        ({"load": 0.0}, "positive and finite"),
    ],
)
def test_an_invalid_workload_is_refused(change: dict[str, object], complaint: str) -> None:
    arguments: dict[str, object] = {"scenario": "one-hog", "jobs": 10, "users": 4, "hosts": 2} | change

    with pytest.raises(ValueError, match=complaint):
        generate(**arguments)  # type: ignore[arg-type] # wrong on purpose
