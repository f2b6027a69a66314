"""The Mesos executor, whose agent is the test. What each front end promises is in test_supervisor.py."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.translation import task_of
from cook_jupyter.worker import processes
from cook_jupyter.worker.frames import Frame
from cook_jupyter.worker.mesos import messages
from cook_jupyter.worker.mesos.executor import PID_FILE
from cook_jupyter.worker.task import Cause
from tests.clusters.harness import LocalSite
from tests.clusters.reports import a_launch
from tests.waiting import wait_until
from tests.worker.fake_agent import TERMINAL
from tests.worker.front_ends import MesosExecutorProcess

DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"

Start = Callable[..., MesosExecutorProcess]


@pytest.fixture
def start(site: LocalSite) -> Iterator[Start]:
    started: list[MesosExecutorProcess] = []

    def start(*options: str, **variables: str) -> MesosExecutorProcess:
        started.append(MesosExecutorProcess(site, *options, variables=variables))
        return started[-1]

    yield start
    for executor in started:
        executor.stop()


@pytest.fixture
def executor(start: Start) -> MesosExecutorProcess:
    return start()


def id_of(launch: Launch) -> str:
    return launch.instance.instance_id


def statuses_of(executor: MesosExecutorProcess, launch: Launch) -> list[dict[str, Any]]:
    """The distinct statuses of an instance, in the order in which they arrived."""
    return [status for status in executor.agent.statuses if status["task_id"]["value"] == id_of(launch)]


def states_of(executor: MesosExecutorProcess, launch: Launch) -> list[str]:
    return [status["state"] for status in statuses_of(executor, launch)]


def wait_for_messages(executor: MesosExecutorProcess, kind: str, count: int = 1) -> list[Frame]:
    def found() -> list[Frame]:
        return [frame for frame in executor.agent.messages if frame.header["t"] == kind]

    executor.run_until(lambda: len(found()) >= count)
    return found()


def wait_for_deaf(executor: MesosExecutorProcess, launch: Launch) -> None:
    executor.wait_until_running(launch)
    executor.run_until(lambda: executor.site.stdout(launch) == "ready\n")


# --- updates ----------------------------------------------------------------------------------------------


def test_a_task_that_ends_at_once_reports_only_its_end(executor: MesosExecutorProcess) -> None:
    brief, long = a_launch("true"), a_launch("sleep 0.4")
    executor.launch(brief)  # the first has to wait for a worker
    executor.end_of(brief)

    executor.launch(long, brief := a_launch("true"))

    executor.end_of(brief)
    executor.end_of(long)
    assert states_of(executor, brief) == ["TASK_FINISHED"]
    assert states_of(executor, long) == ["TASK_RUNNING", "TASK_FINISHED"]


def test_an_update_is_kept_until_it_is_acknowledged_and_resent_with_the_same_uuid(
    executor: MesosExecutorProcess,
) -> None:
    acknowledged, pending = a_launch("true"), a_launch("exit 3")
    executor.agent.acknowledges = lambda _: False
    executor.launch(acknowledged, pending)
    executor.end_of(acknowledged)
    executor.end_of(pending)
    for status in statuses_of(executor, acknowledged):
        executor.agent.acknowledge(status)

    executor.agent.hang_up()
    executor.run_until(lambda: len(executor.agent.subscriptions) == 2)

    subscription = executor.agent.subscriptions[-1]
    [task] = subscription["unacknowledged_tasks"]
    updates = [update["status"] for update in subscription["unacknowledged_updates"]]
    assert task["task_id"]["value"] == id_of(pending)
    assert updates == statuses_of(executor, pending)
    assert executor.end_count == 2


def test_a_task_of_which_something_was_acknowledged_is_not_resent(executor: MesosExecutorProcess) -> None:
    launch = a_launch("sleep 600")
    executor.launch(launch)
    executor.wait_until_running(launch)

    executor.agent.hang_up()
    executor.run_until(lambda: len(executor.agent.subscriptions) == 2)

    assert executor.agent.subscriptions[-1] == {"unacknowledged_tasks": [], "unacknowledged_updates": []}


def test_an_end_while_the_agent_is_down_arrives_when_it_is_back(
    executor: MesosExecutorProcess, site: LocalSite
) -> None:
    gate = site.folder / "gate"
    launch = a_launch(f"while [ ! -e {gate} ]; do sleep 0.02; done")
    executor.launch(launch)
    executor.wait_until_running(launch)

    executor.agent.die()
    gate.touch()
    wait_until(lambda: "disconnected" in executor.log())
    time.sleep(0.3)  # in which it fails to connect
    executor.agent.start()

    assert executor.end_of(launch).cause == Cause.DONE
    assert executor.agent.seen.count(statuses_of(executor, launch)[-1]["uuid"]) == 0  # came with SUBSCRIBE


def test_an_agent_that_answers_503_at_first_is_asked_every_tenth_of_a_second(
    executor: MesosExecutorProcess,
) -> None:
    executor.agent.refusal = (503, "Agent has not finished recovery")
    executor.agent.hang_up()
    executor.run_until(lambda: len(executor.agent.subscriptions) >= 2)
    began, asked = time.monotonic(), len(executor.agent.subscriptions)

    executor.run_until(lambda: len(executor.agent.subscriptions) >= asked + 4)
    assert time.monotonic() - began >= 0.4
    executor.agent.refusal = None
    executor.run_until(lambda: executor.agent.is_subscribed)

    launch = a_launch("true")
    executor.launch(launch)
    assert executor.end_of(launch).cause == Cause.DONE


def test_a_connection_on_which_nothing_is_acknowledged_is_made_anew(site: LocalSite) -> None:
    program = (
        "import sys; from cook_jupyter.worker.mesos import executor; "
        "executor._ACKNOWLEDGEMENT_TIMEOUT_S = 1.0; sys.exit(executor.run_executor(sys.argv[2:]))"
    )
    executor = MesosExecutorProcess(site, program=(sys.executable, "-c", program))
    executor.agent.acknowledges = lambda _: False
    executor.launch(launch := a_launch("true"))
    executor.end_of(launch)

    executor.run_until(lambda: len(executor.agent.subscriptions) == 2)

    updates = executor.agent.subscriptions[-1]["unacknowledged_updates"]
    assert [update["status"] for update in updates] == executor.agent.statuses
    executor.stop()


def test_an_end_whose_update_the_agent_refuses_is_reported_without_data(
    executor: MesosExecutorProcess,
) -> None:
    executor.agent.update_refusal = lambda status: "data" in status and status["state"] in TERMINAL
    launch = a_launch("true")

    executor.launch(launch)
    executor.run_until(lambda: "TASK_FAILED" in states_of(executor, launch))

    status = statuses_of(executor, launch)[-1]
    assert "refused" in status["message"]
    executor.agent.update_refusal = lambda status: False
    executor.launch(other := a_launch("true"))
    executor.end_of(other)


@pytest.mark.parametrize("data", ["", "?", "AAAA", messages.encode_data(messages.release())])
def test_a_task_that_cannot_be_read_fails(executor: MesosExecutorProcess, data: str) -> None:
    executor.agent.launch("t1", data)

    executor.run_until(lambda: executor.agent.statuses)

    [status] = executor.agent.statuses
    assert (status["state"], status["task_id"]["value"]) == ("TASK_FAILED", "t1")
    assert status["message"].startswith("the task cannot be read")


def test_a_task_with_the_data_of_another_fails(executor: MesosExecutorProcess) -> None:
    executor.agent.launch("t1", messages.task_data(task_of(a_launch("true"), ())))

    executor.run_until(lambda: executor.agent.statuses)

    assert "another instance" in executor.agent.statuses[0]["message"]


def test_a_large_result_is_a_private_file_that_exists_before_the_update(
    executor: MesosExecutorProcess, site: LocalSite
) -> None:
    launch = site.call(lambda: os.urandom(50_000))
    executor.launch(launch)
    executor.run_until(lambda: id_of(launch) in executor.ends)

    frame = messages.read_data(statuses_of(executor, launch)[-1]["data"], messages.STATUS_DATA)
    file = frame.header["result_file"]
    path = Path(frame.header["sandbox"]) / file["name"]
    assert frame.tail == b""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == file["size"] > 50_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file["digest"]


def test_an_executor_sends_the_token_that_its_agent_requires(start: Start) -> None:
    executor = start(MESOS_EXECUTOR_AUTHENTICATION_TOKEN="a.b.c")
    executor.launch(launch := a_launch("true"))
    executor.end_of(launch)

    assert {request.fields["authorization"] for request in executor.agent.requests} == {"Bearer a.b.c"}


# --- kills ------------------------------------------------------------------------------------------------


def test_a_kill_of_an_unknown_task_is_not_answered(executor: MesosExecutorProcess) -> None:
    executor.agent.kill("unknown")
    executor.launch(launch := a_launch("true"))
    executor.end_of(launch)

    assert {status["task_id"]["value"] for status in executor.agent.statuses} == {id_of(launch)}


@pytest.mark.parametrize(("default_s", "policy_s"), [("600", 0.3), ("0.1", 1.5)])
def test_a_task_has_the_grace_period_of_its_kill_policy(
    start: Start, default_s: str, policy_s: float
) -> None:
    executor = start("--grace", default_s)
    launch = a_launch(DEAF)
    policy = {"grace_period": {"nanoseconds": int(policy_s * 1e9)}}
    data = messages.task_data(task_of(launch, ()))
    executor.agent.launch(id_of(launch), data, kill_policy=policy)
    wait_for_deaf(executor, launch)
    began = time.monotonic()

    executor.kill(id_of(launch))

    report = executor.end_of(launch)
    assert (report.cause, report.end.signal) == (Cause.KILLED, signal.SIGKILL)
    assert time.monotonic() - began >= policy_s
    assert states_of(executor, launch)[-1] == "TASK_KILLED"


def test_a_later_kill_only_shortens_the_grace_period(executor: MesosExecutorProcess) -> None:
    launch = a_launch(DEAF)
    executor.launch(launch)
    wait_for_deaf(executor, launch)

    executor.agent.kill(id_of(launch), grace_s=600)
    executor.agent.kill(id_of(launch), grace_s=0.2)
    executor.agent.kill(id_of(launch), grace_s=600)

    assert executor.end_of(launch).cause == Cause.KILLED


def test_a_deaf_call_is_killed_after_its_grace_period(
    executor: MesosExecutorProcess, site: LocalSite
) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(600)

    launch = site.call(ignore)
    executor.launch(launch)
    wait_for_deaf(executor, launch)

    executor.agent.kill(id_of(launch), grace_s=0.2)

    assert executor.end_of(launch).cause == Cause.KILLED


# --- messages ---------------------------------------------------------------------------------------------


def test_an_executor_says_what_its_host_has(executor: MesosExecutorProcess) -> None:
    [hello] = wait_for_messages(executor, "hello")

    assert hello.header["version"] == messages.VERSION
    assert hello.header["python"] == sys.executable
    assert hello.header["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_ping_is_answered_with_what_runs_and_what_is_not_acknowledged(
    executor: MesosExecutorProcess,
) -> None:
    running, ended = a_launch("sleep 600"), a_launch("true")
    executor.launch(running, ended)
    executor.wait_until_running(running)
    executor.end_of(ended)

    executor.agent.message(messages.ping(7, lease_s=60))

    [pong] = wait_for_messages(executor, "pong")
    assert pong.header == {"t": "pong", "sequence": 7, "open": [id_of(running)], "ended": [id_of(ended)]}


def test_progress_is_reported_at_most_once_a_second(executor: MesosExecutorProcess) -> None:
    launch = a_launch("for i in $(seq 1 99); do echo progress: $i; sleep 0.03; done")
    executor.launch(launch)
    executor.end_of(launch)

    reports = executor.progress[id_of(launch)]
    assert 1 <= len(reports) <= 7
    assert reports[-1][0] == 99


def test_an_unreadable_message_is_ignored(executor: MesosExecutorProcess) -> None:
    executor.agent.message(b"\0\1\2")
    executor.agent.message(messages.ping(1, lease_s=60))

    wait_for_messages(executor, "pong")
    assert executor.is_up()


# --- its end ----------------------------------------------------------------------------------------------


def test_at_shutdown_all_tasks_end_and_the_executor_waits_for_the_acknowledgements(
    executor: MesosExecutorProcess,
) -> None:
    obedient, other = a_launch("sleep 600"), a_launch("sleep 600")
    executor.launch(obedient, other)
    executor.wait_until_running(obedient, other)
    executor.agent.send("SHUTDOWN")
    executor.end_of(obedient)
    executor.end_of(other)
    assert executor.process.poll() is None

    executor.acknowledge(id_of(obedient), id_of(other))

    assert executor.wait_for_exit() == 0
    assert [executor.ends[id_of(launch)].cause for launch in (obedient, other)] == [Cause.STOPPED] * 2
    assert states_of(executor, obedient)[-1] == "TASK_KILLED"


def test_at_shutdown_deaf_tasks_are_killed_and_reported_in_time(start: Start) -> None:
    executor = start("--grace", "600", MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD="4secs")
    executor.agent.acknowledges = lambda _: True
    deaf = a_launch(DEAF)
    executor.launch(deaf)
    wait_for_deaf(executor, deaf)

    executor.agent.send("SHUTDOWN")

    assert executor.wait_for_exit() == 0
    assert executor.ends[id_of(deaf)].cause == Cause.STOPPED


def test_at_shutdown_an_executor_does_not_wait_for_ever_for_acknowledgements(start: Start) -> None:
    executor = start(MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD="2secs")
    executor.launch(launch := a_launch("true"))
    executor.end_of(launch)

    executor.agent.send("SHUTDOWN")

    assert executor.wait_for_exit() == 0


def test_an_idle_executor_exits_when_all_is_acknowledged(start: Start) -> None:
    executor = start("--idle-exit", "0.5")
    executor.launch(launch := a_launch("true"))
    executor.end_of(launch)
    deadline = time.monotonic() + 2
    executor.run_until(lambda: time.monotonic() > deadline)
    assert executor.process.poll() is None

    executor.acknowledge(id_of(launch))

    assert executor.wait_for_exit() == 0


def test_a_released_executor_exits_when_it_is_idle(executor: MesosExecutorProcess, site: LocalSite) -> None:
    gate = site.folder / "gate"
    executor.agent.acknowledges = lambda _: True
    executor.launch(launch := a_launch(f"while [ ! -e {gate} ]; do sleep 0.02; done"))
    executor.wait_until_running(launch)
    executor.agent.message(messages.release())
    executor.agent.message(messages.ping(1, lease_s=60))
    wait_for_messages(executor, "pong")
    assert executor.process.poll() is None

    gate.touch()

    assert executor.wait_for_exit() == 0


def test_without_a_word_from_the_scheduler_the_tasks_and_the_executor_end(
    executor: MesosExecutorProcess,
) -> None:
    executor.agent.acknowledges = lambda _: True
    executor.launch(launch := a_launch("sleep 600"))
    executor.wait_until_running(launch)

    executor.agent.message(messages.ping(1, lease_s=1.5))

    assert executor.wait_for_exit() == 0
    assert executor.ends[id_of(launch)].cause == Cause.STOPPED
    assert "no word from the scheduler for 1.5 s" in executor.log()


def test_an_executor_that_was_stopped_reads_what_was_said_meanwhile_before_it_ends_its_tasks(
    executor: MesosExecutorProcess,
) -> None:
    executor.launch(launch := a_launch("sleep 600"))
    executor.wait_until_running(launch)
    executor.agent.message(messages.ping(1, lease_s=4.0))
    wait_for_messages(executor, "pong")

    executor.process.send_signal(signal.SIGSTOP)
    time.sleep(5.0)
    executor.agent.message(messages.ping(2, lease_s=60.0))
    executor.process.send_signal(signal.SIGCONT)

    wait_for_messages(executor, "pong", 2)
    assert "no word" not in executor.log()
    assert executor.is_up()


def test_without_an_agent_the_tasks_and_the_executor_end(start: Start, site: LocalSite) -> None:
    executor = start(MESOS_RECOVERY_TIMEOUT="1secs", MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD="3secs")
    executor.launch(launch := a_launch("sleep 600"))
    executor.wait_until_running(launch)

    executor.agent.die()

    assert executor.process.wait(30) == 0
    wait_until(lambda: not site.processes(), "all processes are gone")


def test_an_executor_without_checkpoints_ends_when_it_is_disconnected(start: Start, site: LocalSite) -> None:
    executor = start(MESOS_CHECKPOINT="0")
    executor.launch(launch := a_launch("setsid sleep 600 & sleep 600"))
    executor.wait_until_running(launch)

    executor.agent.hang_up()

    assert executor.process.wait(30) == 0
    wait_until(lambda: not site.processes(), "all processes are gone")


def test_an_executor_whose_framework_the_agent_does_not_know_ends(
    executor: MesosExecutorProcess, site: LocalSite
) -> None:
    executor.launch(launch := a_launch("sleep 600"))
    executor.wait_until_running(launch)

    executor.agent.refusal = (400, "Framework cannot be found")
    executor.agent.hang_up()

    executor.wait_for_exit()
    wait_until(lambda: not site.processes(), "all processes are gone")


def test_an_executor_that_was_replaced_ends(executor: MesosExecutorProcess, site: LocalSite) -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        (site.home / PID_FILE).write_text(f"{other.pid} {processes.process_identity(other.pid)}")
        executor.agent.hang_up()
        executor.run_until(lambda: len(executor.agent.subscriptions) == 2)
        assert executor.process.poll() is None
        executor.agent.hang_up()

        assert executor.wait_for_exit() == 0
        assert "another process runs as this executor" in executor.log()
    finally:
        other.kill()
        other.wait()


def test_an_executor_that_lost_its_connection_twice_goes_on_if_no_other_runs(
    executor: MesosExecutorProcess,
) -> None:
    executor.agent.hang_up()
    executor.run_until(lambda: len(executor.agent.subscriptions) == 2)
    executor.agent.hang_up()
    executor.run_until(lambda: len(executor.agent.subscriptions) == 3)

    assert executor.process.poll() is None


@pytest.mark.parametrize("victim", ["executor", "spawner"])
def test_nothing_of_a_task_survives_a_killed_executor_or_spawner(
    executor: MesosExecutorProcess, site: LocalSite, victim: str
) -> None:
    def start_daemon() -> None:
        subprocess.Popen(["setsid", "sleep", "600"], start_new_session=True)
        print("ready", flush=True)
        time.sleep(600)

    command = a_launch("setsid sleep 600 & nohup sleep 600 & (setsid sleep 600 &) ; echo ready; sleep 600")
    call = site.call(start_daemon)
    executor.launch(command, call)
    wait_for_deaf(executor, command)
    wait_for_deaf(executor, call)

    if victim == "executor":
        executor.die()
        wait_until(lambda: not site.processes(), "all processes are gone")
    else:
        [spawner] = processes.ProcessTree().children_of(executor.process.pid)
        os.kill(spawner, signal.SIGKILL)
        assert executor.end_of(command).cause == executor.end_of(call).cause == Cause.LOST
        executor.run_until(lambda: not [w for w in site.processes().values() if "sleep" in w])
        executor.launch(launch := a_launch("true"))
        assert executor.end_of(launch).cause == Cause.DONE


def test_an_executor_that_no_agent_has_started_says_so() -> None:
    argv = [sys.executable, "-m", "cook_jupyter.worker", "mesos-executor"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESOS_")}

    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr == (
        "mesos-executor: MESOS_AGENT_ENDPOINT is not set: only an agent of Mesos can start this executor\n"
    )
