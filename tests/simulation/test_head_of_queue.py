"""No job starves at the head of the queue, with random input and in every scenario."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cook_jupyter.model.resources import Resources
from cook_jupyter.service.settings.tables import HeadRoomSettings
from cook_jupyter.simulation.workload import SCENARIOS, Workload, generate
from tests.builders import a_job_spec
from tests.simulation.head_of_queue import Arrival, ReplayRecord, replay_events

MINUTE_MS = 60_000
WITH_HEAD_ROOM = HeadRoomSettings()
WITHOUT_HEAD_ROOM = HeadRoomSettings.cook()


def late_heads(record: ReplayRecord) -> list[str]:
    """Return the jobs that waited at the head longer than any task ran that was running at its start."""
    return [
        f"{job_id}: at the head at {visit.since_ms}, due by {visit.bound_ms}, started at {visit.started_ms}"
        for job_id, visit in record.heads
        if visit.started_ms is not None and visit.started_ms > visit.bound_ms
    ]


@st.composite
def random_inputs(draw: st.DrawFn, *, stated: bool) -> dict[str, Any]:
    """Draw hosts with attributes, and jobs of several users with or without stated run times."""
    hosts = {
        f"h{number}": Resources(
            cpus=draw(st.sampled_from([1.0, 2.0, 4.0, 6.0])), mem_mb=draw(st.sampled_from([500.0, 1000.0]))
        )
        for number in range(draw(st.integers(1, 4)))
    }
    jobs = draw(
        st.lists(
            st.tuples(
                st.integers(0, 60),  # minute of submission
                st.sampled_from("abc"),
                st.sampled_from([0.5, 1.0, 1.0, 2.0, 4.0]),
                st.sampled_from([50.0, 100.0, 400.0]),
                st.integers(1, 40),  # minutes that it runs
                st.sampled_from([50, 50, 50, 90]),  # priority
                st.sampled_from([None, None, None, "x", "y"]),  # rack
                st.booleans(),  # whether its run time is stated
            ),
            min_size=2,
            max_size=40,
        )
    )
    arrivals = [
        Arrival(
            at_ms=minute * MINUTE_MS,
            spec=a_job_spec(
                job_id=f"{user}{number}",
                user=user,
                cpus=cpus,
                mem_mb=mem_mb,
                priority=priority,
                constraints=() if rack is None else (("rack", "EQUALS", rack),),
                expected_runtime_ms=minutes * MINUTE_MS if stated and is_stated else None,
            ),
            run_ms=minutes * MINUTE_MS,
        )
        for number, (minute, user, cpus, mem_mb, minutes, priority, rack, is_stated) in enumerate(
            sorted(jobs, key=lambda job: job[0])
        )
    ]
    return {
        "arrivals": arrivals,
        "hosts": hosts,
        "attributes": {host: {"rack": draw(st.sampled_from("xy"))} for host in hosts},
        "shares": draw(st.sampled_from([{}, {"cpus": 1.0, "mem": 200.0}, {"cpus": 3.0, "mem": 600.0}])),
    }


@pytest.mark.parametrize("stated", [False, True], ids=["run times unknown", "run times stated by some"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_job_waits_at_the_head_longer_than_the_tasks_that_run_when_it_gets_there(
    stated: bool, data: st.DataObject
) -> None:
    inputs = data.draw(random_inputs(stated=stated))

    record = replay_events(head_room=WITH_HEAD_ROOM, **inputs)

    assert late_heads(record) == []
    assert record.max_kept_fraction <= WITH_HEAD_ROOM.max_kept


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_kept_room_never_prevents_a_job_from_starting(data: st.DataObject) -> None:
    inputs = data.draw(random_inputs(stated=True))

    assert (
        replay_events(head_room=WITH_HEAD_ROOM, **inputs).waiting
        == replay_events(head_room=WITHOUT_HEAD_ROOM, **inputs).waiting
    )


def replay_workload(workload: Workload, head_room: HeadRoomSettings) -> ReplayRecord:
    share = workload.even_share
    return replay_events(
        [
            Arrival(
                at_ms=job.submit_ms,
                spec=a_job_spec(job_id=job.job_id, user=job.user, cpus=job.cpus, mem_mb=job.mem_mb),
                run_ms=job.run_time_ms,
            )
            for job in workload.trace()
        ],
        {
            host: Resources(cpus=workload.cpus_per_host, mem_mb=workload.mem_mb_per_host)
            for host in workload.hosts
        },
        head_room=head_room,
        shares={"cpus": share.cpus, "mem": share.mem_mb},
    )


@pytest.mark.parametrize("hosts", [1, 4])
@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_no_job_starves_at_the_head_in_any_scenario(scenario: str, hosts: int) -> None:
    workload = generate(scenario, jobs=250, users=6, hosts=hosts, cpus_per_host=8, seed=hosts)

    record = replay_workload(workload, WITH_HEAD_ROOM)

    assert late_heads(record) == []
    assert record.waiting == 0


def test_the_wait_of_a_head_behind_another_on_the_only_host_counts_from_the_start_of_the_other() -> None:
    jobs = [("a2", 0, 34, 0.5), ("b3", 17, 4, 1.0), ("a4", 31, 23, 1.0)]
    arrivals = [
        Arrival(
            at_ms=minute * MINUTE_MS,
            spec=a_job_spec(
                job_id=name, user=name[0], cpus=cpus, constraints=(("rack", "EQUALS", "x"),), mem_mb=50.0
            ),
            run_ms=minutes * MINUTE_MS,
        )
        for name, minute, minutes, cpus in jobs
    ]
    hosts = {name: Resources(cpus=cpus, mem_mb=500.0) for name, cpus in (("h0", 7.0), ("h1", 1.0))}

    record = replay_events(
        arrivals, hosts, head_room=WITH_HEAD_ROOM, attributes={"h0": {"rack": "y"}, "h1": {"rack": "x"}}
    )

    assert late_heads(record) == []
    assert sorted(record.starts, key=record.starts.__getitem__) == ["a2", "b3", "a4"]
