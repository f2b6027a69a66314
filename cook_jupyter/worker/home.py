"""The home directory of a node agent: its lock, its socket and the files by which it is found.

Lives here: `AgentHome`, which creates them, and restores them if they are removed while the agent runs.
Not here: the journals (`worker.journal`), sandboxes (`worker.sandbox`), when the home is checked (the agent).

An agent whose socket was removed cannot be reached, but its lock keeps other agents out; if its lock was
removed, a second agent may start. So whatever is missing is restored, and reported. If the path of the home
belongs to another agent by then, this one has to exit.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys

from cook_jupyter.worker import processes
from cook_jupyter.worker.address import LOCK, SECRET, SOCKET, VERSION
from cook_jupyter.worker.sandbox import FOLDER

JOURNAL = "journal"
FACTS = "agent.json"


class HomeTaken(Exception):
    """Another agent holds the home directory."""


class HomeRemoved(Exception):
    """The home was removed together with its parent directory, so that it cannot be restored."""


class AgentHome:
    """The locked home directory of an agent, which becomes the working directory of the process.

    Args:
        path: path of the directory, which is created if needed.

    Raises:
        HomeTaken: another agent holds it.
        OSError: the directory cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        for folder in (path, f"{path}/{JOURNAL}", f"{path}/{FOLDER}"):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.chdir(path)  # the path of a socket must be short, but that of a home may be long
        self._lock = _take_lock()
        if _is_socket_used():  # by an agent whose lock was removed
            os.unlink(LOCK)
            os.close(self._lock)
            raise HomeTaken
        self.listener = _listen()
        self._socket_id = _identity(SOCKET)
        self.secret = _stored_secret() or os.urandom(32).hex()
        self._write_secret()

    def write_facts(self) -> None:
        """Write which process this is, for users and for the next agent."""
        facts = {"pid": os.getpid(), "mark": processes.process_identity(os.getpid()), "version": VERSION}
        with open(FACTS, "w", encoding="utf-8") as file:
            json.dump({**facts, "python": sys.executable}, file)

    def exists(self) -> bool:
        """Return whether the directory is still at its path."""
        return _is_same(self.path, ".")

    def is_moved(self) -> bool:
        """Return whether the directory is no longer at its path but still exists."""
        return os.stat(".").st_nlink > 0

    def restore(self) -> list[str]:
        """Restore whatever is missing.

        Returns:
            The paths that were missing. If SOCKET is among them, `listener` is new.

        Raises:
            HomeTaken: another agent holds the home now.
            HomeRemoved: the parent directory was removed, too.
            OSError: something cannot be created, for instance on a full disk; the next call tries again.
        """
        restored = []
        if not self.exists():
            if not os.path.isdir(os.path.dirname(self.path)):
                raise HomeRemoved
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            os.chdir(self.path)
            restored.append(self.path)
        if not self._holds_lock():
            try:
                lock = _take_lock()
            except HomeTaken:
                if _identity(SOCKET) == self._socket_id:  # a new agent, which will find this socket used
                    return restored
                raise
            os.close(self._lock)
            self._lock = lock
            restored.append(LOCK)
        for folder in (JOURNAL, FOLDER):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                restored.append(folder)
        if _identity(SOCKET) != self._socket_id:
            listener = _listen()
            self.listener.close()
            self.listener = listener
            self._socket_id = _identity(SOCKET)
            restored.append(SOCKET)
        if _stored_secret() != self.secret:
            self._write_secret()
            restored.append(SECRET)
        if not os.path.exists(FACTS):
            self.write_facts()
            restored.append(FACTS)
        return restored

    def leave(self) -> None:
        """Remove the files that lead to this process, unless the home belongs to another agent by now.

        The socket decides that, because the lock may have been removed since the last check.
        """
        if not self.exists() or _identity(SOCKET) != self._socket_id:
            return
        for name in (SOCKET, FACTS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _holds_lock(self) -> bool:
        """Return whether this process holds the lock that another agent would try to take."""
        return _is_same(LOCK, self._lock)

    def _write_secret(self) -> None:
        """Write the secret to its file atomically."""
        temporary = f"{SECRET}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(self.secret)
        os.rename(temporary, SECRET)


def _take_lock() -> int:
    """Lock the working directory; return the descriptor of the lock, which is held until it is closed."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise HomeTaken from None
    return lock


def _is_socket_used() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(SOCKET)
        except BlockingIOError:  # its process is busy, or stopped
            return True
        except OSError:
            return False
    return True


def _listen() -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    os.chmod(SOCKET, 0o600)
    listener.listen(8)
    listener.setblocking(False)
    return listener


def _stored_secret() -> str | None:
    """Return the secret in the working directory; None if there is no private file with one."""
    try:
        with open(SECRET, encoding="ascii", errors="replace") as file:
            secret = file.read(1024).strip()
            is_private = os.fstat(file.fileno()).st_mode & 0o077 == 0
    except OSError:
        return None
    return secret if is_private and len(secret) >= 32 else None


def _is_same(file: str, other: str | int) -> bool:
    """Return whether both exist and are the same file."""
    identity = _identity(file)
    return identity is not None and identity == _identity(other)


def _identity(file: str | int) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if it does not exist or has no links."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_nlink else None
