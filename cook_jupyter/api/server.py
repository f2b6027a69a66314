"""Listening: sockets, and the bounds of size, time and number that hold whatever a client does.

Lives here: `serve`, and the guard in front of the application that answers 413, 431 and 503.
Not here: what is answered otherwise (`api.routes`), who may be listened to where (`api.auth`).

A body that is too large is read to its end and thrown away before it is refused, up to DRAINED_BYTES: a
client that is still writing would otherwise see a broken connection and never the reason.

Source: the reliability specification, section 3, "Limits"; the REST specification, section 1 (headers of
32 KiB must be taken).
"""

import contextlib
import os
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from http.client import responses
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application

from cook_jupyter.api.auth import Authenticator, require_safe_address
from cook_jupyter.errors import TooLarge
from cook_jupyter.wire.errors import ERROR_HEADER
from cook_jupyter.wire.shape import to_json

HEADER_BYTES = 32 * 1024
BODY_BYTES = 8 * 1024 * 1024
BLOB_BYTES = 256 * 1024 * 1024
DRAINED_BYTES = 64 * 1024 * 1024
IDLE_S = 10.0  # without a request, and for a request's headers to be complete
BODY_S = 60.0
BLOB_S = 600.0
CONNECTIONS = 512
CONNECTIONS_PER_ADDRESS = 64  # of other machines

_HARD_HEADER_BYTES = 1024 * 1024  # beyond this the connection is closed without a word
_BLOBS = "/v1/blobs/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much a client may send, and how long it may take."""

    header_bytes: int = HEADER_BYTES
    body_bytes: int = BODY_BYTES
    blob_bytes: int = BLOB_BYTES
    idle_s: float = IDLE_S
    body_s: float = BODY_S
    connections: int = CONNECTIONS
    connections_per_address: int = CONNECTIONS_PER_ADDRESS


class Listener:
    """A server that listens, until it is closed."""

    def __init__(self, server: HTTPServer, *, url: str, socket_path: Path | None) -> None:
        self._server = server
        self._socket_path = socket_path
        self.url = url  # http://host:port, or http+unix://path

    async def close(self) -> None:
        """Listen no more, and end the connections there are. Idempotent."""
        self._server.stop()
        await self._server.close_all_connections()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)


def serve(
    application: Application,
    authenticator: Authenticator,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    socket_path: Path | None = None,
    bounds: Bounds | None = None,
) -> Listener:
    """Listen on an address, or on a Unix socket that only its owner may open.

    Args:
        application: what answers.
        authenticator: who tells users apart; without one that does, only this machine may ask.
        host: the address.
        port: 0 takes a free one; `Listener.url` says which.
        socket_path: where to make a Unix socket, in place of an address.
        bounds: how much a client may send.

    Raises:
        InvalidRequest: the address may be reached by others, and nobody tells users apart.
        OSError: the address is taken.
    """
    require_safe_address(None if socket_path is not None else host, authenticator)
    bounds = bounds or Bounds()
    server = GuardedServer(Guard(application, bounds), bounds=bounds)
    if socket_path is not None:
        server.add_socket(bind_unix_socket(os.fspath(socket_path), mode=0o600, backlog=CONNECTIONS))
        return Listener(server, url=f"http+unix://{socket_path}", socket_path=socket_path)
    sockets = bind_sockets(port, address=host, backlog=CONNECTIONS)
    server.add_sockets(sockets)
    bound_port = sockets[0].getsockname()[1]
    named = f"[{host}]" if ":" in host else host
    return Listener(server, url=f"http://{named}:{bound_port}", socket_path=None)


class GuardedServer(HTTPServer):
    """An HTTP server that takes a bounded number of connections."""

    def initialize(self, guard: "Guard", *, bounds: Bounds) -> None:  # type: ignore[override]
        """Take what stands behind it, and how much it may let in."""
        super().initialize(
            guard,
            max_header_size=_HARD_HEADER_BYTES,
            max_body_size=max(bounds.blob_bytes, DRAINED_BYTES),
            idle_connection_timeout=bounds.idle_s,
            body_timeout=bounds.body_s,
        )
        self._bounds = bounds
        self._open: Counter[str] = Counter()

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """Take a new connection, or say that there are too many."""
        source = _source(address)
        most = self._bounds.connections if _is_local(source) else self._bounds.connections_per_address
        if self._open.total() >= self._bounds.connections or self._open[source] >= most:
            stream.io_loop.add_callback(_refuse_connection, stream)
            return
        self._open[source] += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that ended."""
        super().on_close(server_conn)
        source = _source(getattr(getattr(server_conn, "context", None), "address", ""))
        self._open[source] -= 1
        if self._open[source] <= 0:
            del self._open[source]


class Guard(HTTPServerConnectionDelegate):
    """Stands before the application and refuses what is too large."""

    def __init__(self, application: Application, bounds: Bounds) -> None:
        self._application = application
        self._bounds = bounds

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Look at one request."""
        inner = self._application.start_request(server_conn, request_conn)
        return GuardedRequest(inner, request_conn, self._bounds)


class GuardedRequest(HTTPMessageDelegate):
    """Passes one request on while it keeps within the bounds."""

    def __init__(self, inner: HTTPMessageDelegate, connection: HTTPConnection, bounds: Bounds) -> None:
        self._inner = inner
        self._connection = connection
        self._bounds = bounds
        self._most = bounds.body_bytes
        self._came = 0
        self._refused = False  # the inner delegate hears no more of this request

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Judge a request by its headers."""
        if not isinstance(start_line, RequestStartLine):
            raise TypeError("a server is sent requests")
        size = sum(map(len, start_line)) + sum(
            len(name) + len(value) + 4 for name, value in headers.get_all()
        )
        if size > self._bounds.header_bytes:
            most = self._bounds.header_bytes
            self._refuse(431, f"the headers have {size} bytes, and may have {most}: ask for fewer at once")
            return None
        if start_line.path.startswith(_BLOBS) and start_line.method == "PUT":
            self._most = self._bounds.blob_bytes
            self._connection.set_body_timeout(BLOB_S)  # type: ignore[attr-defined]
        said = headers.get("Content-Length", "0")
        length = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0
        if length > max(self._most, DRAINED_BYTES):
            self._connection.set_max_body_size(length)  # type: ignore[attr-defined]
            self._refuse(413, self._too_large(f"{length}"))
            return None
        if length > self._most:
            self._refused = True
            self._came = length
            return None
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Pass on a piece of the body, or throw it away."""
        if self._refused:
            return None
        self._came += len(chunk)
        if self._came > self._most:  # it came in chunks, without saying how long it is
            self._refused = True
            self._inner.on_connection_close()
            return None
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        """Pass on the end of the request, or refuse it now that all has been read."""
        if self._refused:
            self._refuse(413, self._too_large(f"{self._came} or more"))
        else:
            self._inner.finish()

    def on_connection_close(self) -> None:
        """Pass on that the client went."""
        if not self._refused:
            self._inner.on_connection_close()

    def _too_large(self, length: str) -> str:
        return (
            f"the body has {length} bytes, and may have {self._most}: send fewer jobs at once, and put large"
            " data in files or blobs"
        )

    def _refuse(self, status: int, text: str) -> None:
        self._refused = True
        body = to_json({"error": text})
        headers = HTTPHeaders(
            {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Cache-control": "max-age=0",
                ERROR_HEADER: TooLarge.__name__,
            }
        )
        self._connection.write_headers(
            ResponseStartLine("HTTP/1.1", status, responses[status]), headers, body
        )
        self._connection.finish()


async def _refuse_connection(stream: IOStream) -> None:
    text = b"too many connections: close some, or ask again later"
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
        b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    )
    with contextlib.suppress(StreamClosedError):
        await stream.write(head % len(text) + text)
    stream.close()


def _source(address: object) -> str:
    """Where a connection is from; nothing for a Unix socket."""
    return str(address[0]) if isinstance(address, tuple) and address else ""


def _is_local(source: str) -> bool:
    return not source or source.startswith("127.") or source == "::1"
