"""What a client may send, and how long it may take: whatever it does, the others are served."""

import http.client
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.api.auth import BasicAuthenticator, TokenAuthenticator
from cook_jupyter.api.routes import listen
from cook_jupyter.api.server import ServerLimits
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import ServerSettings
from tests.api.served import OWNER, POOLS, TOKEN, ApiServer, authorization, serving
from tests.waiting import HANG_S, wait_until

MIB = 1024 * 1024
LOGIN = "".join(f"{name}: {value}\r\n" for name, value in authorization(OWNER).items())


def request(method: str, path: str, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{LOGIN}{lines}\r\n".encode()


def answer(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def closed(connection: socket.socket) -> bool:
    """Read to the end; whether there is one."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


class TestSizes:
    @pytest.mark.parametrize("size", [9 * MIB, 10 * MIB, 60 * MIB])
    def test_too_large_a_body_is_refused_with_a_reason_and_the_connection_stays_open(
        self, served: ApiServer, size: int
    ) -> None:
        connection = http.client.HTTPConnection(*served.address, timeout=HANG_S)
        headers = {**authorization(OWNER), "Content-Type": "application/json"}
        connection.request("POST", "/jobs", b" " * size, headers)
        response = connection.getresponse()
        assert response.status == 413
        assert response.headers["X-Cook-Error"] == "TooLarge"
        assert b"the limit is 8388608" in response.read()
        connection.request("GET", "/pools", headers=headers)
        assert connection.getresponse().status == 200
        connection.close()

    def test_a_body_of_exactly_the_limit_is_read(self, served: ApiServer) -> None:
        assert served.ask("POST", "/jobs", b'{"jobs":[]}' + b" " * (8 * MIB - 11)).status == 201

    def test_an_absurd_length_is_refused_at_once(self, served: ApiServer) -> None:
        with served.raw() as connection:
            connection.sendall(request("POST", "/jobs", "Content-Length: 999999999999"))
            assert answer(connection).status == 413

    def test_chunks_count_too(self, served: ApiServer) -> None:
        with served.raw() as connection:
            connection.sendall(request("POST", "/jobs", "Transfer-Encoding: chunked"))
            piece = b"%x\r\n%s\r\n" % (MIB, b" " * MIB)
            for _ in range(9):
                connection.sendall(piece)
            connection.sendall(b"0\r\n\r\n")
            response = answer(connection)
            assert response.status == 413
            response.read()
            connection.sendall(request("GET", "/pools"))
            assert answer(connection).status == 200

    def test_headers_of_32_kib_are_accepted(self, served: ApiServer) -> None:
        with served.raw() as connection:
            connection.sendall(request("GET", "/pools?" + "a" * 31_000))
            assert answer(connection).status == 200

    @pytest.mark.parametrize("size", [33 * 1024, 100 * 1024, 900 * 1024])
    def test_larger_headers_are_refused(self, served: ApiServer, size: int) -> None:
        with served.raw() as connection:
            connection.sendall(request("GET", "/pools", "X-Big: " + "a" * size))
            response = answer(connection)
            assert response.status == 431
            assert b"the limit is 32768" in response.read()

    def test_endless_headers_are_cut_off(self, served: ApiServer) -> None:
        with served.raw() as connection:
            try:
                connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 4 * MIB)
            except ConnectionError:
                return
            assert closed(connection)

    @pytest.mark.parametrize(
        "sent",
        [
            b"nonsense\r\n\r\n",
            b"GET\r\n\r\n",
            request("POST", "/jobs", "Content-Length: -1"),
            request("POST", "/jobs", "Content-Length: x"),
            request("POST", "/jobs", "Content-Length: 1", "Content-Length: 2"),
            request("POST", "/jobs", "Transfer-Encoding: gzip"),
            request("POST", "/jobs", "Transfer-Encoding: chunked") + b"zz\r\n",
        ],
    )
    def test_what_is_not_http_is_refused(self, served: ApiServer, sent: bytes) -> None:
        with served.raw() as connection:
            connection.sendall(sent)
            assert answer(connection).status == 400
        assert served.ask("GET", "/pools").status == 200

    @pytest.mark.parametrize(
        "header",
        [
            "Origin: http://x\ty",
            "X-Cook-Pool: \x7fé",
            "X-Cook-Impersonate: \x80",
            "Access-Control-Request-Headers: a\tb",
            "Authorization: Basic \xff",
            "Cookie: a=b;;=;",
            'If-None-Match: "',
            "Range: bytes=x",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "OPTIONS", "DELETE"])
    def test_odd_headers_cause_no_internal_error(self, served: ApiServer, method: str, header: str) -> None:
        with served.raw() as connection:
            name = header.partition(":")[0]
            login = "" if name == "Authorization" else LOGIN
            text = f"{method} /jobs HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n{login}{header}\r\n\r\n"
            connection.sendall(text.encode("latin-1"))
            assert answer(connection).status < 500

    def test_ten_thousand_query_parameters_are_accepted(self, served: ApiServer) -> None:
        with served.raw() as connection:
            connection.sendall(request("GET", "/jobs?" + "a&" * 10_000))
            assert answer(connection).status == 400


class TestTimes:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[ApiServer]:
        with serving(tmp_path, limits=ServerLimits(idle_s=0.2, body_s=0.2)) as running:
            yield running

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n",
            request("POST", "/jobs", "Content-Length: 9") + b"{",
        ],
    )
    def test_a_client_that_stops_sending_is_disconnected(self, served: ApiServer, sent: bytes) -> None:
        with served.raw() as connection:
            connection.sendall(sent)
            assert closed(connection)

    def test_an_idle_connection_is_closed_after_a_response(self, tmp_path: Path) -> None:
        patient = ServerLimits(idle_s=2.0)  # a busy machine may need a while for the request
        with serving(tmp_path / "patient", limits=patient) as served, served.raw() as connection:
            connection.sendall(request("GET", "/pools"))
            response = answer(connection)
            assert response.status == 200
            response.read()
            assert closed(connection)


class TestNumbers:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[ApiServer]:
        with serving(tmp_path, limits=ServerLimits(connections=3)) as running:
            yield running

    def test_too_many_connections_are_refused_until_others_end(self, served: ApiServer) -> None:
        held = [served.raw() for _ in range(3)]
        for connection in held:
            connection.sendall(request("GET", "/pools"))
            assert answer(connection).read()
        with served.raw() as connection:
            response = answer(connection)
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        for connection in held:
            connection.close()
        wait_until(lambda: served.ask("GET", "/pools").status == 200)


def test_only_its_owner_can_open_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(tmp_path / "home", socket_path=path) as served:
        assert served.url == f"http+unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(HANG_S)
            connection.connect(str(path))
            connection.sendall(request("GET", "/v1/info"))
            assert answer(connection).status == 200
    assert not path.exists()


def test_the_settings_set_the_address_and_a_network_address_needs_logins(served: ApiServer) -> None:
    open_to_all = Settings(pools=POOLS, server=ServerSettings(host="0.0.0.0"))

    async def refused() -> None:
        with pytest.raises(InvalidRequest, match="refusing to listen on"):
            listen(served.scheduler, BasicAuthenticator(), open_to_all)

    async def served_again() -> None:
        listener = listen(served.scheduler, TokenAuthenticator(TOKEN, owner=OWNER), Settings(pools=POOLS))
        assert listener.url.startswith("http://127.0.0.1:")
        await listener.close()
        await listener.close()

    served.on_loop(refused)
    served.on_loop(served_again)
