"""The values of a query: uuids, numbers, points in time; and the refusal of uuids that are not known.

Not here: which parameters a resource has (its handler), shapes of bodies (`wire`).
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from cook_jupyter.errors import InvalidRequest, NotFound

LONGEST_NUMBER = 18  # digits: what fits in a signed 64-bit integer

_UUID = re.compile(r"\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


def uuid_of(value: str) -> str:
    """Return a uuid in lower case.

    Raises:
        InvalidRequest: it is none.
    """
    if not _UUID.match(value):
        raise InvalidRequest(f"{value[:80]!r} is not a uuid")
    return value.lower()


def integer(value: str, name: str) -> int:
    """Return an integer of a query.

    Raises:
        InvalidRequest: it is none, or too long.
    """
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > LONGEST_NUMBER:
        raise InvalidRequest(f"{name} is an integer, not {value[:80]!r}")
    return int(value)


def milliseconds(value: str, name: str) -> int:
    """Return a point in time of a query: epoch milliseconds or ISO 8601, UTC if it does not say.

    Raises:
        InvalidRequest: it is neither.
    """
    if re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidRequest(f"{name} is a time in milliseconds or ISO 8601, not {value[:80]!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def require_found(missing: Sequence[str], what: str) -> None:
    """Refuse a request that names unknown uuids.

    Raises:
        NotFound: some are missing.
    """
    if missing:
        raise unknown(missing, what)


def unknown(missing: Sequence[str], what: str) -> NotFound:
    """Return the error that names unknown uuids, each on a line of its own."""
    uuids = tuple(dict.fromkeys(missing))
    return NotFound(f"The following UUIDs don't correspond to {what}:\n" + "\n".join(uuids), missing=uuids)
