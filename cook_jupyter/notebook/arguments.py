"""Arguments of magics: IPython's `@magic_arguments`, with types.

Lives here: declaring the arguments of a magic, so that its help, its parser and completion agree.
Not here: the magics (`notebook.magics`, `notebook.commands`).
"""

import shlex
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from IPython.core import magic_arguments
from IPython.core.error import UsageError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a magic, in terms of `ArgumentParser.add_argument`."""

    names: tuple[str, ...]
    details: dict[str, Any]


def argument(*names: str, **details: Any) -> Argument:
    """Declare an argument of a magic, in terms of `ArgumentParser.add_argument`."""
    return Argument(names, details)


def count_from(minimum: int) -> Callable[[str], int]:
    """Return an argument type: whole numbers from `minimum`."""

    def count(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise ArgumentTypeError(f"it must be a whole number and at least {minimum}, not {word!r}")
        return number

    return count


def amount(word: str) -> float:
    """Convert a word to a number above zero; used as an argument type.

    Raises:
        ArgumentTypeError: `word` is not such a number.
    """
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"it must be a number above zero, not {word!r}")
    return number


def takes(magic: str, *arguments: Argument) -> Callable[[F], F]:
    """Decorate the function of a magic with its arguments; its docstring becomes their help.

    Args:
        magic: name of the magic without its first percent sign, such as `cook list`.
        arguments: the arguments, in the order of the help.
    """

    def decorate(function: F) -> F:
        for declared in reversed(arguments):
            magic_arguments.argument(*declared.names, **declared.details)(function)  # type: ignore[no-untyped-call]
        decorated: F = magic_arguments.magic_arguments(magic)(function)  # type: ignore[no-untyped-call]
        return decorated

    return decorate


def parse_line(function: Callable[..., Any], line: str) -> Namespace:
    """Parse the text after a magic.

    Raises:
        UsageError: the text does not match the arguments of the magic.
    """
    try:
        words = shlex.split(line)  # IPython's own way of splitting keeps quotes
    except ValueError as error:
        raise UsageError(f"{line.strip()}: {error}") from error
    options: Namespace = function.parser.parse_args(words)  # type: ignore[attr-defined]
    return options


def help_of(function: Callable[..., Any]) -> str:
    """Return the help of a magic, as plain text."""
    text: str = function.parser.format_help()  # type: ignore[attr-defined]
    return text.replace("::\n\n  %", "%", 1).strip()


def summary_of(function: Callable[..., Any]) -> str:
    """Return the first line of a magic's help."""
    text: str = function.parser.description  # type: ignore[attr-defined]
    return text.strip().splitlines()[0]


def option_strings(function: Callable[..., Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each option of a magic, such as `--state`, with its choices if it has any."""
    for action in function.parser._actions:  # type: ignore[attr-defined]  # noqa: SLF001 - has no public name
        for name in action.option_strings:
            if name.startswith("--"):
                yield name, [str(choice) for choice in action.choices or ()]
