"""Our executor on a real Mesos. What needs no Mesos is in tests/worker/test_mesos_executor.py."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cook_jupyter.clusters.translation import task_of
from cook_jupyter.payload.results import read_result
from cook_jupyter.worker.mesos import messages
from cook_jupyter.worker.mesos.executor import PID_FILE
from cook_jupyter.worker.mesos.messages import STATUS_DATA, read_data
from cook_jupyter.worker.mesos.package import write_package
from cook_jupyter.worker.task import Cause, Task
from tests.clusters.harness import LocalSite
from tests.mesos.executor_framework import ExecutorFramework
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.waiting import HANG_S, wait_until

DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture
def framework(mesos: LocalMesos) -> Iterator[ExecutorFramework]:
    with ExecutorFramework(mesos.master, host=mesos.agents[0].host) as framework:
        yield framework


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    return LocalSite(tmp_path)


def a_task(command: str = "true", *, mem_mb: float = 16.0) -> Task:
    """A small shell command."""
    task_id = str(uuid4())
    return Task(task_id, str(uuid4()), "ada", command, {}, cpus=0.001, mem_mb=mem_mb)


def executor_pid(mesos: LocalMesos, framework: ExecutorFramework) -> int:
    """The process of the framework's executor."""
    [file] = mesos.work_dir.glob(
        f"agent*/*/slaves/*/frameworks/*/executors/{framework.executor_id}/runs/*[!t]/{PID_FILE}"
    )
    return int(file.read_text().split()[0])


def processes_of(framework: ExecutorFramework, mesos: LocalMesos) -> dict[int, str]:
    """All processes of the framework's executor, with their names."""
    found = {}
    for pid, name in mesos.processes().items():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if framework.executor_id.encode() in environment:
            found[pid] = name
    return found


def wait_until_ready(framework: ExecutorFramework, task: Task) -> None:
    """Wait until a task has written its first line."""
    status = framework.wait_for_state(task.instance_id, "TASK_RUNNING")
    stdout = Path(read_data(status.data, STATUS_DATA).header["sandbox"]) / "stdout"
    wait_until(lambda: stdout.exists() and stdout.read_text() == "ready\n", "a line")


# --- tasks ------------------------------------------------------------------------------------------------


def test_many_tasks_run_in_one_executor(framework: ExecutorFramework, mesos: LocalMesos) -> None:
    good, bad = [a_task("sleep 0.2") for _ in range(40)], a_task("exit 3")

    framework.launch(*good, bad)

    assert {framework.end_of(task).state for task in good} == {"TASK_FINISHED"}
    frame = framework.frame_of_end(bad)
    assert framework.end_of(bad).state == "TASK_FAILED"
    assert (frame.header["cause"], frame.header["exit_code"]) == (Cause.FAILED, 3)
    pids = {pid for pid in processes_of(framework, mesos) if pid == executor_pid(mesos, framework)}
    assert len(pids) == 1
    assert framework.wait_for_message("hello").header["python"] == sys.executable


def test_a_large_result_of_a_call_is_a_file_that_its_agent_serves(
    framework: ExecutorFramework, site: LocalSite
) -> None:
    launch = site.call(lambda: bytes(60_000))

    framework.launch(task_of(launch, ()))

    frame = framework.frame_of_end(task_of(launch, ()))
    assert frame.header["cause"] == Cause.DONE
    file = frame.header["result_file"]
    content = (Path(frame.header["sandbox"]) / file["name"]).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["digest"])
    result = read_result(
        bytearray(content), key=site.key, job_id=launch.spec.job_id,
        instance_id=launch.instance.instance_id, private=site.store.private,
    )  # fmt: skip
    assert result.value == bytes(60_000)


def test_a_task_is_killed_with_the_grace_period_of_the_kill(framework: ExecutorFramework) -> None:
    obedient, deaf, patient = (
        a_task("sleep 600"),
        a_task(DEAF),
        a_task("trap 'sleep 0.5; exit 0' TERM; echo ready; sleep 600 & wait"),
    )
    framework.launch(obedient, deaf, patient)
    framework.wait_until_running(obedient)
    wait_until_ready(framework, deaf)
    wait_until_ready(framework, patient)

    for task in (obedient, deaf, patient):
        framework.kill_with_grace(task, 2.0)

    assert framework.end_of(obedient).state == "TASK_KILLED"
    assert framework.end_of(patient).state == "TASK_KILLED"
    assert framework.frame_of_end(patient).header["exit_code"] == 0
    assert framework.frame_of_end(deaf).header["signal"] == signal.SIGKILL
    assert framework.end_of(deaf).state == "TASK_KILLED"


def test_a_ping_reaches_the_executor_and_its_pong_the_scheduler(framework: ExecutorFramework) -> None:
    framework.launch(task := a_task("sleep 600"))
    framework.wait_until_running(task)

    framework.send_message(messages.ping(7, lease_s=60))

    pong = framework.wait_for_message("pong")
    assert (pong.header["sequence"], pong.header["open"]) == (7, [task.instance_id])


def test_without_a_ping_for_the_lease_all_tasks_end(framework: ExecutorFramework, mesos: LocalMesos) -> None:
    framework.launch(task := a_task("sleep 600"))
    framework.wait_until_running(task)

    framework.send_message(messages.ping(1, lease_s=1.0))

    assert framework.frame_of_end(task).header["cause"] == Cause.STOPPED
    wait_until(lambda: not processes_of(framework, mesos), "the end of all processes")


def test_a_packaged_executor_is_fetched_and_runs_in_a_python_without_packages(
    mesos: LocalMesos, site: LocalSite, tmp_path: Path
) -> None:
    package = tmp_path / "cook_jupyter.pyz"
    write_package(str(package))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare/bin/python")
    host = mesos.agents[0].host
    task = a_task("echo text")
    with ExecutorFramework(mesos.master, host=host, package=str(package), python=python) as framework:
        framework.launch(task)

        frame = framework.frame_of_end(task)

    assert frame.header["cause"] == Cause.DONE
    assert (Path(frame.header["sandbox"]) / "stdout").read_text() == "text\n"


# --- its end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SHUTDOWN", "TEARDOWN"])
def test_at_its_end_obedient_and_deaf_tasks_end(mesos: LocalMesos, how: str) -> None:
    obedient, deaf = a_task("sleep 600"), a_task(DEAF)
    with ExecutorFramework(mesos.master, host=mesos.agents[0].host, shutdown_grace_s=4) as framework:
        framework.launch(obedient, deaf)
        framework.wait_until_running(obedient)
        wait_until_ready(framework, deaf)
        if how == "SHUTDOWN":
            framework.shut_down()
            assert framework.frame_of_end(obedient).header["cause"] == Cause.STOPPED
            assert framework.frame_of_end(deaf).header["cause"] == Cause.STOPPED
            framework.wait_for(lambda: framework.failures, "the end of the executor")
            assert framework.failures == [0]

    wait_until(lambda: not processes_of(framework, mesos), "the end of all processes")


def test_nothing_of_its_tasks_survives_a_killed_executor(
    framework: ExecutorFramework, mesos: LocalMesos
) -> None:
    task = a_task("setsid sleep 600 & (setsid sleep 600 &); sleep 600")
    framework.launch(task)
    framework.wait_until_running(task)

    os.kill(executor_pid(mesos, framework), signal.SIGKILL)

    status = framework.end_of(task)
    assert (status.state, status.reason) == ("TASK_FAILED", "REASON_EXECUTOR_TERMINATED")
    wait_until(lambda: not processes_of(framework, mesos), "the end of all processes")


# --- faults of the agent ----------------------------------------------------------------------------------


@pytest.fixture
def faulty(private_mesos: Callable[..., LocalMesos]) -> LocalMesos:
    return private_mesos(agents=1)


def test_tasks_outlive_a_killed_agent_and_ends_in_between_arrive(faulty: LocalMesos, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ending, going_on = a_task(f"while [ ! -e {gate} ]; do sleep 0.02; done; exit 3"), a_task("sleep 600")
    with ExecutorFramework(faulty.master, host=faulty.agents[0].host) as framework:
        framework.launch(ending, going_on)
        framework.wait_until_running(ending, going_on)

        faulty.kill("agent0")
        gate.touch()
        time.sleep(0.5)  # in which one of them ends, and nobody is told
        faulty.restart("agent0")

        assert framework.frame_of_end(ending).header["exit_code"] == 3
        while True:  # an offer from before the restart may not be rescinded yet
            framework.launch(new := a_task("true"))
            if framework.end_of(new).state != "TASK_DROPPED":
                break
        assert framework.end_of(new).state == "TASK_FINISHED"
        assert framework.states(going_on.instance_id)[-1] == "TASK_RUNNING"
        framework.kill(going_on.instance_id, framework.agent_id)
        assert framework.end_of(going_on).state == "TASK_KILLED"


def test_tasks_outlive_an_agent_that_is_stopped_for_three_seconds(faulty: LocalMesos) -> None:
    ending, going_on = a_task("sleep 1; exit 3"), a_task("sleep 600")
    with ExecutorFramework(faulty.master, host=faulty.agents[0].host) as framework:
        framework.launch(ending, going_on)
        framework.wait_until_running(ending, going_on)

        faulty.kill("agent0", signal.SIGSTOP)
        time.sleep(3)
        faulty.kill("agent0", signal.SIGCONT)

        assert framework.frame_of_end(ending).header["exit_code"] == 3
        assert framework.states(going_on.instance_id) == ["TASK_RUNNING"]


def test_an_executor_whose_agent_never_returns_ends_all(private_mesos: Callable[..., LocalMesos]) -> None:
    mesos = private_mesos(agents=1, agent_flags={"recovery_timeout": "2secs"})
    task = a_task("setsid sleep 600 & sleep 600")
    with ExecutorFramework(mesos.master, host=mesos.agents[0].host, shutdown_grace_s=3) as framework:
        framework.launch(task)
        framework.wait_until_running(task)

        mesos.kill("agent0")

        wait_until(lambda: not processes_of(framework, mesos), "the end of all processes", HANG_S)


def test_an_executor_that_is_too_late_for_a_restarted_agent_leaves_nothing(faulty: LocalMesos) -> None:
    task = a_task("setsid sleep 600 & sleep 600")
    with ExecutorFramework(faulty.master, host=faulty.agents[0].host) as framework:
        framework.launch(task)
        framework.wait_until_running(task)
        pid = executor_pid(faulty, framework)

        os.kill(pid, signal.SIGSTOP)
        faulty.restart("agent0")  # waits 2 s for its executors

        assert framework.end_of(task).reason == "REASON_EXECUTOR_REREGISTRATION_TIMEOUT"
        wait_until(lambda: not processes_of(framework, faulty), "the end of all processes")


def test_an_agent_that_is_drained_is_free_when_its_tasks_have_ended(faulty: LocalMesos) -> None:
    obedient, deaf = a_task("sleep 600"), a_task(DEAF)
    with ExecutorFramework(faulty.master, host=faulty.agents[0].host) as framework:
        framework.launch(obedient, deaf)
        framework.wait_until_running(obedient)
        wait_until_ready(framework, deaf)
        assert framework.agent_id is not None

        agent_id = {"value": framework.agent_id}
        faulty.call("DRAIN_AGENT", agent_id=agent_id, max_grace_period={"seconds": 1})

        for task in (obedient, deaf):
            assert framework.frame_of_end(task).header["cause"] == Cause.KILLED
            assert framework.end_of(task).reason == "REASON_AGENT_DRAINING"
