"""Processes are known by more than their number, and none below us escapes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cook_jupyter.worker import processes

linux_only = pytest.mark.skipif(not processes.LINUX, reason="only Linux has subreapers and /proc")


def test_a_process_is_known_by_its_mark_as_long_as_it_lives() -> None:
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        mark = processes.start_mark(sleeper.pid)
        assert mark is not None
        assert processes.is_alive(sleeper.pid, mark)
        assert not processes.is_alive(sleeper.pid, "another process that had this number")
        sleeper.kill()

    assert not processes.is_alive(sleeper.pid, mark)


@linux_only
def test_a_zombie_is_dead() -> None:
    pid = os.posix_spawnp("true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert processes.start_mark(pid) is None

    os.waitpid(pid, 0)


def test_a_name_with_blanks_and_brackets_is_no_trap(tmp_path: Path) -> None:
    odd = tmp_path / "a ) R 1 ("
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "600"]) as sleeper:
        try:
            assert processes.start_mark(sleeper.pid) is not None
            assert sleeper.pid in processes.Family().children_of(os.getpid())
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
while len(processes.Family().below(os.getpid())) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(processes.Family().below(os.getpid())), processes.has_children())
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
assert kept.poll() is None and len(processes.Family().below(kept.pid)) == 1
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
def test_the_peak_can_begin_anew() -> None:
    program = """
from cook_jupyter.worker import processes
bytearray(300 << 20)
assert processes.peak_mb() > 300
processes.forget_peak()
assert processes.peak_mb() < 100, processes.peak_mb()
"""
    # By a shell in between: a child of this process would inherit the peak of these tests.
    words = ["/bin/sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, program]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
