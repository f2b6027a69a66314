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
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cook_jupyter.errors import Tampered
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
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
        private: the envelope will rest where only this user can write. Raw buffers are then not hashed:
            whoever could alter them there could as well read the key. The pickle always is.
    """
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
) -> Opened:
    """Verify an envelope and return what is in it; the frames are views, nothing is copied.

    Args:
        content: the whole envelope.
        direction: what it must be.
        key: who must have signed it; None where the caller has verified a digest of the whole.
        job_id: the job it must belong to.
        private: it was read where only this user can write, so buffers may come without a hash.

    Raises:
        Tampered: it is not what was signed, or not for this job.
    """
    view = memoryview(content)
    if len(view) < _HEADER_AT:
        raise Tampered("a payload is too short to be one; it was not opened")
    magic, version, _, length = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise Tampered("these bytes are not a payload of cook_jupyter; they were not opened")
    if version != VERSION:
        raise Tampered(
            f"the payload has format {version} and this cook_jupyter reads format {VERSION}; "
            "install the same version of cook_jupyter on both sides"
        )
    text = bytes(view[_HEADER_AT : _HEADER_AT + length])
    if key is not None:
        expected = key.sign(bytes(view[: _HEAD.size]) + text)
        if not hmac.compare_digest(expected, bytes(view[_HEAD.size : _HEADER_AT])):
            raise Tampered(
                f"the signature of a {direction} of job {job_id or 'unknown'} does not hold: it was altered, "
                "or signed with another key. It was not opened."
            )
    header: dict[str, Any] = _from_json(text.decode("ascii"))
    if header["direction"] != direction or (key is not None and header.get("job", "") != job_id):
        raise Tampered(
            f"a payload signed as {header['direction']} of job {header.get('job')} was presented as "
            f"{direction} of job {job_id}; it was not opened"
        )
    return Opened(header=header, frames=_frames(view, _HEADER_AT + length, header["frames"], private=private))


def size_of(pieces: Sequence[Buffer]) -> int:
    """How many bytes an envelope has."""
    return sum(map(len, pieces))


def _frames(
    view: memoryview, start: int, described: Sequence[Sequence[Any]], *, private: bool
) -> list[memoryview]:
    frames = []
    for number, (length, digest) in enumerate(described):
        start += -start % ALIGNMENT
        frame = view[start : start + length]
        if len(frame) != length:
            raise Tampered("a payload is shorter than it was signed; it was not opened")
        if digest:
            if not hmac.compare_digest(_sha256(frame), digest):
                raise Tampered("the content of a payload is not what was signed; it was not opened")
        elif not private or number < _ALWAYS_HASHED:
            raise Tampered(
                "a payload came without the hash of its content from a place that others may write to; "
                "it was not opened"
            )
        frames.append(frame)
        start += length
    return frames


def _sha256(content: Buffer) -> str:
    return hashlib.sha256(content).hexdigest()
