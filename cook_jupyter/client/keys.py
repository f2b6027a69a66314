"""The location of the user's signing key.

Lives here: the path of the key in the home directory.
Not here: creating keys, signing and verifying (`payload.keys`), which the scheduler never does.
"""

from pathlib import Path

from cook_jupyter.client.home import private_folder
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.payload.keys import read_or_make_key


def key_file(home: Path, user: str) -> Path:
    """Return the path of a user's key (hex, mode 0600), which is created if needed.

    Raises:
        Unverifiable: the file is broken, or others may read it, so that the key proves nothing.
        InvalidRequest: the user name is not a valid file name.
    """
    if not user or user.startswith(".") or "/" in user or "\0" in user:
        raise InvalidRequest(f"not a valid user name: {user!r}")
    path = private_folder(private_folder(home) / "keys") / user
    read_or_make_key(path)
    return path
