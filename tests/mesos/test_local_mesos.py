"""The real Mesos of the tests starts, survives faults, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mesos.local_mesos.cluster import LocalMesos, NodeFailed
from tests.mesos.raw_framework import RawFramework
from tests.waiting import HANG_S, wait_until

DAEMON = "setsid sleep 1000 & (sleep 1000 &); sleep 1000"
PROGRAM = """
import sys, time
from tests.mesos.local_mesos.cluster import LocalMesos
mesos = LocalMesos(agents=1)
mesos.start()
print(mesos.work_dir, flush=True)
time.sleep(1000)
"""


def processes_below(work_dir: str) -> list[str]:
    mark = f"{work_dir}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_every_agent_has_a_host_name_resources_and_attributes_of_its_own(mesos: LocalMesos) -> None:
    agents = {agent["agent_info"]["hostname"]: agent for agent in mesos.call("GET_AGENTS")["agents"]}

    assert set(agents) == {"127.0.1.1", "127.0.1.2"} == {agent.host for agent in mesos.agents}
    racks = {host: agent["agent_info"]["attributes"][0]["text"]["value"] for host, agent in agents.items()}
    assert racks == {"127.0.1.1": "a", "127.0.1.2": "b"}
    totals = {one["name"]: one for one in agents["127.0.1.1"]["total_resources"]}
    assert totals["cpus"]["scalar"]["value"] == 4
    assert totals["mem"]["scalar"]["value"] == 4096
    assert totals["ports"]["ranges"]["range"] == [{"begin": 31000, "end": 31099}]
    assert mesos.call("GET_VERSION", node="agent1")["version_info"]["version"] == "1.11.0"


@pytest.mark.parametrize(
    ("command", "state"),
    [("echo text", "TASK_FINISHED"), ("exit 3", "TASK_FAILED"), ("kill -9 $$", "TASK_FAILED")],
)
def test_a_command_task_runs_and_ends(mesos: LocalMesos, command: str, state: str) -> None:
    with RawFramework(mesos.master) as framework:
        task_id = framework.run_command(command, host=mesos.agents[1].host)

        framework.wait_for_state(task_id, state)

        assert framework.states(task_id) == ["TASK_STARTING", "TASK_RUNNING", state]


def test_a_command_task_is_killed(mesos: LocalMesos) -> None:
    with RawFramework(mesos.master) as framework:
        task_id = framework.run_command("sleep 1000")
        framework.wait_for_state(task_id, "TASK_RUNNING")

        framework.kill(task_id)

        framework.wait_for_state(task_id, "TASK_KILLED")


def test_an_agent_that_was_killed_and_restarted_is_the_same_and_its_task_runs_on(
    private_mesos: Callable[..., LocalMesos],
) -> None:
    mesos = private_mesos(agents=1)
    agents = mesos.registered_agents()
    with RawFramework(mesos.master) as framework:
        task_id = framework.run_command("sleep 1000")
        framework.wait_for_state(task_id, "TASK_RUNNING")

        mesos.kill("agent0")
        assert not mesos.is_running("agent0")
        mesos.restart("agent0")

        assert mesos.registered_agents() == agents
        framework.kill(task_id)
        framework.wait_for_state(task_id, "TASK_KILLED")


def test_a_master_that_was_killed_comes_back_with_its_agents_at_its_address(
    private_mesos: Callable[..., LocalMesos],
) -> None:
    mesos = private_mesos(agents=2, master_flags={"max_agent_ping_timeouts": "2"})
    agents, address = mesos.registered_agents(), mesos.master

    mesos.restart("master")

    assert mesos.registered_agents() == agents
    assert mesos.master == address


def test_a_stopped_agent_is_running_and_unreachable_until_it_continues(
    private_mesos: Callable[..., LocalMesos],
) -> None:
    mesos = private_mesos(agents=1, master_flags={"max_agent_ping_timeouts": "2"})

    mesos.kill("agent0", signal.SIGSTOP)
    wait_until(lambda: not mesos.registered_agents(), "the loss of the agent")
    assert mesos.is_running("agent0")
    mesos.kill("agent0", signal.SIGCONT)

    wait_until(mesos.registered_agents, "the return of the agent")


def test_stop_leaves_no_process_and_no_file(private_mesos: Callable[..., LocalMesos]) -> None:
    mesos = private_mesos(agents=1)
    with RawFramework(mesos.master) as framework:
        framework.wait_for_state(framework.run_command(DAEMON), "TASK_RUNNING")
        wait_until(lambda: list(mesos.processes().values()).count("sleep") == 3)

        mesos.stop()

    assert not mesos.processes()
    assert not mesos.work_dir.exists()


def test_stop_leaves_no_process_after_the_supervisor_was_killed(
    private_mesos: Callable[..., LocalMesos],
) -> None:
    mesos = private_mesos(agents=1)
    with RawFramework(mesos.master) as framework:
        framework.wait_for_state(framework.run_command(DAEMON), "TASK_RUNNING")
        assert mesos._supervisor is not None
        os.kill(mesos._supervisor.pid, signal.SIGKILL)

        mesos.stop()

    assert not mesos.processes()


def test_mesos_ends_with_the_process_that_started_it(installed_mesos: None) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        work_dir = program.stdout.readline().strip()
        assert processes_below(work_dir)

        program.kill()
        program.wait(HANG_S)

    wait_until(lambda: not processes_below(work_dir), "the end of Mesos")
    wait_until(lambda: not Path(work_dir).exists(), "the removal of its files")


def test_a_node_that_does_not_start_says_why(private_mesos: Callable[..., LocalMesos]) -> None:
    with pytest.raises(NodeFailed, match="no_such_isolator"):
        private_mesos(agents=1, agent_flags={"isolation": "no_such_isolator"})
