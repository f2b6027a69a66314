"""Exchanges with a scheduler, without I/O: requests out, replies in, a value at the end.

Lives here: `Request`, `Reply`, and the parts that exchanges are made of: one request or many, JSON read as a
type, a refusal raised as the error that the scheduler raised.
Not here: what to ask (`client.protocol`, `client.submission`), and who carries it: `client.sync` over
`client.connections`, and `client.aio`.

An exchange is a generator that yields requests and is sent their replies; what it returns is the answer. So
paging and sending again are written once, for blocking and for asynchronous clients.

Source: sans-io as in h11.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from cook_jupyter.errors import CookError, InvalidRequest, SchedulerError
from cook_jupyter.wire import errors as wire

T = TypeVar("T")

UUIDS_PER_URL = 100  # as Cook's own command line; about 5 kB

_ERROR_HEADER = wire.ERROR_HEADER.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request.

    Attributes:
        target: path and query, already quoted.
        idempotent: sending it twice changes nothing more, so that it may be sent again when a
            connection turns out to be dead.
        patience_s: how long the scheduler was asked to hold the answer back.
    """

    method: str
    target: str
    body: bytes | memoryview = b""
    content_type: str = "application/json"
    idempotent: bool = True
    patience_s: float = 0.0

    def may_repeat_after(self, error: Exception) -> bool:
        """Return whether to send it again after an idle connection failed with this error.

        A connection on which nothing came in time was alive: then the scheduler may be at work.
        """
        return self.idempotent and not isinstance(error, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP answer.

    Attributes:
        headers: by their names in lower case.
        sent_twice: the request was sent again on a new connection, and may have been carried out twice.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_twice: bool = False


Exchange: TypeAlias = Generator[Request, Reply, T]


def ask(request: Request, read: Callable[[Reply], T], *, tolerated: Iterable[int] = ()) -> Exchange[T]:
    """Send one request and read its reply.

    Args:
        request: the request.
        read: makes the value of a reply that is no refusal.
        tolerated: statuses from 400 on that `read` understands.

    Raises:
        CookError: the scheduler refused.
    """
    reply = yield request
    if reply.status >= 400 and reply.status not in tolerated:
        raise reply_error(reply)
    return read(reply)


def ask_each(
    requests: Iterable[Request], read: Callable[[Reply], Iterable[T]], *, tolerated: Iterable[int] = ()
) -> Exchange[list[T]]:
    """Send several requests, one after the other, and join what is read of their replies."""
    values: list[T] = []
    for request in requests:
        values += yield from ask(request, read, tolerated=tolerated)
    return values


def get_json(path: str, answer: type[T], **query: str | None) -> Exchange[T]:
    """GET a path whose answer is JSON.

    Args:
        path: the path.
        answer: the type of the answer.
        query: the query; None leaves a name out.
    """
    return ask(get(path, given(**query)), reader(answer))


def get_by_uuid(
    path: str,
    key: str,
    uuids: Sequence[str],
    answer: type[T],
    *,
    partial: bool,
    extra: tuple[tuple[str, str], ...] = (),
) -> Exchange[list[T]]:
    """GET what has these uuids, in their order: as many requests as URLs can hold them.

    Args:
        path: the path.
        key: the parameter of the query that names a uuid.
        uuids: the uuids.
        answer: the type of one element of the answer.
        partial: leave unknown uuids out; else one of them is an error.
        extra: more of the query.
    """
    tail = (*extra, ("partial", "true")) if partial else extra
    requests = [get(path, [*((key, uuid) for uuid in part), *tail]) for part in split(uuids)]
    decode_list = reader(list[answer])  # type: ignore[valid-type]

    def read(reply: Reply) -> list[T]:
        return decode_list(reply) if reply.status < 400 else []

    # With `partial`, Cook answers 404 where it knows none at all.
    return ask_each(requests, read, tolerated=(404,) if partial else ())


# --- requests ---


def get(path: str, query: Iterable[tuple[str, str]] = ()) -> Request:
    """Return a GET request."""
    return Request(method="GET", target=target(path, query))


def with_body(method: str, path: str, body: object, *, idempotent: bool = True) -> Request:
    """Return a request with a JSON body."""
    return Request(method=method, target=path, body=to_json(body), idempotent=idempotent)


def target(path: str, query: Iterable[tuple[str, str]] = ()) -> str:
    """Return a path with its query."""
    text = urlencode(list(query))
    return f"{path}?{text}" if text else path


def given(**values: str | None) -> list[tuple[str, str]]:
    """Return the pairs of a query that have a value."""
    return [(key, value) for key, value in values.items() if value is not None]


def checked(uuid: str) -> str:
    """Return a uuid in lower case, so that a typing error ends here and not as an unknown route.

    Raises:
        InvalidRequest: it is no uuid.
    """
    try:
        return str(UUID(uuid))
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequest(f"not a uuid: {uuid!r}") from None


def split(uuids: Sequence[str], size: int = UUIDS_PER_URL) -> Iterator[list[str]]:
    """Yield checked uuids in lists of at most `size`."""
    whole = [checked(uuid) for uuid in uuids]
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def to_json(value: object) -> bytes:
    """Encode a body.

    Raises:
        InvalidRequest: it has no form in JSON.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain_number)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"this cannot be said in JSON: {error}") from error


def _plain_number(value: object) -> int | float:
    """Return a number of another library (numpy, fractions) as JSON has it."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


# --- replies ---


def reply_error(reply: Reply) -> CookError:
    """Return the error that a reply stands for: of the class that the scheduler raised, if it says which."""
    return wire.error_of(reply.status, reply.body, reply.headers.get(_ERROR_HEADER))


def reader(answer: type[T]) -> Callable[[Reply], T]:
    """Return the function that reads a reply's JSON as a type."""
    return lambda reply: decode(reply, answer)


def decode(reply: Reply, answer: type[T]) -> T:
    """Return the value of a reply.

    Raises:
        SchedulerError: it is no JSON, or not of this type.
    """
    try:
        return cast(T, _decoder(answer).decode(reply.body))
    except msgspec.ValidationError as error:
        raise SchedulerError(f"the scheduler's answer has another form than expected: {error}") from error
    except (ValueError, RecursionError) as error:
        start = reply.body[:80].decode("utf-8", "replace")
        raise SchedulerError(f"JSON was expected, and the answer begins {start!r}") from error


_decoders: dict[object, msgspec.json.Decoder[object]] = {}  # by the type of the answer


def _decoder(answer: type[T]) -> msgspec.json.Decoder[object]:
    """Return the decoder of a type, made when it is first needed."""
    if answer not in _decoders:
        _decoders[answer] = msgspec.json.Decoder(answer)
    return _decoders[answer]


def read_bytes(reply: Reply) -> bytes:
    """Return a reply's body as it is."""
    return reply.body


def read_nothing(_: Reply) -> None:
    """Return None, of a reply that only says that it was done."""
