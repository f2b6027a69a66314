"""In a job there is one of each thing, as in the notebook: identity, isinstance, except, pickle, state."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.client.sync import JobClient
from tests.waiting import HANG_S

PROGRAM = Path(__file__).with_name("identity_program.py")
NAMES = (
    "pickles_what_is_defined",
    "copies",
    "uses_cloudpickle_itself",
    "uses_a_pool fork",
    "uses_a_pool spawn",
    "sees_one_table",
    "shares_globals",
    "catches_its_own",
    "knows_its_main",
    "uses_local_modules",
    "jobs begin with what was sent",
    "things come back",
    "async by submit",
    "async by map",
    "async by partial",
    "async by lambda",
    "async by lambda in map",
)


@pytest.fixture(scope="module")
def outcomes(started: JobClient, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each call returned here and in a job, in one run of the program."""
    run = subprocess.run(
        [sys.executable, PROGRAM],
        cwd=tmp_path_factory.mktemp("identity"),
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=5 * HANG_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_call_finds_in_a_job_what_it_finds_here(name: str, outcomes: dict[str, Any]) -> None:
    here, in_a_job = outcomes[name]

    assert in_a_job == here
