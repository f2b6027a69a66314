"""Where the user's signing key is.

Lives here: the file's place in the home.
Not here: what a key is, making one, signing and verifying (`payload.keys`); the scheduler does none of it.
"""

from pathlib import Path

from cook_jupyter.client.home import private_folder
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.payload.keys import read_or_make_key


def key_file(home: Path, user: str) -> Path:
    """The file with the key of `user` (hex, mode 0600), made if there is none.

    Raises:
        Unverifiable: the file is broken, or others may read it, so that the key proves nothing.
        InvalidRequest: the name cannot be a file's.
    """
    if not user or user.startswith(".") or "/" in user or "\0" in user:
        raise InvalidRequest(f"not the name of a user: {user!r}")
    path = private_folder(private_folder(home) / "keys") / user
    read_or_make_key(path)
    return path
