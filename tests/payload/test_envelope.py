"""The envelope holds what was signed, or is not opened."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import Tampered, Unverifiable
from cook_jupyter.payload.envelope import ALIGNMENT, Buffer, seal, size_of, unseal
from cook_jupyter.payload.keys import Key, make_key

ADA = make_key(b"a" * 32)
BOB = make_key(b"b" * 32)


def sealed(*frames: Buffer, private: bool = False, job: str = "j1") -> bytearray:
    return bytearray(b"".join(seal({"job": job}, frames, direction="call", key=ADA, private=private)))


def refusal(content: Buffer, key: Key = ADA) -> Unverifiable:
    """Return the error with which an envelope is refused."""
    with pytest.raises(Unverifiable) as caught:
        unseal(content, direction="call", key=key, job_id="j1")
    return caught.value


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_what_was_sealed_comes_out_again(frames: list[bytes]) -> None:
    opened = unseal(sealed(*frames), direction="call", key=ADA, job_id="j1")

    assert [bytes(frame) for frame in opened.frames] == frames


@given(st.data())
def test_no_byte_that_counts_can_be_changed(data: st.DataObject) -> None:
    content = sealed(b"one frame", b"another one")
    opened = unseal(bytes(content), direction="call", key=ADA, job_id="j1")
    place = data.draw(st.integers(0, len(content) - 1))
    changed = (
        bytes(content)[:place]
        + bytes([content[place] ^ data.draw(st.integers(1, 255))])
        + content[place + 1 :]
    )

    try:
        again = unseal(changed, direction="call", key=ADA, job_id="j1")
    except Unverifiable:
        return

    assert [bytes(f) for f in again.frames] == [bytes(f) for f in opened.frames]  # it was padding
    assert again.header == opened.header


def test_frames_begin_where_numpy_likes_them_to() -> None:
    content = sealed(b"x", b"y" * 100, b"z" * 64)
    view = memoryview(content)

    for frame in unseal(view, direction="call", key=ADA, job_id="j1").frames:
        assert bytes(content).index(bytes(frame)) % ALIGNMENT == 0


def test_large_frames_for_a_private_store_are_not_copied_when_sealed() -> None:
    frame = bytearray(b"q" * 100_000)

    pieces = seal({}, [b"opcodes", frame], direction="call", key=ADA, private=True)

    assert any(piece is frame for piece in pieces)


def test_an_array_that_changes_while_it_is_sent_does_not_look_altered() -> None:
    array = bytearray(b"q" * 100_000)
    pieces = seal({"job": "j1"}, [b"opcodes", array], direction="call", key=ADA)
    array[7] = 0

    opened = unseal(b"".join(pieces), direction="call", key=ADA, job_id="j1")

    assert bytes(opened.frames[1]) == b"q" * 100_000


def test_the_size_is_that_of_all_pieces() -> None:
    pieces = seal({"job": "j1"}, [b"abc"], direction="call", key=ADA)

    assert size_of(pieces) == len(b"".join(pieces))


def test_another_key_opens_nothing_and_accuses_nobody() -> None:
    error = refusal(sealed(b"x"), key=BOB)

    assert "another signing key" in str(error)
    assert not isinstance(error, Tampered)


def test_a_call_cannot_pass_for_a_result() -> None:
    with pytest.raises(Tampered, match="presented as result"):
        unseal(sealed(b"x"), direction="result", key=ADA, job_id="j1")


def test_a_call_of_one_job_cannot_pass_for_that_of_another() -> None:
    with pytest.raises(Tampered, match="j1"):
        unseal(sealed(b"x"), direction="call", key=ADA, job_id="j2")


def test_another_format_is_named_before_anything_is_read() -> None:
    content = sealed(b"x")
    content[8] = 9

    error = refusal(content)

    assert "format 9" in str(error)
    assert not isinstance(error, Tampered)


@pytest.mark.parametrize("content", [b"", b"COOKCALL", b"x" * 500])
def test_what_is_no_payload_is_not_opened_and_accuses_nobody(content: bytes) -> None:
    assert not isinstance(refusal(content), Tampered)


@given(st.data())
def test_a_payload_cut_short_anywhere_is_not_opened_and_accuses_nobody(data: st.DataObject) -> None:
    content = sealed(b"x" * 1000, b"y" * 300)
    end = len(content) - -300 % ALIGNMENT  # what follows is padding
    error = refusal(content[: data.draw(st.integers(0, end - 1))])

    assert not isinstance(error, Tampered)
    assert "short" in str(error)


def test_a_header_of_another_version_is_not_opened_and_accuses_nobody() -> None:
    content = sealed(b"x")
    (length,) = struct.unpack_from("<I", content, 12)
    text = bytes(content[48 : 48 + length]).replace(b'"frames"', b'"pieces"')
    head = bytes(content[:16])
    signed = head + ADA.sign(head + text) + text + bytes(content[48 + length :])

    error = refusal(signed)

    assert not isinstance(error, Tampered)
    assert "another version" in str(error)


def test_a_buffer_without_a_hash_is_taken_only_from_a_private_place() -> None:
    content = sealed(b"opcodes", b"buffer", private=True)

    opened = unseal(content, direction="call", key=ADA, job_id="j1", private=True)
    assert bytes(opened.frames[1]) == b"buffer"
    error = refusal(content)
    assert "without a hash" in str(error)
    assert not isinstance(error, Tampered)


def test_the_pickle_is_hashed_even_in_a_private_place() -> None:
    content = sealed(b"opcodes", b"buffer", private=True)
    content[content.index(b"opcodes")] ^= 1

    with pytest.raises(Tampered, match="not what was signed"):
        unseal(content, direction="call", key=ADA, job_id="j1", private=True)


def test_the_secret_is_nowhere_in_the_envelope_nor_in_the_keys_repr() -> None:
    content = bytes(sealed(b"x"))

    assert b"a" * 8 not in content
    assert "aaaa" not in repr(ADA)
    assert ADA.key_id in json.dumps(unseal(content, direction="call", key=ADA, job_id="j1").header)
