"""The processes of this host: who they are, whose children, how much memory, and how they are ended.

Lives here: all that is read from /proc or asked of the kernel about a process.
Not here: when to look and what follows (`worker.supervisor`, `worker.runner`).

A process id alone says little, for it is used again: with the mark of its start it names one
process for as long as the machine is up, and after. Linux first; elsewhere (macOS) `ps` is asked,
and the things that only Linux offers are left out, as each function says.
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
_PR_SET_CHILD_SUBREAPER = 36
_SAME_PAGES = 256  # 1 MiB with the usual pages; the kernel's counts are that coarse with many processors
_HELD = frozenset({b"RssAnon:", b"RssShmem:", b"VmSwap:", b"HugetlbPages:"})
_HELD_PROPORTIONAL = frozenset({b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"})


def process_identity(pid: int) -> str | None:
    """Return what tells this process from any other that had or will have its id.

    Returns:
        None if there is no such process, or it is a zombie: it has ended and waits to be reaped.
    """
    if not LINUX:
        state, _, started = _ps("-o", "stat=,lstart=", "-p", str(pid)).decode().strip().partition(" ")
        return None if not state or state.startswith("Z") else started.strip()
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else f"{fields[19].decode()}@{_boot()}"


def is_alive(pid: int, mark: str) -> bool:
    """Tell whether the process that had this mark still runs."""
    return process_identity(pid) == mark


def signal_group(pid: int, number: int) -> bool:
    """Send a signal to the process group that `pid` leads or led.

    Returns:
        False if nobody is left in it.
    """
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def become_subreaper() -> bool:
    """Make orphans below this process its own children, so that none of them can hide.

    Returns:
        False where the system has no such thing (macOS): there, a process that leaves its group escapes.
    """
    if not LINUX:
        return False
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class ProcessTree:
    """Who is whose child at one moment. Making one is cheap; asking may read all of /proc, once."""

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
        """Return all descendants of a process, those nearer to it first."""
        found = list(self.children_of(pid))
        for child in found:
            found += self.children_of(child)
        return found


def has_children() -> bool:
    """Reap those children of this process that are dead; tell whether any live."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def kill_below(*, spare: Collection[int] = ()) -> bool:
    """Send SIGKILL to everything below this process.

    Args:
        spare: children that go on, with all that is below them.

    Returns:
        Whether there was anything to kill. What those leave becomes ours only when they are dead (Linux).
    """
    family = ProcessTree()
    victims = [child for child in family.children_of(os.getpid()) if child not in spare]
    for victim in victims:
        for pid in (victim, *family.below(victim)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    return bool(victims)


def end_descendants(*, within_s: float = 2.0) -> bool:
    """Kill everything below this process and reap it; orphans come to a subreaper as they arise.

    Args:
        within_s: when to give up on processes that the kernel will not let go.

    Returns:
        Whether nothing is left.
    """
    deadline = time.monotonic() + within_s
    pause_s = 0.0005
    while has_children():
        kill_below()
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)  # for the kernel to take them down; there is no event for "all of them"
        pause_s = min(2 * pause_s, 0.05)
    return True


def held_mb(pids: Iterable[int]) -> float:
    """Return the memory of processes that the kernel cannot simply drop, in MiB. 0 off Linux.

    That is anonymous and shared memory, in RAM or swapped out. Pages of mapped files are not in it, which are
    read again when they are needed, nor what is only reserved, like the stacks of threads. What the processes
    share counts for each.
    """
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            kib += _sum_kib(_read(f"/proc/{pid}/status"), _HELD)
    return kib / 1024


def proportional_mb(pids: Iterable[int]) -> float:
    """Return the same memory, what processes share divided among its users: exact and slow; MiB."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = _read(f"/proc/{pid}/smaps_rollup")
            # Linux before 5.3 knows only the sum, mapped files included
            kib += _sum_kib(rollup, _HELD_PROPORTIONAL if b"Pss_Anon:" in rollup else (b"Pss:",))
    return kib / 1024


def own_held_mb() -> float:
    """Return what this process holds; see `held_mb`. Off Linux, the most that it ever had resident."""
    return held_mb([os.getpid()]) if LINUX else peak_mb()


class OwnMemory:
    """What this process holds, for one who asks often: the kernel's long table is read on a change alone.

    Reading it costs twenty microseconds, the counts of mapped, resident and shared pages two. While none of
    them has moved by as much as `_SAME_PAGES`, the last answer stands.
    """

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC) if LINUX else -1
        self._pages: list[int] = []  # mapped, resident, shared, as they were when the table was last read
        self._held_mb = 0.0

    def held_mb(self) -> float:
        """Return the memory that the kernel cannot simply drop, in MiB; see `held_mb`.

        Raises:
            OSError: the kernel does not say.
        """
        if not LINUX:
            return own_held_mb()
        pages = list(map(int, os.pread(self._statm, 256, 0).split()[:3]))
        if not self._pages or max(map(abs, map(sub, pages, self._pages))) >= _SAME_PAGES:
            self._held_mb = own_held_mb()
            self._pages = pages
        return self._held_mb


def own_resident_mb() -> float:
    """Return the resident memory of this process, mapped files included; off Linux, the most it ever had."""
    return int(_read("/proc/self/statm").split()[1]) * PAGE_MB if LINUX else peak_mb()


def forget_peak() -> None:
    """Let `peak_mb` begin anew. Nothing happens where the system cannot."""
    if LINUX:
        with contextlib.suppress(OSError):
            descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"5")
            finally:
                os.close(descriptor)


def peak_mb(*, of_children: bool = False) -> float:
    """Return the most memory this process, or the greatest of its reaped children, ever had resident; in MiB.

    Mapped files are in it: the kernel keeps no other peak of a process.
    """
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return used / 1024 if LINUX else used / 2**20


def _sum_kib(text: bytes, names: Iterable[bytes]) -> int:
    """The sum of some lines of the form `Name:   12 kB`; workers ask after each call, so no line is split."""
    total = 0
    for name in names:
        start = text.find(b"\n" + name)
        if start >= 0:
            total += int(text[start + len(name) + 1 : text.index(b"kB", start)])
    return total


def _stat(pid: int) -> list[bytes] | None:
    """What /proc says of a process, from its state letter on: its name may hold blanks and brackets."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:  # a child belongs to the thread that made it
        with contextlib.suppress(OSError):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def _all_children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    if not LINUX:
        for line in _ps("-axo", "pid=,ppid=").splitlines():
            pid, parent = map(int, line.split())
            children.setdefault(parent, []).append(pid)
        return children
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat(int(name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


def _ps(*words: str) -> bytes:
    """What ps says, where there is no /proc."""
    import subprocess  # a tenth of the agent's start, and not needed on Linux

    return subprocess.run(["/bin/ps", *words], capture_output=True, check=False).stdout


def _read(path: str) -> bytes:
    """A small file of /proc: half the price of `open().read()`, and it is read very often."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


def _boot() -> str:
    """The name of this run of the machine."""
    global _boot_id  # noqa: PLW0603 - read once: it never changes while we live
    if _boot_id is None:
        try:
            _boot_id = _read("/proc/sys/kernel/random/boot_id")[:8].decode()
        except OSError:
            _boot_id = ""
    return _boot_id


_boot_id: str | None = None
_KERNEL_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
