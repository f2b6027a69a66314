"""While the disk refuses writes, commands fail without a change; afterwards the store works again."""

import asyncio
import itertools
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from cook_jupyter.errors import SchedulerError, StoreFull
from cook_jupyter.store import sqlite as sqlite_store
from cook_jupyter.store.memory import MemoryStore
from cook_jupyter.store.sqlite import SqliteStore
from cook_jupyter.store.sqlite_reader import Synchronous
from tests.builders import a_job_spec
from tests.store.contract import record_commits, submit_job
from tests.store.disk import Disk
from tests.store.scenario import scenario, stored_state


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_LOG_PAGES", 20)


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_wherever_a_write_is_refused_the_command_changes_nothing_and_succeeds_later(
    tmp_path: Path, synchronous: Synchronous, error: type[apsw.Error]
) -> None:
    refused = 0
    for step in itertools.count(1):
        disk = Disk()
        store = SqliteStore(tmp_path / f"{step}.db", synchronous=synchronous, vfs=disk.name)
        reference = MemoryStore()
        await store.open()
        await reference.open()
        disk.refuse(step, error=error)
        for command in scenario():
            try:
                answer = await command(store)
            except StoreFull:
                refused += 1
                assert await stored_state(store) == await stored_state(reference), f"refused at step {step}"
                disk.heal()
                answer = await command(store)
            assert answer == await command(reference)
        assert await stored_state(store) == await stored_state(reference)
        is_finished = disk.steps < step
        await store.close()
        again = SqliteStore(tmp_path / f"{step}.db")
        await again.open()
        assert await stored_state(again) == await stored_state(reference), f"refused at step {step}"
        await again.close()
        if is_finished:
            break
    assert refused > 50


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_command_that_was_refused_is_not_recovered_after_a_crash(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    refused = 0
    for step in itertools.count(1, 2):
        disk = Disk()
        path, image = tmp_path / f"{step}.db", tmp_path / f"{step}-after-a-crash.db"
        store = SqliteStore(path, synchronous=synchronous, vfs=disk.name)
        reference = MemoryStore()
        await store.open()
        await reference.open()
        disk.refuse(step, steps=1, error=apsw.IOError)
        for command in scenario():
            try:
                await command(store)
            except StoreFull:
                refused += 1
                for part in ("", "-wal"):
                    shutil.copy(f"{path}{part}", f"{image}{part}")
                break
            await command(reference)
        is_finished = disk.steps < step
        disk.heal()
        await store.close()
        if image.exists():
            reopened = SqliteStore(image)
            await reopened.open()
            assert await stored_state(reopened) == await stored_state(reference), f"refused at step {step}"
            await reopened.close()
        if is_finished:
            break
    assert refused > 50


async def test_wherever_a_write_is_refused_at_the_first_opening_a_later_one_succeeds(tmp_path: Path) -> None:
    for step in itertools.count(1):
        disk = Disk()
        disk.refuse(step)
        store = SqliteStore(tmp_path / f"{step}.db", vfs=disk.name)
        try:
            await store.open()
        except SchedulerError:
            disk.heal()
            await store.open()
            await submit_job(store)
            await store.close()
        else:
            await store.close()
            break
    assert step > 5


async def test_when_the_disk_is_full_all_commands_of_the_transaction_are_refused(
    tmp_path: Path,
) -> None:
    disk = Disk()
    store = SqliteStore(tmp_path / "store.db", vfs=disk.name)
    await store.open()
    seen = record_commits(store)
    disk.refuse(1)
    specs = [a_job_spec() for _ in range(5)]
    outcomes = await asyncio.gather(
        *(store.submit([spec], now_ms=1) for spec in [*specs, specs[0]]), return_exceptions=True
    )
    disk.heal()

    assert [type(outcome) for outcome in outcomes] == [StoreFull] * 6
    assert seen == []
    await store.submit(specs, now_ms=1)
    assert await store.last_change() == 5
    await store.close()


async def test_a_large_transaction_that_does_not_fit_changes_nothing(
    tmp_path: Path, small_files: "FileLimit"
) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    stored = await submit_job(store)
    specs = [a_job_spec(env={"A": "x" * 20_000}) for _ in range(2_000)]  # more than the cache of pages holds

    with small_files.limited_to(2_000_000), pytest.raises(StoreFull, match=r"store\.db"):
        await store.submit(specs, now_ms=1)

    assert await store.jobs([specs[0].job_id, stored.job_id]) != [None, None]
    assert await store.jobs([specs[0].job_id]) == [None]
    await store.submit(specs, now_ms=1)
    assert await store.last_change() == 2001
    await store.close()


class FileLimit:
    """Limits the size of the files that this process writes, by the kernel: a disk that is really full."""

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited_to(self, size: int) -> "FileLimit":
        self._size = size
        return self

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.fixture
def small_files() -> Iterator[FileLimit]:
    limit = FileLimit()
    yield limit
    limit.__exit__()
