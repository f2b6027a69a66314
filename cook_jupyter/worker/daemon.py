"""Starting the node agent as a process of its own: one per home, whoever starts it and how often.

Lives here: the lock, the socket, letting go of whoever started it.
Not here: what the agent does (`worker.agent`), who starts it (`clusters.local`).
"""

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import sys

from cook_jupyter.worker import processes
from cook_jupyter.worker.address import FAILED, READY, SECRET, SOCKET, TAKEN, VERSION
from cook_jupyter.worker.agent import JOURNAL, Agent, Settings
from cook_jupyter.worker.sandbox import FOLDER

FACTS = "agent.json"
_LOCK = "agent.lock"
_MOST_FILES = 8192


def run_agent(settings: Settings) -> int:
    """Be the agent of a home until it is done; return an exit code."""
    listener = _prepare(settings)
    if listener is None:
        return TAKEN
    _serve(settings, listener, ready=None)
    return READY


def start_agent(settings: Settings, log: str) -> int:
    """Leave an agent running, in a session of its own; return when it can be spoken to.

    Args:
        settings: how it behaves.
        log: where its stdout and stderr go.

    Returns:
        READY, TAKEN or FAILED: the log says why.
    """
    log = os.path.abspath(log)  # the agent changes its directory
    heard, said = os.pipe()
    if os.fork():
        os.close(said)
        word = os.read(heard, 16)
        return int(word) if word else FAILED
    os.close(heard)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, of in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, of)
    listener = _prepare(settings)
    if listener is None:
        os.write(said, str(TAKEN).encode())
        return TAKEN
    _serve(settings, listener, ready=said, log=log)
    return READY


def _prepare(settings: Settings) -> socket.socket | None:
    """The listening socket of a home that is ours alone now; None if it is another agent's."""
    home = settings.home
    for folder in (home, f"{home}/{JOURNAL}", f"{home}/{FOLDER}"):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chdir(home)  # a socket's path must be short, and a home may be deep
    lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    os.chmod(SOCKET, 0o600)
    listener.listen(8)
    return listener


def _serve(settings: Settings, listener: socket.socket, ready: int | None, log: str | None = None) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)  # not SIG_IGN: our children would inherit that
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    agent = Agent(settings, listener, _secret(), log)
    facts = {"pid": os.getpid(), "mark": processes.start_mark(os.getpid()), "version": VERSION}
    with open(FACTS, "w", encoding="utf-8") as file:
        json.dump({**facts, "python": sys.executable}, file)
    if ready is not None:
        with contextlib.suppress(BrokenPipeError):  # whoever started us is gone; others will come
            os.write(ready, str(READY).encode())
        os.close(ready)
    agent.run()
    for name in (SOCKET, FACTS):  # the lock is still ours, so they are too
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _secret() -> str:
    """Return the secret of the home, which is the working directory; a new one if none there is private."""
    with contextlib.suppress(FileNotFoundError), open(SECRET, encoding="ascii", errors="replace") as file:
        if len(secret := file.read().strip()) >= 32 and os.fstat(file.fileno()).st_mode & 0o077 == 0:
            return secret
    secret = os.urandom(32).hex()
    write_secret(secret)
    return secret


def write_secret(secret: str) -> None:
    """Write the secret to its file, whole or not at all."""
    draft = f"{SECRET}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    with open(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="ascii"
    ) as file:
        file.write(secret)
    os.rename(draft, SECRET)
