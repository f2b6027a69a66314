"""Frames: messages between the processes of a host, each with a JSON header and raw bytes.

Lives here: packing frames, and reading complete frames from a stream of bytes. The journals consist of the
same frames.
Not here: the meaning of headers (`worker.task`), sockets (`worker.channel`), files (`worker.journal`).
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

Header = Mapping[str, Any]

MAX_FRAME_BYTES = 1 << 30  # a larger size means that the stream was misread

_SIZES = struct.Struct("!II")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Frame(NamedTuple):
    """A message: its header, its raw bytes, and the header as it was encoded."""

    header: Header
    tail: bytes
    head: bytes

    def packed(self) -> bytes:
        """Encode the frame, to pass it on."""
        return b"".join((_SIZES.pack(len(self.head), len(self.tail)), self.head, self.tail))


class BrokenStream(ValueError):
    """The bytes are not valid frames."""


def pack(header: Header, tail: bytes = b"") -> bytes:
    """Encode a frame.

    Args:
        header: any JSON object.
        tail: raw bytes beside it.
    """
    return frame_of(header, tail).packed()


def frame_of(header: Header, tail: bytes = b"") -> Frame:
    """Create a frame with a header and raw bytes."""
    return Frame(header, tail, _encode(header).encode("utf-8", "surrogatepass"))


class FrameReader:
    """Reads complete frames from bytes that arrive in arbitrary pieces.

    Args:
        max_bytes: maximum size of a frame.
    """

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes; return the frames that are complete now, oldest first.

        Raises:
            BrokenStream: the bytes are not frames; the stream cannot be read any further.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        length = len(buffer)
        while length - start >= _SIZES.size:
            head_size, tail_size = _SIZES.unpack_from(buffer, start)
            if head_size + tail_size > self.max_bytes:
                raise BrokenStream(f"a frame of {head_size} + {tail_size} bytes exceeds the limit")
            head_start = start + _SIZES.size
            tail_start = head_start + head_size
            end = tail_start + tail_size
            if end > length:
                break
            head = bytes(buffer[head_start:tail_start])
            frames.append(Frame(header_of(head), bytes(buffer[tail_start:end]), head))
            start = end
        if start:
            del buffer[:start]
        return frames

    @property
    def has_rest(self) -> bool:
        """Whether there are bytes of a frame that is not complete."""
        return bool(self._buffer)


def header_of(head: bytes) -> Header:
    """Decode the header of a frame.

    Raises:
        BrokenStream: it is not a JSON object.
    """
    try:
        header = json.loads(head.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BrokenStream("the header of a frame is not JSON") from error
    if not isinstance(header, dict):
        raise BrokenStream("the header of a frame is not a JSON object")
    return header


def whole_frames(data: bytes) -> list[Frame]:
    """Return the frames at the start of `data`, up to the first that is incomplete or invalid.

    A process that is killed while it writes leaves an incomplete frame at the end of its journal. It had not
    acted on that frame yet, so the frame counts as not written.
    """
    reader = FrameReader()
    frames: list[Frame] = []
    position = 0
    while position + _SIZES.size <= len(data):
        head_size, tail_size = _SIZES.unpack_from(data, position)
        end = position + _SIZES.size + head_size + tail_size
        if end > len(data):
            break
        try:
            frames += reader.feed(data[position:end])
        except BrokenStream:
            break
        position = end
    return frames
