"""A settings file in TOML: its tables, the line of each key, and their conversion to typed values.

Lives here: `TomlFile` and `convert_tables`. Not here: which settings exist (`service.settings.schema`), old
names of settings (`service.settings.loading`).
"""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from cook_jupyter.errors import InvalidRequest

_NOUNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "str": "text",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "array": "a list",
        "object": "a table",
    }
)
"""Name of a type in messages of msgspec -> the words for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlFile:
    """The contents of a TOML file.

    Attributes:
        path: path of the file.
        values: tables and keys of the top level.
        lines: name of each key, such as `rebalancer.min_dru_diff` or `pools[1].name` -> its line number.
    """

    path: Path
    values: dict[str, Any]
    lines: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> "TomlFile":
        """Read a file.

        Raises:
            InvalidRequest: the file cannot be read, or is not TOML.
        """
        try:
            text = path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidRequest(f"the settings file {path} cannot be read: {error}") from error
        return cls(path=path, values=values, lines=dict(_key_lines(text)))

    def line_of(self, name: str) -> int | None:
        """Return the line of a key, or of the innermost table or array that contains it, if it is known."""
        while name not in self.lines:
            outer = name.rpartition("[")[0] if name.endswith("]") else name.rpartition(".")[0]
            if not outer:
                return None
            name = outer
        return self.lines[name]


def convert_tables(
    file: TomlFile, kind: type, values: Mapping[str, Any], old_names: Mapping[str, str]
) -> dict[str, Any]:
    """Convert the values of a file to the types of the fields of a dataclass.

    Args:
        file: the file, for messages.
        kind: the dataclass.
        values: the values of the file under their present names.
        old_names: old name at the top level -> present name, for messages.

    Raises:
        InvalidRequest: a name is unknown, or a value has the wrong type.
    """
    import msgspec

    _require_known(file, kind, values)
    hints = get_type_hints(kind)
    typed = {}
    for name, value in values.items():
        try:
            typed[name] = _convert(value, hints[name])
        except msgspec.ValidationError as error:
            hint = "".join(
                f" (`{old}` is {present})"
                for old, present in old_names.items()
                if old in file.values and present.startswith(f"{name}.")
            )
            text = _explain(file, kind, name, error)
            raise InvalidRequest(f"the settings file {file.path}: {text}{hint}") from error
    return typed


def _explain(file: TomlFile, kind: type, table: str, error: Exception) -> str:
    """Return the message of an invalid value: its setting, its line, and what is valid there.

    Args:
        file: the file.
        kind: dataclass of all settings.
        table: name of the setting at the top level that contains the value.
        error: error of msgspec, such as "Expected `str`, got `int` - at `$[0].role`".
    """
    text, _, path = str(error).partition(" - at `$")
    name = f"{table}{path.rstrip('`')}"
    line = file.line_of(name)
    place = name if line is None else f"{name} (line {line})"
    types = re.fullmatch("Expected `([^`]+)`, got `([^`]+)`", text)
    if types is not None:
        expected = " or ".join(_NOUNS.get(part, part) for part in types[1].split(" | ") if part != "null")
        return f"{place}: expected {expected}, got {_NOUNS.get(types[2], types[2])}"
    value = re.fullmatch("Invalid enum value (.+)", text)
    if value is not None:
        valid = ", ".join(repr(item) for item in _valid_values(kind, name))
        return f"{place}: {value[1]} is not valid" + (f"; the valid values are {valid}" if valid else "")
    return f"{place}: {text}"


def _valid_values(kind: Any, name: str) -> Sequence[object]:
    """Return the values that a setting may have, if they are listed by its type."""
    for key in re.findall(r"\w+", re.sub(r"\[[^]]*\]", "", name)):
        choices = _choices_in(kind) or (_dataclass_in(kind),)
        hints = [hints[key] for one in choices if one is not None and key in (hints := get_type_hints(one))]
        if not hints:
            return ()
        if key == "type" and len(choices) > 1:
            return tuple(_by_type(choices))
        kind = hints[0]
    options = [kind, *get_args(kind)]  # the type itself, or a part of a union or of a list
    values: list[object] = []
    for option in options:
        if get_origin(option) is Literal:
            values += get_args(option)
        elif isinstance(option, type) and issubclass(option, Enum):
            values += [member.value for member in option]
    return values


def _convert(value: Any, kind: Any) -> Any:
    """Convert a value to a type; an entry of a list of tables of several types by its `type`.

    Raises:
        msgspec.ValidationError: it is not of that type.
    """
    import msgspec

    choices = _choices_in(kind)
    if not choices or not isinstance(value, list):
        return msgspec.convert(value, kind)
    entries = []
    for position, entry in enumerate(value):
        try:
            entries.append(msgspec.convert(entry, _choose(choices, entry)))
        except msgspec.ValidationError as error:
            text, _, path = str(error).partition(" - at `$")
            raise msgspec.ValidationError(f"{text} - at `$[{position}]{path.rstrip('`')}`") from error
    return tuple(entries)


def _choices_in(kind: Any) -> tuple[type, ...]:
    """Return the dataclasses of a type such as `tuple[A | B, ...]`; nothing for other types."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple and get_args(kind) else None
    choices = get_args(inner)
    return choices if choices and all(is_dataclass(one) for one in choices) else ()


def _by_type(choices: Sequence[type]) -> dict[str, type]:
    """Return dataclasses by the default of their field `type`."""
    return {str(field.default): one for one in choices for field in fields(one) if field.name == "type"}


def _choose(choices: Sequence[type], entry: object) -> Any:
    """Return the dataclass whose field `type` is that of a table, by default the first one.

    Raises:
        msgspec.ValidationError: there is none.
    """
    import msgspec

    by_type = _by_type(choices)
    name = entry.get("type") if isinstance(entry, dict) else None
    if name is None:
        return choices[0]
    if name not in by_type:
        raise msgspec.ValidationError(f"Invalid enum value {name!r} - at `$.type`")
    return by_type[name]


def _require_known(file: TomlFile, kind: type, values: Mapping[str, Any]) -> None:
    """Refuse unknown names at every depth; name the nearest valid one, or else all valid ones."""
    unknown = list(_unknown_names(kind, values, ""))
    if not unknown:
        return
    messages = []
    for name, valid in unknown:
        line = file.line_of(name)
        place = "" if line is None else f" (line {line})"
        near = _nearest(name, valid, kind)
        advice = f"; did you mean {near}?" if near else f"; valid settings: {', '.join(sorted(valid))}"
        messages.append(f"unknown setting {name}{place}{advice}")
    raise InvalidRequest(f"the settings file {file.path}: {'. '.join(messages)}")


def _unknown_names(kind: Any, value: object, name: str) -> Iterator[tuple[str, Collection[str]]]:
    """Yield each name that is not a field, with the names that are valid in its place."""
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _unknown_names(kind, item, f"{name}[{position}]")
    elif isinstance(value, dict):
        inner = _dataclass_for(kind, value)
        if inner is None:
            return
        if get_origin(kind) is Mapping:
            for key, item in value.items():
                yield from _unknown_names(inner, item, f"{name}.{key}")
            return
        hints = get_type_hints(inner)
        valid = [field.name for field in fields(inner)]
        for key, item in value.items():
            path = f"{name}.{key}" if name else key
            if key in valid:
                yield from _unknown_names(hints[key], item, path)
            else:
                yield path, valid


def _dataclass_in(kind: Any) -> Any:
    """Return the dataclass that a type is or contains, such as that of `tuple[Pool, ...]`, or None."""
    if is_dataclass(kind):
        return kind
    inner_classes = (_dataclass_in(inner) for inner in get_args(kind))
    return next((inner_class for inner_class in inner_classes if inner_class is not None), None)


def _dataclass_for(kind: Any, table: Mapping[str, Any]) -> Any:
    """Return the dataclass that a table is converted to, or None."""
    choices = _choices_in(kind)
    by_type = _by_type(choices)
    return by_type.get(table.get("type", ""), _dataclass_in(kind))


def _nearest(name: str, valid: Collection[str], kind: type) -> str | None:
    """Return the valid setting that an unknown one was probably meant to be, if there is one."""
    table, _, key = name.rpartition(".")
    near = get_close_matches(key, valid, n=1, cutoff=0.75)
    if near:
        return f"{table}.{near[0]}" if table else near[0]
    places: dict[str, list[str]] = {}  # key -> the settings of that name, in all tables
    hints = get_type_hints(kind)
    for field in fields(kind):
        places.setdefault(field.name, []).append(field.name)
        inner = _dataclass_in(hints[field.name])
        for inner_field in () if inner is None else fields(inner):
            places.setdefault(inner_field.name, []).append(f"{field.name}.{inner_field.name}")
    elsewhere = get_close_matches(key, places, n=1, cutoff=0.75)
    return places[elsewhere[0]][0] if elsewhere and len(places[elsewhere[0]]) == 1 else None


def _key_lines(text: str) -> Iterator[tuple[str, int]]:
    """Yield the full name and the line number of each key and each table of a valid TOML text."""
    lines = text.split("\n")
    table = ""
    lengths: dict[str, int] = {}  # array of tables -> number of entries so far
    number = 0
    while number < len(lines):
        first = number
        number += 1
        line = lines[first].strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            table = _table_name(line, lengths)
            yield table, first + 1
            continue
        while _parse("\n".join(lines[first:number])) is None:
            number += 1  # the value goes on in the next line
        key = ".".join(_only_path(_parse_key(line)))
        yield f"{table}.{key}" if table else key, first + 1


def _table_name(header: str, lengths: dict[str, int]) -> str:
    """Return the name of the table that a header begins, with the positions of entries of arrays."""
    is_entry = header.startswith("[[")
    name = ""
    for key in _only_path(_parse(header) or {}):
        name = f"{name}.{key}" if name else key
        if name in lengths:
            array, name = name, f"{name}[{lengths[name] - 1}]"
    if not is_entry:
        return name
    array = name.rpartition("[")[0] if name.endswith("]") else name
    lengths[array] = lengths.get(array, 0) + 1
    return f"{array}[{lengths[array] - 1}]"


def _parse(text: str) -> dict[str, Any] | None:
    """Return the tables of a TOML text; None if it is not valid."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _parse_key(line: str) -> dict[str, Any] | None:
    """Return the tables of the key at the beginning of a line, which may be dotted and quoted."""
    parts = line.split("=")
    keys = ("=".join(parts[:count]) for count in range(1, len(parts)))
    return next((values for key in keys if (values := _parse(f"{key} = 0")) is not None), None)


def _only_path(values: Any) -> Iterator[str]:
    """Yield the keys of a dotted key or of a header, from the outermost to the innermost."""
    while isinstance(values, list) and len(values) == 1:
        values = values[0]
    if isinstance(values, dict) and len(values) == 1:
        key, inner = next(iter(values.items()))
        yield key
        yield from _only_path(inner)
