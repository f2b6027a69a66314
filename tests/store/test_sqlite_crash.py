"""kill -9 at any moment: what was acknowledged is there afterwards, and nothing is there by half."""

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
def test_the_store_remembers_a_whole_number_of_commands_wherever_the_process_dies(
    tmp_path: Path, synchronous: Synchronous, stride: int
) -> None:
    steps = all_steps()
    deaths = 0
    for step in itertools.count(1, stride):
        path = tmp_path / f"{step}.db"
        acknowledged = tmp_path / f"{step}.log"

        def live(path: Path = path, log: Path = acknowledged, step: int = step) -> None:
            disk = Disk()
            disk.die(step)
            asyncio.run(_tell(SqliteStore(path, synchronous=synchronous, vfs=disk.name), log))

        if _in_a_child(live) == 0:
            break
        deaths += 1
        done = len(acknowledged.read_bytes()) if acknowledged.exists() else 0
        assert asyncio.run(_reopened(path)) in steps[done : done + 2], f"died at step {step}"
    assert deaths > 50


def test_a_store_that_is_killed_again_and_again_keeps_all_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = random.Random(7)
    noted: list[str] = []
    for life in range(25):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _never_return(partial(asyncio.run, _work(path, writing, life)))
        os.close(writing)
        with os.fdopen(reading) as lines:
            noted += itertools.islice(lines, rng.randrange(1, 120))
            os.kill(child, signal.SIGKILL)
            noted += lines  # what was said before the end
        os.waitpid(child, 0)
        asyncio.run(_check(path, noted))
    assert len(noted) > 500


async def _tell(store: SqliteStore, log: Path) -> None:
    """Execute the scenario; write one byte to the log for each command that returned."""
    await store.open()
    with log.open("ab", buffering=0) as said:
        for command in scenario():
            await command(store)
            said.write(b".")
    await store.close()


async def _reopened(path: Path) -> Sequence[Any]:
    store = SqliteStore(path)
    await store.open()
    try:
        return await stored_state(store)
    finally:
        await store.close()


async def _work(path: Path, writing: int, life: int) -> None:
    """Submit and launch for ever, some at once, and say what was acknowledged."""
    store = SqliteStore(path)
    await store.open()

    async def one(number: str) -> None:
        await store.submit([a_job_spec(job_id=number)], now_ms=1)
        os.write(writing, f"submitted {number}\n".encode())
        await store.launch([an_instance(JobId(number), instance_id=number)])
        os.write(writing, f"launched {number}\n".encode())

    for start in itertools.count(step=5):
        await asyncio.gather(*(one(f"{life}-{start + number}") for number in range(5)))


async def _check(path: Path, noted: Sequence[str]) -> None:
    said = [line.split() for line in noted]
    store = SqliteStore(path)
    await store.open()
    jobs = await store.jobs([JobId(number) for _, number in said])
    await store.close()
    for (what, number), job in zip(said, jobs, strict=True):
        assert job is not None, f"{number} was acknowledged and is gone"
        assert what == "submitted" or [i.instance_id for i in job.instances] == [number]


def _in_a_child(live: Callable[[], None]) -> int:
    """Run a function in a forked child and return how that ended: 0, or 9 for a death."""
    child = os.fork()
    if child == 0:
        _never_return(live)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the child failed: {code}"
    return code


def _never_return(live: Callable[[], None]) -> None:
    """Run a function in this child process and end it, whatever happens."""
    code = 1
    try:
        live()
        code = 0
    finally:
        os._exit(code)
