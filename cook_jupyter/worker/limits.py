"""Memory limits, where the system offers any.

Lives here: control groups (version 2, memory).
Not here: the watch over what tasks hold, which works everywhere (`worker.running`, `worker.processes`).

With a control group the kernel itself kills what exceeds its limit, after it has dropped the pages of files.
Everywhere the agent looks at what a task holds, as often as the room left requires. Neither counts what is
only reserved, so there is no limit on address space (RLIMIT_DATA, RLIMIT_AS): see decision 16.
"""

import contextlib
import os

CGROUP_ROOT = "/sys/fs/cgroup"
_HELD = ("anon", "shmem")  # of memory.stat; what the kernel cannot simply drop


class CgroupParent:
    """A place in the tree of control groups where we may put processes, each with its memory limit."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @classmethod
    def find(cls, root: str = CGROUP_ROOT, own: str | None = None) -> "CgroupParent | None":
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

    def admit(self, name: str, pid: int) -> "Cgroup | None":
        """Put a process in a new group of its own; None if the kernel does not let us."""
        path = f"{self._folder}/cook-{name}"
        try:
            os.mkdir(path)
            _write(f"{path}/cgroup.procs", str(pid))
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(path)
            return None
        return Cgroup(path)


class Cgroup:
    """One worker and all that comes of it, under a common memory limit."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._kills_before = 0
        self._held_before_mb = 0.0

    def limit(self, mem_mb: float | None) -> None:
        """Allow that much beyond what is held now; None for as much as there is."""
        with contextlib.suppress(OSError):
            if mem_mb is None:
                _write(f"{self.path}/memory.max", "max")
                return
            held = int(_words(f"{self.path}/memory.current")[0])
            self._kills_before = self._kills()
            _write(f"{self.path}/memory.max", str(held + int(mem_mb * 2**20)))
            self._held_before_mb = self._held_mb()

    def held_mb(self) -> float | None:
        """Return what is held beyond what was held when the limit was set, in MiB; None if it is not known.

        Like `processes.held_mb`, without the pages of files.
        """
        try:
            return max(0.0, self._held_mb() - self._held_before_mb)
        except (OSError, ValueError):
            return None

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

    def _held_mb(self) -> float:
        words = _words(f"{self.path}/memory.stat")
        amounts = dict(zip(words[::2], words[1::2], strict=False))
        return sum(int(amounts.get(name, 0)) for name in _HELD) / 2**20

    def _kills(self) -> int:
        words = _words(f"{self.path}/memory.events")
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


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
