"""RecordIO framing, without I/O: a stream of bytes as records.

Lives here: `RecordReader`. A record is its length in decimal digits, a newline, and that many bytes.
Not here: the HTTP response whose body is such a stream (`clusters.mesos.transport.http_connection`), the
content of a record (`clusters.mesos.messages`).

Source: docs/recordio.md of Apache Mesos.
"""

MAX_RECORD = 1 << 30
"""Most bytes of a record; an offer takes some 1,300."""

_MAX_DIGITS = len(str(MAX_RECORD))


class BrokenRecords(Exception):
    """The bytes are not RecordIO; what follows in the stream cannot be read."""


class RecordReader:
    """Splits a stream into records. The cost is linear in the bytes, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._size: int | None = None  # of the record that the buffer begins with, once its length was read

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Add bytes of the stream; return the records that they complete.

        Raises:
            BrokenRecords: a length is no number, or too large.
        """
        buffer = self._buffer
        buffer += data
        records = []
        position = 0
        while True:
            if self._size is None:
                newline = buffer.find(b"\n", position, position + _MAX_DIGITS + 1)
                if newline < 0:
                    if len(buffer) - position > _MAX_DIGITS:
                        raise BrokenRecords(f"no length of a record: {bytes(buffer[position:][:20])!r}")
                    break
                self._size = _size(bytes(buffer[position:newline]))
                position = newline + 1
            end = position + self._size
            if len(buffer) < end:
                break
            records.append(bytes(buffer[position:end]))
            position = end
            self._size = None
        del buffer[:position]
        return records

    @property
    def is_inside_record(self) -> bool:
        """Whether the bytes so far end inside a record."""
        return self._size is not None or bool(self._buffer)


def _size(digits: bytes) -> int:
    """Return the length that digits state."""
    if not digits.isdigit() or int(digits) > MAX_RECORD:
        raise BrokenRecords(f"no length of a record: {digits!r}")
    return int(digits)
