"""What a supervisor promises, over each of its front ends, one of them inside of this process."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cook_jupyter.clusters.translation import task_of
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.worker.task import Cause
from tests.clusters.harness import LocalSite
from tests.clusters.reports import a_launch
from tests.worker.front_ends import AgentProcess, FrontEnd, InProcess, MesosExecutorProcess


@pytest.fixture(params=[InProcess, AgentProcess], ids=["in process", "agent"])
def start(request: pytest.FixtureRequest, site: LocalSite) -> Iterator[Callable[[], FrontEnd]]:
    """Starts a front end that has successors; the last one is stopped at the end of the test."""
    started: list[FrontEnd] = []

    def start() -> FrontEnd:
        started.append(request.param(site))
        return started[-1]

    yield start
    started[-1].stop()


@pytest.fixture(
    params=[InProcess, AgentProcess, MesosExecutorProcess], ids=["in process", "agent", "Mesos executor"]
)
def front_end(request: pytest.FixtureRequest, site: LocalSite) -> Iterator[FrontEnd]:
    front_end = request.param(site)
    yield front_end
    front_end.stop()


def wait_for(gate: str) -> str:
    while not Path(gate).exists():
        time.sleep(0.02)
    return "done"


# --- launches and ends ------------------------------------------------------------------------------------


def test_a_call_and_a_command_end_with_what_they_came_to(front_end: FrontEnd, site: LocalSite) -> None:
    call, command = site.call(lambda a, b: a * b, 6, 7), a_launch("echo hello; exit 3")

    front_end.launch(call, command)

    assert front_end.end_of(call).cause == Cause.DONE
    assert front_end.result_of(call).value == 42
    report = front_end.end_of(command)
    assert (report.cause, report.end.exit_code) == (Cause.FAILED, 3)
    assert (Path(report.sandbox) / "stdout").read_text() == "hello\n"


def test_calls_of_one_user_share_a_warm_worker_and_users_do_not(front_end: FrontEnd, site: LocalSite) -> None:
    pids: dict[str, set[int]] = {"ada": set(), "grace": set()}
    for user in ("ada", "grace", "ada", "grace", "ada"):
        launch = site.call(os.getpid, user=user)
        front_end.launch(launch)
        pids[user].add(front_end.result_of(launch).value)

    assert len(pids["ada"]) == len(pids["grace"]) == 1
    assert pids["ada"] != pids["grace"]


def test_an_instance_that_is_launched_twice_runs_and_ends_once(front_end: FrontEnd, site: LocalSite) -> None:
    command = a_launch(f"echo x >> {site.folder}/marks")

    front_end.launch(command, command)
    front_end.end_of(command)
    front_end.launch(command)
    other = a_launch("true")
    front_end.launch(other)
    front_end.end_of(other)

    assert (site.folder / "marks").read_text() == "x\n"
    assert front_end.end_count == 2


def test_an_id_that_can_name_no_folder_is_not_launched(front_end: FrontEnd) -> None:
    launch = a_launch("true")
    odd_ids = ["", ".", "../x", "a/b", "nul\0", "\ud800", "x" * 300]
    odd = [
        replace(launch, instance=replace(launch.instance, instance_id=InstanceId(odd_id)))
        for odd_id in odd_ids
    ]

    front_end.launch(*odd, launch)

    assert [front_end.end_of(each).cause for each in odd] == [Cause.UNLAUNCHED] * len(odd)
    assert front_end.end_of(launch).cause == Cause.DONE


def test_an_interpreter_that_can_have_no_workers_harms_nothing(front_end: FrontEnd, site: LocalSite) -> None:
    running, later = a_launch("sleep 600"), site.call(abs, -1)
    front_end.launch(running)
    front_end.wait_until_running(running)
    pythons = ["/nowhere/python", "/bin/false", "nul\0", "\ud800"]
    odd = [a_launch("true", cpus=0.1) for _ in pythons]

    for python, launch in zip(pythons, odd, strict=True):
        front_end.send_launch(task_of(launch, ())._replace(python=python).packed())
    front_end.launch(later)

    for launch in odd:
        assert front_end.end_of(launch).cause == Cause.DONE  # as the command that it also is
    assert front_end.result_of(later).value == 1
    assert front_end.is_up()
    assert running.instance.instance_id not in front_end.ends


# --- kills and limits -------------------------------------------------------------------------------------


def test_a_running_and_a_waiting_instance_can_be_killed(front_end: FrontEnd, site: LocalSite) -> None:
    running, waiting = site.call(time.sleep, 600), a_launch("sleep 600")
    front_end.launch(running)
    front_end.wait_until_running(running)

    front_end.launch(waiting)
    for launch in (waiting, running):
        front_end.kill(launch.instance.instance_id)
    front_end.kill("unknown")

    assert front_end.end_of(waiting).cause == Cause.KILLED
    assert front_end.end_of(running).cause == Cause.KILLED


def test_what_ignores_a_kill_is_ended_after_the_grace_period(front_end: FrontEnd, site: LocalSite) -> None:
    command = a_launch("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    front_end.launch(command)
    front_end.wait_until_running(command)
    front_end.run_until(lambda: site.stdout(command) == "ready\n")

    front_end.kill(command.instance.instance_id)

    assert front_end.end_of(command).cause == Cause.KILLED


def test_an_instance_is_ended_at_its_limits(front_end: FrontEnd, site: LocalSite) -> None:
    overlong = a_launch("sleep 600", max_runtime_ms=300)
    oversized = site.call(lambda: time.sleep(600 + len(b"x" * (1 << 30))), mem_mb=100.0)

    front_end.launch(overlong, oversized)

    assert front_end.end_of(overlong).cause == Cause.RUNTIME
    assert front_end.end_of(oversized).cause == Cause.MEMORY


@pytest.mark.parametrize(
    ("how", "code", "cause"),
    [
        (lambda: os._exit(7), 7, Cause.FAILED),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 137, Cause.EXTERNAL),
    ],
    ids=["exit 7", "SIGKILL"],
)
def test_a_call_that_takes_its_worker_down_is_the_only_one_that_fails(
    front_end: FrontEnd, site: LocalSite, how: Callable[[], None], code: int, cause: str
) -> None:
    fatal, following = site.call(how), site.call(abs, -1)

    front_end.launch(fatal)
    report = front_end.end_of(fatal)
    front_end.launch(following)

    assert (report.cause, report.end.exit_code) == (cause, code)
    assert front_end.result_of(following).value == 1


def test_a_call_and_a_command_report_their_progress(front_end: FrontEnd, site: LocalSite) -> None:
    gate = site.folder / "gate"

    def work(gate: str) -> None:
        print("progress: 30 loading", flush=True)
        wait_for(gate)

    call = site.call(work, str(gate))
    command = a_launch(f"echo progress: 40 half; while [ ! -e {gate} ]; do sleep 0.02; done")

    front_end.launch(call, command)

    progress = front_end.progress
    front_end.run_until(lambda: progress[call.instance.instance_id] == [(30, "loading")])
    front_end.run_until(lambda: progress[command.instance.instance_id] == [(40, "half")])
    gate.touch()
    front_end.end_of(call)
    front_end.end_of(command)


# --- after kill -9 ----------------------------------------------------------------------------------------


def test_what_runs_goes_on_without_a_supervisor_and_is_found_by_the_next(
    start: Callable[[], FrontEnd], site: LocalSite
) -> None:
    gate = site.folder / "gate"
    call = site.call(wait_for, str(gate))
    command = a_launch(f"while [ ! -e {gate} ]; do sleep 0.02; done")
    first = start()
    first.launch(call, command)
    first.wait_until_running(call, command)

    first.die()
    second = start()
    gate.touch()

    assert second.adopted == {launch.instance.instance_id for launch in (call, command)}
    assert second.result_of(call).value == "done"
    assert second.end_of(command).cause == Cause.DONE


def test_an_end_is_reported_to_each_supervisors_front_end_until_it_is_acknowledged(
    start: Callable[[], FrontEnd], site: LocalSite
) -> None:
    launch = site.call(abs, -1)
    instance_id = launch.instance.instance_id
    first = start()
    first.launch(launch)
    first.end_of(launch)
    first.die()

    second = start()
    assert second.result_of(launch).value == 1
    second.acknowledge(instance_id)
    second.die()

    third = start()
    other = a_launch("true")
    third.launch(other)
    third.end_of(other)
    assert instance_id not in third.ends


def test_a_kill_is_carried_out_by_the_next_supervisor(start: Callable[[], FrontEnd], site: LocalSite) -> None:
    command = a_launch("trap '' TERM; while :; do sleep 0.1; done")
    first = start()
    first.launch(command)
    first.wait_until_running(command)
    first.kill(command.instance.instance_id)
    other = a_launch("true")
    first.launch(other)
    first.end_of(other)

    first.die()
    second = start()

    assert second.end_of(command).cause == Cause.KILLED


def test_a_supervisor_that_is_stopped_ends_all_that_runs_and_says_so(
    start: Callable[[], FrontEnd], site: LocalSite
) -> None:
    front_end = start()
    launches = [site.call(time.sleep, 600), a_launch("sleep 600")]
    front_end.launch(*launches)
    front_end.wait_until_running(*launches)

    front_end.stop()

    causes = [front_end.ends[launch.instance.instance_id].cause for launch in launches]
    assert causes == [Cause.STOPPED] * 2
    start()
