"""The home directory of an embedded scheduler.

Lives here: `Home`, which has the paths of everything in it. Not here: settings (`service.settings.schema`).
"""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cook_jupyter.errors import InvalidRequest

HOME_VARIABLE = "COOK_JUPYTER_HOME"
OWNER_SOCKET = "scheduler.sock"
MAX_SOCKET_PATH_BYTES = 100  # the limit is 107 on Linux and 103 on macOS


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The directory with all state of an embedded scheduler. It belongs to one Unix user, with mode 0700.

    Attributes:
        root: absolute path of the directory.
    """

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """Return the directory that COOK_JUPYTER_HOME names, or else the one below XDG_STATE_HOME."""
        home_path = os.environ.get(HOME_VARIABLE)
        if home_path:
            return cls(root=Path(home_path).expanduser().absolute())
        state_path = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return cls(root=Path(state_path).expanduser().absolute() / "cook_jupyter")

    def make(self) -> None:
        """Create the directories that are missing, and deny other users access.

        Raises:
            InvalidRequest: the directory belongs to another user.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.root.stat()
        if status.st_uid != os.getuid():
            raise InvalidRequest(
                f"the home {self.root} belongs to uid {status.st_uid}, not to you (uid {os.getuid()}):"
                f" set {HOME_VARIABLE} to a directory of your own"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.root.chmod(0o700)
        for directory in (self.blobs, self.keys, self.agent, self.logs):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def runtime_file(self) -> Path:
        """The file with the address and the token of the running scheduler."""
        return self.root / "scheduler.json"

    def owner_socket(self) -> Path | None:
        """Return the path of the Unix socket for the owner; None if there is no path that is short enough.

        The path of a Unix socket has at most about a hundred bytes. If the home directory has a longer path,
        the socket is in a directory for temporary files that only the owner can open.
        """
        path = self.root / OWNER_SOCKET
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"cook_jupyter-{os.getuid()}-{digest}"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            status = directory.lstat()
        except OSError:
            return None
        is_private = (
            stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
        )
        path = directory / OWNER_SOCKET
        if not is_private or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            return None  # another user may have created the directory
        return path

    @property
    def lock_file(self) -> Path:
        """The file whose lock the running scheduler holds."""
        return self.root / "scheduler.lock"

    @property
    def store(self) -> Path:
        """The database of the store."""
        return self.root / "store.sqlite"

    @property
    def blobs(self) -> Path:
        """The directory of large payloads."""
        return self.root / "blobs"

    @property
    def keys(self) -> Path:
        """The directory of the users' signing keys."""
        return self.root / "keys"

    @property
    def instance_key(self) -> Path:
        """The key of the secrets with which instances report their progress."""
        return self.root / "instance.key"

    @property
    def agent(self) -> Path:
        """The directory of the node agent."""
        return self.root / "agent"

    @property
    def scheduler_log(self) -> Path:
        """The log of a scheduler that was started without a terminal."""
        return self.logs / "scheduler.log"

    @property
    def logs(self) -> Path:
        """The directory of logs of processes without a terminal."""
        return self.root / "log"
