"""What the asynchronous client has alone: cancelled tasks, loops that end, its own reading of HTTP."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from cook_jupyter.client.aio import AsyncEventStream, AsyncJobClient, follow_events
from cook_jupyter.client.aio_connections import Body, Head
from cook_jupyter.errors import SchedulerUnreachable, Unauthenticated
from tests.client.stub_server import Answer, ReceivedRequest, as_json, stub_server
from tests.waiting import HANG_S

CHUNKS = b"2\r\nhe\r\n003;x=y\r\nllo\r\n0\r\nTrailer: t\r\n\r\nmore"


def a_line(cursor: int) -> bytes:
    return json.dumps({"cursor": cursor, "jobs": []}).encode() + b"\n"


async def test_following_goes_on_at_the_cursor_after_every_break() -> None:
    def answer(asked: ReceivedRequest) -> Answer:
        begin = int(asked.query.get("cursor", ["0"])[0])
        return Answer(stream=iter([a_line(begin + 1), a_line(begin + 2)]))

    breaks: list[SchedulerUnreachable] = []
    seen = []
    with stub_server(answer) as server:
        client = AsyncJobClient(server.url)
        async for batch in follow_events(client.events, on_break=breaks.append):
            seen.append(batch.cursor)
            if len(seen) == 6:
                break

    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(breaks) == 2


async def test_following_gives_up_when_it_is_refused() -> None:
    with stub_server(lambda _: as_json({"error": "no"}, 401)) as server:
        client = AsyncJobClient(server.url)
        with pytest.raises(Unauthenticated):
            await anext(follow_events(client.events))


async def test_following_a_stream_that_was_closed_ends() -> None:
    with stub_server(lambda _: Answer(stream=iter([a_line(1)]))) as server:
        client = AsyncJobClient(server.url)
        streams: list[AsyncEventStream] = []

        async def subscribe(cursor: int | None) -> AsyncEventStream:
            streams.append(await client.events(cursor))
            return streams[-1]

        async for _ in follow_events(subscribe):
            streams[-1].close()

    assert len(streams) == 1


async def test_a_wait_for_the_next_batch_that_is_given_up_loses_none() -> None:
    may_go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield a_line(1)[:5]
        may_go_on.wait(HANG_S)
        yield a_line(1)[5:]

    with stub_server(lambda _: Answer(stream=pieces())) as server:
        async with await AsyncJobClient(server.url).events() as stream:
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            may_go_on.set()
            assert (await anext(stream)).cursor == 1


async def test_the_connection_of_a_request_that_was_cancelled_is_not_used_again() -> None:
    arrived, may_answer = threading.Event(), threading.Event()

    def answer(asked: ReceivedRequest) -> Answer:
        if asked.path == "/settings":
            arrived.set()
            may_answer.wait(HANG_S)
        return as_json({} if asked.path == "/settings" else [])

    with stub_server(answer) as server:
        async with AsyncJobClient(server.url) as client:
            assert await client.pools() == []
            asking = asyncio.ensure_future(client.settings())
            assert await asyncio.to_thread(arrived.wait, HANG_S)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await client.pools() == []
            may_answer.set()
            assert server.connections == 2


def test_a_client_outlives_an_event_loop() -> None:
    async def ask(client: AsyncJobClient) -> list[object]:
        return list(await client.pools())

    with stub_server(lambda _: as_json([])) as server:
        client = AsyncJobClient(server.url)
        assert asyncio.run(ask(client)) == asyncio.run(ask(client)) == []


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("headers", "text", "body"),
    [
        (b"Content-Length: 5\r\n", b"hello and more", b"hello"),
        (b"Content-Length: 0\r\n", b"more", b""),
        (b"Transfer-Encoding: chunked\r\n", CHUNKS, b"hello"),
        (b"", b"hello", b"hello"),
    ],
    ids=["length", "empty", "chunks", "end of the connection"],
)
async def test_a_body_is_read_up_to_its_end_wherever_it_is_cut(
    headers: bytes, text: bytes, body: bytes, cut: int
) -> None:
    reader = asyncio.StreamReader()
    head = Head.parse(b"HTTP/1.1 200 OK\r\n" + headers, "GET")
    reading = asyncio.ensure_future(Body(reader, head).read_all(HANG_S))
    for start in range(0, len(text), cut):
        reader.feed_data(text[start : start + cut])
        await asyncio.sleep(0)
    reader.feed_eof()

    assert await reading == body


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (b"Content-Length: 5\r\n", b"hell"),
        (b"Content-Length: -5\r\n", b"hell"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhell"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"five\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"-5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_half_a_body_is_none(headers: bytes, text: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(text)
    reader.feed_eof()

    with pytest.raises((EOFError, ValueError)):
        await Body(reader, Head.parse(b"HTTP/1.1 200 OK\r\n" + headers, "GET")).read_all(HANG_S)


@pytest.mark.parametrize(
    ("text", "method", "has_body", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3", "GET", True, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3", "HEAD", False, True),
        (b"HTTP/1.1 204 No Content", "PUT", False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close", "GET", True, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3", "GET", True, False),
        (b"HTTP/1.1 200", "GET", True, False),
    ],
)
def test_a_head_tells_whether_a_body_follows_and_the_connection_stays(
    text: bytes, method: str, has_body: bool, keeps_alive: bool
) -> None:
    head = Head.parse(text + b"\r\n\r\n", method)

    assert (head.has_body, head.keeps_alive) == (has_body, keeps_alive)


@pytest.mark.parametrize("text", [b"", b"SSH-2.0-x", b"HTTP/2 200", b"HTTP/1.1 OK", b"HTTP/1.1"])
def test_what_is_no_http_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says: the error names the request
        Head.parse(text + b"\r\n\r\n", "GET")
