"""How the processes of a host speak to each other: frames of a JSON header and raw bytes.

Lives here: packing frames and taking them out of a stream of bytes, whole ones only. The same
frames are what the journals are made of.
Not here: what the headers say (`worker.task`), sockets (`worker.channel`), files (`worker.journal`).
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

Header = Mapping[str, Any]

LARGEST_FRAME = 1 << 30  # bytes; more than that is a stream that was misread

_SIZES = struct.Struct("!II")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Frame(NamedTuple):
    """One message: what it says, bytes that travel as they are, and the header as it came."""

    header: Header
    tail: bytes
    head: bytes

    def packed(self) -> bytes:
        """Return it as bytes again, to be passed on."""
        return b"".join((_SIZES.pack(len(self.head), len(self.tail)), self.head, self.tail))


class BrokenStream(ValueError):
    """The bytes are no frames."""


def pack(header: Header, tail: bytes = b"") -> bytes:
    """Return a frame as bytes.

    Args:
        header: anything that JSON can say.
        tail: bytes that travel beside it untouched.
    """
    return frame_of(header, tail).packed()


def frame_of(header: Header, tail: bytes = b"") -> Frame:
    """Return a frame that says this."""
    return Frame(header, tail, _encode(header).encode("utf-8", "surrogatepass"))


class FrameReader:
    """Takes whole frames out of bytes that arrive in any pieces.

    Args:
        largest: the most bytes that a frame may have.
    """

    def __init__(self, largest: int = LARGEST_FRAME) -> None:
        self.largest = largest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; return the frames that are whole now, oldest first.

        Raises:
            BrokenStream: the bytes are no frames; the stream cannot be read on.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        have = len(buffer)
        while have - start >= _SIZES.size:
            head_size, tail_size = _SIZES.unpack_from(buffer, start)
            if head_size + tail_size > self.largest:
                raise BrokenStream(f"a frame of {head_size} + {tail_size} bytes is none of ours")
            head_start = start + _SIZES.size
            tail_start = head_start + head_size
            end = tail_start + tail_size
            if end > have:
                break
            head = bytes(buffer[head_start:tail_start])
            frames.append(Frame(header_of(head), bytes(buffer[tail_start:end]), head))
            start = end
        if start:
            del buffer[:start]
        return frames


def header_of(head: bytes) -> Header:
    """Return what the header of a frame says.

    Raises:
        BrokenStream: it is no header.
    """
    try:
        header = json.loads(head.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BrokenStream("the header of a frame is no JSON") from error
    if not isinstance(header, dict):
        raise BrokenStream("the header of a frame is no JSON object")
    return header


def whole_frames(data: bytes) -> list[Frame]:
    """Return the frames at the start of `data`, up to the first that is torn or broken.

    A process that is killed while it writes leaves half a frame at the end of its journal: what
    it was about to say was told to nobody, and is as if it had not been written.
    """
    reader = FrameReader()
    frames: list[Frame] = []
    at = 0
    while at + _SIZES.size <= len(data):
        head_size, tail_size = _SIZES.unpack_from(data, at)
        end = at + _SIZES.size + head_size + tail_size
        if end > len(data):
            break
        try:
            frames += reader.feed(data[at:end])
        except BrokenStream:
            break
        at = end
    return frames
