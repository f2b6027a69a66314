"""Function blobs that were damaged under an open notebook or before it: the next call sends them again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import NotFound, Unverifiable
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor import connection as connection_module
from cook_jupyter.executor.blobs import HttpStore
from cook_jupyter.payload.blobs import DirectoryStore
from tests.waiting import HANG_S


@pytest.fixture(autouse=True)
def files_are_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session knows of files may otherwise be a moment old."""
    monkeypatch.setattr(connection_module, "FILE_CHECK_INTERVAL_S", 0.0)


def truncate(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:100])


def empty(blob: Path) -> None:
    blob.write_bytes(b"")


def flip(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)


def remove(blob: Path) -> None:
    blob.unlink()


def remove_folder(blob: Path) -> None:
    shutil.rmtree(blob.parent)


DAMAGES: list[Callable[[Path], None]] = [truncate, empty, flip, remove, remove_folder]


def function_of(number: int) -> Callable[[int], int]:
    def add(value: int) -> int:
        return value + number

    return add


def blob_of(executor: CookExecutor, function: Callable[[int], int]) -> Path:
    session = executor._line.live()
    return Path(session.scheduler.info.blobs) / "functions" / session.send_function(function).digest


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_function_that_was_damaged_before_a_notebook_was_opened_is_sent_again(
    started: JobClient, damage: Callable[[Path], None]
) -> None:
    function = function_of(1000 + DAMAGES.index(damage))
    first = CookExecutor(started, cpus=0.5, mem_mb=256)
    damage(blob_of(first, function))  # before any worker has read it
    later = CookExecutor(started, cpus=0.5, mem_mb=256)

    assert later.submit(function, 1).result(HANG_S) == 1001 + DAMAGES.index(damage)
    first.shutdown()
    later.shutdown()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_function_that_was_damaged_under_an_open_notebook_is_sent_again(
    executor: CookExecutor, damage: Callable[[Path], None]
) -> None:
    function = function_of(2000 + DAMAGES.index(damage))
    damage(blob_of(executor, function))
    try:
        executor.submit(function, 1).result(HANG_S)
    except Unverifiable:
        assert damage is flip  # the size is right: found out by the host, and mended for the next call

    assert executor.submit(function, 1).result(HANG_S) == 2001 + DAMAGES.index(damage)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_function_that_was_damaged_behind_the_scheduler_is_sent_again(
    started: JobClient, damage: Callable[[Path], None]
) -> None:
    executor = CookExecutor(started, cpus=0.5, mem_mb=256)
    session = executor._line.live()
    session.scheduler.__dict__["store"] = HttpStore(session.scheduler.info.blobs, lambda: started)
    function = function_of(3000 + DAMAGES.index(damage))
    damage(blob_of(executor, function))
    with pytest.raises((NotFound, Unverifiable)):
        executor.submit(function, 1).result(HANG_S)

    assert executor.submit(function, 1).result(HANG_S) == 3001 + DAMAGES.index(damage)
    executor.shutdown()


def test_a_scheduler_that_writes_through_to_the_disk_has_its_clients_do_so_too(
    started: JobClient, tmp_path: Path
) -> None:
    from cook_jupyter.executor.blobs import reachable_store

    info = replace(started.info_v1(), blobs=str(tmp_path))

    assert info.synchronous == "NORMAL"
    assert reachable_store(info, lambda: started).url == str(tmp_path)
    full = reachable_store(replace(info, synchronous="FULL"), lambda: started)
    assert full.url == DirectoryStore(tmp_path, synced=True).url == f"file+sync://{tmp_path}"
