"""Identity of a blob folder: whether two processes that know a folder by the same path mean the same folder.

Lives here: the file with the identity.
Not here: the stores (`payload.blobs`), the proof that a scheduler and its client share a folder
(`executor.blobs`).
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

IDENTITY_FILE = "identity"

_MAX_BYTES = 100


def folder_identity(folder: Path) -> str:
    """Return the identity of a folder; give it one if it has none.

    Args:
        folder: a directory with blobs.

    Returns:
        the identity; empty if there is none and the folder cannot be written to.
    """
    identity = read_identity(folder)
    if identity:
        return identity
    draft = folder / f".{IDENTITY_FILE}.{os.getpid()}.{os.urandom(6).hex()}"
    try:
        draft.write_text(uuid.uuid4().hex, encoding="ascii")
        with contextlib.suppress(FileExistsError):  # another process was first: then its identity counts
            os.link(draft, folder / IDENTITY_FILE)
    except OSError:
        return ""
    finally:
        draft.unlink(missing_ok=True)
    return read_identity(folder)


def read_identity(folder: Path) -> str:
    """Return the identity that a folder has here; empty if it has none or cannot be read."""
    try:
        with (folder / IDENTITY_FILE).open("rb") as file:
            return file.read(_MAX_BYTES).decode("ascii").strip()
    except (OSError, ValueError):
        return ""
