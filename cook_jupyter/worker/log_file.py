"""Log files that never take more than a bounded part of the disk.

Lives here: `bound_log`, for a file to which several processes append. Not here: what is logged.

The file is emptied in place, not renamed: processes that inherited it as their stdout go on appending to the
same file, and a renamed file would grow without bound under its new name.
"""

import contextlib
import os

MAX_LOG_BYTES = 4 * 1024 * 1024
_COPIED_AT_ONCE = 64 * 1024


def bound_log(path: str, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Empty a log file that is larger than `max_bytes`; its end is kept as `PATH.1`.

    What is written at this very moment may be lost. To be called now and then by one of the file's writers,
    all of which must have opened it with O_APPEND.

    Args:
        path: the log file.
        max_bytes: most bytes that the file may have, and that are kept of it.

    Returns:
        Whether the file was emptied. A file that is not there, or that cannot be changed, is left alone.
    """
    try:
        log = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(log).st_size
        if size <= max_bytes:
            return False
        with contextlib.suppress(OSError):  # the disk is full: then room matters more than old lines
            _copy(log, size - max_bytes, size, f"{path}.1")
        os.ftruncate(log, 0)
    except OSError:
        return False
    finally:
        os.close(log)
    return True


def _copy(log: int, begin: int, end: int, path: str) -> None:
    """Write the bytes of a file from `begin` up to `end` into a new file."""
    copy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while begin < end and (piece := os.pread(log, min(_COPIED_AT_ONCE, end - begin), begin)):
            begin += os.write(copy, piece)
    finally:
        os.close(copy)
