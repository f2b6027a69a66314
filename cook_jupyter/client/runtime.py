"""The runtime file: where this user's embedded scheduler listens, and whether it still lives.

Lives here: reading `scheduler.json` and telling a living scheduler from the trace of a dead one.
Not here: writing it (the scheduler does, when it listens), starting one (`client.start`).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cook_jupyter.client.home import is_private_file
from cook_jupyter.errors import Forbidden

RUNTIME_FILE = "scheduler.json"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a scheduler wrote about itself. `pid_started` is when its process began, in ticks since boot."""

    url: str
    token: str
    pid: int
    pid_started: int | None = None
    version: str = ""
    home: str = ""


@dataclass(frozen=True, slots=True)
class Stale:
    """The trace of a scheduler that is gone; `why` ends the sentence "the runtime file is stale: ..."."""

    why: str


def read_runtime(home: Path) -> Runtime | Stale | None:
    """What the runtime file in `home` says; None if there is none.

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
        raise Forbidden(f"{path} holds a token and must be readable by you alone: chmod 600 {path}")
    try:
        found = msgspec.json.decode(text, type=Runtime)
    except msgspec.DecodeError:
        return Stale("it cannot be read")
    if not is_alive(found.pid, found.pid_started):
        return Stale(f"its scheduler, process {found.pid}, is gone")
    return found


def is_alive(pid: int, started: int | None) -> bool:
    """Whether that very process lives: not another one that was given its number, and not a zombie.

    Args:
        pid: its number.
        started: its start time in ticks since boot; None where the system does not say.
    """
    if PROC.exists():
        found = _stat(pid)
        return found is not None and found[0] not in "ZX" and started in (None, found[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # it is another user's, so it is not ours
    return True


def start_ticks(pid: int) -> int | None:
    """When a process began, in ticks since boot; None where the system does not say."""
    found = _stat(pid)
    return None if found is None else found[1]


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process; None if it is not there."""
    try:
        # The name may hold blanks and brackets; what follows the last bracket has a fixed order.
        fields = (PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])
