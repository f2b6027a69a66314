"""Frames survive any cutting, and half a frame is none."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.worker.frames import BrokenStream, FrameReader, pack, whole_frames

messages = st.lists(
    st.tuples(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()), st.binary()),
    max_size=6,
)


@given(messages=messages, size=st.integers(1, 40))
def test_frames_arrive_whole_however_the_stream_is_cut(
    messages: list[tuple[Mapping[str, object], bytes]], size: int
) -> None:
    stream = b"".join(pack(header, tail) for header, tail in messages)
    reader = FrameReader()

    frames = [
        frame for start in range(0, len(stream), size) for frame in reader.feed(stream[start : start + size])
    ]

    assert [(frame.header, frame.tail) for frame in frames] == messages


@given(messages=messages, torn=st.binary(max_size=30))
def test_a_torn_end_of_a_journal_hides_nothing_before_it(
    messages: list[tuple[Mapping[str, object], bytes]], torn: bytes
) -> None:
    whole = b"".join(pack(header, tail) for header, tail in messages)
    last = pack({"t": "end"}, torn * 10)

    for cut in range(0, len(last), max(1, len(last) // 5)):
        found = whole_frames(whole + last[:cut])
        assert [(frame.header, frame.tail) for frame in found] == messages


def test_a_stream_of_something_else_is_refused() -> None:
    with pytest.raises(BrokenStream):
        FrameReader().feed(b"GET / HTTP/1.1\r\n\r\n")


def test_a_header_with_half_a_character_travels() -> None:
    [frame] = FrameReader().feed(pack({"command": "echo \ud800"}))

    assert frame.header == {"command": "echo \ud800"}
