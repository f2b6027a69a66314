"""kill -9 at any moment: afterwards all acknowledged commands are stored, and none is stored in part."""

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.model.job import JobId
from cook_jupyter.store import sqlite as sqlite_store
from cook_jupyter.store.sqlite import SqliteStore
from cook_jupyter.store.sqlite_reader import Synchronous
from tests.builders import a_job_spec, an_instance
from tests.store.disk import Disk
from tests.store.scenario import all_steps, scenario, stored_state

KILLED = 9


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make checkpoints happen within a scenario of a dozen commands."""
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_LOG_PAGES", 20)


@pytest.mark.slow
@pytest.mark.parametrize(("synchronous", "stride"), [("NORMAL", 1), ("FULL", 3)])
def test_a_store_holds_a_whole_number_of_commands_wherever_the_process_dies(
    tmp_path: Path, synchronous: Synchronous, stride: int
) -> None:
    steps = all_steps()
    deaths = 0
    for step in itertools.count(1, stride):
        path = tmp_path / f"{step}.db"
        acknowledged = tmp_path / f"{step}.log"

        def run(path: Path = path, log: Path = acknowledged, step: int = step) -> None:
            disk = Disk()
            disk.die(step)
            asyncio.run(_run_scenario(SqliteStore(path, synchronous=synchronous, vfs=disk.name), log))

        if _run_in_child(run) == 0:
            break
        deaths += 1
        done = len(acknowledged.read_bytes()) if acknowledged.exists() else 0
        assert asyncio.run(_state_after_reopening(path)) in steps[done : done + 2], f"died at step {step}"
    assert deaths > 50


def test_a_store_that_is_killed_repeatedly_keeps_all_acknowledged_commands(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = random.Random(7)
    acknowledged_lines: list[str] = []
    for life in range(25):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _never_return(partial(asyncio.run, _submit_and_launch(path, writing, life)))
        os.close(writing)
        with os.fdopen(reading) as lines:
            acknowledged_lines += itertools.islice(lines, rng.randrange(1, 120))
            os.kill(child, signal.SIGKILL)
            acknowledged_lines += lines  # acknowledged before the end
        os.waitpid(child, 0)
        asyncio.run(_check(path, acknowledged_lines))
    assert len(acknowledged_lines) > 500


async def _run_scenario(store: SqliteStore, log: Path) -> None:
    """Execute the scenario; write one byte to the log for each command that returned."""
    await store.open()
    with log.open("ab", buffering=0) as acknowledgements:
        for command in scenario():
            await command(store)
            acknowledgements.write(b".")
    await store.close()


async def _state_after_reopening(path: Path) -> Sequence[Any]:
    store = SqliteStore(path)
    await store.open()
    try:
        return await stored_state(store)
    finally:
        await store.close()


async def _submit_and_launch(path: Path, writing: int, life: int) -> None:
    """Submit and launch until killed, a few jobs at once; write what was acknowledged to a pipe."""
    store = SqliteStore(path)
    await store.open()

    async def run_job(number: str) -> None:
        await store.submit([a_job_spec(job_id=number)], now_ms=1)
        os.write(writing, f"submitted {number}\n".encode())
        await store.launch([an_instance(JobId(number), instance_id=number)])
        os.write(writing, f"launched {number}\n".encode())

    for start in itertools.count(step=5):
        await asyncio.gather(*(run_job(f"{life}-{start + number}") for number in range(5)))


async def _check(path: Path, acknowledged_lines: Sequence[str]) -> None:
    entries = [line.split() for line in acknowledged_lines]
    store = SqliteStore(path)
    await store.open()
    jobs = await store.jobs([JobId(number) for _, number in entries])
    await store.close()
    for (command, number), job in zip(entries, jobs, strict=True):
        assert job is not None, f"{number} was acknowledged and is gone"
        assert command == "submitted" or [i.instance_id for i in job.instances] == [number]


def _run_in_child(run: Callable[[], None]) -> int:
    """Run a function in a forked child and return its exit code: 0, or 9 if it was killed."""
    child = os.fork()
    if child == 0:
        _never_return(run)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the child failed: {code}"
    return code


def _never_return(run: Callable[[], None]) -> None:
    """Run a function in this child process and end it, whatever happens."""
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)
