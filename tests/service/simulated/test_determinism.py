"""A seed stands for one run: whoever runs it again sees the same."""

import os
import subprocess
import sys

from tests.service.simulated.scenario import FAULT_KINDS
from tests.service.simulated.simulation import simulate
from tests.waiting import HANG_S

SEEDS = 5


def digests(hash_seed: str) -> list[str]:
    """Run some seeds in a process of their own; return the digests of their traces."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.simulated", str(SEEDS), "--digests"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=4 * HANG_S,
    )
    return done.stdout.splitlines()


def test_equal_seeds_give_equal_traces_in_every_process() -> None:
    here = [simulate(seed, is_traced=True).digest for seed in range(SEEDS)]

    assert len(set(here)) == SEEDS
    assert digests("1") == here
    assert digests("2") == here


def test_a_trace_tells_what_happened() -> None:
    outcome = simulate(1, is_traced=True)

    assert any("submit" in line for line in outcome.lines)
    assert any("task started" in line for line in outcome.lines)


def test_a_run_without_faults_has_none() -> None:
    outcome = simulate(1, without=FAULT_KINDS)

    assert outcome.violation is None
    assert not +outcome.faults
    assert outcome.instances > 0
