"""Listening: sockets, and the bounds of size, time and number that hold whatever a client does.

Lives here: `serve`, and the guard in front of the application that answers 413, 431 and 503.
Not here: what is answered otherwise (`api.routes`), which connections there are (`api.connections`), who may
be listened to where (`api.auth`).

A body that is too large is read to its end and thrown away before it is refused, up to DRAINED_BYTES: a
client that is still writing would otherwise see a broken connection and never the reason.

Source: the reliability specification, section 3, "Limits"; the REST specification, section 1 (headers of
32 KiB must be taken).
"""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import Any

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
from cook_jupyter.api.connections import Acceptor, Connections, max_connections, source_of
from cook_jupyter.errors import TooLarge, Unauthenticated
from cook_jupyter.wire.errors import ERROR_HEADER
from cook_jupyter.wire.shape import to_json

HEADER_BYTES = 32 * 1024
BODY_BYTES = 8 * 1024 * 1024
ANONYMOUS_BODY_BYTES = 64 * 1024  # what is read of a body before its sender has logged in
BLOB_BYTES = 256 * 1024 * 1024
DRAINED_BYTES = 64 * 1024 * 1024
IDLE_S = 10.0  # without a request, and for a request's headers to be complete
BODY_S = 60.0
BLOB_S = 600.0
CONNECTIONS = 512
CONNECTIONS_PER_ADDRESS = 64  # of other machines
CONNECTIONS_PER_USER = 128  # where users are told apart
ANONYMOUS_CONNECTIONS = 256

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
    connections_per_user: int = CONNECTIONS_PER_USER
    anonymous_connections: int = ANONYMOUS_CONNECTIONS


class Listener:
    """The servers of an application, listening until they are closed.

    Attributes:
        url: `http://HOST:PORT`; `http+unix://PATH` if there is a Unix socket alone.
        socket_path: the Unix socket, if there is one.
    """

    def __init__(self, servers: Sequence["GuardedServer"], *, url: str, socket_path: Path | None) -> None:
        self._servers = servers
        self.socket_path = socket_path
        self.url = url

    async def close(self) -> None:
        """Stop listening, and end the open connections. Idempotent."""
        for server in self._servers:
            server.stop()
        for server in self._servers:
            await server.close_all_connections()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)


def serve(
    application: Application,
    authenticator: Authenticator,
    *,
    host: str | None = "127.0.0.1",
    port: int = 0,
    socket_path: Path | None = None,
    bounds: Bounds | None = None,
) -> Listener:
    """Listen on an address, on a Unix socket that its owner alone may open, or on both.

    Args:
        application: the application that answers.
        authenticator: the authenticator of its requests; unless it tells users apart, other machines must
            not reach the address.
        host: the address; None listens on the Unix socket alone.
        port: the port; 0 takes a free one, which `Listener.url` names.
        socket_path: path of the Unix socket; None makes none.
        bounds: how much a client may send.

    Raises:
        InvalidRequest: other machines could reach the address, and the authenticator does not tell their
            users apart.
        OSError: the address is taken, or the Unix socket cannot be made.
    """
    require_safe_address(host, authenticator)
    bounds = bounds or Bounds()
    sockets = [] if host is None else bind_sockets(port, address=host, backlog=CONNECTIONS)
    url = f"http+unix://{socket_path}"
    if host is not None:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{sockets[0].getsockname()[1]}"
    groups = [sockets] if sockets else []
    if socket_path is not None:
        try:
            groups.append([bind_unix_socket(os.fspath(socket_path), mode=0o600, backlog=CONNECTIONS)])
        except BaseException:
            for each in sockets:
                each.close()
            raise
    servers = [
        GuardedServer(Guard(application, authenticator, bounds), bounds=bounds, listeners=len(groups))
        for _ in groups
    ]
    for server, group in zip(servers, groups, strict=True):
        server.listen_on(group, on_exhausted=servers[0].connections.close_oldest_anonymous)
    return Listener(servers, url=url, socket_path=socket_path)


class GuardedServer(HTTPServer):
    """An HTTP server that takes a bounded number of connections.

    Args:
        guard: the guard before the application.
        bounds: how many connections there may be.
        listeners: number of servers that share the process's file descriptors.
    """

    def initialize(  # type: ignore[override]
        self, guard: "Guard", *, bounds: Bounds, listeners: int
    ) -> None:
        """Prepare the server; tornado calls this in place of `__init__`."""
        super().initialize(
            guard,
            max_header_size=_HARD_HEADER_BYTES,
            max_body_size=max(bounds.blob_bytes, DRAINED_BYTES),
            idle_connection_timeout=bounds.idle_s,
            body_timeout=bounds.body_s,
        )
        self._acceptors: list[Acceptor] = []
        self.connections = Connections(
            total=max_connections(bounds.connections, listeners=listeners),
            per_address=bounds.connections_per_address,
            per_user=bounds.connections_per_user if guard.tells_users_apart else None,
            anonymous=bounds.anonymous_connections,
        )
        guard.connections = self.connections

    def listen_on(self, sockets: Sequence[socket.socket], on_exhausted: Callable[[], None]) -> None:
        """Accept the connections of listening sockets.

        Args:
            sockets: the listening sockets; the server closes them.
            on_exhausted: called when the process has no file descriptor left.
        """
        self._acceptors += [Acceptor(each, self._on_connection, on_exhausted) for each in sockets]

    def stop(self) -> None:
        """Stop listening. Idempotent."""
        super().stop()
        for acceptor in self._acceptors:
            acceptor.close()

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """Serve a new connection, or answer that there are too many."""
        if self.connections.admit(stream, source_of(address)):
            super().handle_stream(stream, address)
        else:
            stream.io_loop.add_callback(_refuse_connection, stream)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that ended."""
        super().on_close(server_conn)
        self.connections.remove(_stream_of(server_conn))

    def _on_connection(self, connection: socket.socket, address: Any) -> None:
        self.handle_stream(IOStream(connection), address)


class Guard(HTTPServerConnectionDelegate):
    """Stands before the application and refuses what is too large or too much."""

    connections: Connections  # of the server that it guards

    def __init__(self, application: Application, authenticator: Authenticator, bounds: Bounds) -> None:
        self._application = application
        self._authenticator = authenticator
        self.bounds = bounds
        self.tells_users_apart = authenticator.tells_strangers_apart

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return what is to be called with the parts of a request."""
        inner = self._application.start_request(server_conn, request_conn)
        return GuardedRequest(self, inner, request_conn, _stream_of(server_conn))

    def log_in(self, stream: object, headers: HTTPHeaders) -> str | None:
        """Let a connection count as logged in if the headers of a request on it prove who sends it.

        Returns:
            The user, if that user has too many connections.
        """
        if self.connections.has_logged_in(stream):
            return None
        try:
            user = self._authenticator.identify(headers).user
        except Unauthenticated:
            return None  # the application answers that
        return None if self.connections.log_in(stream, user) else user


class GuardedRequest(HTTPMessageDelegate):
    """Passes one request on while it keeps within the bounds.

    Args:
        guard: the guard that made it.
        inner: the application's delegate.
        connection: where the request comes from.
        stream: the same connection, as the table of connections knows it.
    """

    def __init__(
        self, guard: Guard, inner: HTTPMessageDelegate, connection: HTTPConnection, stream: object
    ) -> None:
        self._guard = guard
        self._inner = inner
        self._connection = connection
        self._stream = stream
        self._bounds = guard.bounds
        self._most = guard.bounds.body_bytes
        self._came = 0
        self._refused = False  # the inner delegate hears no more of this request
        self._passed_bytes = guard.bounds.body_bytes  # of the body; what is beyond is thrown away

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Refuse a request, or pass it on, by its headers."""
        if not isinstance(start_line, RequestStartLine):
            raise TypeError("a server is sent requests")
        size = sum(map(len, start_line)) + sum(
            len(name) + len(value) + 4 for name, value in headers.get_all()
        )
        if size > self._bounds.header_bytes:
            most = self._bounds.header_bytes
            self._refuse(431, f"the headers have {size} bytes, and may have {most}: ask for fewer at once")
            return None
        user = self._guard.log_in(self._stream, headers)
        if user is not None:
            self._refuse(503, f"user {user} has too many connections: close some, or ask again later")
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
        self._passed_bytes = self._most
        if not self._guard.connections.has_logged_in(self._stream):
            self._passed_bytes = min(self._most, ANONYMOUS_BODY_BYTES)
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
        if self._came > self._passed_bytes:
            return None  # the application refuses the request, which has no login
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
            }
        )
        if status == 503:
            headers["Retry-After"] = "1"
        else:
            headers[ERROR_HEADER] = TooLarge.__name__
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


def _stream_of(server_conn: object) -> object:
    """Return the stream of a connection of tornado's."""
    return getattr(server_conn, "stream", None)
