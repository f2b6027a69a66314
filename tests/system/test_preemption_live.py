"""Two users and one machine, with real processes: who holds more than a fair share makes way, at no cost.

The scheduler is the one a notebook starts, a process of its own, and so is its node agent. Ground truth of
what ran is a ledger that the jobs write themselves.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from cook_jupyter.client.answers import InstanceAnswer
from cook_jupyter.client.connect import connect
from cook_jupyter.executor import CookExecutor, CookFuture
from cook_jupyter.model import reason as reasons
from cook_jupyter.model.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY
from cook_jupyter.model.reason import REASONS
from tests.waiting import HANG_S, wait_until

CPUS = 2
INTERVAL_MS = 200
SETTINGS = f"""
cpus = {CPUS}
mem_mb = 2000

[rebalancer]
interval_ms = {INTERVAL_MS}
"""
SOON_S = HANG_S
PREEMPTED = REASONS[reasons.PREEMPTED]


def held(user: str, ledger: str, gate: str) -> str:
    """The job: say that it runs, and where; then end when the gate is open."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{os.environ['COOK_JOB_UUID']} {os.getpid()}\n".encode())
    os.close(descriptor)
    while not Path(gate).exists():
        time.sleep(0.02)
    return user


class Machine:
    """Two cpus that ada fills and grace wants a part of.

    Attributes:
        client: of the scheduler, as its owner.
        of_ada: the jobs that fill the machine.
        of_grace: the job that finds it full.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        (home / "settings.toml").write_text(SETTINGS)
        self._home = home
        self._folder = folder
        self.client = connect()
        self._executors = {
            user: CookExecutor(user=user, cpus=1, mem_mb=100, name=user) for user in ("ada", "grace")
        }
        self.of_ada: list[CookFuture] = []
        self.of_grace: list[CookFuture] = []

    def ada_fills_it(self) -> None:
        """Ada's jobs run on all cpus, and the functions have begun."""
        self.of_ada = [self._submit("ada") for _ in range(CPUS)]
        wait_until(lambda: len(self.marks()) == CPUS, "ada's jobs fill the machine")

    def grace_comes(self) -> None:
        """Grace submits one job."""
        self.of_grace = [self._submit("grace")]

    def _submit(self, user: str, priority: int = DEFAULT_PRIORITY) -> CookFuture:
        executor = self._executors[user].with_(priority=priority)
        return executor.submit(held, user, str(self._folder / "ledger"), self.gate(user))

    def ada_leaves_one_cpu(self) -> None:
        """A job of ada's runs that is dearer to her than others."""
        self.of_ada = [self._submit("ada", HIGHEST_PRIORITY)]
        wait_until(self.marks, "ada's job runs")

    def open_gate(self, user: str) -> None:
        """Let the jobs of a user end."""
        Path(self.gate(user)).touch()

    def gate(self, user: str) -> str:
        """The file for which the jobs of a user wait."""
        return str(self._folder / f"gate-{user}")

    def marks(self) -> list[tuple[str, int]]:
        """The job and the process of every start, in order."""
        ledger = self._folder / "ledger"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        return [(job, int(pid)) for job, pid in (line.split() for line in lines)]

    def instances(self, future: CookFuture) -> Sequence[InstanceAnswer]:
        """What the scheduler says of a job's instances, oldest first."""
        return self.client.job(future.key).instances_by_start

    def victim(self) -> CookFuture | None:
        """The job of ada's that was preempted."""
        return next((each for each in self.of_ada if self.instances(each)[0].preempted), None)

    def kill_scheduler(self) -> None:
        """kill -9, and find the one that takes its place."""
        pid = json.loads((self._home / "scheduler.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the scheduler is dead")
        self.client = connect()
        assert json.loads((self._home / "scheduler.json").read_text())["pid"] != pid

    def close(self) -> None:
        """Let go."""
        for executor in self._executors.values():
            executor.kill()
            executor.shutdown(wait=False)
        self.client.close()


@pytest.fixture
def machine(cook_home: Path, tmp_path: Path) -> Any:
    made = Machine(cook_home, tmp_path)
    yield made
    made.close()


def assert_preempted_once_and_free_of_charge(machine: Machine, victim: CookFuture) -> None:
    """Its first instance made way with Cook's reason, its last one succeeded, and no retry is gone."""
    first, *others, last = machine.instances(victim)
    assert (first.status, first.reason, first.preempted) == ("failed", PREEMPTED.name, True)
    assert first.reason_text == PREEMPTED.sentence
    assert first.mea_culpa
    assert (last.status, last.preempted) == ("success", False)
    # A launch on its way when the scheduler dies may have to be repeated, which is ours to bear.
    assert all(other.mea_culpa for other in others)
    assert [job for job, _ in machine.marks()].count(victim.key) == 2


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_a_running_job_makes_way_for_another_users_and_starts_again_at_no_cost(machine: Machine) -> None:
    machine.ada_fills_it()
    machine.grace_comes()
    (hers,) = machine.of_grace
    wait_until(lambda: len(machine.marks()) == CPUS + 1, "grace's job runs")

    victim = machine.victim()
    assert victim is not None
    (spared,) = (each for each in machine.of_ada if each is not victim)
    wait_until(lambda: victim.preempted == 1, "ada's future has heard of it")
    assert (victim.status, victim.done()) == ("waiting", False)
    assert "waiting again, preempted once" in repr(victim)
    assert "preempted once" in victim.why()
    assert machine.client.job(victim.key).retries_remaining == 1
    (pid,) = (pid for job, pid in machine.marks() if job == victim.key)
    wait_until(lambda: not is_alive(pid), "what the victim ran has ended")
    assert [each.status for each in machine.instances(spared)] == ["running"]
    users = {user.user: user for user in machine.client.summary().users}
    assert (users["ada"].cpus, users["grace"].cpus) == (1, 1)
    assert (users["ada"].standing, users["grace"].standing) == ("hungry", "satisfied")

    machine.open_gate("grace")
    assert hers.result(SOON_S) == "grace"
    wait_until(lambda: [job for job, _ in machine.marks()].count(victim.key) == 2, "the victim starts again")
    machine.open_gate("ada")
    assert [each.result(SOON_S) for each in machine.of_ada] == ["ada", "ada"]
    assert_preempted_once_and_free_of_charge(machine, victim)
    assert [len(machine.instances(each)) for each in (victim, spared, hers)] == [2, 1, 1]


@pytest.mark.slow
def test_a_scheduler_killed_between_preemption_and_restart_loses_nothing(machine: Machine) -> None:
    machine.ada_fills_it()
    machine.grace_comes()
    wait_until(lambda: machine.victim() is not None, "one of ada's jobs is preempted")
    machine.kill_scheduler()

    wait_until(lambda: len(machine.marks()) > CPUS, "grace's job runs")
    machine.open_gate("grace")
    assert machine.of_grace[0].result(SOON_S) == "grace"
    victim = machine.victim()
    assert victim is not None
    wait_until(lambda: [job for job, _ in machine.marks()].count(victim.key) == 2, "the victim starts again")
    machine.open_gate("ada")
    assert [each.result(SOON_S) for each in machine.of_ada] == ["ada", "ada"]
    assert_preempted_once_and_free_of_charge(machine, victim)
    for future in (*machine.of_grace, *machine.of_ada):
        assert [each.status for each in machine.instances(future)].count("success") == 1
    starts = [job for job, _ in machine.marks() if job != victim.key]
    assert len(starts) == len(set(starts)) == CPUS, "what was not preempted ran once"


@pytest.mark.slow
def test_a_cell_that_is_preempted_says_so_and_brings_its_value_all_the_same(machine: Machine) -> None:
    machine.ada_leaves_one_cpu()
    cell = f"""%%cook --name hers
import os, time
print("begun", flush=True)
while not os.path.exists({machine.gate("ada")!r}):
    time.sleep(0.02)
"over"
"""
    before = "%load_ext cook_jupyter\n%cook config user=ada mem_mb=100"
    cells = [before, cell, "why = %cook why hers\nprint(why)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])

    def printed(stream: str) -> str:
        return "".join(each.text for each in notebook.cells[1].outputs if each.get("name") == stream)

    with ThreadPoolExecutor(1) as frontend:
        done = frontend.submit(NotebookClient(notebook, timeout=120, kernel_name="python3").execute)
        try:
            wait_until(lambda: done.done() or printed("stdout") == "begun\n", "the cell prints")
            machine.grace_comes()
            wait_until(lambda: done.done() or len(machine.marks()) > 1, "grace's job runs")
            machine.open_gate("grace")
            wait_until(lambda: done.done() or printed("stdout") == "begun\nbegun\n", "the cell begins anew")
        finally:
            machine.open_gate("ada")
        done.result()

    assert "preempted for a user further below their share; it restarts" in printed("stderr")
    outputs = notebook.cells[1].outputs
    assert [each.data["text/plain"] for each in outputs if each.output_type == "execute_result"] == ["'over'"]
    (told,) = notebook.cells[2].outputs
    assert "It had been preempted once for jobs of users further below their share" in told.text
