"""A machine of 2 cpus that small jobs keep full, and a job that needs both: with real processes.

Each small job writes down that it runs, and ends when its gate is opened, so nothing depends on run times.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.executor import CookExecutor
from tests.waiting import wait_until

SETTINGS = """
cpus = 2
mem_mb = 2000

[rebalancer]
enabled = false
"""
SOON_S = 30.0
SMALL = 8


def held(started: str, gate: str) -> None:
    """Say that the job runs; then wait until its gate is open."""
    Path(started).touch()
    while not Path(gate).exists():
        time.sleep(0.02)


@pytest.mark.parametrize(
    "large", [{"user": "bob"}, {"user": "ada", "priority": 90}], ids=["of another user", "of one's own"]
)
def test_a_large_job_starts_when_the_two_small_ones_have_ended_that_it_found_running(
    cook_home: Path, tmp_path: Path, large: dict[str, Any]
) -> None:
    (cook_home / "settings.toml").write_text(SETTINGS)
    ada = CookExecutor(user="ada", cpus=1, mem_mb=200)
    owner = CookExecutor(cpus=2, mem_mb=200, **large)
    started = [tmp_path / f"started-{number}" for number in range(SMALL)]
    gates = [tmp_path / f"gate-{number}" for number in range(SMALL)]
    small = [ada.submit(held, str(mark), str(gate)) for mark, gate in zip(started, gates, strict=True)]
    wait_until(lambda: sum(mark.exists() for mark in started) == 2, "two small jobs run")
    running = [number for number, mark in enumerate(started) if mark.exists()]

    job = owner.submit(int, 7)
    wait_until(lambda: "No host takes it now" in job.why(), "the large job waits for room")
    for number in running:
        gates[number].touch()

    assert job.result(timeout=SOON_S) == 7
    assert sum(mark.exists() for mark in started) <= 4, "no more started than the large job left room for"
    for gate in gates:
        gate.touch()
    for future in small:
        future.result(timeout=SOON_S)
    ada.shutdown()
    owner.shutdown()
