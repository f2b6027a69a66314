"""Memory limits, where the system offers any.

Lives here: control groups (version 2, memory), and the soft limit on a call's own data.
Not here: the watch over resident memory that everything else rests on (`worker.agent`).

Three nets, the finest first. With a control group the kernel itself kills what exceeds its limit. A call in
a warm worker also runs under RLIMIT_DATA, so that one absurd allocation ends in Python's MemoryError, with a
traceback, and not in a kill. And the agent looks at resident memory, as often as the room left requires.
"""

import contextlib
import os
from collections.abc import Iterator

from cook_jupyter.worker import processes

CGROUP_ROOT = "/sys/fs/cgroup"
# What the soft limit counts is address space: thread stacks and the pools of numerical libraries come to a
# few hundred MiB that nobody ever touches. Without this much more, honest small jobs would fail.
DATA_SLACK_MB = 512


class MemoryGroups:
    """A place in the tree of control groups where we may put processes, each with its memory limit."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @classmethod
    def find(cls, root: str = CGROUP_ROOT, own: str | None = None) -> "MemoryGroups | None":
        """Return the nearest place above this process where we may make groups with a memory limit.

        That is an ancestor which is ours to write and hands the memory controller down: the folder of a
        systemd service with `Delegate=yes`, or the user's own slice.

        Args:
            root: where version 2 is mounted.
            own: this process's group; read from the kernel if None.
        """
        if own is None:
            own = _own_group()
        if own is None:
            return None
        folder = root + own.rstrip("/")
        while len(folder) > len(root):
            if os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK):
                with contextlib.suppress(OSError):
                    if "memory" in _words(f"{folder}/cgroup.subtree_control"):
                        return cls(folder)
            folder = os.path.dirname(folder)
        return None

    def admit(self, name: str, pid: int) -> "MemoryGroup | None":
        """Put a process in a new group of its own; None if the kernel does not let us."""
        path = f"{self._folder}/cook-{name}"
        try:
            os.mkdir(path)
            _write(f"{path}/cgroup.procs", str(pid))
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(path)
            return None
        return MemoryGroup(path)


class MemoryGroup:
    """One worker and all that comes of it, under a common memory limit."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._kills_before = 0

    def limit(self, mem_mb: float | None) -> None:
        """Allow that much beyond what is held now; None for as much as there is."""
        with contextlib.suppress(OSError):
            if mem_mb is None:
                _write(f"{self.path}/memory.max", "max")
                return
            held = int(_words(f"{self.path}/memory.current")[0])
            self._kills_before = self._kills()
            _write(f"{self.path}/memory.max", str(held + int(mem_mb * 2**20)))

    def killed(self) -> bool:
        """Tell whether the kernel has killed something here since the limit was set."""
        try:
            return self._kills() > self._kills_before
        except OSError:
            return False

    def remove(self) -> bool:
        """End whatever is left in the group, and the group; False if the kernel still needs a moment."""
        with contextlib.suppress(OSError):
            _write(f"{self.path}/cgroup.kill", "1")
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _kills(self) -> int:
        words = _words(f"{self.path}/memory.events")
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


@contextlib.contextmanager
def data_limit(mem_mb: float) -> Iterator[None]:
    """Let this process allocate so much more private memory than it has now; off Linux, no limit.

    Beyond it malloc fails and Python raises MemoryError. Processes started inside inherit the limit.
    """
    if not processes.LINUX or mem_mb <= 0:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = processes.own_memory()[1] + int((mem_mb + DATA_SLACK_MB) * 2**20)
    hard = before[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):  # the task may have lowered the hard limit itself
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _own_group() -> str | None:
    try:
        lines = _words("/proc/self/cgroup", separator="\n")
    except OSError:
        return None
    return next((line[3:] for line in lines if line.startswith("0::")), None)


def _words(path: str, separator: str | None = None) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.read().split(separator)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
