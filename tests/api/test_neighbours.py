"""What others hold open or ask for locks nobody out: connections, descriptors, host names."""

import asyncio
import http.client
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cook_jupyter.api.auth import BasicAuthenticator, TokenAuthenticator, is_expected_host
from cook_jupyter.api.connections import Acceptor, max_connections
from cook_jupyter.api.routes import listen
from cook_jupyter.api.server import ANONYMOUS_BODY_BYTES, ServerLimits
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import ServerSettings
from tests.api.served import OWNER, POOLS, TOKEN, ApiServer, authorization, serving
from tests.waiting import HANG_S

LOGIN = "".join(f"{name}: {value}\r\n" for name, value in authorization(OWNER).items())
GET_POOLS = f"GET /pools HTTP/1.1\r\nHost: localhost\r\n{LOGIN}\r\n".encode()


def status_on(connection: socket.socket, request: bytes = GET_POOLS) -> int:
    """Send a request and return the status of its answer."""
    connection.sendall(request)
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def is_closed(connection: socket.socket) -> bool:
    """Return whether the other side has closed the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


class TestConnectionsWithoutLogin:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[ApiServer]:
        with serving(tmp_path, limits=ServerLimits(connections=4, anonymous_connections=4)) as running:
            yield running

    def test_a_login_is_served_however_many_connections_are_held_open_without_one(
        self, served: ApiServer
    ) -> None:
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(served.raw())
                assert served.ask("GET", "/pools").status == 200

    def test_the_oldest_connection_without_login_is_closed_first(self, served: ApiServer) -> None:
        with ExitStack() as stack:
            strangers = [stack.enter_context(served.raw()) for _ in range(4)]
            newcomer = stack.enter_context(served.raw())
            assert is_closed(strangers[0])
            assert status_on(newcomer) == 200
            assert status_on(strangers[1]) == 200  # a stranger no more

    def test_a_connection_that_has_logged_in_is_never_closed_for_others(self, served: ApiServer) -> None:
        with ExitStack() as stack:
            owners = [stack.enter_context(served.raw()) for _ in range(3)]
            assert [status_on(each) for each in owners] == [200] * 3
            for _ in range(10):
                stack.enter_context(served.raw())
            assert [status_on(each) for each in owners] == [200] * 3

    @pytest.mark.parametrize(
        "headers",
        ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic bm9ib2R5OngK\r\n"],
        ids=["no login", "a wrong token", "a wrong password"],
    )
    def test_a_failed_login_is_no_login(self, served: ApiServer, headers: str) -> None:
        request = f"GET /pools HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()
        with ExitStack() as stack:
            for _ in range(8):
                assert status_on(stack.enter_context(served.raw()), request) == 401
            assert served.ask("GET", "/pools").status == 200

    def test_what_needs_no_login_makes_no_login(self, served: ApiServer) -> None:
        request = b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with ExitStack() as stack:
            for _ in range(8):
                assert status_on(stack.enter_context(served.raw()), request) == 200
            assert served.ask("GET", "/pools").status == 200


class TestBodiesWithoutLogin:
    @pytest.mark.parametrize("path", ["/jobs", "/v1/blobs/functions/" + 64 * "0"])
    @pytest.mark.parametrize("size", [ANONYMOUS_BODY_BYTES + 1, 5 * ANONYMOUS_BODY_BYTES])
    def test_a_large_body_without_login_is_refused_like_a_small_one(
        self, served: ApiServer, path: str, size: int
    ) -> None:
        method = "PUT" if "blobs" in path else "POST"
        reply = served.ask(
            method, path, b" " * size, by=None, headers={"Content-Type": "application/octet-stream"}
        )
        assert reply.status == 401

    def test_a_large_body_in_chunks_is_refused_too(self, served: ApiServer) -> None:
        head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b"%x\r\n%s\r\n" % (ANONYMOUS_BODY_BYTES, b" " * ANONYMOUS_BODY_BYTES)
        with served.raw() as connection:
            assert status_on(connection, head + 5 * piece + b"0\r\n\r\n") == 401


def test_a_user_among_others_holds_only_so_many_connections(tmp_path: Path) -> None:
    authenticator = BasicAuthenticator(logins={"ada": TOKEN, "bob": TOKEN})
    limits = ServerLimits(connections_per_user=2)
    with serving(tmp_path, authenticator=authenticator, limits=limits) as served, ExitStack() as stack:

        def get_as(user: str) -> int:
            login = "".join(f"{name}: {value}\r\n" for name, value in authorization(user).items())
            request = f"GET /pools HTTP/1.1\r\nHost: localhost\r\n{login}\r\n".encode()
            return status_on(stack.enter_context(served.raw()), request)

        assert [get_as("ada") for _ in range(3)] == [200, 200, 503]
        assert get_as("bob") == 200


class TestTheOwnersSocket:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "s"

    @pytest.fixture
    def served(self, tmp_path: Path, path: Path) -> Iterator[ApiServer]:
        limits = ServerLimits(connections=2)
        with serving(tmp_path / "home", limits=limits, socket_path=path, with_address=True) as running:
            yield running

    def test_is_counted_apart_from_the_address(self, served: ApiServer, path: Path) -> None:
        with ExitStack() as stack:
            for _ in range(2):
                assert status_on(stack.enter_context(served.raw())) == 200
            assert status_on(stack.enter_context(served.raw()), b"") == 503
            owner = stack.enter_context(socket.socket(socket.AF_UNIX))
            owner.settimeout(HANG_S)
            owner.connect(str(path))
            assert status_on(owner) == 200

    def test_wants_the_token_too(self, served: ApiServer, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(HANG_S)
            connection.connect(str(path))
            assert status_on(connection, b"GET /pools HTTP/1.1\r\nHost: localhost\r\n\r\n") == 401

    def test_a_client_that_knows_the_address_is_shown_files_there(
        self, served: ApiServer, path: Path
    ) -> None:
        job = served.submit()
        served.give_sandbox(served.started(job), Path("/sandbox"))
        for host, has_url in ((served.url.removeprefix("http://"), True), ("localhost", False)):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(HANG_S)
                connection.connect(str(path))
                head = f"GET /jobs/{job} HTTP/1.1\r\nHost: {host}\r\n{LOGIN}\r\n"
                connection.sendall(head.encode())
                response = http.client.HTTPResponse(connection)
                response.begin()
                assert (b"output_url" in response.read()) is has_url


class TestDescriptors:
    def test_few_descriptors_permit_fewer_connections(self) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
            few = max_connections(512, listeners=2)
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, before[1]))
            many = max_connections(512, listeners=2)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert 2 * few < 256 - 50
        assert many == 512

    def test_without_any_left_accepting_pauses_and_goes_on_later(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)

        async def run() -> None:
            exhausted, turns = asyncio.Event(), 0

            def count() -> None:
                nonlocal turns
                turns += 1
                exhausted.set()

            accepted = asyncio.get_running_loop().create_future()
            listening = socket.create_server(("127.0.0.1", 0))
            listening.setblocking(False)
            acceptor = Acceptor(
                listening,
                lambda connection, _: accepted.set_result(connection),
                count,
            )
            with socket.create_connection(listening.getsockname()) as client:
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno(), before[1]))
                    async with asyncio.timeout(HANG_S):
                        await exhausted.wait()
                    for _ in range(1000):
                        await asyncio.sleep(0)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, before)
                async with asyncio.timeout(HANG_S):
                    (await accepted).close()
            acceptor.close()
            assert turns < 50  # of 1000: it does not spin

        with caplog.at_level(logging.WARNING):
            asyncio.run(run())
        (record,) = [each for each in caplog.records if "No connection can be accepted" in each.message]
        assert "ulimit" in record.message


class TestHostNames:
    @pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:80", "x", "127.0.0.1.nip.io", ""])
    @pytest.mark.parametrize("path", ["/info", "/metrics", "/pools", "/nonsense", "/progress/x"])
    def test_a_name_that_a_web_page_may_have_is_refused(
        self, served: ApiServer, host: str, path: str
    ) -> None:
        reply = served.ask("GET", path, headers={"Host": host, "Origin": f"http://{host}"})
        assert reply.status in ((400, 403) if not host else (403,))
        assert "Access-Control-Allow-Origin" not in reply.headers

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:80", "10.0.0.7"])
    def test_an_address_and_localhost_are_accepted(self, served: ApiServer, host: str) -> None:
        assert served.ask("GET", "/pools", headers={"Host": host}).status == 200

    def test_a_name_of_the_settings_is_accepted(self, tmp_path: Path) -> None:
        settings = Settings(pools=POOLS, server=ServerSettings(allowed_hosts=frozenset({"Cook.example.org"})))
        with serving(tmp_path, settings=settings) as served:
            assert served.ask("GET", "/pools", headers={"Host": "cook.example.org:80"}).status == 200
            assert served.ask("GET", "/pools", headers={"Host": "evil.example.org"}).status == 403

    def test_a_scheduler_on_a_network_accepts_any_name_unless_the_settings_list_some(self) -> None:
        assert is_expected_host("cook.example.org", listening_on="0.0.0.0", allowed=())
        assert not is_expected_host("evil.example.org", listening_on="0.0.0.0", allowed=["cook.example.org"])


def test_a_scheduler_without_its_unix_socket_still_listens_on_the_address(
    served: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def listen_again() -> None:
        path = tmp_path / "not there" / "s"
        authenticator = TokenAuthenticator(TOKEN, owner=OWNER)
        listener = listen(served.scheduler, authenticator, Settings(pools=POOLS), owner_socket=path)
        assert listener.url.startswith("http://127.0.0.1:")
        assert listener.socket_path is None
        await listener.close()

    served.on_loop(listen_again)
    assert "No Unix socket" in caplog.text
