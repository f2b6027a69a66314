"""Responses of HTTP/1.1 and records of RecordIO, read from bytes without I/O.

Lives here: `ResponseReader` for the responses on one connection, `RecordReader` for the body of a
subscription, `request`.
Not here: sockets (`worker.mesos.agent_connection`). The standard library's `http.client` blocks.

Source: RFC 9112, as far as Mesos' libprocess uses it; RecordIO as in Mesos' documentation of its HTTP API.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from cook_jupyter.worker.frames import BrokenStream

_MAX_HEAD_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 10  # of a chunk or a record: its size
_MAX_RECORD_BYTES = 1 << 30  # a larger size means that the stream was misread
_NO_BODY = frozenset({204, 304})


class Head(NamedTuple):
    """Status of a response; pieces of its body and `END` follow."""

    status: int


class Piece(NamedTuple):
    """A piece of a body."""

    data: bytes


class End(NamedTuple):
    """The end of a response."""


END: Final = End()
Part = Head | Piece | End


class ResponseReader:
    """Reads responses, one after the other. A body without a length lasts until the connection ends."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._read = self._read_head
        self._remaining: int | None = 0  # of a body or a chunk; None until the connection ends

    def feed(self, data: bytes) -> list[Part]:
        """Add bytes; return the parts of responses that are complete now.

        Raises:
            BrokenStream: the bytes are not responses of HTTP.
        """
        self._buffer += data
        parts: list[Part] = []
        while self._read(parts):
            pass
        return parts

    # Each of these reads one element, and returns whether there may be another.

    def _read_head(self, parts: list[Part]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise BrokenStream("the head of an HTTP response is too long")
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = lines[0].split(" ", 2)
        if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdecimal():
            raise BrokenStream(f"not an HTTP response: {lines[0][:80]!r}")
        status = int(words[1])
        if status < 200:  # 100 Continue: another head follows
            return True
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
        parts.append(Head(status))
        if "chunked" in fields.get("transfer-encoding", "").lower():
            self._read = self._read_chunk_size
        else:
            length = fields.get("content-length", "0" if status in _NO_BODY else "")
            if length and not length.isdecimal():
                raise BrokenStream(f"a body of {length[:40]!r} bytes")
            self._remaining = int(length) if length else None
            self._read = self._read_body
        return True

    def _read_body(self, parts: list[Part]) -> bool:
        self._take_piece(parts)
        if self._remaining != 0:
            return False
        return self._end(parts)

    def _read_chunk_size(self, parts: list[Part]) -> bool:
        line = _take_line(self._buffer, b"\r\n")
        if line is None:
            return False
        self._remaining = _number(line.partition(b";")[0].strip(), base=16)
        self._read = self._read_chunk if self._remaining else self._read_trailer
        return True

    def _read_chunk(self, parts: list[Part]) -> bool:
        self._take_piece(parts)
        if self._remaining or len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise BrokenStream("a chunk of an HTTP response does not end where it should")
        del self._buffer[:2]
        self._read = self._read_chunk_size
        return True

    def _read_trailer(self, parts: list[Part]) -> bool:
        line = _take_line(self._buffer, b"\r\n")
        if line is None:
            return False
        return True if line else self._end(parts)

    def _take_piece(self, parts: list[Part]) -> None:
        size = len(self._buffer) if self._remaining is None else min(self._remaining, len(self._buffer))
        if size:
            parts.append(Piece(bytes(self._buffer[:size])))
            del self._buffer[:size]
        if self._remaining is not None:
            self._remaining -= size

    def _end(self, parts: list[Part]) -> bool:
        parts.append(END)
        self._read = self._read_head
        return True


class RecordReader:
    """Reads records: their size in decimal digits, a newline, and as many bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._size: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return the records that are complete now.

        Raises:
            BrokenStream: the bytes are not records.
        """
        self._buffer += data
        records: list[bytes] = []
        while True:
            if self._size is None:
                line = _take_line(self._buffer, b"\n")
                if line is None:
                    return records
                self._size = _number(line, base=10)
            if len(self._buffer) < self._size:
                return records
            records.append(bytes(self._buffer[: self._size]))
            del self._buffer[: self._size]
            self._size = None


def request(path: str, body: bytes, fields: Mapping[str, str]) -> bytes:
    """Return a POST request.

    Args:
        path: path of the URL.
        body: body of the request.
        fields: header fields besides the length.
    """
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _take_line(buffer: bytearray, terminator: bytes) -> bytes | None:
    """Remove and return the first line; None if it is not complete."""
    end = buffer.find(terminator, 0, _MAX_LINE_BYTES)
    if end < 0:
        if len(buffer) >= _MAX_LINE_BYTES:
            raise BrokenStream("a line with a size is too long")
        return None
    line = bytes(buffer[:end])
    del buffer[: end + len(terminator)]
    return line


def _number(text: bytes, *, base: int) -> int:
    try:
        number = int(text, base) if text.isalnum() else -1
    except ValueError:
        number = -1
    if not 0 <= number <= _MAX_RECORD_BYTES:
        raise BrokenStream(f"{text[:40]!r} is not the size of a chunk or record")
    return number
