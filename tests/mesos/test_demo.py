"""`make demo-mesos`: the demo notebook runs on a real Mesos as it is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 300.0


@pytest.mark.slow
def test_the_demo_notebook_runs_on_mesos_unchanged(installed_mesos: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--mesos"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Headline: 7,916 back-tests" in done.stdout
    assert set(re.findall(r"on agent (S[0-9]+)", done.stdout)) == {"S0", "S1"}
