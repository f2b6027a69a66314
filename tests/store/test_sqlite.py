"""SqliteStore keeps the promises of every store, and those of its file."""

from pathlib import Path

import pytest

from cook_jupyter.store.base import Store
from cook_jupyter.store.sqlite import SqliteStore
from cook_jupyter.store.sqlite_rows import Synchronous
from tests.store.contract import Home, StoreContract


class SqliteHome:
    """A store in a file is restarted by another object on the same file."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self._path = path
        self._synchronous = synchronous

    async def opened(self) -> Store:
        store = SqliteStore(self._path, synchronous=self._synchronous)
        await store.open()
        return store

    async def restarted(self, store: Store) -> Store:
        await store.close()
        return await self.opened()


class TestSqliteStore(StoreContract):
    @pytest.fixture(params=["NORMAL", "FULL"])
    def home(self, tmp_path: Path, request: pytest.FixtureRequest) -> Home:
        return SqliteHome(tmp_path / "store.db", request.param)
