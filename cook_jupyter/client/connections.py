"""Connections to a scheduler: kept open, shared by threads, each with a deadline.

Lives here: an address as a URL, one connection over TCP, TLS or a Unix socket, and the small pool of them.
Not here: what is said over them (`client.exchange`), who says it (`client.sync`), the connections of an event
loop (`client.aio`).

Head and body of a request leave in one piece, so that the scheduler wakes once; reading a reply is the
standard library's `HTTPResponse`.
"""

import contextlib
import os
import select
import socket
import ssl
import threading
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from urllib.parse import unquote, urlsplit

from cook_jupyter.client.exchange import Reply, Request
from cook_jupyter.errors import InvalidRequest, SchedulerUnreachable

CONNECT_TIMEOUT_S = 5.0
IDLE_CONNECTIONS = 8
_ONE_PIECE_BYTES = 128 * 1024  # larger bodies are sent after the head rather than copied behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a scheduler listens.

    Attributes:
        host, port: its TCP address; port 0 means that it has none.
        socket_path: its Unix socket, if it has one. It comes before the TCP address, where others may take
            all connections.
        prefix: what every path begins with, when the scheduler is behind a proxy.
    """

    url: str
    host: str
    port: int
    tls: bool = False
    socket_path: str | None = None
    prefix: str = ""

    @classmethod
    def of(cls, url: str, socket_path: str | None = None) -> "Address":
        """Read `http://HOST:PORT[/PREFIX]`, `https://...` or `unix:///PATH/OF/SOCKET`.

        Args:
            url: the URL.
            socket_path: a Unix socket on which the scheduler of an http URL listens as well.

        Raises:
            InvalidRequest: it is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme in ("unix", "http+unix"):
            # http+unix://%2Fpath%2Fof%2Fsocket is the way of other libraries; unix:///path is ours.
            path = unquote(parts.netloc) or parts.path
            if path:
                return cls(url=url, host="localhost", port=0, socket_path=path)
        elif parts.scheme in ("http", "https") and parts.hostname:
            try:
                port = parts.port or (443 if parts.scheme == "https" else 80)
            except ValueError:
                port = 0
            if port:
                return cls(
                    url=url.rstrip("/"),
                    host=parts.hostname,
                    port=port,
                    tls=parts.scheme == "https",
                    socket_path=socket_path,
                    prefix=parts.path.rstrip("/"),
                )
        raise InvalidRequest(
            f"not the URL of a scheduler: {url!r}; "
            "it looks like http://127.0.0.1:12321 or unix:///path/of/a/socket"
        )

    def open(self, timeout_s: float) -> socket.socket:
        """Connect, within `timeout_s`.

        Raises:
            OSError: nobody answers there.
        """
        if self.socket_path is not None:
            try:
                return _open_unix_socket(self.socket_path, timeout_s)
            except OSError:
                if not self.port:
                    raise
        plain = socket.create_connection((self.host, self.port), timeout=timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not self.tls:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    @property
    def host_header(self) -> str:
        """What goes into the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (0, 443 if self.tls else 80) else f"{host}:{self.port}"


def _open_unix_socket(path: str, timeout_s: float) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    plain.settimeout(timeout_s)
    try:
        plain.connect(path)
    except BaseException:
        plain.close()
        raise
    return plain


class RequestHeads:
    """Writes the heads of requests to one address, without I/O."""

    def __init__(self, address: Address, authorization: str) -> None:
        self._prefix = address.prefix
        self._fixed = (
            f"Host: {address.host_header}\r\nUser-Agent: cook_jupyter\r\nAuthorization: {authorization}\r\n"
        )

    def of(self, request: Request) -> bytes:
        """Return the head of a request."""
        head = f"{request.method} {self._prefix}{request.target} HTTP/1.1\r\n{self._fixed}"
        if request.body or request.method in ("POST", "PUT"):
            head += f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}\r\n"
        return f"{head}\r\n".encode("ascii")


class Connection:
    """One open connection, used by one thread at a time."""

    def __init__(self, address: Address, authorization: str, connect_timeout_s: float) -> None:
        self._socket = address.open(connect_timeout_s)
        self._heads = RequestHeads(address, authorization)
        self._closed = False

    def send(self, request: Request) -> None:
        """Write the request.

        Raises:
            OSError: the connection is dead.
        """
        start, body = self._heads.of(request), request.body
        if len(body) <= _ONE_PIECE_BYTES:
            self._socket.sendall(start + body)
        else:
            self._socket.sendall(start)
            self._socket.sendall(body)

    def read_head(self, method: str, timeout_s: float) -> HTTPResponse:
        """Read the head of the answer; the body is the caller's to read.

        Raises:
            OSError: the connection broke, or nothing came within `timeout_s`.
            HTTPException: what came is not HTTP.
        """
        self._socket.settimeout(timeout_s)
        response = HTTPResponse(self._socket, method=method)
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def exchange(self, request: Request, timeout_s: float) -> Reply:
        """Send one request and read its whole reply; see `send` and `read_head` for what is raised."""
        self._socket.settimeout(timeout_s)
        self.send(request)
        response = self.read_head(request.method, timeout_s + request.patience_s)
        with response:
            body = response.read()
            if response.will_close:
                self.close()
            return Reply(
                status=response.status,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=body,
            )

    def set_timeout(self, timeout_s: float) -> None:
        """From now on a read gives up after `timeout_s` of silence."""
        self._socket.settimeout(timeout_s)

    @property
    def is_usable(self) -> bool:
        """Whether it is open and silent: an idle connection that has something to say has been closed."""
        if self._closed:
            return False
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Close it; another thread that reads from it wakes up."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


class ConnectionPool:
    """The idle connections to one scheduler. Any thread may take part; a forked child starts afresh."""

    def __init__(self, address: Address, authorization: str, connect_timeout_s: float) -> None:
        self.address = address
        self._authorization = authorization
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._pid = os.getpid()

    def new_connection(self) -> Connection:
        """Open a connection.

        Raises:
            SchedulerUnreachable: nobody listens there.
        """
        try:
            return Connection(self.address, self._authorization, self._connect_timeout_s)
        except OSError as error:
            raise unreachable(self.address, error) from error

    def exchange(self, request: Request, timeout_s: float) -> Reply:
        """Send a request over an idle connection or a new one, and give the connection back.

        An idempotent request is sent once more when the idle connection proves to be dead.

        Raises:
            SchedulerUnreachable: no answer; whether it was done is unknown.
        """
        kept = self._take()
        if kept is not None:
            try:
                return self._over(kept, request, timeout_s)
            except (OSError, HTTPException) as error:
                if not request.may_repeat_after(error):
                    raise no_answer(self.address, request, error, timeout_s) from error
        try:
            reply = self._over(self.new_connection(), request, timeout_s)
            return reply if kept is None else replace(reply, sent_twice=True)
        except (OSError, HTTPException) as error:
            raise no_answer(self.address, request, error, timeout_s) from error

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _over(self, connection: Connection, request: Request, timeout_s: float) -> Reply:
        try:
            reply = connection.exchange(request, timeout_s)
        except BaseException:  # also Ctrl-C: half an answer must not be read as the next one's
            connection.close()
            raise
        self._give_back(connection)
        return reply

    def _take(self) -> Connection | None:
        with self._lock:
            if self._pid != os.getpid():  # the sockets are the parent's
                self._pid, self._idle = os.getpid(), []
            while self._idle:
                connection = self._idle.pop()
                if connection.is_usable:
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if self._pid == os.getpid() and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


def unreachable(address: Address, error: Exception) -> SchedulerUnreachable:
    """Return the error about an address where nobody listens."""
    return SchedulerUnreachable(
        f"no scheduler answers at {address.url} ({_plain(error)}); is it running? `cook-jupyter status` tells"
    )


def no_answer(address: Address, request: Request, error: Exception, timeout_s: float) -> SchedulerUnreachable:
    """Return the error about a request whose answer did not come, or not in time."""
    what = f"{request.method} {request.target.split('?')[0]}"
    if isinstance(error, TimeoutError):
        return SchedulerUnreachable(
            f"the scheduler at {address.url} did not answer {what} within "
            f"{timeout_s + request.patience_s:g} s; whether it was done is unknown"
        )
    return SchedulerUnreachable(
        f"the connection to the scheduler at {address.url} broke during {what} ({_plain(error)}); "
        "whether it was done is unknown"
    )


def _plain(error: Exception) -> str:
    """An error of the system in few words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
