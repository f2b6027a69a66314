"""A notebook on another machine than the scheduler: blobs travel over HTTP."""

from uuid import uuid4

import numpy as np
import pytest
from msgspec.structs import replace

from cook_jupyter.client.sync import JobClient
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor.blobs import HttpStore, reachable_store
from cook_jupyter.payload.blobs import BlobStore, DirectoryStore
from tests.executor.test_executor import SOON_S
from tests.payload.blob_store_suite import BlobStoreSuite


class TestHttpStore(BlobStoreSuite):
    @pytest.fixture
    def store(self, started: JobClient) -> BlobStore:
        return HttpStore(started.info_v1().blobs, lambda: started)

    def test_a_deleted_blob_is_gone_and_may_be_deleted_again(self, store: BlobStore) -> None:
        name = f"results/{uuid4()}"
        store.put(name, [b"x"])

        store.delete(name)

        assert store.has(name), "only the scheduler knows who still needs it"


def test_the_own_scheduler_s_store_is_used_as_a_directory(started: JobClient) -> None:
    assert isinstance(reachable_store(started.info_v1(), lambda: started), DirectoryStore)


def test_a_store_that_is_not_on_this_machine_is_reached_over_http(started: JobClient) -> None:
    info = replace(started.info_v1(), blobs="/no/such/folder/here")

    assert isinstance(reachable_store(info, lambda: started), HttpStore)


@pytest.mark.parametrize("size", [100, 32_768, 40_320, 48_400, 49_152, 65_000, 65_536, 131_072])
def test_arrays_of_every_size_travel_over_http(started: JobClient, size: int) -> None:
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        session = executor._holder.current_session()
        session.scheduler.__dict__["store"] = HttpStore(session.scheduler.info.blobs, lambda: started)
        array = np.arange(size, dtype=np.uint8)

        echoed = executor.submit(lambda a: a, array).result(SOON_S)

    np.testing.assert_array_equal(echoed, array)


def test_large_arguments_and_results_travel_over_http_and_are_verified_in_full(
    started: JobClient,
) -> None:
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        session = executor._holder.current_session()
        session.scheduler.__dict__["store"] = HttpStore(session.scheduler.info.blobs, lambda: started)
        array = np.arange(200_000.0)

        doubled = executor.submit(lambda a: a * 2, array).result(SOON_S)

    np.testing.assert_array_equal(doubled, array * 2)
