"""MemoryStore keeps the promises of every store."""

import pytest

from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from tests.store.contract import Home, StoreContract


class MemoryHome:
    """A store in memory is restarted by closing and opening the same object."""

    async def opened(self) -> Store:
        store = MemoryStore()
        await store.open()
        return store

    async def restarted(self, store: Store) -> Store:
        await store.close()
        await store.open()
        return store


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def home(self) -> Home:
        return MemoryHome()
