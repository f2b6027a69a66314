"""Values of options: which count as numbers or strings, and the errors for other values.

Lives here: one check per type, which returns the value as a plain Python one.
Not here: the options themselves (`executor.options`, `executor.groups`).
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping
from typing import Any

from cook_jupyter.errors import InvalidRequest, WrongType

MAX_NUMBER = 10**12  # for amounts, counts and seconds; JSON and clocks cannot represent much more


def whole(name: str, value: object, *, minimum: int = 0, maximum: int | None = MAX_NUMBER) -> int:
    """Return a whole number as an int, also if it has another type, such as 2.0 from a data frame.

    Raises:
        WrongType: `value` is not a whole number.
        InvalidRequest: `value` is below `minimum` or above `maximum`.
    """
    message = f"{name} must be a whole number and at least {minimum}, not {value!r}"
    if isinstance(value, bool | complex) or not isinstance(value, numbers.Number):
        raise WrongType(message)
    amount: Any = value
    try:
        number = int(amount)
    except (TypeError, ValueError, OverflowError) as error:  # not a real number, or not finite
        raise WrongType(message) from error
    if number != amount:
        raise WrongType(message)
    if number < minimum:
        raise InvalidRequest(message)
    if maximum is not None:
        _require_bounded(name, number, maximum)
    return number


def positive(name: str, value: object) -> float:
    """Return a number above zero as an int or a float; numpy numbers, fractions and decimals are accepted.

    Raises:
        WrongType: `value` is not a real number.
        InvalidRequest: `value` is not above zero, or not finite.
    """
    message = f"{name} must be a number above zero, not {value!r}"
    if isinstance(value, bool | complex) or not isinstance(value, numbers.Number):
        raise WrongType(message)
    try:
        number = int(value) if isinstance(value, numbers.Integral) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise WrongType(message) from error
    if not 0 < number < float("inf"):
        raise InvalidRequest(message)
    _require_bounded(name, number, MAX_NUMBER)
    return number


def flag(name: str, value: object) -> bool:
    """Return True or False; a bool of numpy is accepted, too.

    Raises:
        WrongType: `value` is neither; strings and numbers would be ambiguous.
    """
    numpy: Any = sys.modules.get("numpy")
    if isinstance(value, bool) or (numpy is not None and isinstance(value, numpy.bool_)):
        return bool(value)
    raise WrongType(f"{name} must be True or False, not {value!r}")


def text(option: str, value: object) -> str:
    """Return a string as a str; numpy strings and members of a `StrEnum` are accepted, too.

    Raises:
        WrongType: `value` is not a string.
        InvalidRequest: the string cannot be sent in a request.
    """
    if not isinstance(value, str):
        raise WrongType(f"{option} must be a string, not {value!r}")
    return _sendable(option, str.__str__(value))


def texts(option: str, value: object) -> dict[str, str]:
    """Return a mapping of strings to strings as a dict.

    Raises:
        WrongType: `value` is not a mapping, or not of strings.
        InvalidRequest: a string cannot be sent in a request.
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise WrongType(f"{option} must map strings to strings, not {value!r}")
    return {
        _sendable(option, str.__str__(key)): _sendable(option, str.__str__(item_value))
        for key, item_value in value.items()
    }


def _require_bounded(name: str, number: float, maximum: int) -> None:
    if number > maximum:
        raise InvalidRequest(f"{name} must be at most {maximum:,}, and is larger")


def _sendable(option: str, string: str) -> str:
    try:
        string.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{option}: {string!r} cannot be written as UTF-8: {error}") from error
    return string
