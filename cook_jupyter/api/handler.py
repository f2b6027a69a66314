"""The base class of all handlers: authentication, parameters, replies and errors.

Lives here: `ApiContext`, the state that all handlers share, and `CookHandler`, which runs the checks before
any action: the `Host` header first, then in Cook's order origin, login, impersonation and route.
Not here: the actions (the other modules of `api`), the table of routes (`api.routes`), limits on size and
time (`api.server`).

Source: the REST specification, sections 1 and 2.
"""

import asyncio
import logging
import re
import socket
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from types import TracebackType
from typing import Any, ClassVar

from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import HTTPError, RequestHandler

from cook_jupyter.api.auth import (
    IMPERSONATE_HEADER,
    Authenticator,
    Identity,
    impersonate,
    is_expected_host,
    is_user_name,
)
from cook_jupyter.api.query import Id, not_found, parse_integer, parse_uuid
from cook_jupyter.errors import CookError, Forbidden, InvalidRequest, Unauthenticated
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.wire.errors import ERROR_HEADER, encode_error, status_of
from cook_jupyter.wire.events import EventEncoder
from cook_jupyter.wire.jobs import JobEncoder
from cook_jupyter.wire.validation import MISSING, to_json

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 30.0
MIN_BYTES_PER_S = 64 * 1024
PIECE_BYTES = 256 * 1024
PAGE_JOBS = 128  # jobs to look up together
UNAVAILABLE = 503
POOL_HEADER = "X-Cook-Pool"
UNIX_SOCKET_HOST = "localhost"  # the `Host` header of clients that only know a Unix socket
NO_ROUTE = b"<h1>Not a valid route</h1>"

_HOST = re.compile(r"\A[A-Za-z0-9.\-_:\[\]]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """State shared by all handlers.

    Attributes:
        scheduler: the scheduler that they serve.
        authenticator: the authenticator of requests.
        origins: patterns of the web origins that may send requests; each must match the whole origin.
        encoder: encoder of events, shared by all readers.
        heartbeat_s: interval of heartbeats in a stream of events without changes.
        write_timeout_s: time that a client has to accept data; large pieces get more.
    """

    scheduler: Scheduler
    authenticator: Authenticator
    origins: tuple[re.Pattern[str], ...] = ()
    encoder: EventEncoder = field(default_factory=EventEncoder)
    heartbeat_s: float = HEARTBEAT_S
    write_timeout_s: float = WRITE_TIMEOUT_S

    @property
    def settings(self) -> Settings:
        """The settings of the scheduler."""
        return self.scheduler.settings


class CookHandler(RequestHandler):
    """A handler of Cook's API.

    Class attributes:
        needs_login: whether a request must be authenticated.
        impersonable: HTTP methods that permit impersonation.
        wrong_method: status of a request with an unsupported method.
        text_errors: whether errors are sent as plain text.
    """

    needs_login: ClassVar[bool] = True
    impersonable: ClassVar[frozenset[str]] = frozenset()
    wrong_method: ClassVar[int] = 404
    text_errors: ClassVar[bool] = False

    context: ApiContext
    identity: Identity

    def initialize(self, context: ApiContext) -> None:
        """Set the shared state; tornado calls this for each request."""
        self.context = context

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that this handler serves."""
        return self.context.scheduler

    def set_default_headers(self) -> None:
        """Set the headers of every response."""
        self.clear_header("Server")
        self.set_header("Cache-control", "max-age=0")
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """Return None: responses are never cached, and a digest of large ones would be expensive."""
        return None

    async def prepare(self) -> None:
        """Run the checks before the action; send a refusal if one fails."""
        if not self._check_host() or not self._check_origin():
            return
        if self.needs_login:
            self.log_in()

    def log_in(self) -> None:
        """Authenticate the request and set `identity`; send a refusal if that fails."""
        try:
            identity = self.context.authenticator.identify(self.request.headers)
            self.identity = self._impersonate(identity)
        except Unauthenticated as error:
            self.refuse(error, challenge=self.context.authenticator.challenge)
        except Forbidden as error:
            self.refuse(error)
        else:
            self._check_request_rate()

    # The request

    def json_body(self) -> bytes:
        """Return the body of the request.

        Raises:
            InvalidRequest: the body is empty, or its content type is not JSON.
        """
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise InvalidRequest("a JSON body is needed, with Content-Type: application/json")
        if not self.request.body:
            raise InvalidRequest("a JSON body is needed, and this one is empty")
        return self.request.body

    def params(self, name: str) -> list[str]:
        """Return all values of a query parameter, in order."""
        try:
            return [value.decode("utf-8") for value in self.request.query_arguments.get(name, ())]
        except UnicodeDecodeError:
            raise InvalidRequest(f"the parameter {name} is not UTF-8") from None

    def param(self, name: str) -> str | None:
        """Return the last value of a query parameter, or None."""
        values = self.params(name)
        return values[-1] if values else None

    def required(self, name: str) -> str:
        """Return a required query parameter.

        Raises:
            InvalidRequest: the parameter is missing.
        """
        value = self.param(name)
        if value is None:
            raise InvalidRequest(f"the parameter {name} is missing", tree={name: MISSING})
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean query parameter: `true` or `false`."""
        value = self.param(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise InvalidRequest(f"the parameter {name} must be true or false, not {value[:80]!r}")
        return value == "true"

    def number(self, name: str, default: int) -> int:
        """Return an integer query parameter."""
        value = self.param(name)
        if value is None:
            return default
        return parse_integer(value, name)

    def uuids(self, name: str, kind: Callable[[str], Id]) -> list[Id]:
        """Return the uuids in a query parameter as ids of one kind, in lower case and in order."""
        return [parse_uuid(value, kind) for value in self.params(name)]

    def requested_pool(self, body_pool: PoolName | None = None) -> PoolName | None:
        """Return the pool of the request, from its body, its query or its header; None if there is none."""
        return body_pool or PoolName(self.param("pool") or "") or self.header_pool()

    def header_pool(self) -> PoolName | None:
        """Return the pool that the header names; None if it names none."""
        return PoolName(self.request.headers.get(POOL_HEADER) or "") or None

    def require_user(self, name: str) -> str:
        """Return a name if it may own jobs: a valid name, or that of the owner of an embedded scheduler.

        Raises:
            InvalidRequest: the name is not valid.
        """
        if is_user_name(name) or (self.identity.is_owner and name == self.identity.user):
            return name
        raise InvalidRequest(
            f"the user name {name[:80]!r} is not valid: 2 to 64 lower case letters, digits, '_' and '-',"
            " beginning with a letter and not ending with a sign"
        )

    def require_admin(self, action: str) -> None:
        """Refuse users who are not administrators.

        Raises:
            Forbidden: the user is not an administrator.
        """
        if not self.identity.is_admin:
            raise Forbidden(f"You are not authorized to {action}: that is for administrators")

    # The response

    async def send_json_list(self, pages: AsyncIterator[Iterable[Any]]) -> None:
        """Send a JSON list as the whole response, in pieces; see `send_fragments`.

        Args:
            pages: pages of items.
        """
        await self.send_fragments(encode_list(pages))

    async def send_fragments(self, fragments: AsyncIterator[bytes]) -> None:
        """Send the whole response in pieces, as fast as the client accepts them.

        Little more than one piece is held in memory at a time, and other requests are served in between. An
        error after the first piece closes the connection, so that a client never mistakes a part of a list
        for the whole.

        Args:
            fragments: fragments of the response, of any size.
        """
        piece = bytearray()
        async for fragment in fragments:
            piece += fragment
            if len(piece) >= PIECE_BYTES:
                await self.send_piece(bytes(piece))
                piece.clear()
        self.finish(bytes(piece))

    async def send_piece(self, piece: bytes) -> None:
        """Send a part of the response, and wait until the client has accepted it.

        Raises:
            StreamClosedError: the client disconnected, or did not accept the data in time.
        """
        self.write(piece)
        sent = self.flush()
        if sent.done():  # the kernel accepted all of it, as it does with nearly every event
            sent.result()
        else:
            try:
                async with asyncio.timeout(self._write_timeout_s(len(piece))):
                    await sent
            except TimeoutError:
                self._close_connection()
                raise StreamClosedError from None
        if len(piece) >= PIECE_BYTES:
            await asyncio.sleep(0)  # a fast client must not block other requests

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "Future[None]":
        """Finish the response; close the connection if the client does not accept it in time."""
        size = len(chunk) if isinstance(chunk, bytes) else 0
        sent = super().finish(chunk)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(self._write_timeout_s(size), self._close_connection)
            sent.add_done_callback(lambda _: timer.cancel())
        return sent

    def _write_timeout_s(self, size: int) -> float:
        """Return the time that a client has to accept `size` bytes."""
        return self.context.write_timeout_s + size / MIN_BYTES_PER_S

    def _close_connection(self) -> None:
        stream = getattr(self.request.connection, "stream", None)
        if isinstance(stream, IOStream):
            stream.close()

    def send_json(self, value: Any, status: int = 200) -> None:
        """Send a value as JSON, as the whole response."""
        self.set_status(status)
        self.finish(to_json(value))

    def send_empty(self, status: int = 204) -> None:
        """Send a response without a body."""
        self.set_status(status)
        self.clear_header("Content-Type")
        self.finish()

    def refuse(self, error: CookError, *, challenge: str | None = None) -> None:
        """Send an error as plain text."""
        self.set_status(status_of(error))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header(ERROR_HEADER, type(error).__name__)
        if challenge is not None:
            self.set_header("WWW-Authenticate", challenge)
        self.finish(str(error))

    def job_encoder(self) -> JobEncoder:
        """Return an encoder of jobs and instances whose URLs have the address that this client uses."""
        host = self.request.host
        # A client that only knows the Unix socket sends `localhost`, where nothing may listen.
        reachable = _HOST.match(host) and not (self._is_unix_socket and host == UNIX_SOCKET_HOST)
        return JobEncoder(
            files_url=f"http://{host}" if reachable else None, host_files_url=self.scheduler.files.url
        )

    async def require_job(self, uuid: str) -> Job:
        """Return a job.

        Raises:
            InvalidRequest: the id is not a uuid.
            NotFound: there is no such job.
        """
        job_id = parse_uuid(uuid, JobId)
        (job,) = await self.scheduler.jobs([job_id])
        if job is None:
            raise not_found([job_id], "a job")
        return job

    async def require_job_of_instance(self, uuid: str) -> Job:
        """Return the job of an instance.

        Raises:
            InvalidRequest: the id is not a uuid.
            NotFound: there is no such instance.
        """
        instance_id = parse_uuid(uuid, InstanceId)
        (job,) = await self.scheduler.jobs_of_instances([instance_id])
        if job is None:
            raise not_found([instance_id], "an instance")
        return job

    async def jobs_in_pages(self, job_ids: Sequence[JobId]) -> AsyncIterator[list[Job]]:
        """Yield the existing jobs among the ids, in order, in pages."""
        for begin in range(0, len(job_ids), PAGE_JOBS):
            page = await self.scheduler.jobs(job_ids[begin : begin + PAGE_JOBS])
            yield [job for job in page if job is not None]

    async def groups_of(self, jobs: Iterable[Job]) -> dict[GroupId, Group]:
        """Return the groups of jobs, by id."""
        group_ids = list(dict.fromkeys(job.spec.group for job in jobs if job.spec.group is not None))
        return await self.groups_by_id(group_ids)

    async def groups_by_id(self, group_ids: Sequence[GroupId]) -> dict[GroupId, Group]:
        """Return the existing groups among the ids, by id."""
        groups = await self.scheduler.groups(group_ids) if group_ids else ()
        return {group.group_id: group for group in groups if group is not None}

    # Errors

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Send the error that was raised; tornado calls this."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, StreamClosedError):  # the client has disconnected
            return
        if self._headers_written:  # the client must not mistake what it has for the whole response
            self._close_connection()
            return
        self.clear()
        self._allow_origin()
        if isinstance(error, CookError):
            self.set_status(status_of(error))
            self.set_header(ERROR_HEADER, type(error).__name__)
            if self.get_status() == UNAVAILABLE:
                self.set_header("Retry-After", "1")
            self._finish_with(error)
        elif status_code in (404, 405):
            self.set_status(self.wrong_method if status_code == 405 else 404)
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(NO_ROUTE)
        elif status_code < 500:
            self.set_status(status_code)
            self._finish_with(InvalidRequest(f"{self._reason}: {error}"))
        else:
            self.set_status(status_code)
            self._finish_with(CookError("internal error of the scheduler; see its log"))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log errors of the scheduler, but not those of the client.

        A response with status 503 is logged in one line without a traceback, because waiting clients repeat
        the request.
        """
        if isinstance(value, CookError) and status_of(value) == UNAVAILABLE:
            log.warning("%s %s: %s", self.request.method, self.request.path, value)
            return
        is_server_error = not isinstance(value, HTTPError | StreamClosedError) and not (
            isinstance(value, CookError) and status_of(value) < 500
        )
        if is_server_error and value is not None:
            log.error("%s %s failed", self.request.method, self.request.path, exc_info=value)

    def _finish_with(self, error: CookError) -> None:
        if self.text_errors:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(str(error))
        else:
            self.finish(encode_error(error))

    def _check_request_rate(self) -> None:
        """Refuse the request if its user sends too many."""
        wait_ms = self.scheduler.rates.request_wait_ms(self.identity.user, self.scheduler.clock.now_ms())
        if wait_ms is None:
            return
        self.set_status(429)
        if wait_ms < inf:
            self.set_header("Retry-After", str(ceil(wait_ms / 1000)))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"User {self.identity.user} sends too many requests")

    def _impersonate(self, identity: Identity) -> Identity:
        settings = self.context.settings
        return impersonate(
            identity,
            self.request.headers.get(IMPERSONATE_HEADER),
            impersonators=settings.server.impersonators,
            admins=settings.server.admins,
            allowed=self.request.method in self.impersonable,
        )

    @property
    def _is_unix_socket(self) -> bool:
        stream = getattr(self.request.connection, "stream", None)
        return getattr(getattr(stream, "socket", None), "family", None) == socket.AF_UNIX

    def _check_host(self) -> bool:
        """Return whether the `Host` header is expected; send a refusal if not."""
        settings = self.context.settings
        name = self.request.host_name.strip("[]")
        if self._is_unix_socket or is_expected_host(
            name, listening_on=settings.server.host, allowed=settings.server.allowed_hosts
        ):
            return True
        self.refuse(
            Forbidden(
                f"this scheduler is not known as {name[:80]!r}: use its address or localhost, or add the name"
                " to the setting allowed_hosts"
            )
        )
        return False

    def _check_origin(self) -> bool:
        """Return whether the action may run; reply to a forbidden origin or a preflight request if not."""
        origin = self.request.headers.get("Origin")
        if origin is None:
            return True
        is_preflight = self.request.method == "OPTIONS"
        if not self._is_allowed_origin(origin):
            text = (
                f"Origin {origin} not allowed"
                if is_preflight
                else f"Cross origin request denied from {origin}"
            )
            self.refuse(Forbidden(text))
            return False
        self._allow_origin()
        if not is_preflight:
            return True
        requested_headers = self.request.headers.get("Access-Control-Request-Headers")
        if requested_headers is not None:
            self.set_header("Access-Control-Allow-Headers", requested_headers)
        self.set_header("Access-Control-Allow-Methods", "PUT, GET, OPTIONS, DELETE")
        self.set_header("Access-Control-Max-Age", "86400")
        self.finish()
        return False

    def _is_allowed_origin(self, origin: str) -> bool:
        request: HTTPServerRequest = self.request
        scheme = request.headers.get("X-Forwarded-Proto", request.protocol)
        own_origin = f"{scheme}://{request.headers.get('Host', '')}"
        return origin == own_origin or any(pattern.fullmatch(origin) for pattern in self.context.origins)

    def _allow_origin(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and self._is_allowed_origin(origin):
            self.set_header("Access-Control-Allow-Credentials", "true")
            self.set_header("Access-Control-Allow-Origin", origin)


async def encode_list(pages: AsyncIterator[Iterable[Any]]) -> AsyncIterator[bytes]:
    """Encode a JSON list in fragments.

    Args:
        pages: pages of items.
    """
    separator = b"["
    async for page in pages:
        for item in page:
            yield separator + to_json(item)
            separator = b","
        await asyncio.sleep(0)
    yield b"[]" if separator == b"[" else b"]"


class NotFoundHandler(CookHandler):
    """The handler of paths without a route."""

    async def prepare(self) -> None:
        """Send 404 if the checks pass."""
        await super().prepare()
        if not self._finished:
            raise HTTPError(404)
