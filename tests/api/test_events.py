"""/v1/events: what happens to a user's jobs, line by line."""

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.model.instance import ResultPayload
from tests.api.served import OWNER, ApiServer, a_request, authorization, serving
from tests.waiting import HANG_S, wait_until


class Stream:
    """A reader of the stream."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.cursor = -1

    def line(self) -> list[dict[str, Any]]:
        """The next line's events."""
        told = json.loads(self.response.readline())
        assert told["cursor"] >= self.cursor
        self.cursor = told["cursor"]
        events: list[dict[str, Any]] = told["jobs"]
        return events

    def until(self, state: str) -> list[dict[str, Any]]:
        """All events up to the first in a state."""
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["state"] != state:
            heard += self.line()
        return heard


@contextmanager
def reading(served: ApiServer, query: str = "", user: str = OWNER) -> Iterator[Stream]:
    connection = http.client.HTTPConnection(*served.address, timeout=HANG_S)
    try:
        connection.request("GET", f"/v1/events{query}", headers=authorization(user))
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/x-ndjson"
        yield Stream(response)
    finally:
        connection.close()


def test_the_first_line_comes_at_once(served: ApiServer) -> None:
    with reading(served) as stream:
        assert stream.line() == []


def test_the_life_of_a_job_is_streamed_as_it_happens(served: ApiServer) -> None:
    with reading(served) as stream:
        stream.line()
        uuid = served.submit(max_retries=3)
        task = served.finish(uuid, result=ResultPayload(inline=b"\0result", size=7))
        heard = stream.until("success")
        assert {event["uuid"] for event in heard} == {uuid}
        changes = [event["change"] for event in heard]
        assert changes == sorted(set(changes))
        last = heard[-1]
        assert (last["status"], last["attempts"], last["max_retries"]) == ("completed", 1, 3)
        assert last["instance"]["task_id"] == task
        assert last["instance"]["exit_code"] == 0
        assert base64.b64decode(last["result"]) == b"\0result"
        assert last["result_size"] == 7


def test_a_failure_is_streamed_with_its_reason(served: ApiServer) -> None:
    with reading(served) as stream:
        served.finish(served.submit(), exit_code=3)
        instance = stream.until("failed")[-1]["instance"]
        assert (instance["reason"], instance["exit_code"], instance["mea_culpa"]) == (
            "mesos-command-executor-failed",
            3,
            False,
        )


def test_a_cursor_brings_what_was_missed_with_results(served: ApiServer) -> None:
    with reading(served, "?cursor=0") as stream:
        stream.line()
        uuid = served.submit()
        stream.line()
    served.finish(uuid, result=ResultPayload(blob=f"results/{uuid}", size=99_999))
    with reading(served, f"?cursor={stream.cursor}") as again:
        (event,) = again.until("success")
        assert (event["uuid"], event["result_blob"], event["result_size"]) == (
            uuid,
            f"results/{uuid}",
            99_999,
        )


def test_a_reader_from_the_beginning_gets_every_change_once(served: ApiServer) -> None:
    early = [served.submit(cpus=1000) for _ in range(5)]
    with reading(served, "?cursor=0") as stream:
        late = [served.submit(cpus=1000) for _ in range(5)]
        heard: list[str] = []
        while len(heard) < 10:
            heard += [event["uuid"] for event in stream.line()]
        assert heard == [*early, *late]


def test_the_first_line_names_the_store(served: ApiServer) -> None:
    with reading(served) as stream:
        first = json.loads(stream.response.readline())

    assert first["store"] == served.ask("GET", "/v1/info").json["store"]


@pytest.mark.parametrize(
    "query", ["?cursor=1000000", "?cursor=1&store=another", "?cursor=1000000&store=another"]
)
def test_a_cursor_of_another_store_begins_with_the_present(served: ApiServer, query: str) -> None:
    early = [served.submit(cpus=1000) for _ in range(3)]
    with reading(served, query) as stream:
        stream.line()
        assert stream.cursor < 1000000
        late = served.submit(cpus=1000)

        assert [event["uuid"] for event in stream.until("waiting")] == [late]
    assert late not in early


def test_a_user_gets_only_changes_of_their_own_jobs(served: ApiServer) -> None:
    with reading(served, "?cursor=0", user="ada") as stream:
        stream.line()
        served.submit(user="bob")
        uuid = served.submit(user="ada", cpus=1000)
        assert [event["uuid"] for event in stream.until("waiting")] == [uuid]


def test_the_stream_can_be_narrowed_to_labels(served: ApiServer) -> None:
    with reading(served, "?cursor=0&label=a=1&label=b=x=y") as stream:
        stream.line()
        served.submit(cpus=1000)
        served.submit(cpus=1000, labels={"a": "1"})
        uuid = served.submit(labels={"a": "1", "b": "x=y"})
        assert {event["uuid"] for event in stream.until("running")} == {uuid}


@pytest.mark.parametrize("query", ["?cursor=x", "?cursor=" + "9" * 40, "?label=x", "?label==x"])
def test_invalid_values_are_refused(served: ApiServer, query: str) -> None:
    assert served.ask("GET", f"/v1/events{query}").status == 400


def test_a_stream_without_changes_has_heartbeats(tmp_path: Path) -> None:
    with serving(tmp_path, heartbeat_s=0.05) as served, reading(served) as stream:
        for _ in range(3):
            assert stream.line() == []


def test_the_subscription_of_a_disconnected_reader_ends(served: ApiServer) -> None:
    with reading(served) as stream:
        stream.line()
        assert served.scheduler.event_hub._subscriptions
    wait_until(lambda: not served.scheduler.event_hub._subscriptions)


def test_a_slow_reader_delays_nobody_and_gets_the_current_state(
    served: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backlog is dropped and read again from the store: each job once, as it is now."""
    monkeypatch.setattr("cook_jupyter.service.requests.events.MAX_BUFFERED", 50)
    with reading(served) as slow:
        slow.line()
        jobs = [a_request(cpus=0.001, mem=0.1) for _ in range(400)]
        for start in range(0, 400, 100):
            assert served.ask("POST", "/jobs", {"jobs": jobs[start : start + 100]}).status == 201
        result = ResultPayload(inline=b"x" * 60_000, size=60_000)  # together more than any socket buffers

        async def finish_all() -> None:
            for task in list(served.cluster.tasks):
                served.cluster.finish(task, result=result)

        wait_until(lambda: len(served.cluster.tasks) == 400)
        served.on_loop(finish_all)
        wait_until(lambda: served.ask("GET", "/v1/summary").json["running"] == 0)
        ended: set[str] = set()
        while len(ended) < 400:
            ended |= {event["uuid"] for event in slow.line() if event["state"] == "success"}
        assert ended == {job["uuid"] for job in jobs}


def test_the_end_of_the_scheduler_ends_the_stream(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        connection = http.client.HTTPConnection(*served.address, timeout=HANG_S)
        connection.request("GET", "/v1/events", headers=authorization(OWNER))
        response = connection.getresponse()
        response.readline()
    with suppress(http.client.IncompleteRead):
        assert response.read() == b""
