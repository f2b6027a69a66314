"""The processes of this host: identity, descendants, memory, signals.

Lives here: everything that is read from /proc or requested from the kernel about a process.
Not here: when that is done, and the consequences (`worker.supervisor`, `worker.runner`).

Process ids are reused, so an id together with the start time of its process identifies a process uniquely,
even across reboots. Linux is supported best; elsewhere (macOS) `ps` is used, and what only Linux offers is
omitted, as each function documents.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable
from operator import sub

LINUX = sys.platform.startswith("linux")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MAX_FILES = 8192
_SAME_PAGES = 256  # 1 MiB with pages of 4 KiB; the kernel's counters are that imprecise with many processors
_HELD = frozenset({b"RssAnon:", b"RssShmem:", b"VmSwap:", b"HugetlbPages:"})
_HELD_PROPORTIONAL = frozenset({b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"})


def process_identity(pid: int) -> str | None:
    """Return a text that identifies a process, unlike its id, uniquely for all time.

    Returns:
        None if the process does not exist or has ended, even if it has not been reaped yet.
    """
    if not LINUX:
        state, _, started = _run_ps("-o", "stat=,lstart=", "-p", str(pid)).decode().strip().partition(" ")
        return None if not state or state.startswith("Z") else started.strip()
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else f"{fields[19].decode()}@{_boot()}"


def is_alive(pid: int, identity: str) -> bool:
    """Return whether the process with this id and identity is still running."""
    return process_identity(pid) == identity


def signal_group(pid: int, number: int) -> bool:
    """Send a signal to the process group that `pid` leads or led.

    Returns:
        False if the group is empty.
    """
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS raises this for a group of zombies
        return False
    return True


def become_subreaper() -> bool:
    """Make this process the parent of orphaned descendants, so that none can escape.

    Returns:
        False where the system does not support it (macOS): there, a process that leaves its group escapes.
    """
    if not LINUX:
        return False
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; only on Linux.

    Args:
        parent: pid of the parent, which may already be gone.
    """
    if LINUX:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def raise_file_limit() -> None:
    """Let this process open as many files as the sockets of its workers need, if the system allows it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft < limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class ProcessTree:
    """Parents and children at one moment. Creation is cheap; a query may read all of /proc, but only once."""

    def __init__(self) -> None:
        self._children: dict[int, list[int]] | None = None

    def children_of(self, pid: int) -> list[int]:
        """Return the children of a process, zombies included."""
        if LINUX and _KERNEL_LISTS_CHILDREN:
            return _listed_children(pid)
        if self._children is None:
            self._children = _all_children()
        return self._children.get(pid, [])

    def below(self, pid: int) -> list[int]:
        """Return all descendants of a process, nearest first."""
        descendants = list(self.children_of(pid))
        for child in descendants:
            descendants += self.children_of(child)
        return descendants


def has_children() -> bool:
    """Reap the dead children of this process; return whether any live."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def reap_children(*, but: Collection[int]) -> None:
    """Reap dead children of this process.

    Args:
        but: children whose exit code someone else will ask for.
    """
    for child in ProcessTree().children_of(os.getpid()):
        if child not in but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def kill_below(*, spare: Collection[int] = ()) -> bool:
    """Send SIGKILL to all descendants of this process.

    Args:
        spare: children that are not killed, with all their descendants.

    Returns:
        Whether there was anything to kill. On Linux, orphans of the victims become children of this process
        only when the victims are dead.
    """
    family = ProcessTree()
    victims = [child for child in family.children_of(os.getpid()) if child not in spare]
    for victim in victims:
        for pid in (victim, *family.below(victim)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    return bool(victims)


def end_descendants(*, within_s: float = 2.0) -> bool:
    """Kill and reap all descendants of this process, including orphans that a subreaper gets meanwhile.

    Args:
        within_s: time after which to give up on processes that the kernel does not end.

    Returns:
        Whether no descendant is left.
    """
    deadline = time.monotonic() + within_s
    pause_s = 0.0005
    while has_children():
        kill_below()
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)  # until the kernel has ended them; there is no event for "all of them"
        pause_s = min(2 * pause_s, 0.05)
    return True


def held_mb(pids: Iterable[int]) -> float:
    """Return the memory of processes that the kernel cannot simply drop, in MiB; 0 except on Linux.

    That is anonymous and shared memory, in RAM or swapped out. It does not include pages of mapped files,
    which can be read again, nor merely reserved memory, like the stacks of threads. Memory that the processes
    share counts for each of them.
    """
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            kib += _sum_kib(_read(f"/proc/{pid}/status"), _HELD)
    return kib / 1024


def proportional_mb(pids: Iterable[int]) -> float:
    """Return the memory of processes in MiB, with shared memory divided among its users: exact but slow."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = _read(f"/proc/{pid}/smaps_rollup")
            # Before 5.3, Linux has only the sum, including mapped files.
            kib += _sum_kib(rollup, _HELD_PROPORTIONAL if b"Pss_Anon:" in rollup else (b"Pss:",))
    return kib / 1024


def own_held_mb() -> float:
    """Return the memory that this process holds; see `held_mb`. Except on Linux, its peak resident memory."""
    return held_mb([os.getpid()]) if LINUX else peak_mb()


class OwnMemory:
    """Measures the memory of this process frequently, by reading the kernel's long table only after a change.

    Reading that takes twenty microseconds, but the counts of mapped, resident and shared pages only two.
    While none of them has changed by `_SAME_PAGES`, the last result is returned.
    """

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC) if LINUX else -1
        self._pages: list[int] = []  # mapped, resident and shared, when the table was last read
        self._held_mb = 0.0

    def held_mb(self) -> float:
        """Return the memory of this process that the kernel cannot simply drop, in MiB; see `held_mb`.

        Raises:
            OSError: the kernel does not report it.
        """
        if not LINUX:
            return own_held_mb()
        pages = list(map(int, os.pread(self._statm, 256, 0).split()[:3]))
        if not self._pages or max(map(abs, map(sub, pages, self._pages))) >= _SAME_PAGES:
            self._held_mb = own_held_mb()
            self._pages = pages
        return self._held_mb


def own_resident_mb() -> float:
    """Return the resident memory of this process, including mapped files; except on Linux, its peak."""
    return int(_read("/proc/self/statm").split()[1]) * PAGE_MB if LINUX else peak_mb()


def reset_peak() -> None:
    """Reset `peak_mb`, where the system supports it."""
    if LINUX:
        with contextlib.suppress(OSError):
            descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"5")
            finally:
                os.close(descriptor)


def peak_mb(*, of_children: bool = False) -> float:
    """Return the peak resident memory of this process, or of the largest of its reaped children, in MiB.

    Mapped files are included, because the kernel keeps no other peak of a process.
    """
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return used / 1024 if LINUX else used / 2**20


def _sum_kib(text: bytes, names: Iterable[bytes]) -> int:
    """Return the sum of lines like `Name:   12 kB`, quickly, as this runs for each call."""
    total = 0
    for name in names:
        start = text.find(b"\n" + name)
        if start >= 0:
            total += int(text[start + len(name) + 1 : text.index(b"kB", start)])
    return total


def _stat(pid: int) -> list[bytes] | None:
    """Return the status of a process from /proc, from its state letter on: its name may contain blanks."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None


def _listed_children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return children
    for thread in threads:  # a child belongs to the thread that created it
        with contextlib.suppress(OSError):
            children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return children


def _all_children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    if not LINUX:
        for line in _run_ps("-axo", "pid=,ppid=").splitlines():
            pid, parent = map(int, line.split())
            children.setdefault(parent, []).append(pid)
        return children
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat(int(name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


def _run_ps(*words: str) -> bytes:
    """Return the output of ps, where there is no /proc."""
    import subprocess  # a tenth of the agent's start, and not needed on Linux

    return subprocess.run(["/bin/ps", *words], capture_output=True, check=False).stdout


def _read(path: str) -> bytes:
    """Read a small file of /proc, in half the time of `open().read()`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


def _boot() -> str:
    """Return the id of the current boot of the machine."""
    global _boot_id  # noqa: PLW0603 - read once, as it cannot change
    if _boot_id is None:
        try:
            _boot_id = _read("/proc/sys/kernel/random/boot_id")[:8].decode()
        except OSError:
            _boot_id = ""
    return _boot_id


_boot_id: str | None = None
_KERNEL_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
