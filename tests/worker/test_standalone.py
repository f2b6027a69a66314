"""`python -m cook_jupyter.worker call` alone runs a call, on any Cook server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cook_jupyter.clusters.base import Launch
from tests.clusters.harness import LocalSite


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    return LocalSite(tmp_path)


def run(launch: Launch, sandbox: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What an executor of Cook does with a job."""
    env = {
        **os.environ,
        **launch.spec.env,
        "COOK_JOB_UUID": launch.spec.job_id,
        "COOK_INSTANCE_UUID": launch.instance.instance_id,
        "MESOS_SANDBOX": str(sandbox),
        **variables,
    }
    words = ["/bin/sh", "-c", launch.spec.command]
    return subprocess.run(words, env=env, cwd=sandbox, capture_output=True, text=True, check=False)


def test_its_result_rests_in_the_blob_store_and_its_place_is_told(site: LocalSite, tmp_path: Path) -> None:
    launch = site.call(lambda: 6 * 7)

    done = run(launch, tmp_path)

    blob = f"results/{launch.instance.instance_id}"
    assert done.returncode == 0, done.stderr
    assert blob in done.stderr
    assert site.store.has(blob)
    assert json.loads((tmp_path / "cook-result.json").read_text())["blob"] == blob


def test_what_the_function_raises_makes_its_exit_code(site: LocalSite, tmp_path: Path) -> None:
    done = run(site.call(lambda: 1 / 0), tmp_path)

    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_outside_of_a_cook_server_it_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cook_jupyter.worker", "call"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "COOK_JOB_UUID is not set" in done.stderr
