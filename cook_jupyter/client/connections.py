"""Connections to a scheduler: kept open, shared by threads, each request with a deadline.

Lives here: the address of a scheduler, one connection over TCP, TLS or a Unix socket, a small pool of
connections.
Not here: the content of requests (`client.exchange`), the client (`client.sync`), connections for an event
loop (`client.aio_connections`).

Head and body of a request are sent together, so that the scheduler wakes up once; replies are read with the
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
_ONE_PIECE_BYTES = 128 * 1024  # larger bodies are sent after the head instead of being copied behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The address of a scheduler.

    Attributes:
        host, port: its TCP address; port 0 if it has none.
        socket_path: its Unix socket, if it has one. It is tried before the TCP address, where other programs
            may occupy all connections.
        prefix: prefix of all paths, if the scheduler is behind a proxy.
    """

    url: str
    host: str
    port: int
    tls: bool = False
    socket_path: str | None = None
    prefix: str = ""

    @classmethod
    def of(cls, url: str, socket_path: str | None = None) -> "Address":
        """Parse `http://HOST:PORT[/PREFIX]`, `https://...` or `unix:///PATH/OF/SOCKET`.

        Args:
            url: the URL.
            socket_path: a Unix socket on which the scheduler of an http URL also listens.

        Raises:
            InvalidRequest: it is not such a URL.
        """
        parts = urlsplit(url)
        if parts.scheme in ("unix", "http+unix"):
            # Other libraries use http+unix://%2Fpath%2Fof%2Fsocket; cook_jupyter uses unix:///path.
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
            "examples are http://127.0.0.1:12321 and unix:///path/of/a/socket"
        )

    def open(self, timeout_s: float) -> socket.socket:
        """Connect within `timeout_s`.

        Raises:
            OSError: there is no server at the address.
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
        """Value of the header `Host`."""
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
    """Encodes the heads of requests to one address, without I/O."""

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
    """An open connection, used by one thread at a time."""

    def __init__(self, address: Address, authorization: str, connect_timeout_s: float) -> None:
        self._socket = address.open(connect_timeout_s)
        self._heads = RequestHeads(address, authorization)
        self._closed = False

    def send(self, request: Request) -> None:
        """Send a request.

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
        """Read the head of the reply; the caller reads the body.

        Raises:
            OSError: the connection broke, or nothing came within `timeout_s`.
            HTTPException: the reply is not HTTP.
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
        """Send a request and read its whole reply; raises what `send` and `read_head` do."""
        self._socket.settimeout(timeout_s)
        self.send(request)
        response = self.read_head(request.method, timeout_s + request.wait_s)
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
        """Limit the time that a read waits for data."""
        self._socket.settimeout(timeout_s)

    @property
    def is_usable(self) -> bool:
        """Whether it is open and has no data: an idle connection with data has been closed by the server."""
        if self._closed:
            return False
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Close the connection; another thread that reads from it wakes up."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):  # the other side has closed it already
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


class ConnectionPool:
    """Idle connections to one scheduler, shared by threads; a forked child starts with none."""

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
            SchedulerUnreachable: there is no scheduler at the address.
        """
        try:
            return Connection(self.address, self._authorization, self._connect_timeout_s)
        except OSError as error:
            raise unreachable(self.address, error) from error

    def exchange(self, request: Request, timeout_s: float) -> Reply:
        """Send a request over an idle or a new connection, which becomes idle again.

        An idempotent request is sent again if the idle connection turns out to be dead.

        Raises:
            SchedulerUnreachable: there was no answer; the request may or may not have been carried out.
        """
        idle = self._acquire()
        if idle is not None:
            try:
                return self._exchange_over(idle, request, timeout_s)
            except (OSError, HTTPException) as error:
                if not request.may_repeat_after(error):
                    raise no_answer(self.address, request, error, timeout_s) from error
        try:
            reply = self._exchange_over(self.new_connection(), request, timeout_s)
            return reply if idle is None else replace(reply, sent_twice=True)
        except (OSError, HTTPException) as error:
            raise no_answer(self.address, request, error, timeout_s) from error

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange_over(self, connection: Connection, request: Request, timeout_s: float) -> Reply:
        try:
            reply = connection.exchange(request, timeout_s)
        except BaseException:  # including Ctrl-C: the next request must not read half a reply
            connection.close()
            raise
        self._release(connection)
        return reply

    def _acquire(self) -> Connection | None:
        with self._lock:
            if self._pid != os.getpid():  # the sockets belong to the parent process
                self._pid, self._idle = os.getpid(), []
            while self._idle:
                connection = self._idle.pop()
                if connection.is_usable:
                    return connection
                connection.close()
        return None

    def _release(self, connection: Connection) -> None:
        with self._lock:
            if self._pid == os.getpid() and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


def unreachable(address: Address, error: Exception) -> SchedulerUnreachable:
    """Return the error about an address at which there is no scheduler."""
    return SchedulerUnreachable(
        f"no scheduler answers at {address.url} ({_plain(error)}); is it running? See `cook-jupyter status`"
    )


def no_answer(address: Address, request: Request, error: Exception, timeout_s: float) -> SchedulerUnreachable:
    """Return the error about a request without an answer, or without one in time."""
    what = f"{request.method} {request.target.split('?')[0]}"
    if isinstance(error, TimeoutError):
        return SchedulerUnreachable(
            f"the scheduler at {address.url} did not answer {what} within "
            f"{timeout_s + request.wait_s:g} s; the request may or may not have been carried out"
        )
    return SchedulerUnreachable(
        f"the connection to the scheduler at {address.url} broke during {what} ({_plain(error)}); "
        "the request may or may not have been carried out"
    )


def _plain(error: Exception) -> str:
    """Return a short text for a system error."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
