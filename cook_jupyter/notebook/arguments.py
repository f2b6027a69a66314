"""Arguments of magics: IPython's `@magic_arguments`, with types.

Lives here: saying which arguments a magic takes, so that its help, its parser and completion agree.
Not here: which magics there are (`notebook.magics`, `notebook.commands`).
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
    """One argument, as `ArgumentParser.add_argument` takes it."""

    names: tuple[str, ...]
    details: dict[str, Any]


def argument(*names: str, **details: Any) -> Argument:
    """One argument, as `ArgumentParser.add_argument` takes it."""
    return Argument(names, details)


def count_from(least: int) -> Callable[[str], int]:
    """Return a type of arguments: whole numbers from `least` up."""

    def count(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = least - 1
        if number < least:
            raise ArgumentTypeError(f"it must be a whole number and at least {least}, not {word!r}")
        return number

    return count


def amount(word: str) -> float:
    """Return a number above zero, as a type of arguments.

    Raises:
        ArgumentTypeError: `word` is none.
    """
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"it must be a number above zero, not {word!r}")
    return number


def takes(magic: str, *arguments: Argument) -> Callable[[F], F]:
    """Decorate the function of a magic: it takes these, and its docstring becomes their help.

    Args:
        magic: what is typed, without the first percent sign, such as `cook list`.
        arguments: in the order in which help tells them.
    """

    def decorate(function: F) -> F:
        for each in reversed(arguments):
            magic_arguments.argument(*each.names, **each.details)(function)  # type: ignore[no-untyped-call]
        decorated: F = magic_arguments.magic_arguments(magic)(function)  # type: ignore[no-untyped-call]
        return decorated

    return decorate


def parsed(function: Callable[..., Any], line: str) -> Namespace:
    """What was typed after a magic.

    Raises:
        UsageError: it is not what the magic takes.
    """
    try:
        words = shlex.split(line)  # IPython's own way of splitting keeps quotes
    except ValueError as error:
        raise UsageError(f"{line.strip()}: {error}") from error
    options: Namespace = function.parser.parse_args(words)  # type: ignore[attr-defined]
    return options


def help_of(function: Callable[..., Any]) -> str:
    """How to use a magic, as plain text."""
    text: str = function.parser.format_help()  # type: ignore[attr-defined]
    return text.replace("::\n\n  %", "%", 1).strip()


def summary_of(function: Callable[..., Any]) -> str:
    """The first line of a magic's help."""
    text: str = function.parser.description  # type: ignore[attr-defined]
    return text.strip().splitlines()[0]


def option_strings(function: Callable[..., Any]) -> Iterator[tuple[str, list[str]]]:
    """Each option of a magic, such as `--state`, with the values it may have, if they are few."""
    for action in function.parser._actions:  # type: ignore[attr-defined]  # noqa: SLF001 - argparse hides it
        for name in action.option_strings:
            if name.startswith("--"):
                yield name, [str(choice) for choice in action.choices or ()]
