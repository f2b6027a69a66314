"""Values of options: what counts as a number and as a text, and what is said of anything else.

Lives here: one check per type, each of which returns the value as a plain Python one.
Not here: which options there are (`executor.options`, `executor.groups`).
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping
from typing import Any

from cook_jupyter.errors import InvalidRequest, WrongType

MOST = 10**12  # of any amount, count or number of seconds; beyond lies what JSON and clocks do not carry


def whole(name: str, value: object, *, least: int = 0, most: int | None = MOST) -> int:
    """Return a whole number as an int, also one of another type, such as 2.0 of a row of a data frame.

    Raises:
        WrongType: `value` is no whole number.
        InvalidRequest: `value` is below `least` or above `most`.
    """
    wrong = f"{name} must be a whole number and at least {least}, not {value!r}"
    if isinstance(value, bool | complex) or not isinstance(value, numbers.Number):
        raise WrongType(wrong)
    amount: Any = value
    try:
        number = int(amount)
    except (TypeError, ValueError, OverflowError) as error:  # not a real number, or not finite
        raise WrongType(wrong) from error
    if number != amount:
        raise WrongType(wrong)
    if number < least:
        raise InvalidRequest(wrong)
    if most is not None:
        _require_bounded(name, number, most)
    return number


def positive(name: str, value: object) -> float:
    """Return a number above zero as an int or a float; numbers of numpy, fractions and decimals are numbers.

    Raises:
        WrongType: `value` is no real number.
        InvalidRequest: `value` is not above zero, or not finite.
    """
    wrong = f"{name} must be a number above zero, not {value!r}"
    if isinstance(value, bool | complex) or not isinstance(value, numbers.Number):
        raise WrongType(wrong)
    try:
        number = int(value) if isinstance(value, numbers.Integral) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise WrongType(wrong) from error
    if not 0 < number < float("inf"):
        raise InvalidRequest(wrong)
    _require_bounded(name, number, MOST)
    return number


def flag(name: str, value: object) -> bool:
    """Return True or False; a bool of numpy is one, too.

    Raises:
        WrongType: `value` is neither: of a text or a number one cannot tell what was meant.
    """
    numpy: Any = sys.modules.get("numpy")
    if isinstance(value, bool) or (numpy is not None and isinstance(value, numpy.bool_)):
        return bool(value)
    raise WrongType(f"{name} must be True or False, not {value!r}")


def text(option: str, value: object) -> str:
    """Return a text as a str; numpy's texts and members of a `StrEnum` are texts, too.

    Raises:
        WrongType: `value` is no text.
        InvalidRequest: no request can carry it.
    """
    if not isinstance(value, str):
        raise WrongType(f"{option} must be a text, not {value!r}")
    return _sendable(option, str.__str__(value))


def texts(option: str, value: object) -> dict[str, str]:
    """Return a mapping of texts to texts as a dict.

    Raises:
        WrongType: `value` is no mapping, or one of something else.
        InvalidRequest: no request can carry a text.
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise WrongType(f"{option} must map texts to texts, not {value!r}")
    return {
        _sendable(option, str.__str__(key)): _sendable(option, str.__str__(of_key))
        for key, of_key in value.items()
    }


def _require_bounded(name: str, number: float, most: int) -> None:
    if number > most:
        raise InvalidRequest(f"{name} must be at most {most:,}, and is larger")


def _sendable(option: str, part: str) -> str:
    try:
        part.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{option}: {part!r} cannot be written as UTF-8: {error}") from error
    return part
