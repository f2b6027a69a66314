"""Processes are known by more than their number, and none below us escapes."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.worker import processes

linux_only = pytest.mark.skipif(not processes.LINUX, reason="only Linux has subreapers and /proc")


def test_a_process_is_known_by_its_mark_as_long_as_it_lives() -> None:
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        mark = processes.process_identity(sleeper.pid)
        assert mark is not None
        assert processes.is_alive(sleeper.pid, mark)
        assert not processes.is_alive(sleeper.pid, "another process that had this number")
        sleeper.kill()

    assert not processes.is_alive(sleeper.pid, mark)


@linux_only
def test_a_zombie_is_dead() -> None:
    pid = os.posix_spawnp("true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert processes.process_identity(pid) is None

    os.waitpid(pid, 0)


def test_a_name_with_blanks_and_brackets_is_no_trap(tmp_path: Path) -> None:
    odd = tmp_path / "a ) R 1 ("
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "600"]) as sleeper:
        try:
            assert processes.process_identity(sleeper.pid) is not None
            assert sleeper.pid in processes.ProcessTree().children_of(os.getpid())
        finally:
            sleeper.kill()


@linux_only
def test_all_descendants_end_however_they_hide() -> None:
    program = """
import os, subprocess, time
from cook_jupyter.worker import processes
assert processes.become_subreaper()
subprocess.run(["sh", "-c", "sleep 600 & (setsid sh -c 'sleep 601 & sleep 602' &)"], check=True)
deadline = time.monotonic() + 90
while len(processes.ProcessTree().below(os.getpid())) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(processes.ProcessTree().below(os.getpid())), processes.has_children())
print(processes.end_descendants(), processes.has_children())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stdout.split("\n")[:2] == ["4 True", "True False"], done.stderr


@linux_only
def test_who_is_spared_lives_on_with_all_below_it() -> None:
    program = """
import os, subprocess
from cook_jupyter.worker import processes
kept = subprocess.Popen(["sh", "-c", "sleep 600 & echo ready; wait"], stdout=subprocess.PIPE)
kept.stdout.readline()
other = subprocess.Popen(["sleep", "601"])
assert processes.kill_below(spare={kept.pid})
assert other.wait() == -9
assert kept.poll() is None and len(processes.ProcessTree().below(kept.pid)) == 1
assert not processes.kill_below(spare={kept.pid})
processes.kill_below()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_signal_to_a_group_that_is_gone_says_so() -> None:
    with subprocess.Popen(["true"], start_new_session=True) as gone:
        pass

    assert not processes.signal_group(gone.pid, signal.SIGTERM)


@linux_only
def test_the_peak_can_be_reset() -> None:
    program = """
from cook_jupyter.worker import processes
bytearray(300 << 20)
assert processes.peak_mb() > 300
processes.reset_peak()
assert processes.peak_mb() < 100, processes.peak_mb()
"""
    # By a shell in between: a child of this process would inherit the peak of these tests.
    words = ["/bin/sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, program]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


HELD = """
import mmap, os, sys, threading
from multiprocessing import shared_memory
from cook_jupyter.worker import processes

own = processes.OwnMemory()

def added(work):
    before = own.held_mb()
    kept = work()
    assert abs(own.held_mb() - processes.own_held_mb()) < 2, "a change was not seen"
    held, proportional = processes.own_held_mb() - before, processes.proportional_mb([os.getpid()]) - before
    assert abs(held - proportional) < 20, (held, proportional)
    return kept, held

def map_file(access):
    with open(sys.argv[1], "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=access)
    for place in range(0, len(mapped), 4096):
        if access == mmap.ACCESS_COPY:
            mapped[place] = 1
        else:
            mapped[place]
    return mapped

def share():
    block = shared_memory.SharedMemory(create=True, size=100 << 20)
    block.buf[::4096] = bytes(len(block.buf[::4096]))
    return block

def start_threads():
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait) for _ in range(200)]
    for thread in threads:
        thread.start()
    return gate

works = {
    "allocated": lambda: b"x" * (100 << 20),
    "reserved": lambda: mmap.mmap(-1, 1 << 30),
    "file": lambda: map_file(mmap.ACCESS_READ),
    "changed copy of a file": lambda: map_file(mmap.ACCESS_COPY),
    "shared": share,
    "threads": start_threads,
}
kept, held = added(works[sys.argv[2]])
print(round(held))
if sys.argv[2] == "shared":
    kept.close(); kept.unlink()
if sys.argv[2] == "threads":
    kept.set()
"""


@linux_only
@pytest.mark.parametrize(
    ("work", "mb"),
    [
        ("allocated", 100),
        ("reserved", 0),
        ("file", 0),
        ("changed copy of a file", 100),
        ("shared", 100),
        ("threads", 0),
    ],
)
def test_what_a_process_holds_is_what_the_kernel_cannot_drop(file_on_disk: Path, work: str, mb: int) -> None:
    words = [sys.executable, "-c", HELD, str(file_on_disk), work]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert abs(int(done.stdout) - mb) < 20


@pytest.fixture
def file_on_disk() -> Iterator[Path]:
    """A file of 100 MiB that is not in memory alone, as it may be in /tmp."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.truncate(100 << 20)
        yield Path(file.name)
