"""Commands that the kernel does not take: whose fault it is."""

import errno
from pathlib import Path

import pytest

from cook_jupyter.worker.runner import NOT_RUN, _not_started
from cook_jupyter.worker.sandbox import Sandbox
from cook_jupyter.worker.task import Task


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ValueError("embedded null byte"), NOT_RUN),
        (OSError(errno.E2BIG, "Argument list too long"), NOT_RUN),
        (OSError(errno.ENOENT, "No such file or directory"), None),  # of the sandbox, removed a moment ago
        (OSError(errno.EACCES, "Permission denied"), None),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), None),
        (OSError(errno.EMFILE, "Too many open files"), None),
    ],
    ids=str,
)
def test_only_an_invalid_command_is_charged_to_its_user(
    error: OSError | ValueError, exit_code: int | None, tmp_path: Path
) -> None:
    sandbox = Sandbox(str(tmp_path / "sandbox"))
    task = Task("i1", "j1", "ada", "true", {}, 1.0, 64.0)

    ended = _not_started(task, sandbox, error)

    assert ended.end.exit_code == exit_code
    assert "could not be started" in (tmp_path / "sandbox" / "stderr").read_text()
    sandbox.close()
