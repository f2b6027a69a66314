"""Output files of a simulation: checks before it runs, atomic writes afterwards.

Lives here: `check_file`, `check_directory` and `replacing`. Not here: the content of the files
(`simulation.traces`, `simulation.report`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cook_jupyter.errors import InvalidRequest


def check_file(path: Path, option: str) -> None:
    """Check that a file can be written, without touching it.

    Args:
        path: the file, which need not exist; its directory must.
        option: name of the command's option in error messages.

    Raises:
        InvalidRequest: the file cannot be written.
    """
    if path.is_dir():
        raise InvalidRequest(f"{option} {path} is a directory; name a file")
    if not path.parent.is_dir():
        raise InvalidRequest(f"{option} {path}: there is no directory {path.parent}")
    if path.exists() and not path.is_file():
        return  # a device or a pipe, which is written to directly
    _check_writable(path.resolve().parent, f"{option} {path}")


def check_directory(path: Path, option: str) -> None:
    """Create a directory if it does not exist, and check that files can be written there.

    Args:
        path: the directory.
        option: name of the command's option in error messages.

    Raises:
        InvalidRequest: the path is not a directory, or cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InvalidRequest(f"{option} {path} is a file; name a directory") from error
    except OSError as error:
        raise InvalidRequest(f"{option} {path} cannot be created: {error.strerror}") from error
    _check_writable(path, f"{option} {path}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` when the block ends.

    If the block raises, `path` stays as it was. A device or a pipe is yielded itself.

    Args:
        path: the file to replace; symbolic links are followed.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        yield target
        return
    draft = _draft_of(target)
    try:
        yield draft
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def _draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}")


def _check_writable(directory: Path, what: str) -> None:
    probe = directory / f".cook-jupyter.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidRequest(f"{what} cannot be written: {error.strerror}") from error
