"""Where things are on this machine: the embedded scheduler's home and the user's configuration.

Lives here: paths, and the rule that what is in the home is its owner's alone.
Not here: what is in the files (`client.runtime`, `client.keys`, `client.connect`).
"""

import os
import stat
from pathlib import Path

from cook_jupyter.errors import Forbidden, InvalidRequest


def home_folder() -> Path:
    """The embedded scheduler's home: COOK_JUPYTER_HOME, else `cook_jupyter` in the XDG state folder.

    Raises:
        InvalidRequest: neither is set, and the user has no home directory.
    """
    named = os.environ.get("COOK_JUPYTER_HOME")
    if named:
        return Path(named).expanduser().absolute()
    return _xdg("XDG_STATE_HOME", ".local/state") / "cook_jupyter"


def config_file() -> Path | None:
    """The user's configuration, which need not exist; None for a user without a home directory."""
    try:
        return _xdg("XDG_CONFIG_HOME", ".config") / "cook_jupyter" / "config.toml"
    except InvalidRequest:
        return None


def private_folder(path: Path) -> Path:
    """Make a folder with mode 0700 if there is none, close it if it is open to others, and return it.

    Raises:
        Forbidden: it is somebody else's, or this user may not make it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        raise Forbidden(
            f"{path} cannot be made ({error.strerror}); set COOK_JUPYTER_HOME to a folder of your own"
        ) from error
    status = path.stat()
    if status.st_uid != os.getuid():
        raise Forbidden(f"{path} belongs to another user; set COOK_JUPYTER_HOME to a folder of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
    return path


def is_private_file(path: Path) -> bool:
    """Whether a file is this user's, and no other may read or write it."""
    status = path.stat()
    return status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077


def _xdg(variable: str, otherwise: str) -> Path:
    named = os.environ.get(variable)
    if named and Path(named).is_absolute():
        return Path(named)
    try:
        return Path.home() / otherwise
    except RuntimeError as error:
        raise InvalidRequest(
            f"uid {os.getuid()} has no home directory: set COOK_JUPYTER_HOME to a folder of your own, or HOME"
        ) from error
