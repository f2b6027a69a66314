"""The home directory of an embedded scheduler.

Lives here: `Home`, the paths of the files in it. Not here: the settings (`service.settings.schema`).
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
MAX_SOCKET_PATH_BYTES = 100  # Linux takes 107, macOS 103


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The directory that holds all state of an embedded scheduler; 0700, one Unix user's."""

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """Return the home named by COOK_JUPYTER_HOME, else the one below XDG_STATE_HOME."""
        named = os.environ.get(HOME_VARIABLE)
        if named:
            return cls(root=Path(named).expanduser().absolute())
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return cls(root=Path(state).expanduser().absolute() / "cook_jupyter")

    def make(self) -> None:
        """Create the directories, closed to others.

        Raises:
            InvalidRequest: the home belongs to somebody else.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.root.stat()
        if found.st_uid != os.getuid():
            raise InvalidRequest(
                f"the home {self.root} belongs to uid {found.st_uid}, not to you (uid {os.getuid()}):"
                f" set {HOME_VARIABLE} to a directory of your own"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.root.chmod(0o700)
        for directory in (self.blobs, self.keys, self.agent, self.logs):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def runtime_file(self) -> Path:
        """Where the running scheduler says how to reach it."""
        return self.root / "scheduler.json"

    def owner_socket(self) -> Path | None:
        """Return where the scheduler listens for its owner alone; None if no short path can be had.

        The path of a Unix socket has about a hundred bytes. Where the home's is longer, the socket lies in a
        folder for temporary files that the owner alone can open.
        """
        path = self.root / OWNER_SOCKET
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"cook_jupyter-{os.getuid()}-{digest}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            return None
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        path = folder / OWNER_SOCKET
        if not is_own or found.st_mode & 0o077 or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            return None  # somebody else was there first
        return path

    @property
    def lock_file(self) -> Path:
        """Held by the running scheduler for as long as it lives."""
        return self.root / "scheduler.lock"

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.root / "store.sqlite"

    @property
    def blobs(self) -> Path:
        """Where large payloads rest."""
        return self.root / "blobs"

    @property
    def keys(self) -> Path:
        """Where users' signing keys rest."""
        return self.root / "keys"

    @property
    def instance_key(self) -> Path:
        """The key of the secrets by which instances report their progress."""
        return self.root / "instance.key"

    @property
    def agent(self) -> Path:
        """The node agent's own directory."""
        return self.root / "agent"

    @property
    def scheduler_log(self) -> Path:
        """Where a scheduler without a terminal writes."""
        return self.logs / "scheduler.log"

    @property
    def logs(self) -> Path:
        """Where processes without a terminal write."""
        return self.root / "log"
