"""kill -9 of scheduler, node agent and kernel, each at twenty random moments: nothing is lost.

Ground truth is a ledger that the jobs write themselves, beside what the scheduler says of them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from cook_jupyter.client.connect import connect

JOBS = 2000
KILLS_EACH = 20
PROGRAM = Path(__file__).with_name("kernel_program.py")
DEADLINE_S = 840.0


class Kernel:
    """The kernel's process, started again whenever it was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "kernel.log").open("ab")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self._folder), str(JOBS)],
            stdout=self._log,
            stderr=self._log,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def kill(self) -> bool:
        if self._process.poll() is not None:
            assert self._process.returncode == 0, self.said()
            return False
        self._process.kill()
        self._process.wait()
        self._process = self._start()
        return True

    def said(self) -> str:
        return (self._folder / "kernel.log").read_text()[-4000:]

    def wait(self, timeout_s: float) -> int:
        try:
            return self._process.wait(timeout_s)
        finally:
            self._process.kill()
            self._log.close()


def killer_of(pid_file: Path) -> Callable[[], bool]:
    """A function that kills the process that a file of JSON names; False if there is none now."""

    def kill() -> bool:
        try:
            os.kill(json.loads(pid_file.read_text())["pid"], signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, json.JSONDecodeError):
            return False
        return True

    return kill


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_kill_at_any_moment_loses_a_job_or_runs_a_success_twice(cook_home: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    begun = time.monotonic()
    connect()
    kernel = Kernel(tmp_path)
    kill = {
        "scheduler": killer_of(cook_home / "scheduler.json"),
        "agent": killer_of(cook_home / "agent" / "agent.json"),
        "kernel": kernel.kill,
    }
    victims = [name for name in kill for _ in range(KILLS_EACH)]
    rng.shuffle(victims)
    for victim in victims:
        time.sleep(rng.uniform(0.05, 0.6))  # the random moment is the subject here
        while not kill[victim]():
            assert time.monotonic() - begun < DEADLINE_S, f"there is no {victim}"
            time.sleep(0.02)
            connect()
    (tmp_path / "enough").touch()

    assert kernel.wait(DEADLINE_S - (time.monotonic() - begun)) == 0, kernel.said()
    print(f"killed each {KILLS_EACH} times in {time.monotonic() - begun:.0f} s")

    client = connect()
    jobs = client.list_jobs(states=["waiting", "running", "success", "failed"], limit=JOBS * 3)
    assert {job.state for job in jobs} == {"success"}, Counter(job.state for job in jobs)
    succeeded = {job.uuid: [i.uuid for i in job.instances if i.status == "success"] for job in jobs}
    assert all(len(instances) == 1 for instances in succeeded.values())

    keys = {
        line.split()[1] for line in (tmp_path / "keys").read_text().splitlines() if len(line.split()) == 2
    }
    assert len(keys & succeeded.keys()) >= JOBS

    marks: dict[str, list[str]] = defaultdict(list)
    for line in (tmp_path / "ledger").read_text().splitlines():
        job, instance, _ = line.split()
        marks[job].append(instance)
    assert marks.keys() == succeeded.keys()
    for job, instances in marks.items():
        assert instances[-1] == succeeded[job][0], "work went on after the success that counts"
        assert instances.count(succeeded[job][0]) == 1
