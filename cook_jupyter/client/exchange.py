"""Exchanges with a scheduler, without I/O: requests, their replies, and a resulting value.

Lives here: `Request`, `Reply`, and the building blocks of exchanges: one or several requests, JSON decoded to
a type, a refusal raised as the error that the scheduler raised.
Not here: the exchanges themselves (`client.protocol`, `client.submission`), and their transport:
`client.sync` over `client.connections`, and `client.aio`.

An exchange is a generator that yields requests and receives their replies; its return value is the answer. So
paging and resending are written once, for blocking and for asynchronous clients.

Source: sans-I/O, as in h11.
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
    """An HTTP request.

    Attributes:
        target: path and query, already quoted.
        idempotent: whether sending it twice has no further effect, so that it may be sent again if a
            connection turns out to be dead.
        wait_s: how long the scheduler was asked to wait before it answers.
    """

    method: str
    target: str
    body: bytes | memoryview = b""
    content_type: str = "application/json"
    idempotent: bool = True
    wait_s: float = 0.0

    def may_repeat_after(self, error: Exception) -> bool:
        """Return whether to send the request again after an idle connection failed with an error.

        After a timeout the connection was alive, and the scheduler may be working on the request.
        """
        return self.idempotent and not isinstance(error, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP reply.

    Attributes:
        headers: headers, by their names in lower case.
        sent_twice: whether the request was sent again on a new connection, and may have been carried out
            twice.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_twice: bool = False


Exchange: TypeAlias = Generator[Request, Reply, T]


def send_request(
    request: Request, read: Callable[[Reply], T], *, tolerated: Iterable[int] = ()
) -> Exchange[T]:
    """Send a request and convert its reply.

    Args:
        request: the request.
        read: function that converts a reply to a value.
        tolerated: statuses from 400 that `read` handles.

    Raises:
        CookError: the scheduler refused.
    """
    reply = yield request
    if reply.status >= 400 and reply.status not in tolerated:
        raise reply_error(reply)
    return read(reply)


def send_requests(
    requests: Iterable[Request], read: Callable[[Reply], Iterable[T]], *, tolerated: Iterable[int] = ()
) -> Exchange[list[T]]:
    """Send several requests, one after the other, and join the values of their replies."""
    values: list[T] = []
    for request in requests:
        values += yield from send_request(request, read, tolerated=tolerated)
    return values


def get_json(path: str, answer: type[T], **query: str | None) -> Exchange[T]:
    """GET a path whose answer is JSON.

    Args:
        path: the path.
        answer: type of the answer.
        query: parameters of the query; those that are None are omitted.
    """
    return send_request(get(path, query_pairs(**query)), reader(answer))


def get_by_uuid(
    path: str,
    key: str,
    uuids: Sequence[str],
    answer: type[T],
    *,
    partial: bool,
    extra: tuple[tuple[str, str], ...] = (),
) -> Exchange[list[T]]:
    """GET objects by uuid, in order, with as many requests as the length of URLs requires.

    Args:
        path: the path.
        key: parameter of the query for a uuid.
        uuids: the uuids.
        answer: type of one element of the answer.
        partial: whether to omit unknown uuids; otherwise they are an error.
        extra: further parameters of the query.
    """
    tail = (*extra, ("partial", "true")) if partial else extra
    requests = [get(path, [*((key, uuid) for uuid in part), *tail]) for part in split(uuids)]
    decode_list = reader(list[answer])  # type: ignore[valid-type]

    def read(reply: Reply) -> list[T]:
        return decode_list(reply) if reply.status < 400 else []

    # With `partial`, Cook answers 404 if it knows none of the uuids.
    return send_requests(requests, read, tolerated=(404,) if partial else ())


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


def query_pairs(**values: str | None) -> list[tuple[str, str]]:
    """Return the parameters of a query that have a value."""
    return [(key, value) for key, value in values.items() if value is not None]


def checked_uuid(uuid: str) -> str:
    """Return a uuid in lower case; a typing error is refused here, instead of as an unknown route.

    Raises:
        InvalidRequest: it is not a uuid.
    """
    try:
        return str(UUID(uuid))
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequest(f"not a uuid: {uuid!r}") from None


def split(uuids: Sequence[str], size: int = UUIDS_PER_URL) -> Iterator[list[str]]:
    """Yield uuids in lists of at most `size`, after checking them."""
    valid = [checked_uuid(uuid) for uuid in uuids]
    for start in range(0, len(valid), size):
        yield valid[start : start + size]


def to_json(value: object) -> bytes:
    """Encode a value as JSON.

    Raises:
        InvalidRequest: it cannot be encoded.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain_number)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"cannot be encoded as JSON: {error}") from error


def _plain_number(value: object) -> int | float:
    """Convert a number of another library (numpy, fractions) to a plain one."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


# --- replies ---


def reply_error(reply: Reply) -> CookError:
    """Return the error in a reply, of the class that the scheduler raised if it names one."""
    return wire.error_of(reply.status, reply.body, reply.headers.get(_ERROR_HEADER))


def reader(answer: type[T]) -> Callable[[Reply], T]:
    """Return a function that decodes a reply's JSON to a type."""
    return lambda reply: decode(reply, answer)


def decode(reply: Reply, answer: type[T]) -> T:
    """Decode a reply's JSON to a type.

    Raises:
        SchedulerError: it is not JSON, or not of this type.
    """
    try:
        return cast(T, _decoder(answer).decode(reply.body))
    except msgspec.ValidationError as error:
        raise SchedulerError(f"the scheduler's answer has an unexpected form: {error}") from error
    except (ValueError, RecursionError) as error:
        start = reply.body[:80].decode("utf-8", "replace")
        raise SchedulerError(f"expected JSON, but the answer begins with {start!r}") from error


_decoders: dict[object, msgspec.json.Decoder[object]] = {}  # by the type of the answer


def _decoder(answer: type[T]) -> msgspec.json.Decoder[object]:
    """Return the decoder of a type, created when first needed."""
    if answer not in _decoders:
        _decoders[answer] = msgspec.json.Decoder(answer)
    return _decoders[answer]


def read_bytes(reply: Reply) -> bytes:
    """Return the body of a reply."""
    return reply.body


def read_nothing(_: Reply) -> None:
    """Return None, for a reply without content."""
