"""A stub of a scheduler: an HTTP server on a free port whose answers a test defines.

It is not a mock of cook_jupyter's code: the client uses a real socket, as with any scheduler.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.waiting import HANG_S


@dataclass
class ReceivedRequest:
    """A request as the server received it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """A response; with `hang_up`, none, and the connection is closed; with `stream`, these pieces."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    close: bool = False
    stream: Iterator[bytes] | None = None


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    header_fields = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status=status, body=json.dumps(value).encode(), headers=header_fields)


@dataclass
class StubServer:
    """The running server: its URL and the requests that it received."""

    url: str
    requests: list[ReceivedRequest] = field(default_factory=list)
    connections: int = 0
    answer: Callable[[ReceivedRequest], Answer] = lambda _: Answer()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "_Server"

    def setup(self) -> None:
        self.server.state.connections += 1
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        received = ReceivedRequest(self.command, parts.path, parse_qs(parts.query), dict(self.headers), body)
        self.server.state.requests.append(received)
        answer = self.server.state.answer(received)
        if answer.hang_up:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.stream is not None:
            self.send_pieces(answer.stream)
            return
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.close_connection = answer.close

    def send_pieces(self, pieces: Iterator[bytes]) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = serve  # noqa: N815 - the names are http.server's


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, state: StubServer, socket_path: Path | None) -> None:
        self.state = state
        self.address_family = socket.AF_UNIX if socket_path else socket.AF_INET
        address: Any = str(socket_path) if socket_path else ("127.0.0.1", 0)
        super().__init__(address, _Handler)
        state.url = f"unix://{socket_path}" if socket_path else f"http://127.0.0.1:{self.server_address[1]}"

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, _ = super().get_request()
        return accepted, ("client", 0)

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is part of the tests


@contextmanager
def stub_server(
    answer: Callable[[ReceivedRequest], Answer], socket_path: Path | None = None
) -> Iterator[StubServer]:
    """Run a stub server until the block ends."""
    state = StubServer(url="", answer=answer)
    server = _Server(state, socket_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(HANG_S)
