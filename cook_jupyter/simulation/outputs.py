"""Where the results of a simulation are written: checked before it runs, and whole or not at all afterwards.

Lives here: `check_file`, `check_directory` and `replacing`. Not here: what is written (`simulation.traces`,
`simulation.report`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cook_jupyter.errors import InvalidRequest


def check_file(path: Path, option: str) -> None:
    """Check that a file can be written, without touching what is there.

    Args:
        path: the file, which need not exist; its directory must.
        option: the option in messages.

    Raises:
        InvalidRequest: it cannot be written.
    """
    if path.is_dir():
        raise InvalidRequest(f"{option} {path} is a directory; name a file")
    if not path.parent.is_dir():
        raise InvalidRequest(f"{option} {path}: there is no directory {path.parent}")
    if path.exists() and not path.is_file():
        return  # a device or a pipe: it is written to as it is
    _check_writable(path.resolve().parent, f"{option} {path}")


def check_directory(path: Path, option: str) -> None:
    """Create a directory if need be, and check that files can be written there.

    Args:
        path: the directory.
        option: the option in messages.

    Raises:
        InvalidRequest: it is something else, or cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InvalidRequest(f"{option} {path} is a file; name a directory") from error
    except OSError as error:
        raise InvalidRequest(f"{option} {path} cannot be made: {error.strerror}") from error
    _check_writable(path, f"{option} {path}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to, which takes the place of `path` once all of it is written.

    If writing fails, what stood at `path` stays. A device or a pipe is written to as it is.

    Args:
        path: the file to write; a link is followed.
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
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
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
