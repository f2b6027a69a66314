"""A small, strict reader of EDN, the notation of Cook's configuration files.

Lives here: `read` and the values `Keyword` and `Symbol`. Read are maps, vectors, lists, sets, keywords,
symbols, strings, characters, numbers, booleans, nil, comments and discards (`#_`). Refused, with line and
column: tagged values (`#inst`), a key that stands twice in a map, anything left over after the one value.
Not here: which keys a configuration has (`simulation.config`).

Source: the format's own description, github.com/edn-format/edn.
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
    """A symbol: the name of something, as `cook.plugins/fitness`. Nothing is looked up by it."""

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
_DEEPEST: Final = 200


def read(text: str) -> Value:
    """Return the one value of a text: maps as dicts, vectors and lists as lists, sets as frozensets.

    Raises:
        InvalidRequest: the text is not EDN, is empty, or has more than one value; says where.
    """
    reader = _Reader(text)
    value = reader.value()
    if value is _NOTHING:
        raise reader.error("there is no value", reader.at)
    begin = reader.next()
    if reader.value() is not _NOTHING:
        raise reader.error("there is a second value; one was expected", begin)
    if reader.at < len(text):
        raise reader.error(f"{text[reader.at]!r} closes nothing", reader.at)
    return value  # type: ignore[return-value]


class _Nothing:
    """No value where one might have been: the end of a collection or of the text."""


_NOTHING: Final = _Nothing()


class _Reader:
    """A place in a text, and what can be read from there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._depth = 0

    def error(self, what: str, at: int) -> InvalidRequest:
        """An error that names a place."""
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        return InvalidRequest(f"not EDN at line {line}, column {column}: {what}")

    def next(self) -> int:
        """Move past blanks, comments and discarded values; returns where that led."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if not self.text.startswith("#_", self.at):
                return self.at
            begin = self.at
            self.at += 2
            if self.value() is _NOTHING:
                raise self.error("#_ discards the value behind it, and there is none", begin)

    def value(self) -> "Value | _Nothing":
        """Read one value; nothing if a collection or the text ends here."""
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
            raise self.error("tagged values are not read here", begin)
        return self._atom(begin)

    def _collection(self, opening: str, begin: int) -> Value:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self.error(f"more than {_DEEPEST} collections are nested", begin)
        self.at = begin + len(opening)
        items: list[Value] = []
        places: list[int] = []
        while True:
            place = self.next()
            item = self.value()
            if isinstance(item, _Nothing):
                break
            items.append(item)
            places.append(place)
        closing = _CLOSING[opening]
        if self.at == len(self.text):
            raise self.error(f"{opening!r} is never closed", begin)
        if self.text[self.at] != closing:
            raise self.error(f"{closing!r} was expected, to close what was opened before", self.at)
        self.at += 1
        self._depth -= 1
        if opening in "([":
            return items
        if opening == "{" and len(items) % 2:
            raise self.error("a key of this map has no value", begin)
        keys, key_places = (items[::2], places[::2]) if opening == "{" else (items, places)
        self._require_different(keys, key_places)
        return dict(zip(keys, items[1::2], strict=True)) if opening == "{" else frozenset(items)

    def _require_different(self, keys: list[Value], places: list[int]) -> None:
        seen: set[tuple[type, Value]] = set()
        for key, place in zip(keys, places, strict=True):
            if isinstance(key, list | dict):
                raise self.error("a collection cannot be a key here, nor a member of a set", place)
            if (type(key), key) in seen:
                raise self.error(f"{key!r} stands here a second time", place)
            seen.add((type(key), key))

    def _string(self, begin: int) -> str:
        text = self.text
        parts: list[str] = []
        at = begin + 1
        while at < len(text):
            sign = text[at]
            if sign == '"':
                self.at = at + 1
                return "".join(parts)
            if sign != "\\":
                parts.append(sign)
                at += 1
                continue
            follows = text[at + 1 : at + 2]
            if follows == "u":
                parts.append(self._code(text[at + 2 : at + 6], at))
                at += 6
            elif follows in _ESCAPES:
                parts.append(_ESCAPES[follows])
                at += 2
            else:
                raise self.error(f"\\{follows} stands for nothing in a string", at)
        raise self.error("this string is never closed", begin)

    def _atom(self, begin: int) -> Value:
        if self.text[begin] == "\\":
            return self._character(begin)
        found = _ATOM.match(self.text, begin)
        word = found.group() if found else self.text[begin]
        self.at = begin + len(word)
        if word in _NAMED:
            return _NAMED[word]
        if word[0] == ":":
            if len(word) == 1 or word.startswith("::") or word[-1] in ":/":
                raise self.error(f"{word!r} is no keyword", begin)
            return Keyword(word)
        if _SYMBOL.match(word):
            return Symbol(word)
        read_number = _number_reader(word)
        if read_number is None:
            raise self.error(f"{word!r} is neither a keyword nor a symbol nor a number", begin)
        return read_number(word.rstrip("NM"))

    def _character(self, begin: int) -> str:
        # What follows the backslash is taken even if it would end another word: \, \( and the like.
        found = _ATOM.match(self.text, begin + 2)
        word = self.text[begin + 1 : begin + 2] + (found.group() if found else "")
        self.at = begin + 1 + len(word)
        if len(word) == 1 and not word.isspace():
            return word
        if word in _CHARACTERS:
            return _CHARACTERS[word]
        if word.startswith("u"):
            return self._code(word[1:], begin)
        raise self.error(f"\\{word} is no character", begin)

    def _code(self, digits: str, at: int) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            raise self.error("\\u wants four hexadecimal digits", at)
        return chr(int(digits, 16))


def _number_reader(word: str) -> Callable[[str], int | float] | None:
    if _INTEGER.match(word):
        return int
    return float if _FLOAT.match(word) else None
