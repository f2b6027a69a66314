"""Listening sockets, and limits on the size, duration and number of requests.

Lives here: `serve`, and the guard in front of the application, which sends 413, 431 and 503.
Not here: the application (`api.routes`), the table of connections (`api.connections`), safe addresses
(`api.auth`).

A body that is too large is read to its end and discarded before it is refused, up to DRAINED_BYTES.
Otherwise a client that is still sending would see a broken connection instead of the reason.

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
from cook_jupyter.api.connections import Acceptor, Connections, max_connections, source_address
from cook_jupyter.errors import TooLarge, Unauthenticated
from cook_jupyter.wire.errors import ERROR_HEADER
from cook_jupyter.wire.validation import to_json

HEADER_BYTES = 32 * 1024
BODY_BYTES = 8 * 1024 * 1024
ANONYMOUS_BODY_BYTES = 64 * 1024  # of a body without a login; the rest is discarded
BLOB_BYTES = 256 * 1024 * 1024
DRAINED_BYTES = 64 * 1024 * 1024
IDLE_S = 10.0  # between requests, and until the headers of a request are complete
BODY_S = 60.0
BLOB_S = 600.0
CONNECTIONS = 512
CONNECTIONS_PER_ADDRESS = 64  # from other machines
CONNECTIONS_PER_USER = 128  # if users are authenticated
ANONYMOUS_CONNECTIONS = 256

_HARD_HEADER_BYTES = 1024 * 1024  # a connection that exceeds this is closed without a response
_BLOBS = "/v1/blobs/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits on the size of requests, on their duration, and on the number of connections."""

    header_bytes: int = HEADER_BYTES
    body_bytes: int = BODY_BYTES
    blob_bytes: int = BLOB_BYTES
    idle_s: float = IDLE_S
    body_s: float = BODY_S
    connections: int = CONNECTIONS
    connections_per_address: int = CONNECTIONS_PER_ADDRESS
    connections_per_user: int = CONNECTIONS_PER_USER
    anonymous_connections: int = ANONYMOUS_CONNECTIONS


class ListeningServer:
    """The listening servers of an application.

    Attributes:
        url: `http://HOST:PORT`, or `http+unix://PATH` if there is only a Unix socket.
        socket_path: path of the Unix socket, if there is one.
    """

    def __init__(self, servers: Sequence["GuardedServer"], *, url: str, socket_path: Path | None) -> None:
        self._servers = servers
        self.socket_path = socket_path
        self.url = url

    async def close(self) -> None:
        """Stop listening, and close all connections. Idempotent."""
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
    limits: ServerLimits | None = None,
) -> ListeningServer:
    """Listen on an address, on a Unix socket that only its owner can open, or on both.

    Args:
        application: the application to serve.
        authenticator: the authenticator of requests; if it does not authenticate users, other machines must
            not reach the address.
        host: the address; None to listen on the Unix socket only.
        port: the port; 0 for a free one, which is in `ListeningServer.url`.
        socket_path: path of the Unix socket; None for no Unix socket.
        limits: limits on requests and connections; None for the defaults.

    Raises:
        InvalidRequest: other machines can reach the address, and users are not authenticated.
        OSError: the address is in use, or the Unix socket cannot be created.
    """
    require_safe_address(host, authenticator)
    limits = limits or ServerLimits()
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
            for listening in sockets:
                listening.close()
            raise
    servers = [
        GuardedServer(Guard(application, authenticator, limits), limits=limits, listeners=len(groups))
        for _ in groups
    ]
    for server, group in zip(servers, groups, strict=True):
        server.listen_on(group, on_exhausted=servers[0].connections.close_oldest_anonymous)
    return ListeningServer(servers, url=url, socket_path=socket_path)


class GuardedServer(HTTPServer):
    """An HTTP server with a bounded number of connections.

    Args:
        guard: the guard in front of the application.
        limits: limits on requests and connections.
        listeners: number of servers that share the file descriptors of the process.
    """

    def initialize(  # type: ignore[override]
        self, guard: "Guard", *, limits: ServerLimits, listeners: int
    ) -> None:
        """Prepare the server; tornado calls this in place of `__init__`."""
        super().initialize(
            guard,
            max_header_size=_HARD_HEADER_BYTES,
            max_body_size=max(limits.blob_bytes, DRAINED_BYTES),
            idle_connection_timeout=limits.idle_s,
            body_timeout=limits.body_s,
        )
        self._acceptors: list[Acceptor] = []
        self.connections = Connections(
            total=max_connections(limits.connections, listeners=listeners),
            per_address=limits.connections_per_address,
            per_user=limits.connections_per_user if guard.authenticates_users else None,
            anonymous=limits.anonymous_connections,
        )
        guard.connections = self.connections

    def listen_on(self, sockets: Sequence[socket.socket], on_exhausted: Callable[[], None]) -> None:
        """Accept the connections of listening sockets.

        Args:
            sockets: the listening sockets; the server closes them.
            on_exhausted: callback when the process is out of file descriptors.
        """
        self._acceptors += [Acceptor(listening, self._on_connection, on_exhausted) for listening in sockets]

    def stop(self) -> None:
        """Stop listening. Idempotent."""
        super().stop()
        for acceptor in self._acceptors:
            acceptor.close()

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """Serve a new connection, or send 503 if there are too many."""
        if self.connections.admit(stream, source_address(address)):
            super().handle_stream(stream, address)
        else:
            stream.io_loop.add_callback(_refuse_connection, stream)

    def on_close(self, server_conn: object) -> None:
        """Remove a closed connection from the table."""
        super().on_close(server_conn)
        self.connections.remove(_stream_of(server_conn))

    def _on_connection(self, connection: socket.socket, address: Any) -> None:
        self.handle_stream(IOStream(connection), address)


class Guard(HTTPServerConnectionDelegate):
    """Refuses requests that exceed the limits, and passes all others to the application."""

    connections: Connections  # of the server that it guards

    def __init__(self, application: Application, authenticator: Authenticator, limits: ServerLimits) -> None:
        self._application = application
        self._authenticator = authenticator
        self.limits = limits
        self.authenticates_users = authenticator.authenticates_users

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return the delegate for the parts of a request."""
        inner = self._application.start_request(server_conn, request_conn)
        return GuardedRequest(self, inner, request_conn, _stream_of(server_conn))

    def log_in(self, stream: object, headers: HTTPHeaders) -> str | None:
        """Record a login on a connection if the headers of a request have valid credentials.

        Returns:
            The user if they have too many connections, else None.
        """
        if self.connections.has_logged_in(stream):
            return None
        try:
            user = self._authenticator.identify(headers).user
        except Unauthenticated:
            return None  # the application sends the refusal
        return None if self.connections.log_in(stream, user) else user


class GuardedRequest(HTTPMessageDelegate):
    """Passes a request to the application while it stays within the limits.

    Args:
        guard: the guard that received the request.
        inner: the delegate of the application.
        connection: the connection of the request.
        stream: stream of the connection, its key in the table of connections.
    """

    def __init__(
        self, guard: Guard, inner: HTTPMessageDelegate, connection: HTTPConnection, stream: object
    ) -> None:
        self._guard = guard
        self._inner = inner
        self._connection = connection
        self._stream = stream
        self._limits = guard.limits
        self._max_bytes = guard.limits.body_bytes
        self._received_bytes = 0
        self._refused = False  # the inner delegate gets no more of this request
        self._passed_bytes = guard.limits.body_bytes  # of the body; the rest is discarded

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Check the headers of a request, then refuse it or pass it on."""
        if not isinstance(start_line, RequestStartLine):
            raise TypeError("a server can only receive requests")
        size = sum(map(len, start_line)) + sum(
            len(name) + len(value) + 4 for name, value in headers.get_all()
        )
        if size > self._limits.header_bytes:
            max_header_bytes = self._limits.header_bytes
            self._refuse(
                431, f"the headers have {size} bytes; the limit is {max_header_bytes}: request fewer at once"
            )
            return None
        user = self._guard.log_in(self._stream, headers)
        if user is not None:
            self._refuse(503, f"user {user} has too many connections: close some, or ask again later")
            return None
        if start_line.path.startswith(_BLOBS) and start_line.method == "PUT":
            self._max_bytes = self._limits.blob_bytes
            self._connection.set_body_timeout(BLOB_S)  # type: ignore[attr-defined]
        content_length = headers.get("Content-Length", "0")
        length = (
            int(content_length)
            if content_length.isascii() and content_length.isdigit() and len(content_length) < 19
            else 0
        )
        if length > max(self._max_bytes, DRAINED_BYTES):
            self._connection.set_max_body_size(length)  # type: ignore[attr-defined]
            self._refuse(413, self._too_large_text(f"{length}"))
            return None
        if length > self._max_bytes:
            self._refused = True
            self._received_bytes = length
            return None
        self._passed_bytes = self._max_bytes
        if not self._guard.connections.has_logged_in(self._stream):
            self._passed_bytes = min(self._max_bytes, ANONYMOUS_BODY_BYTES)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Pass on a piece of the body, or discard it."""
        if self._refused:
            return None
        self._received_bytes += len(chunk)
        if self._received_bytes > self._max_bytes:  # a chunked body, whose length was unknown
            self._refused = True
            self._inner.on_connection_close()
            return None
        if self._received_bytes > self._passed_bytes:
            return None  # the request has no login, so the application refuses it
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        """Pass on the end of the request, or refuse it now that the whole body has been read."""
        if self._refused:
            self._refuse(413, self._too_large_text(f"{self._received_bytes} or more"))
        else:
            self._inner.finish()

    def on_connection_close(self) -> None:
        """Pass on that the client has disconnected."""
        if not self._refused:
            self._inner.on_connection_close()

    def _too_large_text(self, length: str) -> str:
        return (
            f"the body has {length} bytes; the limit is {self._max_bytes}: send fewer jobs at once, and put"
            " large data in files or blobs"
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
    """Return the stream of a tornado connection."""
    return getattr(server_conn, "stream", None)
