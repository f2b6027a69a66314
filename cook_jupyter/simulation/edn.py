"""A small, strict parser of EDN, the notation of Cook's configuration files.

Lives here: `read` and the values `Keyword` and `Symbol`. Supported: maps, vectors, lists, sets, keywords,
symbols, strings, characters, numbers, booleans, nil, comments and discards (`#_`). Refused, with line and
column: tagged values (`#inst`), duplicate keys of a map, anything after the one value.
Not here: the keys of a configuration (`simulation.config`).

Source: the specification of the format, github.com/edn-format/edn.
"""

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from cook_jupyter.errors import InvalidRequest


class Keyword(str):
    """A keyword, written with its colon: `Keyword(":cycle-step-ms")`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Symbol(str):
    """A symbol such as `cook.plugins/fitness`, kept as its name; it is not resolved."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


Value: TypeAlias = "bool | int | float | str | list[Value] | frozenset[Value] | dict[Value, Value] | None"

_BLANK: Final = re.compile(r"(?:[\s,]+|;[^\n]*)*")
_ATOM: Final = re.compile(r"[^\s,;()\[\]{}\"]+")
_INTEGER: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)N?\Z")
_FLOAT: Final = re.compile(
    r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+|(?=M))M?\Z"
)
_SYMBOL: Final = re.compile(r"(?:[A-Za-z*!_?$%&=<>/]|[-+.](?![0-9]))[\w*+!?$%&=<>.:#'/-]*\Z")
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "b": "\b", "f": "\f"}
_CHARACTERS: Final = {"newline": "\n", "return": "\r", "space": " ", "tab": "\t"}
_NAMED: Final[dict[str, bool | None]] = {"nil": None, "true": True, "false": False}
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "#{": "}"}
_MAX_DEPTH: Final = 200


def read(text: str) -> Value:
    """Parse a text with one value: maps as dicts, vectors and lists as lists, sets as frozensets.

    Raises:
        InvalidRequest: the text is not EDN, is empty, or has more than one value; the message has line and
            column.
    """
    reader = _Reader(text)
    value = reader.value()
    if value is _NOTHING:
        raise reader.error("there is no value", reader.at)
    begin = reader.next()
    if reader.value() is not _NOTHING:
        raise reader.error("there is a second value; one was expected", begin)
    if reader.at < len(text):
        raise reader.error(f"unmatched {text[reader.at]!r}", reader.at)
    return value  # type: ignore[return-value]


class _Nothing:
    """The absence of a value, at the end of a collection or of the text."""


_NOTHING: Final = _Nothing()


class _Reader:
    """A parser with a position in a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._depth = 0

    def error(self, problem: str, at: int) -> InvalidRequest:
        """Return an error with the line and column of a position."""
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        return InvalidRequest(f"not EDN at line {line}, column {column}: {problem}")

    def next(self) -> int:
        """Skip blanks, comments and discarded values; return the new position."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if not self.text.startswith("#_", self.at):
                return self.at
            begin = self.at
            self.at += 2
            if self.value() is _NOTHING:
                raise self.error("#_ is not followed by a value to discard", begin)

    def value(self) -> "Value | _Nothing":
        """Parse one value; return `_NOTHING` if a collection or the text ends here."""
        begin = self.next()
        text = self.text
        if begin == len(text) or text[begin] in ")]}":
            return _NOTHING
        if text[begin] == '"':
            return self._string(begin)
        opening = "#{" if text.startswith("#{", begin) else text[begin]
        if opening in _CLOSING:
            return self._collection(opening, begin)
        if opening == "#":
            raise self.error("tagged values are not supported", begin)
        return self._atom(begin)

    def _collection(self, opening: str, begin: int) -> Value:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self.error(f"more than {_MAX_DEPTH} collections are nested", begin)
        self.at = begin + len(opening)
        items: list[Value] = []
        positions: list[int] = []
        while True:
            position = self.next()
            item = self.value()
            if isinstance(item, _Nothing):
                break
            items.append(item)
            positions.append(position)
        closing = _CLOSING[opening]
        if self.at == len(self.text):
            raise self.error(f"{opening!r} is never closed", begin)
        if self.text[self.at] != closing:
            raise self.error(f"expected {closing!r}", self.at)
        self.at += 1
        self._depth -= 1
        if opening in "([":
            return items
        if opening == "{" and len(items) % 2:
            raise self.error("a key of this map has no value", begin)
        keys, key_positions = (items[::2], positions[::2]) if opening == "{" else (items, positions)
        self._require_different(keys, key_positions)
        return dict(zip(keys, items[1::2], strict=True)) if opening == "{" else frozenset(items)

    def _require_different(self, keys: list[Value], positions: list[int]) -> None:
        seen: set[tuple[type, Value]] = set()
        for key, position in zip(keys, positions, strict=True):
            if isinstance(key, list | dict):
                raise self.error("a collection cannot be a key or a member of a set", position)
            if (type(key), key) in seen:
                raise self.error(f"duplicate {key!r}", position)
            seen.add((type(key), key))

    def _string(self, begin: int) -> str:
        text = self.text
        parts: list[str] = []
        at = begin + 1
        while at < len(text):
            char = text[at]
            if char == '"':
                self.at = at + 1
                return "".join(parts)
            if char != "\\":
                parts.append(char)
                at += 1
                continue
            escape = text[at + 1 : at + 2]
            if escape == "u":
                parts.append(self._code(text[at + 2 : at + 6], at))
                at += 6
            elif escape in _ESCAPES:
                parts.append(_ESCAPES[escape])
                at += 2
            else:
                raise self.error(f"\\{escape} is not an escape sequence", at)
        raise self.error("this string is never closed", begin)

    def _atom(self, begin: int) -> Value:
        if self.text[begin] == "\\":
            return self._character(begin)
        match = _ATOM.match(self.text, begin)
        word = match.group() if match else self.text[begin]
        self.at = begin + len(word)
        if word in _NAMED:
            return _NAMED[word]
        if word[0] == ":":
            if len(word) == 1 or word.startswith("::") or word[-1] in ":/":
                raise self.error(f"{word!r} is not a keyword", begin)
            return Keyword(word)
        if _SYMBOL.match(word):
            return Symbol(word)
        read_number = _number_reader(word)
        if read_number is None:
            raise self.error(f"{word!r} is not a keyword, a symbol or a number", begin)
        return read_number(word.rstrip("NM"))

    def _character(self, begin: int) -> str:
        # The character after the backslash counts even if it would end an atom: \, \( and the like.
        match = _ATOM.match(self.text, begin + 2)
        word = self.text[begin + 1 : begin + 2] + (match.group() if match else "")
        self.at = begin + 1 + len(word)
        if len(word) == 1 and not word.isspace():
            return word
        if word in _CHARACTERS:
            return _CHARACTERS[word]
        if word.startswith("u"):
            return self._code(word[1:], begin)
        raise self.error(f"\\{word} is not a character", begin)

    def _code(self, digits: str, at: int) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            raise self.error("\\u must be followed by four hexadecimal digits", at)
        return chr(int(digits, 16))


def _number_reader(word: str) -> Callable[[str], int | float] | None:
    if _INTEGER.match(word):
        return int
    return float if _FLOAT.match(word) else None
