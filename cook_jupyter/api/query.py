"""Parsers of query values (uuids, numbers, times), and the error for unknown uuids.

Not here: the parameters of a resource (its handler), the format of bodies (`wire`).
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from cook_jupyter.errors import InvalidRequest, NotFound

Id = TypeVar("Id")

MAX_DIGITS = 18  # always fits in a signed 64-bit integer

_UUID = re.compile(r"\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


def parse_uuid(value: str, kind: Callable[[str], Id]) -> Id:
    """Check a uuid, and return it in lower case as an id.

    Args:
        value: the text.
        kind: type of the id, such as `JobId`; `str` if it may be the id of anything.

    Raises:
        InvalidRequest: the value is not a uuid.
    """
    if not _UUID.match(value):
        raise InvalidRequest(f"{value[:80]!r} is not a uuid")
    return kind(value.lower())


def parse_integer(value: str, name: str) -> int:
    """Parse an integer.

    Args:
        value: the text.
        name: name of the parameter in error messages.

    Raises:
        InvalidRequest: the text is not an integer, or has too many digits.
    """
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > MAX_DIGITS:
        raise InvalidRequest(f"{name} must be an integer, not {value[:80]!r}")
    return int(value)


def parse_time_ms(value: str, name: str) -> int:
    """Parse a time: epoch milliseconds or ISO 8601, in UTC unless it has an offset.

    Args:
        value: the text.
        name: name of the parameter in error messages.

    Raises:
        InvalidRequest: the text is neither.
    """
    if re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidRequest(
            f"{name} must be a time in milliseconds or ISO 8601, not {value[:80]!r}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def require_found(missing: Sequence[str], kind: str) -> None:
    """Refuse a request with unknown uuids.

    Args:
        missing: the unknown uuids.
        kind: noun for one of the uuids in the message, such as "a job".

    Raises:
        NotFound: there are unknown uuids.
    """
    if missing:
        raise not_found(missing, kind)


def not_found(missing: Sequence[str], kind: str) -> NotFound:
    """Return the error for unknown uuids, each on its own line."""
    uuids = tuple(dict.fromkeys(missing))
    return NotFound(f"The following UUIDs don't correspond to {kind}:\n" + "\n".join(uuids), missing=uuids)
