"""The scheduler on a real Mesos as users see it: groups, constraints, ports, gpus, containers, preemption.

Two agents in two racks, each with 4 cpus, 2 gpus and 100 ports.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from cook_jupyter import CookExecutor
from cook_jupyter.client.answers import JobAnswer
from cook_jupyter.client.sync import JobClient
from tests.mesos.harness import USER
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.served import FINAL_STATES, MesosScheduler, settle
from tests.waiting import HANG_S, wait_until

SETTINGS = """
[rebalancer]
interval_ms = 200

[[pools]]
name = "default"
"""
AGENTS = {
    "resources": "cpus:4;mem:4096;disk:1000;gpus:2;ports:[31000-31099]",
}
HOSTS = ("127.0.1.1", "127.0.1.2")


@pytest.fixture(scope="module")
def mesos(installed_mesos: None) -> Iterator[LocalMesos]:
    with LocalMesos(agents=2, attributes=["rack:a", "rack:b"], agent_flags=AGENTS) as mesos:
        yield mesos


@pytest.fixture
def scheduler(mesos: LocalMesos, cook_home: Path) -> Iterator[MesosScheduler]:
    with MesosScheduler(mesos, cook_home, cluster={"gpus": True}, tables=SETTINGS) as scheduler:
        yield scheduler


@pytest.fixture
def client(scheduler: MesosScheduler) -> JobClient:
    return scheduler.client()


def a_job(command: str = "true", **fields: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "command": command, "cpus": 0.5, "mem": 64, "max_retries": 1, **fields}


def ended(client: JobClient, *jobs: Mapping[str, Any]) -> list[JobAnswer]:
    """Wait for the end of jobs."""
    return [end_of(client, job["uuid"]) for job in jobs]


def end_of(client: JobClient, uuid: str) -> JobAnswer:
    wait_until(lambda: client.job(uuid).status == "completed", f"job {uuid} ends")
    return client.job(uuid)


def running(client: JobClient, jobs: Sequence[Mapping[str, Any]]) -> list[JobAnswer]:
    """Wait until jobs run."""
    wait_until(lambda: all(client.job(job["uuid"]).status == "running" for job in jobs), "the jobs run")
    return [client.job(job["uuid"]) for job in jobs]


def host_of(job: JobAnswer) -> str:
    return job.instances_by_start[-1].host


def why(client: JobClient, job: Mapping[str, Any]) -> str:
    """The reasons why a job waits, as text."""
    return repr(client.why(job["uuid"]))


def test_a_constraint_on_an_attribute_chooses_the_agent(client: JobClient) -> None:
    jobs = [a_job(constraints=[["rack", "EQUALS", "b"]]) for _ in range(4)]

    client.submit(jobs)

    assert {host_of(job) for job in ended(client, *jobs)} == {HOSTS[1]}


def test_a_constraint_that_no_agent_meets_is_said(client: JobClient) -> None:
    job = a_job(constraints=[["rack", "EQUALS", "z"]])

    client.submit([job])

    wait_until(lambda: "rack" in why(client, job), "why names the attribute")


@pytest.mark.parametrize(
    ("placement", "hosts"),
    [
        ({"type": "unique"}, 2),
        ({"type": "balanced", "parameters": {"attribute": "rack", "minimum": 2}}, 2),
        ({"type": "attribute-equals", "parameters": {"attribute": "rack"}}, 1),
    ],
)
def test_groups_are_placed_over_hosts(client: JobClient, placement: dict[str, Any], hosts: int) -> None:
    group = {"uuid": str(uuid4()), "host-placement": placement}
    jobs = [a_job("sleep 300", group=group["uuid"]) for _ in range(2)]

    client.submit(jobs, groups=[group])

    placed = running(client, jobs)
    assert len({host_of(job) for job in placed}) == hosts
    if placement["type"] == "unique":
        third = a_job("sleep 300", group=group["uuid"])
        client.submit([third], override_group_immutability=True)
        wait_until(lambda: "unique" in why(client, third).lower(), "why names the placement")
    client.kill([job["uuid"] for job in jobs])


def test_ports_are_those_of_the_agent_and_belong_to_one_job(client: JobClient) -> None:
    jobs = [a_job("echo $PORT0 $PORT1; sleep 300", ports=2) for _ in range(4)]

    client.submit(jobs)

    placed = running(client, jobs)
    ports = [(host_of(job), port) for job in placed for port in job.instances_by_start[-1].ports]
    assert len(set(ports)) == 8
    assert all(31000 <= port <= 31099 for _, port in ports)
    client.kill([job["uuid"] for job in jobs])


def test_gpus_are_accounted_for(client: JobClient) -> None:
    jobs = [a_job("sleep 300", gpus=2) for _ in range(3)]

    client.submit(jobs)

    wait_until(lambda: sum(client.job(job["uuid"]).status == "running" for job in jobs) == 2, "two run")
    time.sleep(0.5)
    [waiting] = [job for job in jobs if client.job(job["uuid"]).status == "waiting"]
    wait_until(lambda: "gpus" in why(client, waiting), "why names the gpus")
    client.kill([job["uuid"] for job in jobs])


def test_a_container_of_mesos_runs_a_command(client: JobClient) -> None:
    container = {"type": "mesos", "volumes": []}
    good = a_job("test -n $COOK_JOB_UUID && test -n $MESOS_SANDBOX", container=container)
    bad = a_job("exit 3", container=container)

    client.submit([good, bad])

    fine, failed = ended(client, good, bad)
    assert fine.state == "success"
    assert (failed.state, failed.instances_by_start[-1].exit_code) == ("failed", 3)


def test_results_of_every_size_come_back(scheduler: MesosScheduler) -> None:
    with CookExecutor(cpus=0.5, mem_mb=100) as executor:
        for size in (0, 100, 3000, 5000, 60_000, 500_000):
            assert executor.submit(np.arange, size).result(HANG_S).size == size


def test_output_is_read_while_a_job_runs(scheduler: MesosScheduler, client: JobClient) -> None:
    job = a_job("echo begun; sleep 300")
    client.submit([job])
    [placed] = running(client, [job])

    wait_until(
        lambda: b"begun" in client.logs(placed.instances_by_start[-1].uuid).data, "the output is there"
    )

    wait_until(lambda: client.job(job["uuid"]).instances_by_start[-1].output_url, "the files have a URL")
    client.kill([job["uuid"]])
    assert end_of(client, job["uuid"]).state == "failed"


def test_a_kill_ends_a_command_with_its_descendants(
    scheduler: MesosScheduler, client: JobClient, tmp_path: Path
) -> None:
    mark = tmp_path / "pid"
    job = a_job(f"(setsid sleep 300 & echo $! > {mark}.new; mv {mark}.new {mark}; wait); sleep 300")
    client.submit([job])
    wait_until(mark.exists, "the command has begun")
    pid = int(mark.read_text())

    client.kill([job["uuid"]])

    assert end_of(client, job["uuid"]).instances_by_start[-1].reason_text == "Killed by user"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its descendant is gone")
    settle(scheduler)


def test_one_user_makes_way_for_another(client: JobClient) -> None:
    ada, grace = (client.acting_as(user) for user in ("ada", "grace"))
    hers = [a_job("sleep 300", cpus=1) for _ in range(8)]
    ada.submit(hers)
    running(ada, hers)
    other = a_job("sleep 300", cpus=1)

    grace.submit([other])

    running(grace, [other])
    preempted = [
        instance for job in hers for instance in ada.job(job["uuid"]).instances_by_start if instance.preempted
    ]
    assert len(preempted) >= 1
    assert all(instance.mea_culpa for instance in preempted)
    for user, jobs in ((ada, hers), (grace, [other])):
        user.kill([job["uuid"] for job in jobs])


def test_jobs_run_on_the_machine_of_the_scheduler_and_on_two_clusters_of_mesos(
    mesos: LocalMesos, private_mesos: Callable[..., LocalMesos], cook_home: Path
) -> None:
    other = private_mesos(agents=1, agent_flags={"hostname": "127.0.2.1"})  # hosts differ between clusters
    second = {"type": "mesos", "name": "east", "master": other.master.removeprefix("http://"), "run_as": USER}
    lines = [f"{name} = {json.dumps(value)}" for name, value in second.items()]
    tables = "\n".join(
        [
            "[[clusters]]",
            *lines,
            f"executor_python = {json.dumps(sys.executable)}",
            "[[clusters]]",
            "cpus = 1",
        ]
    )
    with MesosScheduler(mesos, cook_home, cluster={"gpus": True}, tables=tables) as scheduler:
        client = scheduler.client()
        jobs = [a_job("sleep 300", cpus=1, mem=100) for _ in range(8 + 4 + 1)]
        client.submit(jobs)

        placed = running(client, jobs)

        clusters = Counter(job.instances_by_start[-1].cluster.name for job in placed)  # type: ignore[union-attr]
        assert clusters == {"mesos": 8, "east": 4, "local": 1}
        client.kill([job["uuid"] for job in jobs])
        for job in jobs:
            assert end_of(client, job["uuid"]).instances_by_start[-1].reason_text == "Killed by user"
        for one in (mesos, other):
            wait_until_idle(one)


def wait_until_idle(mesos: LocalMesos) -> None:
    """Wait until a Mesos runs nothing."""
    wait_until(
        lambda: (
            not [
                task for task in mesos.call("GET_TASKS").get("tasks", []) if task["state"] not in FINAL_STATES
            ]
        ),
        "nothing runs any more",
    )


def test_an_agent_in_maintenance_gets_no_job_that_would_not_end_before(
    private_mesos: Callable[..., LocalMesos], cook_home: Path
) -> None:
    mesos = private_mesos(agents=2)
    begin_ns = int((time.time() + 20) * 1e9)
    agent = mesos.agents[0].host
    mesos.call(
        "UPDATE_MAINTENANCE_SCHEDULE",
        schedule={
            "windows": [
                {
                    "machine_ids": [{"hostname": agent, "ip": agent}],
                    "unavailability": {"start": {"nanoseconds": begin_ns}},
                }
            ]
        },
    )
    with MesosScheduler(mesos, cook_home) as scheduler:
        client = scheduler.client()
        long = [a_job("sleep 300", max_runtime=3_600_000) for _ in range(4)]
        short = [a_job("true", max_runtime=2000, constraints=[["HOSTNAME", "EQUALS", agent]])]
        client.submit([*long, *short])

        assert {host_of(job) for job in running(client, long)} == {mesos.agents[1].host}
        assert [job.state for job in ended(client, *short)] == ["success"]
        client.kill([job["uuid"] for job in long])
