"""The agent is light: what it imports, and how it is told how to behave."""

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "ctypes", "dataclasses", "pathlib", "shutil", "subprocess", "cloudpickle", "numpy"}


def test_the_agent_imports_nothing_that_takes_long() -> None:
    program = "import sys, cook_jupyter.worker.daemon; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    "words", [["agent"], ["agent", "--home"], ["agent", "--home", "x", "--gr", "1"], ["sing"], []]
)
def test_words_that_make_no_sense_are_refused_with_the_usage(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cook_jupyter.worker", *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "usage" in done.stderr
