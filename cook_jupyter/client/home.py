"""Paths on this machine: the embedded scheduler's home and the user's configuration.

Lives here: paths, and the rule that the home is accessible to its owner only.
Not here: the content of the files (`client.runtime`, `client.keys`, `client.connect`).
"""

import os
import stat
from pathlib import Path

from cook_jupyter.errors import Forbidden, InvalidRequest


def home_folder() -> Path:
    """Return the embedded scheduler's home: COOK_JUPYTER_HOME, or `cook_jupyter` in the XDG state directory.

    Raises:
        InvalidRequest: neither is set, and the user has no home directory.
    """
    value = os.environ.get("COOK_JUPYTER_HOME")
    if value:
        return Path(value).expanduser().absolute()
    return _xdg("XDG_STATE_HOME", ".local/state") / "cook_jupyter"


def config_file() -> Path | None:
    """Return the path of the user's configuration, which may not exist; None without a home directory."""
    try:
        return _xdg("XDG_CONFIG_HOME", ".config") / "cook_jupyter" / "config.toml"
    except InvalidRequest:
        return None


def private_folder(path: Path) -> Path:
    """Create a directory with mode 0700 if needed, restrict access if it is open to others, and return it.

    Raises:
        Forbidden: it belongs to another user, or this user may not create it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        raise Forbidden(
            f"{path} cannot be created ({error.strerror}); set COOK_JUPYTER_HOME to a directory of your own"
        ) from error
    status = path.stat()
    if status.st_uid != os.getuid():
        raise Forbidden(f"{path} belongs to another user; set COOK_JUPYTER_HOME to a directory of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
    return path


def is_private_file(path: Path) -> bool:
    """Return whether a file belongs to this user, and no other may read or write it."""
    status = path.stat()
    return status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_absolute():
        return Path(value)
    try:
        return Path.home() / default
    except RuntimeError as error:
        raise InvalidRequest(
            f"uid {os.getuid()} has no home directory: set COOK_JUPYTER_HOME to a directory of your own,"
            " or set HOME"
        ) from error
