"""Memory limits of the operating system, where it has any.

Lives here: control groups (version 2, memory).
Not here: measuring the memory of tasks, which works everywhere (`worker.running`, `worker.processes`).

With a control group the kernel itself kills processes that exceed the limit, after it has dropped cached
pages. In any case the agent measures the memory of each task, more often the closer it is to its limit.
Neither counts reserved address space, so there is no limit on that (RLIMIT_DATA, RLIMIT_AS): see decision 16.
"""

import contextlib
import os

CGROUP_ROOT = "/sys/fs/cgroup"
_HELD = ("anon", "shmem")  # fields of memory.stat with memory that the kernel cannot simply drop


class CgroupParent:
    """A control group in which this process may create groups, each with its memory limit."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @classmethod
    def find(cls, root: str = CGROUP_ROOT, own: str | None = None) -> "CgroupParent | None":
        """Return the nearest control group above this process where it may create groups with a memory limit.

        That is an ancestor that is writable and delegates the memory controller: that of a systemd service
        with `Delegate=yes`, or the user's own slice.

        Args:
            root: mount point of version 2.
            own: path of this process's group; read from the kernel if None.
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
        """Put a process in a new group of its own; return None if the kernel does not allow it."""
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
    """The control group of a worker and its descendants, with a common memory limit."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._kills_before = 0
        self._held_before_mb = 0.0

    def limit(self, mem_mb: float | None) -> None:
        """Allow `mem_mb` in addition to what is held now; None for no limit."""
        with contextlib.suppress(OSError):
            if mem_mb is None:
                _write(f"{self.path}/memory.max", "max")
                return
            current_bytes = int(_words(f"{self.path}/memory.current")[0])
            self._kills_before = self._kills()
            _write(f"{self.path}/memory.max", str(current_bytes + int(mem_mb * 2**20)))
            self._held_before_mb = self._held_mb()

    def held_mb(self) -> float | None:
        """Return the memory held in addition to that when the limit was set, in MiB; None if unknown.

        Like `processes.held_mb`, without pages of files.
        """
        try:
            return max(0.0, self._held_mb() - self._held_before_mb)
        except (OSError, ValueError):
            return None

    def killed(self) -> bool:
        """Return whether the kernel has killed a process of the group since the limit was set."""
        try:
            return self._kills() > self._kills_before
        except OSError:
            return False

    def remove(self) -> bool:
        """Kill what is left in the group, and remove it; return False if the kernel needs more time."""
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
        fields = _words(f"{self.path}/memory.stat")
        amounts = dict(zip(fields[::2], fields[1::2], strict=False))
        return sum(int(amounts.get(name, 0)) for name in _HELD) / 2**20

    def _kills(self) -> int:
        fields = _words(f"{self.path}/memory.events")
        return int(fields[fields.index("oom_kill") + 1]) if "oom_kill" in fields else 0


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
