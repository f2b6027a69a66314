"""Decide whether a payload is sent inline or as a blob.

Lives here: `seal_for_transport`, which seals an envelope according to how it will be sent, and records that.
Not here: the layout of an envelope (`payload.envelope`), where blobs are stored (`payload.blobs`).

An inline envelope passes through the scheduler, so all of it is hashed. Only an envelope in a private blob
store may have raw buffers without a hash. Whoever sends an envelope therefore uses `SealedPayload.inline`,
and never decides by its size again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cook_jupyter.payload.envelope import Buffer, Direction, seal, size_of
from cook_jupyter.payload.keys import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPayload:
    """A sealed envelope and how it is sent.

    Attributes:
        pieces: the envelope, in order; large frames are references to the caller's memory.
        inline: whether the envelope is part of a job or status update; otherwise it is stored as a blob.
    """

    pieces: Sequence[Buffer]
    inline: bool

    @property
    def size(self) -> int:
        """Size of the envelope, in bytes."""
        return size_of(self.pieces)


def seal_for_transport(
    header: Mapping[str, Any],
    frames: Sequence[Buffer],
    *,
    direction: Direction,
    key: Key,
    max_inline_bytes: int,
    private_blobs: bool,
) -> SealedPayload:
    """Seal an envelope that is sent inline if it is small, and as a blob otherwise.

    Args:
        header: facts to sign, as JSON values.
        frames: the pickle, then its raw buffers.
        direction: call or result.
        key: signing key of the user.
        max_inline_bytes: size of the largest envelope that is sent inline.
        private_blobs: whether both sides reach the blob store as a directory that only this user can write
            to.
    """
    may_be_inline = sum(map(len, frames)) <= max_inline_bytes
    pieces = seal(header, frames, direction=direction, key=key, private=private_blobs and not may_be_inline)
    return SealedPayload(pieces=pieces, inline=may_be_inline and size_of(pieces) <= max_inline_bytes)
