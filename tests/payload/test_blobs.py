"""The twins of the blob store that live in `payload`."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from cook_jupyter.errors import StoreFull
from cook_jupyter.payload.blobs import BlobStore, DirectoryStore, FsspecStore, open_store
from cook_jupyter.payload.drafts import FileDraft
from cook_jupyter.payload.store_identity import read_identity
from tests.payload.blob_store_suite import ServedBlobStoreSuite, a_name


class TestDirectoryStore(ServedBlobStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return DirectoryStore(tmp_path / "blobs")

    def test_no_draft_is_left_behind(self, store: DirectoryStore) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: store.put("results/" + str(uuid4()), [os.urandom(1000)]), range(40)))

        assert len(list(Path(store.url, "results").iterdir())) == 40
        assert not list(Path(store.url).rglob(".*"))

    def test_a_mapped_blob_outlives_its_deletion(self, store: DirectoryStore) -> None:
        name = a_name()
        store.put(name, [np.arange(100_000).tobytes()])
        content = store.get(name)

        store.delete(name)

        assert np.frombuffer(content, dtype=np.int64).sum() == sum(range(100_000))

    def test_blobs_are_their_owners_alone(self, store: DirectoryStore) -> None:
        name = a_name()
        store.put(name, [b"x"])

        assert Path(store.url, name).stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize(
        ("mode", "private"), [(0o700, True), (0o755, True), (0o775, False), (0o777, False)]
    )
    def test_it_is_private_when_no_other_may_write(self, tmp_path: Path, mode: int, private: bool) -> None:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs").chmod(mode)

        assert DirectoryStore(tmp_path / "blobs").private is private

    def test_a_full_disk_is_said_to_be_full(
        self, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        monkeypatch.setattr(FileDraft, "_create", lambda draft: os.open("/dev/full", os.O_WRONLY))

        with pytest.raises(StoreFull, match="Make room"):
            store.put(a_name(), [b"x"])


class TestFsspecStore(ServedBlobStoreSuite):
    @pytest.fixture(params=["memory", "local"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
        if request.param == "memory":
            yield FsspecStore(f"memory://blobs-{uuid4()}")
        else:
            yield FsspecStore(f"local://{tmp_path}/blobs")

    def test_it_is_never_private(self, store: FsspecStore) -> None:
        assert not store.private


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("relative/or/absolute", DirectoryStore),
        ("file:///tmp/x", DirectoryStore),
        ("memory://x", FsspecStore),
    ],
)
def test_a_store_is_opened_by_its_url(url: str, kind: type) -> None:
    assert isinstance(open_store(url), kind)


def test_a_store_can_be_opened_again_by_the_url_it_names(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    store.put("functions/" + "a" * 64, [b"x"])

    assert open_store(store.url).has("functions/" + "a" * 64)


@pytest.mark.parametrize("content", [b"", b"conten", b"cOntent"])
def test_a_damaged_blob_in_a_directory_is_not_the_one_that_was_stored(tmp_path: Path, content: bytes) -> None:
    store = DirectoryStore(tmp_path)
    digest = hashlib.sha256(b"content").hexdigest()
    store.put(f"functions/{digest}", [b"content"])
    (tmp_path / "functions" / digest).write_bytes(content)

    assert not store.holds(f"functions/{digest}", 7, digest)


@pytest.mark.parametrize("synced", [False, True])
def test_a_synced_directory_writes_content_and_name_to_the_disk_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def noted_replace(source: str, target: str) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    store = open_store(DirectoryStore(tmp_path, synced=synced).url)

    store.put("functions/" + "a" * 64, [b"content"])

    assert steps == (["file", "rename", "directory"] if synced else ["rename"])


class Meanwhile(list[bytes]):
    """The pieces of a blob; something else happens while they are written."""

    def __init__(self, pieces: list[bytes], happens: Callable[[], None]) -> None:
        super().__init__(pieces)
        self._happens = happens

    def __getitem__(self, place: Any) -> Any:
        self._happens()
        return super().__getitem__(place)


def test_two_stores_of_one_process_put_the_same_blob_at_the_same_time(tmp_path: Path) -> None:
    first, second = DirectoryStore(tmp_path), DirectoryStore(tmp_path)
    name = "functions/" + "a" * 64

    first.put(name, Meanwhile([b"content"], lambda: second.put(name, [b"content"])))

    assert bytes(second.get(name)) == b"content"
    assert [path.name for path in (tmp_path / "functions").iterdir()] == ["a" * 64]


def test_a_directory_keeps_its_identity(tmp_path: Path) -> None:
    identity = DirectoryStore(tmp_path).identity()

    assert identity
    assert DirectoryStore(tmp_path, synced=True).identity() == read_identity(tmp_path) == identity
    assert DirectoryStore(tmp_path / "other").identity() == ""


def test_directories_have_different_identities(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()

    assert len({DirectoryStore(folder).identity() for folder in folders}) == 2


def test_all_who_ask_for_the_identity_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        identities = set(pool.map(lambda _: DirectoryStore(tmp_path).identity(), range(40)))

    assert len(identities) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]
