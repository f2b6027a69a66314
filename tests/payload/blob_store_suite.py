"""What every `BlobStore` does, and every `ServedBlobStore`.

Subclass `BlobStoreSuite` or `ServedBlobStoreSuite` and give it a fixture `store`.
"""

import hashlib
from uuid import uuid4

import pytest

from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.payload.blobs import BlobStore, ServedBlobStore


def a_name() -> str:
    return f"results/{uuid4()}"


class BlobStoreSuite:
    """The promises of `BlobStore`."""

    def test_what_was_put_is_got(self, store: BlobStore) -> None:
        name = a_name()

        store.put(name, [b"one, ", bytearray(b"two, "), memoryview(b"three")])

        assert bytes(store.get(name)) == b"one, two, three"

    def test_a_large_blob_of_many_pieces_comes_back_whole(self, store: BlobStore) -> None:
        name = a_name()
        pieces = [bytes([number % 256]) * 777 for number in range(1500)]

        store.put(name, pieces)

        assert bytes(store.get(name)) == b"".join(pieces)

    def test_what_is_got_can_be_changed_without_changing_the_blob(self, store: BlobStore) -> None:
        name = a_name()
        store.put(name, [bytes(300_000)])

        memoryview(store.get(name))[7] = 1

        assert bytes(store.get(name)) == bytes(300_000)

    def test_a_blob_is_there_after_put_and_not_before(self, store: BlobStore) -> None:
        name = a_name()
        assert not store.has(name)

        store.put(name, [b"x"])

        assert store.has(name)

    def test_the_same_may_be_put_again(self, store: BlobStore) -> None:
        name = a_name()
        store.put(name, [b"whatever"])

        store.put(name, [b"what", b"ever"])

        assert bytes(store.get(name)) == b"whatever"

    def test_a_missing_blob_is_not_found_and_named(self, store: BlobStore) -> None:
        name = a_name()

        with pytest.raises(NotFound) as caught:
            store.get(name)

        assert caught.value.missing == (name,)

    def test_a_deleted_blob_is_gone_and_may_be_deleted_again(self, store: BlobStore) -> None:
        name = a_name()
        store.put(name, [b"x"])

        store.delete(name)
        store.delete(name)

        assert not store.has(name)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "results/",
            "results/../../etc/passwd",
            "functions/abc",
            f"functions/{'A' * 64}",
            "other/0b0b7a56-8d0a-4b5a-8f6b-7a2b5f1c3d4e",
            "/results/0b0b7a56-8d0a-4b5a-8f6b-7a2b5f1c3d4e",
            "results/0b0b7a56-8d0a-4b5a-8f6b-7a2b5f1c3d4e\n",
        ],
    )
    def test_a_name_that_is_none_is_refused(self, store: BlobStore, name: str) -> None:
        with pytest.raises(InvalidRequest):
            store.put(name, [b"x"])
        with pytest.raises(InvalidRequest):
            store.get(name)

    def test_a_blob_has_its_size(self, store: BlobStore) -> None:
        name = a_name()
        assert store.size(name) is None

        store.put(name, [b"four", bytes(300_000)])

        assert store.size(name) == 300_004

    def test_a_blob_of_another_size_is_not_the_one_that_was_stored(self, store: BlobStore) -> None:
        content = b"content"
        name, digest = a_name(), hashlib.sha256(content).hexdigest()
        assert not store.holds(name, 7, digest)

        store.put(name, [content])

        assert store.holds(name, 7, digest)
        assert not store.holds(name, 8, digest)


class ServedBlobStoreSuite(BlobStoreSuite):
    """The promises of `ServedBlobStore`."""

    def test_a_blob_can_be_read_in_pieces(self, store: ServedBlobStore) -> None:
        name = a_name()
        store.put(name, [bytes(300_000), b"end"])

        with store.open(name) as blob:
            pieces = [blob.read(100_000) for _ in range(5)]

        assert [len(piece) for piece in pieces] == [100_000, 100_000, 100_000, 3, 0]
        assert pieces[3] == b"end"

    def test_a_missing_blob_cannot_be_opened(self, store: ServedBlobStore) -> None:
        name = a_name()

        with pytest.raises(NotFound) as caught:
            store.open(name)

        assert caught.value.missing == (name,)

    def test_a_draft_is_no_blob_before_it_is_committed(self, store: ServedBlobStore) -> None:
        name = a_name()
        draft = store.draft(name)
        draft.write(b"one, ")
        draft.write(memoryview(b"two"))
        assert not store.has(name)

        draft.commit()
        draft.discard()

        assert bytes(store.get(name)) == b"one, two"

    def test_a_draft_that_is_discarded_leaves_nothing_behind(self, store: ServedBlobStore) -> None:
        name = a_name()
        draft = store.draft(name)
        draft.write(b"half")

        draft.discard()
        draft.discard()

        assert not store.has(name)

    def test_a_committed_draft_replaces_an_earlier_blob(self, store: ServedBlobStore) -> None:
        name = a_name()
        store.put(name, [b"damaged"])
        draft = store.draft(name)
        draft.write(b"whole")

        draft.commit()

        assert bytes(store.get(name)) == b"whole"

    def test_names_that_are_none_are_refused_for_pieces_too(self, store: ServedBlobStore) -> None:
        with pytest.raises(InvalidRequest):
            store.draft("results/../../etc/passwd")
        with pytest.raises(InvalidRequest):
            store.open("results/../../etc/passwd")
