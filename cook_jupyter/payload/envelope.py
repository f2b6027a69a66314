"""The envelope of a payload: a signed header and frames, laid out for use directly from a mapped file.

    8 bytes   magic
    2 + 2     version, reserved
    4         length of the header
    32        HMAC-SHA256 of the bytes above and the header; zeros if a digest of the whole is verified
    instead n         the header, as JSON: kind and recipient of the payload, length and SHA-256 of each frame
    ...       the frames, each at a multiple of 64 bytes

Lives here: the layout, signing and verification. Nothing is parsed before its signature has been verified.
Not here: the meaning of the frames (`payload.calls`), storage (`payload.blobs`), keys (`payload.keys`).

Signing follows the advice in Python's documentation of `pickle`.
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
ALIGNMENT = 64  # a cache line, as numpy and BLAS prefer

_HEAD = struct.Struct("<8sHHI")
_MAC_BYTES = 32
_HEADER_START = _HEAD.size + _MAC_BYTES
_NO_MAC = bytes(_MAC_BYTES)
_PADDING = bytes(ALIGNMENT)
_to_json = json.JSONEncoder(
    separators=(",", ":")
).encode  # created once: json.dumps creates one for each call
_from_json = json.JSONDecoder().decode
_ALWAYS_HASHED = 1  # number of frames: the first is the pickle, which the unpickler executes
_KEY_ID = re.compile(rb'"key":"([0-9a-f]*)"')  # quotes within JSON strings are escaped


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEnvelope:
    """An envelope whose signature and hashes were verified."""

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

    Raw buffers that are hashed are copied first: they are the caller's memory, and a change by another thread
    between hashing and writing would make the payload look altered.

    Args:
        header: facts to sign, as JSON values; `job` and `instance` name the recipient.
        frames: the pickle, then the raw buffers it refers to.
        direction: kind of the payload, signed so that a call cannot be mistaken for a result or vice versa.
        key: signing key; None only for functions, whose digest is verified instead.
        private: whether the envelope is stored where only this user can write. Its raw buffers are then not
            hashed: whoever could alter them could also read the key. The pickle is always hashed.
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
    """Verify an envelope and return its header and frames; the frames are views, not copies.

    Args:
        content: the whole envelope.
        direction: expected kind of the payload.
        key: key that must have signed the envelope; None if the caller has verified a digest of the whole.
        job_id: job that the payload must belong to.
        private: whether the envelope was read from where only this user can write, so that buffers need no
            hash.

    Raises:
        Unverifiable: the envelope is cut short, has another format, another key, or lacks a hash.
        Tampered: the envelope is complete but was altered after it was signed, or was signed for another job.
    """
    name = f"{direction} of job {job_id}" if job_id else direction
    view = memoryview(content)
    text = _header_text(view, name)
    if key is not None:
        expected = key.sign(bytes(view[: _HEAD.size]) + text)
        if not hmac.compare_digest(expected, bytes(view[_HEAD.size : _HEADER_START])):
            raise _signature_error(text, key, name)
    header = _parse_header(text, name)
    if header["direction"] != direction or (key is not None and header.get("job", "") != job_id):
        raise Tampered(
            f"a payload signed as {header['direction']} of job {header.get('job')} was presented as "
            f"{name}; it was not opened"
        )
    bounds = _frame_bounds(header, _HEADER_START + len(text), len(view), name)
    frames = [view[start:end] for start, end in bounds]
    for number, (frame, (_, digest)) in enumerate(zip(frames, header["frames"], strict=True)):
        if digest:
            if not hmac.compare_digest(_sha256(frame), digest):
                raise Tampered(f"the content of the {name} is not what was signed; it was not opened")
        elif not private or number < _ALWAYS_HASHED:
            raise Unverifiable(
                f"the {name} was written without a hash of its content, for a reader of the scheduler's own "
                "blob directory; here it arrived another way, or others may write to that directory. It was "
                "not opened. Read it as the user and on the machine that submitted it, or submit it again."
            )
    return VerifiedEnvelope(header=header, frames=frames)


def require_complete(content: Buffer, *, direction: Direction) -> None:
    """Check that an envelope has all bytes that its header lists.

    Only then does a wrong digest of the whole prove an alteration.

    Args:
        content: the whole envelope, not verified yet.
        direction: kind of the payload, for the error message.

    Raises:
        Unverifiable: the envelope is cut short, damaged, or has another format.
    """
    view = memoryview(content)
    text = _header_text(view, direction)
    _frame_bounds(_parse_header(text, direction), _HEADER_START + len(text), len(view), direction)


def size_of(pieces: Sequence[Buffer]) -> int:
    """Return the size of an envelope, in bytes."""
    return sum(map(len, pieces))


def snapshot(frame: Buffer) -> Buffer:
    """Return the present content of a frame, safe from later changes; immutable frames are not copied."""
    immutable = isinstance(frame, bytes) or (isinstance(frame, memoryview) and type(frame.obj) is bytes)
    return frame if immutable else bytes(frame)


def _header_text(view: memoryview, name: str) -> bytes:
    """Return the header of an envelope, unparsed."""
    if len(view) < _HEADER_START:
        raise Unverifiable(
            f"the {name} is cut short: it has {len(view)} bytes, fewer than any payload. Submit it again."
        )
    magic, version, _, length = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise Unverifiable(
            f"the {name} is not a payload of cook_jupyter, or it is damaged. It was not opened."
        )
    if version != VERSION:
        raise Unverifiable(
            f"the {name} has format {version} and this cook_jupyter reads format {VERSION}; "
            "install the same version of cook_jupyter on both sides"
        )
    text = bytes(view[_HEADER_START : _HEADER_START + length])
    if len(text) != length:
        raise _cut_short(name, _HEADER_START + length, len(view))
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


def _frame_bounds(header: Mapping[str, Any], start: int, size: int, name: str) -> list[tuple[int, int]]:
    """Return the start and end of each frame."""
    bounds = []
    for length, _ in header["frames"]:
        start += -start % ALIGNMENT
        bounds.append((start, start + length))
        start += length
    if start > size:
        raise _cut_short(name, start, size)
    return bounds


def _cut_short(name: str, expected: int, size: int) -> Unverifiable:
    return Unverifiable(
        f"the {name} is cut short: {size} of at least {expected} bytes are there. It was not opened. "
        "Submit it again."
    )


def _signature_error(text: bytes, key: Key, name: str) -> Unverifiable:
    """Return the error for a signature that does not match; `Tampered` only if an alteration is certain."""
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
