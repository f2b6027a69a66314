"""Function blobs that were damaged under an open notebook or before it: they are sent again."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import NotFound, Unverifiable
from cook_jupyter.executor import CookExecutor, functions
from cook_jupyter.executor import connection as connection_module
from cook_jupyter.executor.blobs import HttpStore
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
    aside = blob.parent.with_name("removed")
    blob.parent.rename(aside)  # at once: a blob may be written there at this moment
    shutil.rmtree(aside, ignore_errors=True)


DAMAGES: list[Callable[[Path], None]] = [truncate, empty, flip, remove, remove_folder]


def function_of(number: int) -> Callable[[int], int]:
    def add(value: int) -> int:
        return value + number

    return add


def blob_of(executor: CookExecutor, function: Callable[..., int]) -> Path:
    session = executor._holder.current_session()
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

    assert executor.submit(function, 1).result(HANG_S) == 2001 + DAMAGES.index(damage)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_function_that_was_damaged_behind_the_scheduler_is_sent_again(
    started: JobClient, damage: Callable[[Path], None]
) -> None:
    executor = CookExecutor(started, cpus=0.5, mem_mb=256)
    session = executor._holder.current_session()
    session.scheduler.__dict__["store"] = HttpStore(session.scheduler.info.blobs, lambda: started)
    function = function_of(3000 + DAMAGES.index(damage))
    damage(blob_of(executor, function))

    assert executor.submit(function, 1).result(HANG_S) == 3001 + DAMAGES.index(damage)
    executor.shutdown()


@pytest.fixture
def waiting(executor: CookExecutor, gate: Path) -> Iterator[CookExecutor]:
    """An executor whose calls wait: its jobs are as large as the machine, and another holds it."""
    cpus = executor._holder.current_session().scheduler.info.capacity.cpus
    view = executor.with_(cpus=cpus)
    holder = view.submit(wait_for, str(gate))
    yield view
    gate.touch()
    holder.result(HANG_S)


def wait_for(path: str) -> None:
    import time
    from pathlib import Path

    while not Path(path).exists():
        time.sleep(0.01)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_call_that_waits_runs_though_its_function_is_damaged_meanwhile(
    waiting: CookExecutor, gate: Path, damage: Callable[[Path], None]
) -> None:
    function = function_of(4000 + DAMAGES.index(damage))
    future = waiting.submit(function, 1)
    assert future._session.wait_until_delivered([future], HANG_S)
    damage(blob_of(waiting, function))
    gate.touch()

    assert future.result(HANG_S) == 4001 + DAMAGES.index(damage)


def test_a_bundle_that_waits_runs_though_its_function_is_damaged_meanwhile(
    waiting: CookExecutor, gate: Path
) -> None:
    function = function_of(5000)
    results = waiting.map(function, range(100), chunksize=50)
    assert waiting._holder.current_session().wait_until_delivered(
        waiting._futures(waiting._holder.current_session()), HANG_S
    )
    truncate(blob_of(waiting, function))
    gate.touch()

    assert list(results) == list(range(5000, 5100))


def test_a_call_whose_function_was_damaged_has_all_its_retries_left(
    waiting: CookExecutor, gate: Path, tmp_path: Path
) -> None:
    def fail_twice(path: str) -> int:
        from pathlib import Path

        with Path(path).open("a") as file:
            file.write("x")
        if Path(path).stat().st_size < 3:
            raise ValueError("not yet")
        return Path(path).stat().st_size

    future = waiting.with_(retries=2).submit(fail_twice, str(tmp_path / "attempts"))
    assert future._session.wait_until_delivered([future], HANG_S)
    truncate(blob_of(waiting, fail_twice))
    gate.touch()

    assert future.result(HANG_S) == 3


def test_an_error_of_the_function_itself_about_a_missing_blob_is_a_failure_as_any_other(
    executor: CookExecutor, tmp_path: Path
) -> None:
    def ask_for_another(path: str) -> None:
        from pathlib import Path

        from cook_jupyter.errors import NotFound

        with Path(path).open("a") as file:
            file.write("x")
        raise NotFound("there is no blob functions/1")

    with pytest.raises(NotFound, match="functions/1"):
        executor.submit(ask_for_another, str(tmp_path / "attempts")).result(HANG_S)
    assert (tmp_path / "attempts").read_text() == "x"


def test_a_function_too_large_to_be_kept_fails_with_what_to_do(
    waiting: CookExecutor, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "CACHED_BLOB_BYTES", 100)
    function = function_of(6000)
    future = waiting.submit(function, 1)
    assert future._session.wait_until_delivered([future], HANG_S)
    truncate(blob_of(waiting, function))
    gate.touch()

    with pytest.raises(Unverifiable, match="Submit it again"):
        future.result(HANG_S)
