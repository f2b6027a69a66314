"""docs/how-to/mesos.md: its examples run, and its files for masters do what the page says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.test_examples import LIMIT_S, ON_MESOS
from tests.mesos.local_mesos.cluster import LocalMesos

PAGE_PROGRAM = Path(__file__).parents[1] / "docs" / "page.py"


@pytest.mark.slow
def test_the_examples_of_the_page_run_on_three_agents(
    private_mesos: Callable[..., LocalMesos],
    cook_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesos = private_mesos(agents=3, cpus=2)
    monkeypatch.setenv("MESOS_MASTER", mesos.master.removeprefix("http://"))

    done = subprocess.run(
        [sys.executable, PAGE_PROGRAM, ON_MESOS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
