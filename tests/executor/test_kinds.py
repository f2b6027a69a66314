"""Whatever Python can define in `__main__` travels whole, or is refused by name when it is submitted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.client.sync import JobClient
from tests.executor.kinds import KINDS, PAGE, Kind, page
from tests.waiting import HANG_S

PROGRAM = Path(__file__).with_name("kinds_program.py")
HERE = [kind for kind in KINDS if sys.version_info >= kind.since]


@pytest.fixture(scope="module")
def outcomes(started: JobClient) -> dict[str, dict[str, Any]]:
    """What came of each kind in one run of the program."""
    run = subprocess.run(
        [sys.executable, PROGRAM],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=5 * HANG_S,
        check=True,
    )
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"name"')]
    return {outcome["name"]: outcome for outcome in found}


@pytest.mark.parametrize("kind", [kind for kind in HERE if not kind.refused], ids=lambda kind: kind.name)
def test_a_kind_that_travels_is_in_a_job_what_it_is_here(kind: Kind, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[kind.name]

    assert not outcome["here"].startswith(("failed", "refused")), "the example itself is wrong"
    assert outcome["job"] == outcome["here"]
    assert outcome["map"] == outcome["here"]


@pytest.mark.parametrize("kind", [kind for kind in HERE if kind.refused], ids=lambda kind: kind.name)
def test_a_kind_that_cannot_travel_is_refused_by_name_when_it_is_submitted(
    kind: Kind, outcomes: dict[str, Any]
) -> None:
    refusal = outcomes[kind.name]["job"]

    assert refusal.startswith("refused: check")
    assert all(part in refusal for part in kind.refused.split(": ")), refusal


def test_the_page_lists_the_kinds() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.executor.kinds"
