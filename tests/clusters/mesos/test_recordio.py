"""Framing of records."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.clusters.mesos.transport.recordio import BrokenRecords, RecordReader


def framed(*records: bytes) -> bytes:
    return b"".join(b"%d\n%s" % (len(record), record) for record in records)


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), max_size=40))
def test_records_are_the_same_wherever_the_stream_is_cut(records: list[bytes], cuts: list[int]) -> None:
    stream = framed(*records)
    reader = RecordReader()
    received = []
    position = 0
    for cut in [*cuts, len(stream)]:
        received += reader.feed(stream[position : position + cut])
        position += cut

    assert received == records
    assert not reader.is_inside_record


def test_each_byte_may_arrive_alone() -> None:
    reader = RecordReader()

    received = [
        record for byte in framed(b"{}", b"", b'{"a":"\n3\n"}') for record in reader.feed(bytes([byte]))
    ]

    assert received == [b"{}", b"", b'{"a":"\n3\n"}']


def test_a_stream_that_ends_inside_a_record_is_seen() -> None:
    reader = RecordReader()

    assert reader.feed(framed(b"whole") + b"5\nhal") == [b"whole"]
    assert reader.is_inside_record


@pytest.mark.parametrize(
    "stream", [b"x\n", b"-1\n", b"\n", b"1.5\n", b"99999999999\n", b"<html>" * 9, b"+2\nab"]
)
def test_what_is_no_length_is_refused(stream: bytes) -> None:
    with pytest.raises(BrokenRecords):
        RecordReader().feed(stream)


def test_a_large_record_costs_as_much_as_its_bytes_in_small_ones() -> None:
    def seconds(stream: bytes) -> float:
        reader = RecordReader()
        began = time.perf_counter()
        for start in range(0, len(stream), 16 << 10):
            reader.feed(stream[start : start + (16 << 10)])
        return time.perf_counter() - began

    size = 64 << 20

    assert seconds(framed(b"x" * size)) < 1.0 + 10 * seconds(framed(*[b"x" * 1024] * (size >> 10)))
