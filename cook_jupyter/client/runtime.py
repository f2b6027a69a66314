"""The runtime file: the address of this user's embedded scheduler, and whether its process lives.

Lives here: reading `scheduler.json`, identifying the process that wrote it, and the proof that this process
is gone.
Not here: writing the file (the scheduler does, and restores it if it is missing), starting a scheduler
(`client.start`).

A client never deletes the file: a scheduler that refuses, is overloaded or is suspended still owns its home,
and a scheduler that replaces a dead one overwrites the file.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cook_jupyter.client.home import is_private_file
from cook_jupyter.errors import Forbidden

RUNTIME_FILE = "scheduler.json"
OWNER_LOCK = "scheduler.lock"  # held by a scheduler while it lives
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFile:
    """Facts that a living scheduler wrote about itself.

    Attributes:
        pid_started: start time of its process in ticks since boot; None where the system does not report it.
        boot_id: boot of the machine from which the ticks count.
        pid_namespace: inode of the namespace of `pid`; a container has its own.
        store: id of the scheduler's store.
        socket: Unix socket on which it also listens, for its owner only; empty for none.
        config: absolute path of the settings file that its command line names; empty for none.
    """

    url: str
    token: str
    pid: int
    pid_started: int | None = None
    boot_id: str | None = None
    pid_namespace: int | None = None
    version: str = ""
    home: str = ""
    store: str = ""
    socket: str = ""
    config: str = ""


@dataclass(frozen=True, slots=True)
class StaleRuntimeFile:
    """The runtime file of a scheduler whose process is gone.

    Attributes:
        why: completion of the sentence "the runtime file is stale: ...".
        pid: process that wrote it; None if the file cannot be read.
        config: settings file that the command line of that process named; empty for none.
    """

    why: str
    pid: int | None = None
    config: str = ""


def read_runtime(home: Path) -> RuntimeFile | StaleRuntimeFile | None:
    """Read the runtime file in `home`; return None if there is none.

    Raises:
        Forbidden: others may read or write it, so that its token proves nothing.
    """
    path = home / RUNTIME_FILE
    try:
        text = path.read_bytes()
        private = is_private_file(path)
    except FileNotFoundError:
        return None
    if not private:
        raise Forbidden(f"{path} contains a token and must be readable by you alone: chmod 600 {path}")
    try:
        runtime = msgspec.json.decode(text, type=RuntimeFile)
    except msgspec.DecodeError:
        return StaleRuntimeFile("it cannot be read")
    if is_gone(runtime, home):
        return StaleRuntimeFile(f"its scheduler, process {runtime.pid}, is gone", runtime.pid, runtime.config)
    return runtime


def is_gone(runtime: RuntimeFile, home: Path) -> bool:
    """Return whether the process that wrote the runtime file has provably ended.

    Its id and start time prove that if both are known and its namespace is that of this process. The lock of
    the home proves it everywhere: the kernel releases it when its holder ends, and not before.
    """
    if None not in (runtime.boot_id, boot_id()) and runtime.boot_id != boot_id():
        return True
    if runtime.pid_namespace in (None, pid_namespace()):
        if not is_alive(runtime.pid, runtime.pid_started):
            return True
        if runtime.pid_started is not None:
            return False
    return _is_lock_free(home)


def own_identity() -> Mapping[str, object]:
    """Return the fields of a runtime file that identify this process."""
    pid = os.getpid()
    return {
        "pid": pid,
        "pid_started": start_ticks(pid),
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
    }


def is_alive(pid: int, started: int | None) -> bool:
    """Return whether exactly this process lives, not another one with its id, nor a zombie.

    Args:
        pid: id of the process.
        started: start time in ticks since boot; None where the system does not report it.
    """
    if PROC.exists():
        status = _stat(pid)
        return status is not None and status[0] not in "ZX" and started in (None, status[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # it belongs to another user
    return True


def is_stopped(pid: int) -> bool:
    """Return whether a process is suspended by a signal or a debugger."""
    status = _stat(pid)
    return status is not None and status[0] in "Tt"


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process, in ticks since boot; None where the system does not report it."""
    status = _stat(pid)
    return None if status is None else status[1]


def boot_id() -> str | None:
    """Return the id of the machine's current boot; None where the system does not report it."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def pid_namespace() -> int | None:
    """Return the id of this process's pid namespace; None where there are none."""
    try:
        return (PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return None


def _is_lock_free(home: Path) -> bool:
    try:
        descriptor = os.open(home / OWNER_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # it was removed, which proves nothing
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state letter and start time of a process; None if it does not exist."""
    try:
        # The name may contain blanks and brackets; what follows the last bracket has a fixed order.
        fields = (PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])
