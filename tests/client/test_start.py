"""Starting the embedded scheduler: once, quickly, and with a word when it fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cook_jupyter.client.connect import connect
from cook_jupyter.client.runtime import RuntimeFile, is_alive, read_runtime
from cook_jupyter.client.start import start_lock
from cook_jupyter.errors import SchedulerUnreachable
from tests.waiting import HANG_S, wait_until


def runtime_in(home: Path) -> RuntimeFile:
    found = read_runtime(home)
    assert isinstance(found, RuntimeFile)
    return found


def end_hard(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + HANG_S
    while is_alive(pid, None) and time.monotonic() < deadline:
        time.sleep(0.005)


def test_the_first_call_starts_a_scheduler_in_a_session_of_its_own(cook_home: Path) -> None:
    client = connect()
    runtime = runtime_in(cook_home)

    assert client.url == runtime.url
    assert client.info_v1().pid == runtime.pid
    assert os.getsid(runtime.pid) != os.getsid(0)
    assert (cook_home / "scheduler.json").stat().st_mode & 0o777 == 0o600
    assert cook_home.stat().st_mode & 0o777 == 0o700


def test_a_scheduler_that_replaces_a_dead_one_has_its_settings_file(cook_home: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings of the cluster.toml"
    settings.write_text("[[clusters]]\ntype = 'local'\ncpus = 7\n")
    command = [sys.executable, "-P", "-m", "cook_jupyter", "serve", "--config", settings.name]
    first = subprocess.Popen(command, cwd=tmp_path)
    wait_until(lambda: isinstance(read_runtime(cook_home), RuntimeFile), "the scheduler listens")
    assert connect(start=False).info_v1().capacity.cpus == 7
    first.kill()
    first.wait(HANG_S)

    client = connect()

    assert client.info_v1().pid != first.pid
    assert client.info_v1().capacity.cpus == 7


def test_many_who_start_at_once_end_with_one(cook_home: Path) -> None:
    program = "from cook_jupyter.client.connect import connect; print(connect().info_v1().pid)"

    def start(_: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    with ThreadPoolExecutor(4) as threads:
        pids = list(threads.map(start, range(4)))

    assert set(pids) == {str(runtime_in(cook_home).pid)}


def test_threads_of_one_kernel_end_with_one_as_well(cook_home: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        urls = list(threads.map(lambda _: connect().url, range(4)))

    assert len(set(urls)) == 1


def test_a_scheduler_that_was_killed_is_replaced_and_said_to_be_gone(
    cook_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = connect()
    (uuid,) = first.submit([{"command": "true", "cpus": 1, "mem": 64, "max_retries": 1}])
    pid = runtime_in(cook_home).pid
    end_hard(pid)

    second = connect()

    assert f"process {pid}, is gone" in caplog.text
    assert runtime_in(cook_home).pid != pid
    assert second.job(uuid).uuid == uuid


def test_a_scheduler_that_is_just_ending_is_waited_for(cook_home: Path) -> None:
    first = connect()
    pid = runtime_in(cook_home).pid
    first.shutdown()

    second = connect()

    assert second.info_v1().pid != pid


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: path.write_text(path.read_text().replace('"token": "', '"token": "x')),
        lambda path: path.chmod(0o644),
    ],
)
def test_a_scheduler_writes_its_runtime_file_again_and_is_not_doubled(
    cook_home: Path, damage: Callable[[Path], None]
) -> None:
    client = connect()
    path = cook_home / "scheduler.json"
    intact = path.read_bytes()
    damage(path)

    deadline = time.monotonic() + HANG_S
    while (not path.exists() or path.stat().st_mode & 0o077) and time.monotonic() < deadline:
        time.sleep(0.005)
    again = connect()

    assert again.info_v1().pid == client.info_v1().pid
    assert path.read_bytes() == intact


def test_no_second_scheduler_serves_a_home_whose_lock_was_removed(cook_home: Path) -> None:
    pid = connect().info_v1().pid
    (cook_home / "scheduler.lock").unlink()

    second = subprocess.run(
        [sys.executable, "-m", "cook_jupyter", "serve"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert f"a scheduler is already running in {cook_home} (process {pid})" in second.stderr
    assert connect().info_v1().pid == pid


def test_a_stopped_scheduler_is_said_to_be_stopped_and_found_again_when_it_goes_on(cook_home: Path) -> None:
    pid = connect().info_v1().pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SchedulerUnreachable, match=f"kill -CONT {pid}"):
            connect(timeout_s=0.2)
        status = subprocess.run(
            [sys.executable, "-m", "cook_jupyter", "status"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (status.returncode, status.stdout[:9]) == (3, "no answer")
    assert connect().info_v1().pid == pid


def test_a_scheduler_that_cannot_begin_tells_its_last_words(cook_home: Path) -> None:
    (cook_home / "store.sqlite").mkdir()

    with pytest.raises(SchedulerUnreachable, match="ended with exit code") as raised:
        connect()
    assert "scheduler.log" in str(raised.value)
    assert "store.sqlite" in str(raised.value)
    (cook_home / "store.sqlite").rmdir()


def test_without_the_schedulers_packages_the_error_says_what_to_install(cook_home: Path) -> None:
    program = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'tornado' else find(name, *a)\n"
        "from cook_jupyter.client.connect import connect\n"
        "connect()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert "without tornado: pip install 'cook_jupyter[scheduler]'" in done.stderr


def test_who_cannot_have_the_lock_says_who_may_have_it(cook_home: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with start_lock(cook_home, 5):
            held.set()
            done.wait(HANG_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(HANG_S)
    try:
        with (
            pytest.raises(SchedulerUnreachable, match="another process has been starting"),
            start_lock(cook_home, 0.05),
        ):
            pass
    finally:
        done.set()
        thread.join()


def test_a_file_beside_the_notebook_is_not_taken_for_the_schedulers(
    cook_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tornado.py").write_text("raise RuntimeError('the wrong tornado')")
    monkeypatch.chdir(tmp_path)

    assert connect().info_v1().name == "cook_jupyter"


def test_the_runtime_file_is_plain_json_for_whoever_wants_it(cook_home: Path) -> None:
    connect()

    assert {"url", "token", "pid"} <= set(json.loads((cook_home / "scheduler.json").read_text()))
