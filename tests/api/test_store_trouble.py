"""What is answered when the store is locked, damaged or taken away."""

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from cook_jupyter.store import sqlite as sqlite_store
from cook_jupyter.store import sqlite_writer
from cook_jupyter.store.sqlite import SqliteStore
from tests.api.served import serving
from tests.waiting import wait_until


def test_a_locked_store_is_reported_with_503_and_retry_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_MS", 10)
    path = tmp_path / "store.sqlite"
    with serving(tmp_path, store=SqliteStore(path)) as served, closing(apsw.Connection(str(path))) as other:
        job = {"uuid": "a" * 8 + "-0000-4000-8000-000000000000", "command": "true", "cpus": 1, "mem": 16}
        job["max_retries"] = 1
        other.execute("BEGIN EXCLUSIVE")

        refused = served.ask("POST", "/jobs", {"jobs": [job]})

        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["X-Cook-Error"] == "StoreBusy"
        assert "locked by another program" in refused.json["error"]
        (logged,) = [record for record in caplog.records if "/jobs" in record.getMessage()]
        assert (logged.levelname, logged.exc_info) == ("WARNING", None)
        other.execute("ROLLBACK")
        assert served.ask("POST", "/jobs", {"jobs": [job]}).status == 201


def test_a_list_with_a_row_that_cannot_be_read_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with serving(tmp_path, store=SqliteStore(path)) as served:
        for _ in range(3):
            served.submit(cpus=1000)
        with closing(apsw.Connection(str(path))) as other:
            other.execute("UPDATE specs SET spec = x'7b' WHERE seq = 2")

        query = {"user": "ada", "state": "waiting", "start-ms": 0, "end-ms": 2**53}
        owner = served.ask("GET", "/v1/info").json["user"]
        refused = served.ask("GET", "/list", **{**query, "user": owner})

        assert (refused.status, refused.headers["X-Cook-Error"]) == (500, "StoreDamaged")


def test_a_scheduler_whose_store_was_removed_accepts_nothing_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "FILE_CHECK_INTERVAL_S", 0.0)
    path = tmp_path / "store.sqlite"
    with serving(tmp_path, store=SqliteStore(path)) as served:
        served.submit(cpus=1000)
        path.unlink()
        job = {"uuid": "a" * 8 + "-0000-4000-8000-000000000000", "command": "true", "cpus": 1, "mem": 16}

        refused = served.ask("POST", "/jobs", {"jobs": [{**job, "max_retries": 1}]})

        assert (refused.status, refused.headers["X-Cook-Error"]) == (500, "StoreDamaged")
        wait_until(served.scheduler.shutdown.is_set)
        assert "store.sqlite of the store was removed" in str(served.scheduler.failure)
