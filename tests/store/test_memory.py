"""MemoryStore gives the guarantees of every store."""

import pytest

from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from tests.store.contract import StoreContract, StoreHarness


class MemoryHarness:
    """Restarts a store in memory by closing and opening the same object."""

    async def open(self) -> Store:
        store = MemoryStore()
        await store.open()
        return store

    async def restart(self, store: Store) -> Store:
        await store.close()
        await store.open()
        return store


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        return MemoryHarness()
