"""What every test may use: a home of its own for embedded state, an honest word for a missing part.

Not here: builders of values (`tests/builders.py`), fixtures of one floor (that floor's own conftest.py).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.golden.cases import counted


def missing_part(reason: str) -> NoReturn:
    """End a test whose part (a browser, a cgroup, root) this machine does not have.

    On a developer's machine the test is skipped, with one line. In CI (the variable CI is set) it fails:
    there, a part that has gone missing is a check that has silently stopped checking.

    Args:
        reason: what is missing and how to get it.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many of Cook's golden cases, and of our own like them, were run and passed."""
    reports = [
        (report.nodeid, outcome == "passed")
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
        if "golden_case" in getattr(report, "keywords", ()) and (report.when == "call" or outcome != "passed")
    ]
    for name, count in zip(("golden cases", "cases of our own like them"), counted(reports), strict=True):
        if count.run:
            terminalreporter.write_line(f"{name}: {count.passed} of {count.run} passed")


@pytest.fixture(scope="session", autouse=True)
def no_test_touches_the_users_home() -> Iterator[None]:
    """Point COOK_JUPYTER_HOME at a folder of this run, and forget settings that would lead elsewhere."""
    with pytest.MonkeyPatch.context() as patch, _short_folder() as home:
        for name in [name for name in os.environ if name.startswith("COOK_")]:
            patch.delenv(name)
        patch.setenv("COOK_JUPYTER_HOME", str(home))
        yield


@pytest.fixture
def cook_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh COOK_JUPYTER_HOME for one test; a scheduler that was started in it is stopped afterwards."""
    with _short_folder() as home:
        monkeypatch.setenv("COOK_JUPYTER_HOME", str(home))
        yield home


@contextmanager
def _short_folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for a Unix socket; what lived in it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="cook-"))
    try:
        yield folder
    finally:
        if any(folder.iterdir()):
            subprocess.run(
                [sys.executable, "-m", "cook_jupyter", "down", "--stop-work"],
                env={**os.environ, "COOK_JUPYTER_HOME": str(folder)},
                check=False,
                capture_output=True,
                timeout=60,
            )
        shutil.rmtree(folder, ignore_errors=True)
