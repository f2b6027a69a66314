"""Answers of any length: whole, in pieces, and never at others' expense."""

import http.client
import select
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest

from cook_jupyter.api.handler import PIECE_BYTES
from cook_jupyter.errors import StoreDamaged
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.store.memory import MemoryStore
from tests.api.served import OWNER, ApiServer, a_request, authorization, serving
from tests.waiting import HANG_S

MANY = 3000
LOGIN = "".join(f"{name}: {value}\r\n" for name, value in authorization(OWNER).items())
BLOB = "/v1/blobs/calls/00000000-0000-4000-8000-000000000002"
LISTING = "/list?" + urlencode({"user": OWNER, "state": "waiting"})


class BreakingStore(MemoryStore):
    """A store whose disk fails after some reads."""

    reads_left = 10**9

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise StoreDamaged("the disk failed")
        return await super().jobs(job_ids)


@pytest.fixture(scope="module")
def store() -> BreakingStore:
    return BreakingStore()


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("socket") / "s"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, store: BreakingStore, socket_path: Path
) -> Iterator[ApiServer]:
    home = tmp_path_factory.mktemp("home")
    with serving(
        home, store=store, write_timeout_s=0.1, socket_path=socket_path, with_address=True
    ) as running:
        yield running


@pytest.fixture(scope="module")
def uuids(served: ApiServer) -> list[str]:
    """Many waiting jobs with some text, in the order of creation."""
    jobs = [a_request(cpus=1000, name=f"n{number}", command="x" * 500) for number in range(MANY)]
    reply = served.ask("POST", "/jobs", {"jobs": jobs})
    assert reply.status == 201, reply.text
    return [str(job["uuid"]) for job in jobs]


class TestWhole:
    def test_a_list_without_a_limit_has_all(self, served: ApiServer, uuids: list[str]) -> None:
        reply = served.ask("GET", LISTING)
        assert [job["uuid"] for job in reply.json] == uuids[::-1]
        assert len(reply.body) > 2 * PIECE_BYTES

    @pytest.mark.parametrize("limit", [1, 150, MANY - 1, MANY, MANY + 1])
    def test_a_list_with_a_limit_has_the_oldest(
        self, served: ApiServer, uuids: list[str], limit: int
    ) -> None:
        assert [job["uuid"] for job in served.ask("GET", f"{LISTING}&limit={limit}").json] == uuids[:limit][
            ::-1
        ]
        query = urlencode({"user": OWNER, "state": "waiting", "start": 0, "end": 10**15, "limit": limit})
        listed = served.ask("GET", f"/jobs?{query}").json
        assert [job["uuid"] for job in listed] == uuids[:limit][::-1]

    def test_a_short_list_has_a_content_length(self, served: ApiServer, uuids: list[str]) -> None:
        assert served.ask("GET", f"{LISTING}&limit=5").headers["Content-Length"]
        assert served.ask("GET", f"{LISTING}&name=nobody").json == []

    def test_the_queue_has_all(self, served: ApiServer, uuids: list[str]) -> None:
        queue = served.ask("GET", f"/queue?limit={MANY}").json
        assert [entry["job/uuid"] for entry in queue["default"]] == uuids
        assert queue["other"] == []

    def test_jobs_by_uuid_come_in_the_order_asked(self, served: ApiServer, uuids: list[str]) -> None:
        some = uuids[700:0:-1]
        for path, name in (("/jobs", "uuid"), ("/rawscheduler", "job"), ("/unscheduled_jobs", "job")):
            reply = served.ask("GET", f"{path}?" + "&".join(f"{name}={uuid}" for uuid in some))
            assert [job["uuid"] for job in reply.json] == some

    def test_a_large_group_is_returned_in_detail(self, served: ApiServer) -> None:
        group = "00000000-0000-4000-8000-000000000001"
        jobs = [a_request(cpus=1000, group=group) for _ in range(300)]
        assert served.ask("POST", "/jobs", {"jobs": jobs}, by="ada").status == 201
        (told,) = served.ask("GET", f"/group?uuid={group}&detailed=true").json
        assert (told["waiting"], len(told["jobs"])) == (300, 300)
        assert served.ask("DELETE", f"/group?uuid={group}", by="bob").status == 403
        assert served.ask("DELETE", f"/group?uuid={group}", by="ada").status == 204
        assert served.ask("GET", f"/group?uuid={group}&detailed=true").json[0]["completed"] == 300


@pytest.mark.parametrize("path", [LISTING, f"/queue?limit={MANY}", "/v1/events?cursor=0", BLOB])
def test_clients_that_do_not_read_are_disconnected(
    served: ApiServer, uuids: list[str], socket_path: Path, path: str
) -> None:
    if path == BLOB:
        served.ask("PUT", path, b" " * 2 * PIECE_BYTES)
    with socket.socket(socket.AF_UNIX) as connection:  # the system buffers a fixed part of what it is sent
        connection.connect(str(socket_path))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{LOGIN}\r\n".encode())
        assert served.ask("GET", "/pools").status == 200
        poller = select.poll()
        poller.register(connection, select.POLLHUP)
        assert poller.poll(HANG_S * 1000)


def test_an_error_after_the_first_piece_closes_the_connection(
    served: ApiServer, store: BreakingStore, uuids: list[str]
) -> None:
    """Part of a list must not pass for the whole."""
    connection = http.client.HTTPConnection(*served.address, timeout=HANG_S)
    store.reads_left = 6
    try:
        connection.request("GET", f"/queue?limit={MANY}", headers=authorization(OWNER))
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
    finally:
        store.reads_left = 10**9
        connection.close()


def test_an_error_before_the_first_piece_is_sent_as_an_error(
    served: ApiServer, store: BreakingStore, uuids: list[str]
) -> None:
    store.reads_left = 0
    try:
        assert served.ask("GET", f"/queue?limit={MANY}").status == 500
    finally:
        store.reads_left = 10**9
