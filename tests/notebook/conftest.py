"""A notebook shell in this process, and a real scheduler for it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from tests.waiting import HANG_S


@dataclass
class Ran:
    """What came of a cell: its value, its error, what it printed and displayed."""

    value: Any
    error: BaseException | None
    stdout: str
    stderr: str
    displays: list[dict[str, Any]]


class Shell:
    """An IPython shell with the magics loaded."""

    def __init__(self, ipython: InteractiveShell) -> None:
        self.ipython = ipython

    @property
    def names(self) -> dict[str, Any]:
        names: dict[str, Any] = self.ipython.user_ns
        return names

    def run(self, cell: str) -> Ran:
        """Run a cell, whatever comes of it."""
        with capture_output() as captured:
            done = self.ipython.run_cell(cell, store_history=True)  # type: ignore[no-untyped-call]
        return Ran(
            value=done.result,
            error=done.error_before_exec or done.error_in_exec,
            stdout=captured.stdout,
            stderr=captured.stderr,
            displays=[dict(output.data) for output in captured.outputs],
        )

    def good(self, cell: str) -> Ran:
        """Run a cell that must not fail."""
        ran = self.run(cell)
        assert ran.error is None, ran.stdout + ran.stderr
        return ran

    def failing(self, cell: str) -> Any:
        """The error of a cell that must fail."""
        ran = self.run(cell)
        assert ran.error is not None, ran.stdout
        return ran.error


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A path that a job waits for until the test makes it (see `waiting_for`)."""
    return tmp_path / "gate"


def waiting_for(gate: Path) -> str:
    """Return the lines of a cell that wait until a file is there."""
    return f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.02)"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A COOK_JUPYTER_HOME for a file of tests; its scheduler ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="cook-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOK_JUPYTER_HOME", str(folder))
        (folder / "settings.toml").write_text("cpus = 2\n")  # however large this machine is
        yield folder
        subprocess.run(
            [sys.executable, "-m", "cook_jupyter", "down", "--stop-work"],
            env={**os.environ, "COOK_JUPYTER_HOME": str(folder)},
            check=False,
            capture_output=True,
            timeout=HANG_S,
        )
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shell(home: Path) -> Iterator[Shell]:
    """One shell for a file of tests, with the magics loaded."""
    InteractiveShell.clear_instance()
    ipython = InteractiveShell.instance()
    ipython.run_line_magic("load_ext", "cook_jupyter")
    yield Shell(ipython)
    ipython.run_line_magic("unload_ext", "cook_jupyter")
    InteractiveShell.clear_instance()
