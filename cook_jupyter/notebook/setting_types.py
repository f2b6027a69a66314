"""Types of settings: the values that each accepts, and the errors for other values.

Lives here: traits with plain error messages, for `%config CookMagics.NAME = VALUE` and `%cook config`.
Not here: the settings (`notebook.magics`), what counts as a number or a text (`executor.option_values`).
"""

from typing import Any, NoReturn

from traitlets import Enum, TraitError, TraitType, Unicode

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.executor.option_values import positive, text, whole


class Amount(TraitType[float, float]):
    """A number above zero."""

    default_value = 1.0

    def validate(self, obj: Any, value: object) -> float:
        """Convert any kind of number to a float."""
        try:
            return float(positive(str(self.name), value))
        except InvalidRequest as error:
            raise TraitError(str(error)) from error

    def from_string(self, s: str) -> Any:
        """Parse a number; return other text unchanged, for `validate` to refuse."""
        try:
            return float(s)
        except ValueError:
            return s


class Count(TraitType[int, int]):
    """A whole number from 0.

    Args:
        default: the default.
        most: the maximum; None for no limit.
    """

    default_value = 0

    def __init__(self, default: int, *, most: int | None = None, **kwargs: Any) -> None:
        super().__init__(default, **kwargs)
        self._most = most

    def validate(self, obj: Any, value: object) -> int:
        """Convert any kind of whole number to an int."""
        try:
            number = whole(str(self.name), value)
        except InvalidRequest as error:
            raise TraitError(str(error)) from error
        if self._most is not None and number > self._most:
            raise TraitError(f"{self.name} must be between 0 and {self._most}, not {number}")
        return number

    def from_string(self, s: str) -> Any:
        """Parse a number; return other text unchanged, for `validate` to refuse."""
        try:
            return int(s)
        except ValueError:
            return s


class Text(Unicode[str, str]):
    """A text."""

    def validate(self, obj: Any, value: object) -> str:
        """Convert any kind of text to a str."""
        try:
            return text(str(self.name), value)
        except InvalidRequest as error:
            raise TraitError(str(error)) from error


class Choice(Enum[str]):
    """One of several words."""

    def error(self, obj: Any, value: object, error: Any = None, info: Any = None) -> NoReturn:
        """Raise an error that lists the valid words."""
        words = [str(word) for word in self.values or ()]
        raise TraitError(f"{self.name} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}")
