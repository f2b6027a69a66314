"""A notebook on another machine than the scheduler: blobs travel over HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
import pytest
from msgspec.structs import replace

from cook_jupyter.client.answers import BlobStoreInfo, SchedulerInfo
from cook_jupyter.client.sync import JobClient
from cook_jupyter.executor import CookExecutor, connection
from cook_jupyter.executor.blobs import HttpStore, reachable_store
from cook_jupyter.payload.blobs import BlobStore, DirectoryStore
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import StoreSettings
from tests.api.served import TOKEN, serving
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


def test_proving_that_a_directory_is_shared_leaves_nothing_behind(started: JobClient) -> None:
    info = started.info_v1()
    before = sorted(Path(info.blobs).rglob("*"))

    reachable_store(info, lambda: started)

    assert sorted(path for path in Path(info.blobs).rglob("*") if path.name != "calls") == [
        path for path in before if path.name != "calls"
    ]


def test_a_store_that_is_not_on_this_machine_is_reached_over_http(started: JobClient) -> None:
    info = started.info_v1()
    elsewhere = replace(info, blob_store=replace(info.blob_store, url="/no/such/folder/here"))

    assert isinstance(reachable_store(elsewhere, lambda: started), HttpStore)


def test_a_directory_with_another_identity_is_not_written_to(started: JobClient, tmp_path: Path) -> None:
    info = started.info_v1()
    DirectoryStore(tmp_path).identity()
    elsewhere = replace(info, blob_store=replace(info.blob_store, url=str(tmp_path)))

    assert isinstance(reachable_store(elsewhere, lambda: started), HttpStore)
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]


def test_a_copy_of_the_directory_is_not_taken_for_it(started: JobClient, tmp_path: Path) -> None:
    info = started.info_v1()
    (tmp_path / "identity").write_text(info.blob_store.identity)
    elsewhere = replace(info, blob_store=replace(info.blob_store, url=str(tmp_path)))

    assert isinstance(reachable_store(elsewhere, lambda: started), HttpStore)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "identity"]


def test_an_older_scheduler_that_names_no_identity_gets_blobs_over_http(started: JobClient) -> None:
    info = replace(started.info_v1(), blob_store=BlobStoreInfo())

    store = reachable_store(info, lambda: started)

    assert isinstance(store, HttpStore)
    assert store.url == info.blobs


@pytest.mark.parametrize(("synchronous", "scheme"), [("NORMAL", ""), ("FULL", "file+sync://")])
def test_a_scheduler_that_writes_through_to_the_disk_has_its_clients_do_so_too(
    tmp_path: Path, synchronous: Literal["NORMAL", "FULL"], scheme: str
) -> None:
    settings = Settings(store=StoreSettings(synchronous=synchronous))
    with serving(tmp_path, settings=settings) as served, JobClient(served.url, token=TOKEN) as client:
        store = reachable_store(client.info_v1(), lambda: client)

        assert isinstance(store, DirectoryStore)
        assert store.url == f"{scheme}{tmp_path}/blobs"


def test_a_session_looks_for_its_store_once(started: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def count_look(info: SchedulerInfo, client: Callable[[], JobClient]) -> BlobStore:
        looks.append(info.blobs)
        return reachable_store(info, client)

    monkeypatch.setattr(connection, "reachable_store", count_look)
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        for _ in range(2):
            assert executor.submit(len, bytes(100_000)).result(SOON_S) == 100_000

    assert len(looks) == 1


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
