"""The user's signing key.

Lives here: the file that holds it, made when it is first needed.
Not here: signing and verifying (`payload`), which the scheduler never does.
"""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from cook_jupyter.client.home import private_folder
from cook_jupyter.errors import Forbidden, InvalidRequest

KEY_BYTES = 32


def key_file(home: Path, user: str) -> Path:
    """The file with the key of `user` (hex, mode 0600), made if there is none.

    Two who make it at once end with one key: the file appears whole, under its name, only once.

    Raises:
        Forbidden: others may read the file, so that the key proves nothing.
        InvalidRequest: the name cannot be a file's, or the file holds no key.
    """
    if not user or user.startswith(".") or "/" in user or "\0" in user:
        raise InvalidRequest(f"not the name of a user: {user!r}")
    path = private_folder(private_folder(home) / "keys") / user
    if not path.exists():
        _make(path)
    status = path.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise Forbidden(f"the signing key {path} must be readable by you alone: chmod 600 {path}")
    read_key(path)
    return path


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        InvalidRequest: it holds none.
    """
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidRequest(f"{path} holds no signing key; remove it, and a new one is made")
    return key


def _make(path: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # somebody was faster, and theirs counts
            os.link(draft, path)
    finally:
        draft.unlink()
