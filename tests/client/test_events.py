"""The stream of events: read at once, resumed at the cursor, closed from another thread."""

import json
import queue
import threading
from collections.abc import Iterator

import pytest

from cook_jupyter.client.events import EventStream, follow_events
from cook_jupyter.errors import SchedulerError, SchedulerUnreachable, Unauthenticated
from tests.client.conftest import NewClient
from tests.client.stub_server import Answer, ReceivedRequest, as_json, stub_server
from tests.waiting import HANG_S


def a_line(cursor: int, *jobs: dict[str, object]) -> bytes:
    return json.dumps({"cursor": cursor, "jobs": list(jobs)}).encode() + b"\n"


def a_job(uuid: str = "u", **fields: object) -> dict[str, object]:
    return {"uuid": uuid, "status": "waiting", "state": "waiting", "change": 1, **fields}


def test_a_line_is_there_as_soon_as_it_is_said(new_client: NewClient) -> None:
    said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def pieces() -> Iterator[bytes]:
        while (piece := said.get()) is not None:
            yield piece

    with stub_server(lambda _: Answer(stream=pieces())) as server:
        said.put(a_line(1))
        with new_client(server.url).events() as stream:
            assert next(stream).cursor == 1
            said.put(a_line(2, a_job("a")))
            assert [job.uuid for job in next(stream).jobs] == ["a"]
            said.put(None)


def test_lines_may_be_cut_anywhere(new_client: NewClient) -> None:
    text = b"".join(a_line(number, a_job(command="x" * 999)) for number in range(50))
    pieces = [text[start : start + 777] for start in range(0, len(text), 777)]

    with (
        stub_server(lambda _: Answer(stream=iter(pieces))) as server,
        new_client(server.url).events() as stream,
    ):
        assert [next(stream).cursor for _ in range(50)] == list(range(50))


def test_an_event_carries_the_instance_and_the_result(new_client: NewClient) -> None:
    job = a_job(
        status="completed",
        state="success",
        attempts=1,
        instance={"task_id": "i", "status": "success", "hostname": "h", "exit_code": 0, "new_field": 1},
        result="aGVsbG8=",
    )
    with (
        stub_server(lambda _: Answer(stream=iter([a_line(1, job)]))) as server,
        new_client(server.url).events() as stream,
    ):
        (news,) = next(stream).jobs

    assert news.result == b"hello"
    assert news.instance is not None
    assert news.instance.exit_code == 0


def test_cursor_and_labels_are_asked_for(new_client: NewClient) -> None:
    with (
        stub_server(lambda _: Answer(stream=iter([a_line(5)]))) as server,
        new_client(server.url).events(5, {"executor": "e1"}) as stream,
    ):
        next(stream)

    assert server.requests[0].query == {"cursor": ["5"], "label": ["executor=e1"]}


def test_another_thread_may_end_the_wait(new_client: NewClient) -> None:
    never = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield a_line(1)
        never.wait(HANG_S)

    with stub_server(lambda _: Answer(stream=pieces())) as server:
        stream = new_client(server.url).events()
        next(stream)
        rest: list[object] = []
        reader = threading.Thread(target=lambda: rest.extend(stream))
        reader.start()
        stream.close()
        reader.join(HANG_S)
        never.set()

    assert not reader.is_alive()
    assert rest == []


def test_a_refusal_is_raised_at_once(new_client: NewClient) -> None:
    with (
        stub_server(lambda _: as_json({"error": "who are you?"}, 401)) as server,
        pytest.raises(Unauthenticated),
    ):
        new_client(server.url).events()


def test_a_line_without_sense_ends_the_stream(new_client: NewClient) -> None:
    with (
        stub_server(lambda _: Answer(stream=iter([b"nonsense\n"]))) as server,
        new_client(server.url).events() as stream,
        pytest.raises(SchedulerError, match="nonsense"),
    ):
        next(stream)


def test_the_end_of_the_stream_is_a_break(new_client: NewClient) -> None:
    with (
        stub_server(lambda _: Answer(stream=iter([a_line(1)]))) as server,
        new_client(server.url).events() as stream,
    ):
        next(stream)
        with pytest.raises(SchedulerUnreachable, match="closed the event stream"):
            next(stream)


def test_following_goes_on_at_the_cursor_after_every_break(new_client: NewClient) -> None:
    def answer(asked: ReceivedRequest) -> Answer:
        begin = int(asked.query.get("cursor", ["0"])[0])
        return Answer(stream=iter([a_line(begin + 1), a_line(begin + 2)]))

    breaks: list[SchedulerUnreachable] = []
    stop = threading.Event()
    with stub_server(answer) as server:
        client = new_client(server.url)
        seen = []
        for batch in follow_events(client.events, stop, on_break=breaks.append):
            seen.append(batch.cursor)
            if len(seen) == 6:
                stop.set()

    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(breaks) == 2


def test_following_gives_up_when_it_is_refused(new_client: NewClient) -> None:
    stop = threading.Event()
    with stub_server(lambda _: as_json({"error": "no"}, 401)) as server, pytest.raises(Unauthenticated):
        list(follow_events(new_client(server.url).events, stop))


def test_following_a_stream_that_was_closed_ends(new_client: NewClient) -> None:
    with stub_server(lambda _: Answer(stream=iter([a_line(1)]))) as server:
        client = new_client(server.url)
        streams: list[EventStream] = []

        def subscribe(cursor: int | None) -> EventStream:
            streams.append(client.events(cursor))
            return streams[-1]

        for _ in follow_events(subscribe, threading.Event()):
            streams[-1].close()

    assert len(streams) == 1
