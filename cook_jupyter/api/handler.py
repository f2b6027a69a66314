"""What every handler shares: who asks, how parameters are read, how answers and errors are told.

Lives here: `Door` (what all handlers stand before) and `CookHandler`, which does what comes before any
action: the check of `Host`, and then in Cook's order origin, login, impersonation, route.
Not here: the actions (the other modules of `api`), the table of URLs (`api.routes`), sizes and times
(`api.server`).

Source: the REST specification, sections 1 and 2.
"""

import asyncio
import logging
import re
import socket
from asyncio import Future
from collections.abc import AsyncIterator, Iterable, Sequence
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
    acting_as,
    is_expected_host,
    is_user_name,
)
from cook_jupyter.api.query import integer, unknown, uuid_of
from cook_jupyter.errors import CookError, Forbidden, InvalidRequest, Unauthenticated
from cook_jupyter.model.job import Group, GroupId, Job
from cook_jupyter.service.config import Settings
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.wire.errors import ERROR_HEADER, body_of, status_of
from cook_jupyter.wire.events import EventEncoder
from cook_jupyter.wire.jobs import Teller
from cook_jupyter.wire.shape import MISSING, to_json

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
WRITE_S = 30.0
MIN_BYTES_PER_S = 64 * 1024
PIECE_BYTES = 256 * 1024
PAGE_JOBS = 128  # that are looked up together
UNAVAILABLE = 503
POOL_HEADER = "X-Cook-Pool"
UNIX_SOCKET_HOST = "localhost"  # what clients put into `Host` when they know a Unix socket alone
NO_ROUTE = b"<h1>Not a valid route</h1>"

_HOST = re.compile(r"\A[A-Za-z0-9.\-_:\[\]]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What all handlers stand before.

    Attributes:
        scheduler: whom they ask.
        authenticator: who tells them who asks.
        origins: patterns of other web sites that may ask, each to match whole.
        encoder: what all readers of events share.
        heartbeat_s: how often a silent stream of events says that it is alive.
        write_s: how long a client may take nothing of what it is sent; large pieces are given more.
    """

    scheduler: Scheduler
    authenticator: Authenticator
    origins: tuple[re.Pattern[str], ...] = ()
    encoder: EventEncoder = field(default_factory=EventEncoder)
    heartbeat_s: float = HEARTBEAT_S
    write_s: float = WRITE_S

    @property
    def settings(self) -> Settings:
        """The scheduler's settings."""
        return self.scheduler.settings


class CookHandler(RequestHandler):
    """A handler of Cook's API.

    Class attributes:
        needs_login: whether a request must say who it is from.
        impersonable: the methods that may be called on behalf of somebody else.
        wrong_method: the status when the resource lacks the method.
        text_errors: whether errors are told as bare text.
    """

    needs_login: ClassVar[bool] = True
    impersonable: ClassVar[frozenset[str]] = frozenset()
    wrong_method: ClassVar[int] = 404
    text_errors: ClassVar[bool] = False

    door: Door
    asker: Identity

    def initialize(self, door: Door) -> None:
        """Take what the application was made with."""
        self.door = door

    @property
    def scheduler(self) -> Scheduler:
        """The living scheduler."""
        return self.door.scheduler

    def set_default_headers(self) -> None:
        """Set what every answer carries."""
        self.clear_header("Server")
        self.set_header("Cache-control", "max-age=0")
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """Digest nothing: every answer is new, and some are megabytes."""
        return None

    async def prepare(self) -> None:
        """Do what comes before the action; a refusal is finished here."""
        if not self._passes_host() or not self._passes_origin():
            return
        if self.needs_login:
            self.log_in()

    def log_in(self) -> None:
        """Find out who asks; a refusal is finished here."""
        try:
            identity = self.door.authenticator.identify(self.request.headers)
            self.asker = self._acting(identity)
        except Unauthenticated as error:
            self.refuse(error, challenge=self.door.authenticator.challenge)
        except Forbidden as error:
            self.refuse(error)
        else:
            self._count_request()

    # What was asked

    def json_body(self) -> bytes:
        """Return the body; one that is not said to be JSON counts as empty.

        Raises:
            InvalidRequest: it is empty.
        """
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
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
        """Return a query parameter that must be there.

        Raises:
            InvalidRequest: it is not, told as a tree.
        """
        value = self.param(name)
        if value is None:
            raise InvalidRequest(f"the parameter {name} is missing", tree={name: MISSING})
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a query parameter that is `true` or `false`."""
        value = self.param(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise InvalidRequest(f"the parameter {name} is true or false, not {value[:80]!r}")
        return value == "true"

    def number(self, name: str, default: int) -> int:
        """Return a query parameter that is an integer."""
        value = self.param(name)
        if value is None:
            return default
        return integer(value, name)

    def uuids(self, name: str) -> list[str]:
        """Return the uuids that a query parameter names, in lower case, in order."""
        return [uuid_of(value) for value in self.params(name)]

    def named_pool(self, body_pool: str | None = None) -> str | None:
        """Return the pool that the request names: in its body, its query or its header."""
        return body_pool or self.param("pool") or self.request.headers.get(POOL_HEADER) or None

    def known_user(self, name: str) -> str:
        """Return a user name that may own jobs: a valid one, or that of the owner of an embedded scheduler.

        Raises:
            InvalidRequest: no user can have that name.
        """
        if is_user_name(name) or (self.asker.is_owner and name == self.asker.user):
            return name
        raise InvalidRequest(
            f"the user name {name[:80]!r} is not valid: 2 to 64 lower case letters, digits, '_' and '-',"
            " beginning with a letter and not ending with a sign"
        )

    def require_admin(self, what: str) -> None:
        """Refuse everybody but administrators."""
        if not self.asker.is_admin:
            raise Forbidden(f"You are not authorized to {what}: that is for administrators")

    # What is answered

    async def answer_list(self, pages: AsyncIterator[Iterable[Any]]) -> None:
        """Finish with a JSON list; see `answer_in_pieces`.

        Args:
            pages: the items, a page at a time.
        """
        await self.answer_in_pieces(encode_list(pages))

    async def answer_in_pieces(self, fragments: AsyncIterator[bytes]) -> None:
        """Finish with an answer that is made and sent piece by piece, as fast as the client takes it.

        However long the answer is, little more than a piece of it is held, and other requests are served in
        between. What goes wrong after the first piece breaks the connection: part of a list is no answer.

        Args:
            fragments: the answer, of which any number make a piece.
        """
        piece = bytearray()
        async for fragment in fragments:
            piece += fragment
            if len(piece) >= PIECE_BYTES:
                await self.send_piece(bytes(piece))
                piece.clear()
        self.finish(bytes(piece))

    async def send_piece(self, piece: bytes) -> None:
        """Send a part of the answer, and wait until the client has taken it.

        Raises:
            StreamClosedError: the client went, or took nothing for too long.
        """
        self.write(piece)
        sent = self.flush()
        if sent.done():  # the kernel took it all, as it does with nearly every event
            sent.result()
        else:
            try:
                async with asyncio.timeout(self._patience_s(len(piece))):
                    await sent
            except TimeoutError:
                self._hang_up()
                raise StreamClosedError from None
        if len(piece) >= PIECE_BYTES:
            await asyncio.sleep(0)  # a client that takes all at once must not keep the others waiting

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "Future[None]":
        """Finish the answer, and hang up on a client that does not take it."""
        size = len(chunk) if isinstance(chunk, bytes) else 0
        sent = super().finish(chunk)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(self._patience_s(size), self._hang_up)
            sent.add_done_callback(lambda _: timer.cancel())
        return sent

    def _patience_s(self, size: int) -> float:
        """How long a client may take over so many bytes."""
        return self.door.write_s + size / MIN_BYTES_PER_S

    def _hang_up(self) -> None:
        stream = getattr(self.request.connection, "stream", None)
        if isinstance(stream, IOStream):
            stream.close()

    def answer(self, value: Any, status: int = 200) -> None:
        """Finish with a JSON answer."""
        self.set_status(status)
        self.finish(to_json(value))

    def answer_empty(self, status: int = 204) -> None:
        """Finish without a body."""
        self.set_status(status)
        self.clear_header("Content-Type")
        self.finish()

    def refuse(self, error: CookError, *, challenge: str | None = None) -> None:
        """Finish with a refusal in plain text."""
        self.set_status(status_of(error))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header(ERROR_HEADER, type(error).__name__)
        if challenge is not None:
            self.set_header("WWW-Authenticate", challenge)
        self.finish(str(error))

    def teller(self) -> Teller:
        """Return what tells jobs and instances, with the address by which this client came."""
        host = self.request.host
        # A client that knows the Unix socket alone says `localhost`, where nobody listens.
        reachable = _HOST.match(host) and not (self._came_by_unix_socket and host == UNIX_SOCKET_HOST)
        return Teller(files_url=f"http://{host}" if reachable else None)

    async def one_job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            InvalidRequest: that is no uuid.
            NotFound: there is no such job.
        """
        job_id = uuid_of(job_id)
        (job,) = await self.scheduler.jobs([job_id])
        if job is None:
            raise unknown([job_id], "a job")
        return job

    async def one_parent(self, instance_id: str) -> Job:
        """Return the job of one instance; raises as `one_job` does."""
        instance_id = uuid_of(instance_id)
        (job,) = await self.scheduler.jobs_of_instances([instance_id])
        if job is None:
            raise unknown([instance_id], "an instance")
        return job

    async def jobs_in_pages(self, job_ids: Sequence[str]) -> AsyncIterator[list[Job]]:
        """Yield the jobs with these ids, in order, without those that do not exist."""
        for begin in range(0, len(job_ids), PAGE_JOBS):
            page = await self.scheduler.jobs(job_ids[begin : begin + PAGE_JOBS])
            yield [job for job in page if job is not None]

    async def groups_of(self, jobs: Iterable[Job]) -> dict[GroupId, Group]:
        """Return the groups of jobs, by id."""
        wanted = list(dict.fromkeys(job.spec.group for job in jobs if job.spec.group is not None))
        return await self.groups_by_id(wanted)

    async def groups_by_id(self, group_ids: Sequence[GroupId]) -> dict[GroupId, Group]:
        """Return the groups that are known, by id."""
        found = await self.scheduler.groups(group_ids) if group_ids else ()
        return {group.group_id: group for group in found if group is not None}

    # How it goes wrong

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Finish with the error that was raised."""
        raised = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(raised, StreamClosedError):  # nobody is there to be told
            return
        if self._headers_written:  # the client must not take what it has for the whole
            self._hang_up()
            return
        self.clear()
        self._allow_origin()
        if isinstance(raised, CookError):
            self.set_status(status_of(raised))
            self.set_header(ERROR_HEADER, type(raised).__name__)
            if self.get_status() == UNAVAILABLE:
                self.set_header("Retry-After", "1")
            self._finish_with(raised)
        elif status_code in (404, 405):
            self.set_status(self.wrong_method if status_code == 405 else 404)
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(NO_ROUTE)
        elif status_code < 500:
            self.set_status(status_code)
            self._finish_with(InvalidRequest(f"{self._reason}: {raised}"))
        else:
            self.set_status(status_code)
            self._finish_with(CookError("the scheduler failed at this request; its log says why"))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log faults of the scheduler; what is the client's was answered, or the client hung up.

        Where the answer is 503 the message says all there is, and every client that waits asks again: it is
        one line.
        """
        if isinstance(value, CookError) and status_of(value) == UNAVAILABLE:
            log.warning("%s %s: %s", self.request.method, self.request.path, value)
            return
        ours = not isinstance(value, HTTPError | StreamClosedError) and not (
            isinstance(value, CookError) and status_of(value) < 500
        )
        if ours and value is not None:
            log.error("%s %s failed", self.request.method, self.request.path, exc_info=value)

    def _finish_with(self, error: CookError) -> None:
        if self.text_errors:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(str(error))
        else:
            self.finish(body_of(error))

    def _count_request(self) -> None:
        """Refuse a request of a user who sends too many."""
        wait_ms = self.scheduler.rates.request_wait_ms(self.asker.user, self.scheduler.clock.now_ms())
        if wait_ms is None:
            return
        self.set_status(429)
        if wait_ms < inf:
            self.set_header("Retry-After", str(ceil(wait_ms / 1000)))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"User {self.asker.user} sends too many requests")

    def _acting(self, identity: Identity) -> Identity:
        settings = self.door.settings
        return acting_as(
            identity,
            self.request.headers.get(IMPERSONATE_HEADER),
            impersonators=settings.impersonators,
            admins=settings.admins,
            allowed=self.request.method in self.impersonable,
        )

    @property
    def _came_by_unix_socket(self) -> bool:
        stream = getattr(self.request.connection, "stream", None)
        return getattr(getattr(stream, "socket", None), "family", None) == socket.AF_UNIX

    def _passes_host(self) -> bool:
        """Answer a request that names the scheduler as a web page of somebody else's would."""
        settings = self.door.settings
        name = self.request.host_name.strip("[]")
        if self._came_by_unix_socket or is_expected_host(
            name, listening_on=settings.host, allowed=settings.allowed_hosts
        ):
            return True
        self.refuse(
            Forbidden(
                f"this scheduler is not known as {name[:80]!r}: use its address or localhost, or add the name"
                " to the setting allowed_hosts"
            )
        )
        return False

    def _passes_origin(self) -> bool:
        """Answer a request of a web page that may not ask, and every preflight; else let it through."""
        origin = self.request.headers.get("Origin")
        if origin is None:
            return True
        preflight = self.request.method == "OPTIONS"
        if not self._is_allowed(origin):
            text = (
                f"Origin {origin} not allowed" if preflight else f"Cross origin request denied from {origin}"
            )
            self.refuse(Forbidden(text))
            return False
        self._allow_origin()
        if not preflight:
            return True
        asked = self.request.headers.get("Access-Control-Request-Headers")
        if asked is not None:
            self.set_header("Access-Control-Allow-Headers", asked)
        self.set_header("Access-Control-Allow-Methods", "PUT, GET, OPTIONS, DELETE")
        self.set_header("Access-Control-Max-Age", "86400")
        self.finish()
        return False

    def _is_allowed(self, origin: str) -> bool:
        request: HTTPServerRequest = self.request
        scheme = request.headers.get("X-Forwarded-Proto", request.protocol)
        own = f"{scheme}://{request.headers.get('Host', '')}"
        return origin == own or any(pattern.fullmatch(origin) for pattern in self.door.origins)

    def _allow_origin(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and self._is_allowed(origin):
            self.set_header("Access-Control-Allow-Credentials", "true")
            self.set_header("Access-Control-Allow-Origin", origin)


async def encode_list(pages: AsyncIterator[Iterable[Any]]) -> AsyncIterator[bytes]:
    """Yield a JSON list in fragments.

    Args:
        pages: the items, a page at a time.
    """
    before = b"["
    async for page in pages:
        for item in page:
            yield before + to_json(item)
            before = b","
        await asyncio.sleep(0)
    yield b"[]" if before == b"[" else b"]"


class NoRoute(CookHandler):
    """Every path that is not in the table."""

    async def prepare(self) -> None:
        """Say so, to whoever may ask at all."""
        await super().prepare()
        if not self._finished:
            raise HTTPError(404)
