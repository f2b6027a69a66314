"""SqliteStore gives the guarantees of every store, and those about its file."""

import asyncio
import os
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from cook_jupyter.errors import InvalidRequest, SchedulerError, StoreBusy, StoreDamaged
from cook_jupyter.store import sqlite as sqlite_store
from cook_jupyter.store import sqlite_reader, sqlite_writer
from cook_jupyter.store.base import Store
from cook_jupyter.store.sqlite import SqliteStore
from cook_jupyter.store.sqlite_reader import Synchronous
from cook_jupyter.store.sqlite_writer import migrate, refuse_old_sqlite
from tests.builders import a_job_spec
from tests.store.contract import StoreContract, StoreHarness, a_query, listed_jobs, open_jobs, submit_job
from tests.waiting import HANG_S


class SqliteHarness:
    """Restarts a store in a file by opening the file with another object."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self._path = path
        self._synchronous = synchronous

    async def open(self) -> Store:
        store = SqliteStore(self._path, synchronous=self._synchronous)
        await store.open()
        return store

    async def restart(self, store: Store) -> Store:
        await store.close()
        return await self.open()


class TestSqliteStore(StoreContract):
    @pytest.fixture(params=["NORMAL", "FULL"])
    def harness(self, tmp_path: Path, request: pytest.FixtureRequest) -> StoreHarness:
        return SqliteHarness(tmp_path / "store.db", request.param)


async def test_a_second_scheduler_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first, second = SqliteStore(path), SqliteStore(path)
    await first.open()

    with pytest.raises(SchedulerError, match=f"in use by another scheduler .process {os.getpid()}"):
        await second.open()

    await first.close()
    await second.open()
    await second.close()


async def test_the_lock_of_a_killed_process_does_not_block_the_next(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, sys\n"
        "from cook_jupyter.store.sqlite import SqliteStore\n"
        "async def hold():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    await store.open()\n"
        "    print('open', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(hold())\n",
        str(path),
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    store = SqliteStore(path)
    with pytest.raises(SchedulerError, match=f"process {holder.pid}"):
        await store.open()

    holder.kill()
    await holder.wait()

    await store.open()
    await store.close()


async def test_the_file_and_the_files_beside_it_are_accessible_to_their_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "new folder" / "store.db")
    await store.open()
    await submit_job(store)
    files = list((tmp_path / "new folder").iterdir())
    assert {file.name for file in files} == {"store.db", "store.db-wal", "store.db-shm", "store.db.lock"}
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    await store.close()


async def test_a_store_of_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = await a_closed_store(tmp_path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA user_version = 999")
    before = path.read_bytes()

    with pytest.raises(SchedulerError, match=r"newer cook_jupyter \(schema 999"):
        await SqliteStore(path).open()

    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE precious (x)")
    with pytest.raises(SchedulerError, match="another program"):
        await SqliteStore(path).open()
    with closing(apsw.Connection(str(path))) as connection:
        assert list(connection.execute("SELECT name FROM sqlite_schema")) == [("precious",)]


async def test_a_file_that_is_not_a_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("a letter " * 1000)
    with pytest.raises(SchedulerError, match="not a store, or is damaged"):
        await SqliteStore(path).open()
    assert path.read_text() == "a letter " * 1000


async def test_a_path_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(SchedulerError, match=r"cannot open the store .*store\.db"):
        await SqliteStore(tmp_path / "store.db").open()
    (tmp_path / "file").touch()
    with pytest.raises(SchedulerError, match="cannot open the store"):
        await SqliteStore(tmp_path / "file" / "store.db").open()


def test_an_old_sqlite_is_refused() -> None:
    refuse_old_sqlite("3.51.3")
    refuse_old_sqlite("3.54.1")
    refuse_old_sqlite("4.0")
    with pytest.raises(SchedulerError, match=r"SQLite 3\.51\.2 .* 3\.51\.3 or newer"):
        refuse_old_sqlite("3.51.2")


def test_a_migration_upgrades_an_older_schema_and_keeps_its_rows(tmp_path: Path) -> None:
    first = "CREATE TABLE a (x); INSERT INTO a VALUES (1)"
    second = "ALTER TABLE a ADD COLUMN y DEFAULT 2"
    path = tmp_path / "store.db"
    with closing(apsw.Connection(str(path))) as connection:
        migrate(connection, [first], path)
        migrate(connection, [first, second], path)
        migrate(connection, [first, second], path)
        assert list(connection.execute("SELECT x, y FROM a")) == [(1, 2)]
        with pytest.raises(SchedulerError, match="newer"):
            migrate(connection, [first], path)


def test_a_migration_that_fails_leaves_the_schema_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(apsw.Connection(str(path))) as connection:
        migrate(connection, ["CREATE TABLE a (x)"], path)
        with pytest.raises(apsw.SQLError):
            migrate(connection, ["", "CREATE TABLE b (x); CREATE TABLE a (x)"], path)
        assert list(connection.execute("SELECT name FROM sqlite_schema")) == [("a",)]
        assert list(connection.execute("PRAGMA user_version")) == [(1,)]


async def test_synchronous_is_normal_or_full(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="NORMAL or FULL"):
        SqliteStore(tmp_path / "store.db", synchronous="OFF")  # type: ignore[arg-type]


async def test_the_log_is_checkpointed_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_LOG_PAGES", 100)
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    for _ in range(300):
        await submit_job(store)
    assert (tmp_path / "store.db-wal").stat().st_size < 150 * 2100
    await store.close()


async def test_the_log_is_checkpointed_when_the_store_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "IDLE_S", 0.01)
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    spec = await submit_job(store)

    def is_in_the_file() -> bool:
        return spec.job_id.encode() in (tmp_path / "store.db").read_bytes()

    async with asyncio.timeout(HANG_S):
        while not is_in_the_file():  # noqa: ASYNC110 only the file shows it
            await asyncio.sleep(0.01)
    await store.close()


async def test_a_long_reader_of_another_program_does_not_block_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_LOG_PAGES", 20)
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    await submit_job(store)
    with closing(apsw.Connection(str(tmp_path / "store.db"), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        reader.execute("BEGIN")
        assert list(reader.execute("SELECT count(*) FROM jobs")) == [(1,)]
        specs = [await submit_job(store) for _ in range(50)]
        assert None not in await store.jobs([spec.job_id for spec in specs])
        assert list(reader.execute("SELECT count(*) FROM jobs")) == [(1,)]
    for _ in range(50):
        await submit_job(store)
    assert (tmp_path / "store.db-wal").stat().st_size < 1_500_000
    await store.close()


async def test_a_lock_of_another_program_delays_commands_but_does_not_block_the_event_loop(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as other:
        other.execute("BEGIN IMMEDIATE")
        calls = [asyncio.create_task(submit_job(store)) for _ in range(3)]
        done, _ = await asyncio.wait(calls, timeout=0.1)
        assert not done
        assert await store.last_change() == 0
        other.execute("ROLLBACK")
        await asyncio.gather(*calls)
    assert await store.last_change() == 3
    await store.close()


async def test_a_file_that_stays_locked_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_MS", 20)
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="locked by another program"):
            await submit_job(store)
        other.execute("ROLLBACK")
    await submit_job(store)
    assert await store.last_change() == 1
    await store.close()


async def test_values_that_cannot_be_stored_fail_only_their_own_command(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    good = [a_job_spec(), a_job_spec()]
    outcomes = await asyncio.gather(
        store.submit([good[0]], now_ms=1),
        store.submit([a_job_spec(command="\ud800")], now_ms=1),
        store.submit([a_job_spec(max_retries=2**80)], now_ms=1),
        store.submit([good[1]], now_ms=1),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes[1:3]] == [InvalidRequest, InvalidRequest]
    assert [job.spec for job in await open_jobs(store)] == good
    await store.close()


async def test_the_last_change_number_is_restored_from_the_jobs_of_all_users(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    specs = [await submit_job(store, user=user) for user in ("zoë", "ada", "m", "ada", "eve")]
    await store.kill_jobs([specs[2].job_id])
    await store.close()
    again = SqliteStore(tmp_path / "store.db")
    await again.open()
    assert await again.last_change() == 6
    await again.close()


async def a_closed_store(folder: Path) -> Path:
    store = SqliteStore(folder / "store.db")
    await store.open()
    await store.close()
    return folder / "store.db"


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("change", ["removed", "replaced"])
async def test_nothing_is_acknowledged_after_a_file_of_the_store_was_removed(
    tmp_path: Path, suffix: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "FILE_CHECK_INTERVAL_S", 0.0)
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    await submit_job(store)
    assert store.broken() is None
    file = tmp_path / f"store.db{suffix}"
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    file.unlink()
    if change == "replaced":
        copy.rename(file)

    with pytest.raises(SchedulerError, match=f"store.db{suffix} of the store was {change}"):
        await submit_job(store)
    assert change in str(store.broken())
    await store.close()


async def test_removing_the_log_loses_nothing_when_the_store_is_closed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    spec = await submit_job(store)
    store_id = store.store_id
    (tmp_path / "store.db-wal").unlink()
    await store.close()

    await store.open()

    assert await store.jobs([spec.job_id]) != [None]
    assert store.store_id == store_id
    await store.close()


async def test_a_new_store_at_the_same_path_has_another_id(tmp_path: Path) -> None:
    path = await a_closed_store(tmp_path)
    store = SqliteStore(path)
    await store.open()
    before = store.store_id
    await store.close()
    path.unlink()

    await store.open()

    assert store.store_id != before
    await store.close()


async def a_store_of_many_pages(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.submit([a_job_spec(command="x" * 900) for _ in range(300)], now_ms=1)
    await store.close()


def overwrite_page(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * 2048)
        file.write(b"\xa5" * 2048)


@pytest.mark.parametrize("page", [3, 20, 60, 100])
async def test_opening_a_damaged_store_is_refused(tmp_path: Path, page: int) -> None:
    path = tmp_path / "store.db"
    await a_store_of_many_pages(path)
    overwrite_page(path, page)
    before = path.read_bytes()

    with pytest.raises(StoreDamaged, match="restore it from a backup"):
        await SqliteStore(path).open()

    assert path.read_bytes() == before


@pytest.mark.parametrize("page", [20, 60, 100])
async def test_damage_to_a_large_store_is_detected_while_it_is_in_use(
    tmp_path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    await a_store_of_many_pages(path)
    overwrite_page(path, page)
    monkeypatch.setattr(sqlite_writer, "CHECKED_AT_OPEN_BYTES", 0)
    store = SqliteStore(path)
    await store.open()

    async with asyncio.timeout(HANG_S):
        while store.broken() is None:  # noqa: ASYNC110 - the thread that detects it has no event
            await asyncio.sleep(0.001)

    assert "damaged" in str(store.broken())
    await store.close()


async def test_a_large_store_may_be_closed_while_it_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    await a_store_of_many_pages(path)
    monkeypatch.setattr(sqlite_writer, "CHECKED_AT_OPEN_BYTES", 0)
    store = SqliteStore(path)
    await store.open()
    await store.close()

    await store.open()
    assert store.broken() is None
    await store.close()


async def test_a_row_that_cannot_be_read_fails_the_whole_query(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await a_store_of_many_pages(path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE specs SET spec = x'7b' WHERE seq = 150")
    store = SqliteStore(path)
    await store.open()

    with pytest.raises(StoreDamaged, match="a row of the store"):
        await listed_jobs(store, a_query())
    with pytest.raises(StoreDamaged, match="a row of the store"):
        await open_jobs(store)
    await store.close()


async def test_opening_a_locked_store_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await a_closed_store(tmp_path)
    monkeypatch.setattr(sqlite_reader, "OPEN_TIMEOUT_MS", 10)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreBusy, match="locked by another program"):
            await SqliteStore(path).open()

    store = SqliteStore(path)
    await store.open()
    await store.close()
