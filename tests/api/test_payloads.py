"""/v1/results and /v1/blobs: bytes that the scheduler never opens."""

import hashlib
import socket
from pathlib import Path
from uuid import uuid4

import pytest

from cook_jupyter.model.instance import ResultPayload
from tests.api.served import OWNER, ApiServer, Reply, authorization
from tests.waiting import wait_until


def put(served: ApiServer, name: str, data: bytes) -> Reply:
    return served.ask("PUT", f"/v1/blobs/{name}", data, headers={"Content-Type": "application/octet-stream"})


class TestResults:
    def test_an_inline_result_is_sent_as_it_is(self, served: ApiServer) -> None:
        uuid = served.submit()
        served.finish(uuid, result=ResultPayload(inline=b"\0\xffbytes", size=7))
        reply = served.ask("GET", f"/v1/results/{uuid}")
        assert (reply.status, reply.body) == (200, b"\0\xffbytes")
        assert reply.headers["Content-Type"] == "application/octet-stream"

    def test_a_large_one_comes_from_the_blobs(self, served: ApiServer) -> None:
        uuid = served.submit()
        task = served.started(uuid)
        data = b"x" * 1_000_000
        assert put(served, f"results/{task}", data).status == 201
        served.finish(uuid, result=ResultPayload(blob=f"results/{task}", size=len(data)))
        assert served.ask("GET", f"/v1/results/{uuid}").body == data

    def test_a_result_comes_when_its_job_is_completed(self, served: ApiServer) -> None:
        uuid = served.submit()
        served.started(uuid)
        assert served.ask("GET", f"/v1/results/{uuid}").status == 409
        served.finish(uuid)
        assert served.ask("GET", f"/v1/results/{uuid}").status == 404  # it gave none
        assert served.ask("GET", f"/v1/results/{uuid4()}").status == 404
        assert served.ask("GET", "/v1/results/nonsense").status == 400

    def test_a_result_whose_blob_is_missing_is_not_found(self, served: ApiServer) -> None:
        uuid = served.submit()
        served.finish(uuid, result=ResultPayload(blob=f"results/{uuid4()}", size=1))
        assert served.ask("GET", f"/v1/results/{uuid}").status == 404


class TestBlobs:
    def test_a_stored_blob_can_be_read(self, served: ApiServer) -> None:
        name, data = f"calls/{uuid4()}", bytes(range(256)) * 10_000
        assert put(served, name, data).json == {"name": name, "size": len(data)}
        assert served.ask("GET", f"/v1/blobs/{name}").body == data
        head = served.ask("HEAD", f"/v1/blobs/{name}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
        assert (served.scheduler.home.blobs / name).stat().st_mode & 0o077 == 0

    def test_a_blob_may_be_larger_than_a_request(self, served: ApiServer) -> None:
        data = b"x" * (9 * 1024 * 1024)
        assert put(served, f"calls/{uuid4()}", data).status == 201

    def test_an_empty_blob_is_a_blob(self, served: ApiServer) -> None:
        name = f"calls/{uuid4()}"
        assert put(served, name, b"").status == 201
        assert served.ask("GET", f"/v1/blobs/{name}").body == b""

    def test_a_function_is_named_by_its_digest(self, served: ApiServer) -> None:
        data = b"a function"
        assert put(served, "functions/" + "0" * 64, data).status == 400
        assert put(served, f"functions/{hashlib.sha256(data).hexdigest()}", data).status == 201

    def test_a_damaged_function_is_replaced(self, served: ApiServer) -> None:
        name = f"functions/{hashlib.sha256(b'function').hexdigest()}"
        assert served.ask("PUT", f"/v1/blobs/{name}", b"function").status == 201
        (served.scheduler.home.blobs / name).write_bytes(b"func")

        assert served.ask("PUT", f"/v1/blobs/{name}", b"function").status == 201

        assert (served.scheduler.home.blobs / name).read_bytes() == b"function"

    def test_sending_again_is_no_error_but_other_bytes_are(self, served: ApiServer) -> None:
        name = f"calls/{uuid4()}"
        assert [put(served, name, b"one").status for _ in range(2)] == [201, 201]
        assert put(served, name, b"two").status == 409
        assert served.ask("GET", f"/v1/blobs/{name}").body == b"one"

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_missing_blob_is_not_found(self, served: ApiServer, method: str) -> None:
        assert served.ask(method, f"/v1/blobs/calls/{uuid4()}").status == 404

    @pytest.mark.parametrize(
        "name",
        [
            "calls/x",
            "keys/owner",
            "../store.sqlite",
            "functions/../../scheduler.json",
            "calls/%2e%2e%2fx",
            "functions/" + "F" * 64,
        ],
    )
    def test_other_names_of_blobs_are_refused(self, served: ApiServer, name: str) -> None:
        assert put(served, name, b"x").status == 404
        assert served.ask("GET", f"/v1/blobs/{name}").status == 404

    def test_blobs_need_a_login(self, served: ApiServer) -> None:
        name = f"calls/{uuid4()}"
        assert served.ask("PUT", f"/v1/blobs/{name}", b"x", by=None).status == 401
        assert served.ask("GET", f"/v1/blobs/{name}", by=None).status == 401

    def test_an_incomplete_upload_leaves_nothing_behind(self, served: ApiServer) -> None:
        folder: Path = served.scheduler.home.blobs / "calls"
        login = "".join(f"{name}: {value}\r\n" for name, value in authorization(OWNER).items())
        with served.raw() as connection:
            head = f"PUT /v1/blobs/calls/{uuid4()} HTTP/1.1\r\nHost: localhost\r\n{login}Content-Length: 1000"
            connection.sendall(f"{head}\r\n\r\nhalf".encode())
            wait_until(lambda: folder.exists() and list(folder.iterdir()))
            connection.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not list(folder.iterdir()))
