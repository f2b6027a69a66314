"""The envelope: a signed header and its frames, laid out so that a mapped file can be used as it is.

    8 bytes   magic
    2 + 2     version, reserved
    4         length of the header
    32        HMAC-SHA256 over what precedes it and the header; zeros where a digest binds the whole
    n         the header, JSON: what this is, for whom, and of each frame its length and SHA-256
    ...       the frames, each beginning at a multiple of 64 bytes

Lives here: the layout, signing, verifying. Nothing is parsed before its signature holds.
Not here: what the frames mean (`payload.calls`), where they rest (`payload.blobs`), keys (`payload.keys`).

Signing follows the `pickle` documentation's advice; which facts are signed, the reliability specification's
section 3.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cook_jupyter.errors import Tampered, Unverifiable
from cook_jupyter.payload.keys import Key

Buffer = bytes | bytearray | memoryview
Direction = Literal["call", "result", "function"]

MAGIC = b"COOKCALL"
VERSION = 1
ALIGNMENT = 64  # a cache line; numpy and BLAS are happy with it

_HEAD = struct.Struct("<8sHHI")
_MAC_BYTES = 32
_HEADER_AT = _HEAD.size + _MAC_BYTES
_NO_MAC = bytes(_MAC_BYTES)
_PADDING = bytes(ALIGNMENT)
_to_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one for each call
_from_json = json.JSONDecoder().decode
_ALWAYS_HASHED = 1  # frames: the first is what the unpickler executes
_KEY_ID = re.compile(rb'"key":"([0-9a-f]*)"')  # quotes within JSON strings are escaped


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEnvelope:
    """An envelope whose signature and frames were found good."""

    header: Mapping[str, Any]
    frames: Sequence[memoryview]


def seal(
    header: Mapping[str, Any],
    frames: Sequence[Buffer],
    *,
    direction: Direction,
    key: Key | None,
    private: bool = False,
) -> list[Buffer]:
    """Return the pieces of an envelope, in order; large frames are referred to, not copied.

    Args:
        header: facts to sign along; JSON values. `job` and `instance` say for whom it is.
        frames: the first is a pickle, the others are the raw buffers it refers to.
        direction: a call cannot pass for a result, nor the other way round.
        key: who signs. None only for what a digest of the whole binds (functions).
        private: the envelope will be stored where only this user can write. Raw buffers are then not hashed:
            whoever could alter them there could as well read the key. The pickle always is.

    Raw buffers that are hashed are copied first: the memory is the caller's, and another thread that changes
    it between hashing and writing must not make the payload look altered.
    """
    if not private:
        frames = [*frames[:_ALWAYS_HASHED], *map(snapshot, frames[_ALWAYS_HASHED:])]
    described = [
        (len(frame), "" if private and number >= _ALWAYS_HASHED else _sha256(frame))
        for number, frame in enumerate(frames)
    ]
    facts = {
        **header,
        "direction": direction,
        "codec": "pickle5",
        "key": key.key_id if key is not None else "",
        "frames": described,
    }
    text = _to_json(facts).encode("ascii")
    head = _HEAD.pack(MAGIC, VERSION, 0, len(text))
    mac = key.sign(head + text) if key is not None else _NO_MAC
    start = head + mac + text
    pieces: list[Buffer] = [start + _PADDING[: -len(start) % ALIGNMENT]]
    for frame in frames:
        pieces.append(frame)
        if rest := -len(frame) % ALIGNMENT:
            pieces.append(_PADDING[:rest])
    return pieces


def unseal(
    content: Buffer,
    *,
    direction: Direction,
    key: Key | None,
    job_id: str = "",
    private: bool = False,
) -> VerifiedEnvelope:
    """Verify an envelope and return what is in it; the frames are views, nothing is copied.

    Args:
        content: the whole envelope.
        direction: what it must be.
        key: who must have signed it; None where the caller has verified a digest of the whole.
        job_id: the job it must belong to.
        private: it was read where only this user can write, so buffers may come without a hash.

    Raises:
        Unverifiable: it is cut short, of another format, signed with another key, or lacks a hash.
        Tampered: it is complete and not what was signed, or signed for another job.
    """
    name = f"{direction} of job {job_id}" if job_id else direction
    view = memoryview(content)
    text = _header_text(view, name)
    if key is not None:
        expected = key.sign(bytes(view[: _HEAD.size]) + text)
        if not hmac.compare_digest(expected, bytes(view[_HEAD.size : _HEADER_AT])):
            raise _signature_error(text, key, name)
    header = _parse_header(text, name)
    if header["direction"] != direction or (key is not None and header.get("job", "") != job_id):
        raise Tampered(
            f"a payload signed as {header['direction']} of job {header.get('job')} was presented as "
            f"{name}; it was not opened"
        )
    places = _frame_places(header, _HEADER_AT + len(text), len(view), name)
    frames = [view[start:end] for start, end in places]
    for number, (frame, (_, digest)) in enumerate(zip(frames, header["frames"], strict=True)):
        if digest:
            if not hmac.compare_digest(_sha256(frame), digest):
                raise Tampered(f"the content of the {name} is not what was signed; it was not opened")
        elif not private or number < _ALWAYS_HASHED:
            raise Unverifiable(
                f"the {name} was written without the hash of its content, for a reader of the scheduler's "
                "own blob folder; here it arrived another way, or others may write to that folder. It was "
                "not opened. Read it as the user and on the machine that submitted it, or submit it anew."
            )
    return VerifiedEnvelope(header=header, frames=frames)


def require_complete(content: Buffer, *, direction: Direction) -> None:
    """Check that an envelope has all the bytes that its own header lists.

    A digest of the whole proves an alteration only if this holds.

    Args:
        content: the whole envelope, not verified yet.
        direction: its name in an error message.

    Raises:
        Unverifiable: it is cut short, damaged, or of another format.
    """
    view = memoryview(content)
    text = _header_text(view, direction)
    _frame_places(_parse_header(text, direction), _HEADER_AT + len(text), len(view), direction)


def size_of(pieces: Sequence[Buffer]) -> int:
    """Return the number of bytes of an envelope."""
    return sum(map(len, pieces))


def snapshot(frame: Buffer) -> Buffer:
    """Return the content of a frame as it is now, safe from later changes; copied unless it is immutable."""
    immutable = isinstance(frame, bytes) or (isinstance(frame, memoryview) and type(frame.obj) is bytes)
    return frame if immutable else bytes(frame)


def _header_text(view: memoryview, name: str) -> bytes:
    """Return the header of an envelope, not parsed."""
    if len(view) < _HEADER_AT:
        raise Unverifiable(
            f"the {name} is cut short: it has {len(view)} bytes, fewer than any payload. Submit it again."
        )
    magic, version, _, length = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise Unverifiable(
            f"the {name} is not a payload of cook_jupyter: something else, or damage. It was not opened."
        )
    if version != VERSION:
        raise Unverifiable(
            f"the {name} has format {version} and this cook_jupyter reads format {VERSION}; "
            "install the same version of cook_jupyter on both sides"
        )
    text = bytes(view[_HEADER_AT : _HEADER_AT + length])
    if len(text) != length:
        raise _cut_short(name, _HEADER_AT + length, len(view))
    return text


def _parse_header(text: bytes, name: str) -> dict[str, Any]:
    problem = Unverifiable(
        f"the header of the {name} cannot be read: it is damaged, or written by another version of "
        "cook_jupyter. It was not opened."
    )
    try:
        header: dict[str, Any] = _from_json(text.decode("ascii"))
        well_formed = isinstance(header["direction"], str) and all(
            isinstance(length, int) and length >= 0 and isinstance(digest, str)
            for length, digest in header["frames"]
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise problem from error
    if not well_formed:
        raise problem
    return header


def _frame_places(header: Mapping[str, Any], start: int, size: int, name: str) -> list[tuple[int, int]]:
    """Return where each frame begins and ends."""
    places = []
    for length, _ in header["frames"]:
        start += -start % ALIGNMENT
        places.append((start, start + length))
        start += length
    if start > size:
        raise _cut_short(name, start, size)
    return places


def _cut_short(name: str, expected: int, size: int) -> Unverifiable:
    return Unverifiable(
        f"the {name} is cut short: {size} of at least {expected} bytes are there. It was not opened. "
        "Submit it again."
    )


def _signature_error(text: bytes, key: Key, name: str) -> Unverifiable:
    """Return the error of a signature that does not match; an accusation only when it is certain."""
    signer = _KEY_ID.search(text)
    if signer is not None and signer[1].decode("ascii") != key.key_id:
        return Unverifiable(
            f"the {name} names another signing key ({signer[1].decode('ascii')}) than this process has "
            f"({key.key_id}), so it cannot be verified and was not opened. The key was replaced, or another "
            "user signed. Submit it again."
        )
    return Tampered(
        f"the signature of the {name} does not match its content: it was altered after it was signed. "
        "It was not opened."
    )


def _sha256(content: Buffer) -> str:
    return hashlib.sha256(content).hexdigest()
