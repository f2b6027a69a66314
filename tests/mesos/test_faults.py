"""What may fail on Mesos fails, with 2,000 jobs under way: none is lost, none counts twice, none is charged.

Ground truth is a ledger that the jobs write themselves, and the tasks that the master knows in the end.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest

from cook_jupyter.client.answers import JobAnswer
from cook_jupyter.clusters.mesos.messages import FrameworkId, encode_call, subscribe
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.served import MesosScheduler, settle
from tests.waiting import HANG_S, wait_until

JOBS = 2000
HEALED_S = 300.0
Fault = Callable[[MesosScheduler, Callable[[int], None]], None]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def mesos(private_mesos: Callable[..., LocalMesos]) -> LocalMesos:
    return private_mesos(
        agents=3, cpus=4, mem_mb=4096, agent_flags={"executor_reregistration_timeout": "4secs"}
    )


@pytest.fixture
def scheduler(mesos: LocalMesos, cook_home: Path) -> Iterator[MesosScheduler]:
    with MesosScheduler(mesos, cook_home, cluster={"partition_wait_s": 8.0}) as scheduler:
        yield scheduler


class Run:
    """2,000 jobs under way, with faults meanwhile."""

    def __init__(self, scheduler: MesosScheduler, folder: Path) -> None:
        self._scheduler = scheduler
        self._ledger = folder / "ledger"
        self._ledger.touch()
        self._log = folder / "kernel.log"
        with self._log.open("wb") as log:
            self._kernel = subprocess.Popen(
                [sys.executable, "-m", "tests.mesos.ledger_kernel", str(self._ledger), str(JOBS)],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.kill()
        self._kernel.wait()

    def wait_for(self, count: int) -> None:
        """Wait until a number of jobs is done."""
        wait_until(lambda: self.done >= count, f"{count} jobs are done", timeout_s=HEALED_S)

    @property
    def done(self) -> int:
        return len(self._ledger.read_bytes().splitlines())

    def finish(self) -> list[JobAnswer]:
        """Wait for the results of all jobs, and return what the scheduler says of them."""
        assert self._kernel.wait(HEALED_S) == 0, self._log.read_text()[-4000:]
        jobs = self._scheduler.client().list_jobs(
            states=["waiting", "running", "success", "failed"], limit=2 * JOBS
        )
        assert Counter(job.state for job in jobs) == {"success": JOBS}
        return jobs

    def check(self, jobs: list[JobAnswer]) -> None:
        """None is lost, none succeeded twice, none was charged, and nothing is left over."""
        marks: dict[str, list[str]] = defaultdict(list)
        for line in self._ledger.read_text().splitlines():
            job_id, instance_id = line.split()
            marks[job_id].append(instance_id)
        for job in jobs:
            succeeded = [one.uuid for one in job.instances if one.status == "success"]
            assert len(succeeded) == 1, job
            assert marks[job.uuid].count(succeeded[0]) == 1, job
            assert all(one.status in ("success", "failed") for one in job.instances), job
        settle(self._scheduler)

    @staticmethod
    def repeated(jobs: list[JobAnswer]) -> Counter[str]:
        """The reasons of the instances that failed, none of which may be their jobs' fault."""
        failed = [one for job in jobs for one in job.instances if one.status == "failed"]
        assert all(one.mea_culpa for one in failed), failed
        return Counter(one.reason_text for one in failed)


StartRun = Callable[[MesosScheduler], Run]


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[StartRun]:
    """A function that starts a run, which ends with the test."""
    with ExitStack() as stack:
        yield lambda scheduler: stack.enter_context(Run(scheduler, tmp_path))


def recovery_s(run: Run, heal: Callable[[], Any]) -> float:
    """Return the seconds from the healing of a fault until further jobs are done."""
    heal()
    begun, done = time.monotonic(), run.done
    run.wait_for(min(JOBS, done + 1))
    return time.monotonic() - begun


def test_the_master_is_killed_and_starts_again(scheduler: MesosScheduler, start_run: StartRun) -> None:
    run = start_run(scheduler)
    run.wait_for(200)
    scheduler.mesos.kill("master")
    time.sleep(1.0)

    seconds = recovery_s(run, lambda: scheduler.mesos.restart("master"))

    jobs = run.finish()
    run.check(jobs)
    print(f"master: jobs end again after {seconds:.1f} s; lost with it: {run.repeated(jobs)}")


def test_an_agent_is_killed_and_starts_again(scheduler: MesosScheduler, start_run: StartRun) -> None:
    run = start_run(scheduler)
    run.wait_for(200)

    seconds = recovery_s(run, lambda: scheduler.mesos.restart("agent0"))

    jobs = run.finish()
    run.check(jobs)
    print(f"agent: jobs end again after {seconds:.1f} s; lost with it: {run.repeated(jobs)}")


@pytest.mark.parametrize("stopped_s", [2.0, 20.0], ids=["within", "past"])
def test_an_agent_is_stopped_within_and_past_the_partition_policy(
    scheduler: MesosScheduler, start_run: StartRun, stopped_s: float
) -> None:
    run = start_run(scheduler)
    run.wait_for(200)
    scheduler.mesos.kill("agent0", signal.SIGSTOP)
    time.sleep(stopped_s)

    scheduler.mesos.kill("agent0", signal.SIGCONT)

    jobs = run.finish()
    run.check(jobs)
    repeated = run.repeated(jobs)
    assert stopped_s > 5.0 or not repeated
    print(f"agent stopped for {stopped_s:g} s: ran again: {repeated}")


def test_the_scheduler_is_killed_again_and_again(scheduler: MesosScheduler, start_run: StartRun) -> None:
    rng = random.Random(2)
    run = start_run(scheduler)
    for count in range(100, JOBS, 200):
        run.wait_for(count)
        time.sleep(rng.uniform(0.0, 0.2))
        scheduler.kill()
        scheduler.client()

    jobs = run.finish()
    run.check(jobs)
    assert len(scheduler.framework_ids()) == 1
    print(f"scheduler killed {len(range(100, JOBS, 200))} times: ran again: {run.repeated(jobs)}")


def test_executors_are_killed(scheduler: MesosScheduler, start_run: StartRun) -> None:
    run = start_run(scheduler)
    killed = 0
    for count in (200, 600, 1000):
        run.wait_for(count)
        for pid in executors(scheduler.mesos):
            os.kill(pid, signal.SIGKILL)
            killed += 1

    jobs = run.finish()
    run.check(jobs)
    assert killed >= 3
    print(f"{killed} executors killed: ran again: {run.repeated(jobs)}")


def test_a_second_scheduler_with_the_same_framework_replaces_the_first_which_does_not_come_back(
    scheduler: MesosScheduler, start_run: StartRun
) -> None:
    run = start_run(scheduler)
    run.wait_for(200)
    [framework_id] = scheduler.framework_ids()
    other = Subscriber(scheduler.mesos.master, framework_id)

    assert scheduler.wait() != 0

    other.close()
    assert "failed over" in scheduler.log or "another scheduler" in scheduler.log
    run.check(run.finish())  # with the next scheduler, which a client has started


def test_a_framework_that_was_removed_stops_the_scheduler(
    scheduler: MesosScheduler, start_run: StartRun
) -> None:
    run = start_run(scheduler)
    run.wait_for(200)

    scheduler.tear_down()

    assert scheduler.wait() != 0
    assert "removed" in scheduler.log
    assert "reset-framework" in scheduler.log
    wait_until(lambda: not scheduler.tasks(), "its tasks are gone")
    reset_until_it_works()
    run.check(run.finish())


def reset_until_it_works() -> None:
    """Reset the framework, as an operator does; clients that start a scheduler meanwhile are in the way."""
    command = [sys.executable, "-m", "cook_jupyter", "mesos", "reset-framework", "--yes"]

    def is_reset() -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    wait_until(is_reset, "the framework is reset")


def executors(mesos: LocalMesos) -> list[int]:
    """The processes of our executors."""
    found = []
    for pid in mesos.processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"mesos-executor" in command:
            found.append(pid)
    return found


class Subscriber:
    """Another scheduler that subscribes with the id of a framework, as a fault of an operator would."""

    def __init__(self, master: str, framework_id: str) -> None:
        framework = {
            "id": {"value": framework_id},
            "user": "root",
            "name": "other",
            "roles": ["*"],
            "checkpoint": True,
            "failover_timeout": 604_800,
            "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
        }
        call = encode_call(subscribe(framework), FrameworkId(framework_id))
        request = Request(f"{master}/api/v1/scheduler", call, {"Content-Type": "application/json"})
        self._stream = urlopen(request, timeout=HANG_S)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> None:
        try:
            while self._stream.read(1):
                pass
        except (OSError, ValueError, AttributeError):
            return
