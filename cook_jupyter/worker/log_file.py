"""Log files of limited size.

Lives here: `bound_log`, for a file to which several processes append. Not here: what is logged.

The file is emptied in place, not renamed, because processes that inherited it as their stdout continue to
append to the same file: a renamed file would grow without limit under its new name.
"""

import contextlib
import os

MAX_LOG_BYTES = 4 * 1024 * 1024
_COPY_BYTES = 64 * 1024


def bound_log(path: str, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Empty a log file that is larger than `max_bytes`; its end is kept as `PATH.1`.

    Lines written at the same moment may be lost. One of the file's writers should call this regularly; all of
    them must have opened the file with O_APPEND.

    Args:
        path: the log file.
        max_bytes: maximum size of the file, and of the part that is kept.

    Returns:
        Whether the file was emptied; False also if it does not exist or cannot be changed.
    """
    try:
        log = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(log).st_size
        if size <= max_bytes:
            return False
        with contextlib.suppress(OSError):  # the disk is full: room is more important than old lines
            _copy(log, size - max_bytes, size, f"{path}.1")
        os.ftruncate(log, 0)
    except OSError:
        return False
    finally:
        os.close(log)
    return True


def _copy(log: int, begin: int, end: int, path: str) -> None:
    """Copy the bytes of a file from `begin` to `end` to a new file."""
    copy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while begin < end and (piece := os.pread(log, min(_COPY_BYTES, end - begin), begin)):
            begin += os.write(copy, piece)
    finally:
        os.close(copy)
