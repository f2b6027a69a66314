"""Responses and records are read the same whatever pieces they arrive in; anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.worker.frames import BrokenStream
from cook_jupyter.worker.mesos.http import END, Head, Part, Piece, RecordReader, ResponseReader, request

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    b"5;extension=1\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: 1\r\n\r\n"
)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nbad"


def read(data: bytes, size: int) -> list[Part]:
    reader = ResponseReader()
    return [part for start in range(0, len(data), size) for part in reader.feed(data[start : start + size])]


def bodies(parts: list[Part]) -> list[tuple[int, bytes]]:
    """Statuses and bodies of whole responses."""
    found: list[tuple[int, bytes]] = []
    status, body = 0, b""
    for part in parts:
        if isinstance(part, Head):
            status, body = part.status, b""
        elif isinstance(part, Piece):
            body += part.data
        else:
            found.append((status, body))
    return found


@given(st.integers(1, 300))
def test_responses_on_one_connection_are_read_one_after_the_other(size: int) -> None:
    parts = read(ACCEPTED + CHUNKED + REFUSED + b"HTTP/1.1 100 Continue\r\n\r\n" + ACCEPTED, size)

    assert bodies(parts) == [(202, b""), (200, b"hello!"), (400, b"bad"), (202, b"")]


def test_a_body_without_a_length_lasts_until_the_connection_ends() -> None:
    parts = read(b"HTTP/1.1 200 OK\r\n\r\nsome text", 7)

    assert END not in parts
    assert b"".join(part.data for part in parts if isinstance(part, Piece)) == b"some text"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000,
    ],
)
def test_bytes_that_are_no_response_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenStream):
        read(data, 1000)


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 60))
def test_records_are_read_in_whatever_pieces_they_arrive(records: list[bytes], size: int) -> None:
    data = b"".join(b"%d\n%s" % (len(record), record) for record in records)
    reader = RecordReader()

    found = [record for at in range(0, len(data), size) for record in reader.feed(data[at : at + size])]

    assert found == records


@pytest.mark.parametrize("data", [b"x\n", b"-1\n", b"\n", b"99999999999\n", b"1" * 2000, b" 5\n"])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenStream):
        RecordReader().feed(data)


def test_a_request_states_the_size_of_its_body() -> None:
    assert (
        request("/p", b"{}", {"Host": "h:1"})
        == b"POST /p HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\n\r\n{}"
    )
