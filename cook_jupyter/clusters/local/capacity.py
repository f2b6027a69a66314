"""The capacity of this machine: cpus, memory and ports.

Lives here: the resources that the system lets this process use, and the ports of tasks.
Not here: sums of resources (`clusters.room`), who gets what (`scheduling`), enforcing it (`worker`).
"""

import math
import os
import socket
import time
from collections.abc import Collection
from pathlib import Path

PORTS = (31000, 31999)  # below the ephemeral ports of Linux and macOS
_RESERVE_MB = 1024.0  # for the scheduler, the agent and the notebook itself ...
_RESERVE_PART = 0.1  # ... but at most this part of the machine
_BUSY_FOR_S = 60.0  # time for which a port that another process uses is not offered

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> float:
    """Return the number of cpus that this process may use, by its affinity and the quota of its container."""
    try:
        cpus = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        cpus = float(os.cpu_count() or 1)
    for numbers in (
        _words(cgroup / "cpu.max"),
        _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(cgroup / "cpu/cpu.cfs_period_us"),
    ):
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers) and int(numbers[1]):
            cpus = min(cpus, int(numbers[0]) / int(numbers[1]))
    return cpus


def usable_mem_mb(cgroup: Path = CGROUP) -> float:
    """Return the memory for tasks in MiB: that of the machine or container, without a reserve."""
    total_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        for limit in _words(cgroup / path):
            if limit.isdecimal():
                total_mb = min(total_mb, int(limit) / 2**20)
    return float(math.floor(total_mb - min(_RESERVE_MB, _RESERVE_PART * total_mb)))


class PortAllocator:
    """Assigns ports of a range to tasks.

    Args:
        first: first port.
        last: last port.
    """

    def __init__(self, first: int = PORTS[0], last: int = PORTS[1]) -> None:
        self._first, self._last = first, last
        self._taken: dict[str, tuple[int, ...]] = {}
        self._busy_until: dict[int, float] = {}  # ports of other processes

    def free(self) -> tuple[tuple[int, int], ...]:
        """Return the free ports as ranges, both ends included."""
        now = time.monotonic()
        self._busy_until = {port: until for port, until in self._busy_until.items() if until > now}
        used = sorted({port for ports in self._taken.values() for port in ports} | self._busy_until.keys())
        ranges = []
        start = self._first
        for port in used:
            if self._first <= port <= self._last:
                if port > start:
                    ranges.append((start, port - 1))
                start = port + 1
        if start <= self._last:
            ranges.append((start, self._last))
        return tuple(ranges)

    def acquire(self, instance_id: str, ports: Collection[int]) -> bool:
        """Assign given ports to a task; return False if another process listens on one of them."""
        busy = [port for port in ports if not _can_listen(port)]
        if busy:
            self._busy_until.update(dict.fromkeys(busy, time.monotonic() + _BUSY_FOR_S))
            return False
        self._taken[instance_id] = tuple(ports)
        return True

    def choose(self, instance_id: str, count: int) -> tuple[int, ...] | None:
        """Assign any free ports to a task; return None if there are too few."""
        chosen: list[int] = []
        for first, last in self.free():
            for port in range(first, last + 1):
                if len(chosen) == count:
                    break
                if _can_listen(port):
                    chosen.append(port)
        if len(chosen) < count:
            return None
        self._taken[instance_id] = tuple(chosen)
        return tuple(chosen)

    def restore(self, instance_id: str, ports: Collection[int]) -> None:
        """Record the ports of a task that runs already."""
        if ports:
            self._taken[instance_id] = tuple(ports)

    def release(self, instance_id: str) -> None:
        """Free the ports of a task, if it has any."""
        self._taken.pop(instance_id, None)


def _can_listen(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
