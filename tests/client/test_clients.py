"""The clients over a real socket, against a server that answers as the test tells it to."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from cook_jupyter.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SchedulerUnreachable,
    Unauthenticated,
)
from tests.client.conftest import NewClient
from tests.client.stub_server import Answer, ReceivedRequest, as_json, stub_server
from tests.waiting import HANG_S


def a_job() -> dict[str, object]:
    return {"command": "true", "cpus": 1, "mem": 64, "max_retries": 1}


def told(**fields: object) -> dict[str, object]:
    return {"uuid": str(uuid4()), "status": "waiting", "state": "waiting", **fields}


def test_one_connection_carries_many_requests(new_client: NewClient) -> None:
    with stub_server(lambda _: as_json([])) as server, new_client(server.url, token="t") as client:
        for _ in range(20):
            client.pools()

    assert len(server.requests) == 20
    assert server.connections == 1


def test_a_unix_socket_serves_as_well(new_client: NewClient, cook_home: Path) -> None:
    with (
        stub_server(lambda _: as_json([{"name": "default"}]), cook_home / "s") as server,
        new_client(server.url) as client,
    ):
        assert [pool.name for pool in client.pools()] == ["default"]
        assert [pool.name for pool in client.pools()] == ["default"]


def test_a_scheduler_behind_a_proxy_is_asked_below_its_prefix(new_client: NewClient) -> None:
    with stub_server(lambda _: as_json([])) as server:
        new_client(f"{server.url}/team/cook/").pools()

    assert server.requests[0].path == "/team/cook/pools"


def test_a_token_says_who_asks_and_a_name_with_it_says_as_whom(new_client: NewClient) -> None:
    with stub_server(lambda _: as_json([])) as server:
        new_client(server.url, token="secret").pools()
        new_client(server.url, token="secret").acting_as("ada").pools()

    assert [asked.headers["Authorization"] for asked in server.requests] == [
        "Bearer secret",
        "Basic YWRhOnNlY3JldA==",
    ]


def test_the_user_is_whom_the_scheduler_says(new_client: NewClient) -> None:
    with stub_server(lambda _: as_json({"user": "grace"})) as server:
        assert new_client(server.url, token="t").user == "grace"
        assert new_client(server.url, token="t", user="ada").user == "ada"


def test_a_job_without_a_uuid_is_given_one(new_client: NewClient) -> None:
    with stub_server(lambda _: Answer(status=201, body=b"submitted jobs")) as server:
        (uuid,) = new_client(server.url).submit([a_job()])

    assert server.requests[0].json["jobs"][0]["uuid"] == uuid


def test_threads_share_a_client(new_client: NewClient) -> None:
    def answer(asked: ReceivedRequest) -> Answer:
        return as_json(told(uuid=asked.path.rpartition("/")[2]))

    uuids = [str(uuid4()) for _ in range(200)]
    with stub_server(answer) as server, new_client(server.url) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(client.job, uuids))

    assert [job.uuid for job in found] == uuids
    assert server.connections <= 8


def test_a_connection_that_died_idle_is_replaced_without_a_word(new_client: NewClient) -> None:
    with stub_server(lambda _: Answer(body=b"[]", close=True)) as server, new_client(server.url) as client:
        for _ in range(5):
            assert client.pools() == []


def test_an_idempotent_request_is_sent_again_when_its_kept_connection_dies(new_client: NewClient) -> None:
    def answer(asked: ReceivedRequest) -> Answer:
        return Answer(body=b"[]", hang_up=len(server.requests) == 2)

    with stub_server(answer) as server, new_client(server.url) as client:
        client.pools()
        assert client.pools() == []

    assert len(server.requests) == 3


def test_a_request_that_would_count_twice_is_not_sent_again(new_client: NewClient) -> None:
    def answer(asked: ReceivedRequest) -> Answer:
        return Answer(body=b"[]", hang_up=len(server.requests) == 2)

    with stub_server(answer) as server, new_client(server.url) as client:
        client.pools()
        with pytest.raises(SchedulerUnreachable, match="may or may not have been carried out"):
            client.retry(str(uuid4()), increment=1)

    assert len(server.requests) == 2


def test_a_submission_whose_answer_was_lost_counts_once(new_client: NewClient) -> None:
    stored: dict[str, dict[str, object]] = {}

    def answer(asked: ReceivedRequest) -> Answer:
        if asked.method == "GET":
            found = [told(**stored[uuid]) for uuid in asked.query.get("uuid", []) if uuid in stored]
            return as_json(found)
        known = [job["uuid"] for job in asked.json["jobs"] if job["uuid"] in stored]
        if known:
            return as_json({"error": f"in use: {known[0]}"}, 409)
        stored.update({job["uuid"]: job for job in asked.json["jobs"]})
        return Answer(status=201, body=b"submitted jobs", hang_up=True)

    with stub_server(answer) as server, new_client(server.url) as client:
        client.pools()
        uuids = client.submit([a_job(), a_job()])

    assert set(uuids) == set(stored)


def test_a_uuid_that_was_in_use_before_is_a_conflict(new_client: NewClient) -> None:
    with stub_server(lambda _: as_json({"error": "in use"}, 409)) as server, pytest.raises(Conflict):
        new_client(server.url).submit([a_job()])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequest), (401, Unauthenticated), (403, Forbidden), (404, NotFound)],
)
def test_a_refusal_is_raised_as_its_class(new_client: NewClient, status: int, kind: type[Exception]) -> None:
    with (
        stub_server(lambda _: as_json({"error": "so it is"}, status)) as server,
        pytest.raises(kind, match="so"),
    ):
        new_client(server.url).info()


def test_where_nobody_listens_the_error_names_the_address_and_the_next_step(new_client: NewClient) -> None:
    with stub_server(lambda _: Answer()) as server:
        url = server.url

    with pytest.raises(SchedulerUnreachable, match=rf"{url}.*cook-jupyter status"):
        new_client(url).info()


def test_an_answer_that_does_not_come_is_given_up(new_client: NewClient) -> None:
    silent = threading.Event()

    def answer(_: ReceivedRequest) -> Answer:
        silent.wait(HANG_S)
        return Answer()

    with stub_server(answer) as server:
        try:
            with pytest.raises(SchedulerUnreachable, match=r"did not answer GET /info within 0.1 s"):
                new_client(server.url, timeout_s=0.1).info()
        finally:
            silent.set()


def test_what_is_no_url_is_refused(new_client: NewClient) -> None:
    for wrong in ("cook", "ftp://host/", "http://", "http://host:99999", ""):
        with pytest.raises(InvalidRequest, match="not the URL of a scheduler"):
            new_client(wrong)


def test_a_blob_goes_up_and_comes_back(new_client: NewClient) -> None:
    blobs: dict[str, bytes] = {}

    def answer(asked: ReceivedRequest) -> Answer:
        if asked.method == "PUT":
            blobs[asked.path] = asked.body
            return Answer(status=204, body=b"")
        if asked.path in blobs:
            return Answer(body=blobs[asked.path])
        return as_json({"error": "no such blob"}, 404)

    data = os.urandom(3_000_000)
    with stub_server(answer) as server, new_client(server.url) as client:
        assert not client.has_blob("calls/x")
        client.put_blob("calls/x", memoryview(data))
        assert client.has_blob("calls/x")
        assert client.get_blob("calls/x") == data
        with pytest.raises(NotFound):
            client.get_blob("calls/y")


def test_recent_jobs_are_the_newest_though_cook_lists_the_oldest(new_client: NewClient) -> None:
    times = [number * 10 for number in range(5000)]
    now_ms = 50_000

    def answer(asked: ReceivedRequest) -> Answer:
        if asked.path == "/v1/info":
            return as_json({"error": "Not a valid route"}, 404)
        start, end, limit = (int(asked.query[key][0]) for key in ("start", "end", "limit"))
        found = [told(submit_time=time) for time in times if start <= time < end][:limit]
        return as_json(found[::-1])

    with pytest.MonkeyPatch.context() as patch, stub_server(answer) as server:
        patch.setattr("time.time", lambda: now_ms / 1000)
        found = new_client(server.url).recent_jobs(30, since_ms=0)

    assert [job.submitted_ms for job in found] == times[:-31:-1]


@pytest.mark.parametrize("ahead_ms", [-3_600_000, 0, 3_600_000])
def test_recent_jobs_are_found_when_the_schedulers_clock_is_another(
    new_client: NewClient, ahead_ms: int
) -> None:
    now_ms = 1_000_000_000_000

    def answer(asked: ReceivedRequest) -> Answer:
        if asked.path == "/v1/info":
            return as_json({"user": "ada", "time_ms": now_ms + ahead_ms})
        start, end = (int(asked.query[key][0]) for key in ("start", "end"))
        return as_json([told(uuid="u")] if start <= now_ms + ahead_ms < end else [])

    with pytest.MonkeyPatch.context() as patch, stub_server(answer) as server:
        patch.setattr("time.time", lambda: now_ms / 1000)

        assert new_client(server.url).recent_jobs(1)[0].uuid == "u"
        assert new_client(server.url).list_jobs()[0].uuid == "u"
