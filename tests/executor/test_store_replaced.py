"""An open notebook whose scheduler lost its store, its home or its key: each future ends, and says why."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cook_jupyter.client.runtime import RuntimeFile, read_runtime
from cook_jupyter.errors import NotFound, Unverifiable
from cook_jupyter.executor import CookExecutor, listener
from cook_jupyter.executor import connection as connection_module
from tests.executor.test_executor import SOON_S, wait_for
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def files_are_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session knows of files may otherwise be a moment old."""
    monkeypatch.setattr(connection_module, "FILE_CHECK_INTERVAL_S", 0.0)


@pytest.fixture
def own_executor(cook_home: Path) -> Iterator[CookExecutor]:
    """An executor on a scheduler of its own."""
    executor = CookExecutor(cpus=0.2, mem_mb=100)
    yield executor
    executor.shutdown(wait=False)


def kill_scheduler(home: Path) -> None:
    runtime = read_runtime(home)
    assert isinstance(runtime, RuntimeFile)
    os.kill(runtime.pid, signal.SIGKILL)
    wait_until(lambda: not isinstance(read_runtime(home), RuntimeFile))


def remove_store(home: Path) -> None:
    for file in home.glob("store.sqlite*"):
        file.unlink()


def remove_store_of_the_dead(home: Path) -> None:
    kill_scheduler(home)
    remove_store(home)


def remove_home(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)


def remove_home_of_the_dead(home: Path) -> None:
    kill_scheduler(home)
    remove_home(home)


@pytest.mark.parametrize(
    "remove", [remove_store, remove_store_of_the_dead, remove_home, remove_home_of_the_dead]
)
def test_when_the_store_is_begun_anew_every_future_ends_and_says_so(
    own_executor: CookExecutor, cook_home: Path, gate: Path, remove: Callable[[Path], None]
) -> None:
    assert own_executor.submit(abs, -1).result(SOON_S) == 1
    running = own_executor.submit(wait_for, str(gate))
    cpus = own_executor._holder.current_session().scheduler.info.capacity.cpus
    waiting = own_executor.with_(cpus=cpus).submit(abs, -1)  # the other job holds some of them
    wait_until(Path(str(gate) + ".waiting").exists)
    wait_until(lambda: waiting.status == "waiting")
    agent = Path(cook_home / "agent" / "agent.json").read_text()

    remove(cook_home)

    for future in (running, waiting):
        with pytest.raises(NotFound, match=r"its store is a new one .the old one was removed or replaced."):
            future.result(SOON_S)
    for number in range(3):
        assert own_executor.submit(abs, -number).result(SOON_S) == number
    assert sum(own_executor.map(abs, range(10), timeout=SOON_S)) == 45
    gate.touch()
    end_agent(agent)


def end_agent(text: str) -> None:
    """End the node agent of a home that was removed: nothing else finds it any more."""
    pid = json.loads(text)["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def take_key_away(home: Path, change: str) -> None:
    (key,) = (home / "keys").iterdir()
    if change == "replaced":
        key.write_text("ab" * 32)
    else:
        key.unlink()


def test_when_the_store_is_an_older_copy_what_it_does_not_know_ends(
    own_executor: CookExecutor, cook_home: Path, gate: Path
) -> None:
    assert own_executor.submit(abs, -1).result(SOON_S) == 1
    down(cook_home)
    shutil.copy(cook_home / "store.sqlite", cook_home / "backup")
    for number in range(20):
        assert own_executor.submit(abs, -number).result(SOON_S) == number
    running = own_executor.submit(wait_for, str(gate))
    wait_until(Path(str(gate) + ".waiting").exists)
    kill_scheduler(cook_home)
    remove_store(cook_home)
    shutil.copy(cook_home / "backup", cook_home / "store.sqlite")
    gate.touch()

    assert own_executor.submit(abs, -7).result(SOON_S) == 7
    with pytest.raises(NotFound, match="restored from an older copy"):
        running.result(SOON_S)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_call_that_ran_before_its_key_was_taken_away_comes_back(
    own_executor: CookExecutor, cook_home: Path, gate: Path, change: str
) -> None:
    running = own_executor.submit(wait_for, str(gate))
    wait_until(Path(str(gate) + ".waiting").exists)
    take_key_away(cook_home, change)
    gate.touch()

    assert running.result(SOON_S) == "open"
    assert own_executor.submit(abs, -2).result(SOON_S) == 2


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_call_that_runs_after_its_key_was_taken_away_names_the_key(
    own_executor: CookExecutor, cook_home: Path, gate: Path, change: str
) -> None:
    whole = own_executor.with_(cpus=own_executor._holder.current_session().scheduler.info.capacity.cpus)
    first = whole.submit(wait_for, str(gate))
    wait_until(Path(str(gate) + ".waiting").exists)
    second = whole.submit(abs, -1)  # waits for the cpus of the first
    wait_until(lambda: second.status == "waiting")
    take_key_away(cook_home, change)
    gate.touch()

    with pytest.raises(Unverifiable, match=r"signing key .* was removed or replaced"):
        second.result(SOON_S)
    assert first.result(SOON_S) == "open"


def test_futures_that_wait_for_a_scheduler_say_so(
    own_executor: CookExecutor,
    cook_home: Path,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listener, "SILENCE_WARNING_S", 0.0)
    future = own_executor.submit(wait_for, str(gate))
    wait_until(Path(str(gate) + ".waiting").exists)
    with caplog.at_level(logging.WARNING):
        down(cook_home)
        wait_until(lambda: "waits for the results of 1 job;" in caplog.text)
    assert "`cook-jupyter up`" in caplog.text

    subprocess.run([sys.executable, "-m", "cook_jupyter", "up"], check=True, capture_output=True)
    gate.touch()

    assert future.result(SOON_S) == "open"


def down(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "cook_jupyter", "down"], check=True, capture_output=True)
    assert not (home / "scheduler.json").exists()


def test_a_scheduler_named_by_its_address_is_known_again_when_it_comes_back_with_another_token(
    cook_home: Path, gate: Path
) -> None:
    first = served(cook_home)
    runtime = read_runtime(cook_home)
    assert isinstance(runtime, RuntimeFile)
    executor = CookExecutor(runtime.url, cpus=0.2, mem_mb=100)
    future = executor.submit(wait_for, str(gate))
    wait_until(Path(str(gate) + ".waiting").exists)
    first.kill()
    first.wait()
    second = served(cook_home, "--port", runtime.url.rpartition(":")[2])
    gate.touch()

    assert future.result(SOON_S) == "open"
    assert executor.submit(abs, -1).result(SOON_S) == 1
    executor.shutdown()
    second.terminate()
    second.wait()


def served(home: Path, *options: str) -> "subprocess.Popen[bytes]":
    """A scheduler that listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cook_jupyter", "serve", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: isinstance(found := read_runtime(home), RuntimeFile) and found.pid == process.pid)
    return process
