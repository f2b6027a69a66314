"""The folder of a node agent: the lock, the socket and the files by which it holds its home and is found.

Lives here: `AgentHome`, which makes them, and makes again what somebody removed while the agent runs.
Not here: what the journals hold (`worker.journal`), sandboxes (`worker.sandbox`), when it looks (the agent).

A living agent whose socket was removed is reached by nobody, and its lock keeps every other agent out; one
whose lock was removed may soon be one of two. So whatever is missing is made again, and what that comes to is
said. What the folder's name leads to decides: if that is another agent's by now, this one has to go.
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
    """Another agent holds the home."""


class HomeRemoved(Exception):
    """The home was removed with the folder that it lay in: there is no place to make it again."""


class AgentHome:
    """The home of one agent, which holds its lock. It is the working directory of the process.

    Args:
        path: the folder; made if it is missing.

    Raises:
        HomeTaken: another agent lives there.
        OSError: the folder cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        for folder in (path, f"{path}/{JOURNAL}", f"{path}/{FOLDER}"):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.chdir(path)  # a socket's path must be short, and a home may be deep
        self._lock = _take_lock()
        if _somebody_listens():  # whose lock was removed
            os.unlink(LOCK)
            os.close(self._lock)
            raise HomeTaken
        self.listener = _listen()
        self._socket_id = _identity(SOCKET)
        self.secret = _stored_secret() or os.urandom(32).hex()
        self._write_secret()

    def write_facts(self) -> None:
        """Write down which process this is, for people and for the next agent."""
        facts = {"pid": os.getpid(), "mark": processes.process_identity(os.getpid()), "version": VERSION}
        with open(FACTS, "w", encoding="utf-8") as file:
            json.dump({**facts, "python": sys.executable}, file)

    def exists(self) -> bool:
        """Return whether the folder is still in its place."""
        return _is_same(self.path, ".")

    def is_moved(self) -> bool:
        """Return whether the folder is gone from its place, but not from the disk."""
        return os.stat(".").st_nlink > 0

    def restore(self) -> list[str]:
        """Make again whatever is missing.

        Returns:
            What was missing. With SOCKET among it, `listener` is a new one.

        Raises:
            HomeTaken: another agent holds the home now.
            HomeRemoved: the folder above was removed, too.
            OSError: something cannot be made, as on a full disk; the next call tries again.
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
                if _identity(SOCKET) == self._socket_id:  # it has just come, and will find that we listen
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
        """Remove what leads to this process; if the home is another agent's by now, nothing.

        Whose it is, the socket tells: the lock may be missing, removed by somebody since the last look.
        """
        if not self.exists() or _identity(SOCKET) != self._socket_id:
            return
        for name in (SOCKET, FACTS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _holds_lock(self) -> bool:
        """Return whether our lock is the one that another agent would try to take."""
        return _is_same(LOCK, self._lock)

    def _write_secret(self) -> None:
        """Write the secret to its file, whole or not at all."""
        draft = f"{SECRET}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(self.secret)
        os.rename(draft, SECRET)


def _take_lock() -> int:
    """Return the descriptor of the lock in the working directory; it is held until that is closed."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise HomeTaken from None
    return lock


def _somebody_listens() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(SOCKET)
        except BlockingIOError:  # it is busy, or stopped
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
    """The secret in the working directory; None if there is none that is private."""
    try:
        with open(SECRET, encoding="ascii", errors="replace") as file:
            secret = file.read(1024).strip()
            is_private = os.fstat(file.fileno()).st_mode & 0o077 == 0
    except OSError:
        return None
    return secret if is_private and len(secret) >= 32 else None


def _is_same(file: str, other: str | int) -> bool:
    """Return whether both are there, and are the same file."""
    found = _identity(file)
    return found is not None and found == _identity(other)


def _identity(file: str | int) -> tuple[int, int] | None:
    """What tells a file from any other on this machine; None if it is not there, or linked to nowhere."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_nlink else None
