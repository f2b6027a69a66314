"""A real scheduler for the tests of the executor: one for all of them, in the home of this run."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.client.sync import JobClient
from cook_jupyter.executor import CookExecutor


@pytest.fixture(scope="session")
def started() -> Iterator[JobClient]:
    """The embedded scheduler, started as a user's first call does; tests/conftest.py stops it."""
    from cook_jupyter.client.connect import connect

    client = connect()
    yield client
    client.close()


@pytest.fixture
def executor(started: JobClient) -> Iterator[CookExecutor]:
    """An executor with small jobs; what a test leaves behind is killed."""
    made = CookExecutor(started, cpus=0.5, mem_mb=256)
    yield made
    made.kill()
    made.shutdown(wait=False)


@pytest.fixture
def gate() -> Iterator[Path]:
    """A path that a call waits for: `open_gate` lets it go on."""
    folder = Path(tempfile.mkdtemp(prefix="gate-"))
    yield folder / "open"
    shutil.rmtree(folder, ignore_errors=True)
