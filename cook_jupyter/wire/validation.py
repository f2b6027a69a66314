"""Decoding and validation of request bodies: fast for valid ones, with Cook's error tree for invalid ones.

Lives here: `BodyDecoder`, which decodes a body straight into a struct. Only if that fails, it validates the
body a second time, element by element, to report each error. The struct is the only description of a body:
the validating functions are built from its types.
Not here: the structs (`wire.jobs`, `wire.limits` ...).

The second validation is more lenient, like Cook: a struct that extends `AnyCaseStruct` accepts its keys in
snake_case, kebab-case and camelCase, and a number without a fraction is an integer (`86400000.0`).

Source: the REST specification, sections 1 and 1.1. The texts of single errors are those of Prismatic's schema
library, which Cook's clients and tests see.
"""

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.wire.errors import format_error_tree

MAX_DEPTH = 32
MAX_FAULTS = 20  # reported invalid elements of one list
MISSING = "missing-required-key"
DISALLOWED = "disallowed-key"


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True):
    """A request object in which an unknown key is an error."""


class AnyCaseStruct(StrictStruct):
    """A request object whose keys may be in snake, kebab or camel case."""


class Predicate:
    """Key for the name of a constraint in error texts: `Meta(extra=named("..."))`."""

    KEY = "predicate"


def named(predicate: str) -> dict[str, str]:
    """Return the `extra` of a msgspec `Meta` with the name of its predicate."""
    return {Predicate.KEY: predicate}


S = TypeVar("S", bound=msgspec.Struct)
# From a value to the converted value, and what is wrong with it (None: nothing).
Check = Callable[[Any], tuple[Any, Any]]


class BodyDecoder(Generic[S]):
    """Decodes and validates request bodies of one type."""

    def __init__(self, shape: type[S]) -> None:
        self._shape = shape
        self._decode = msgspec.json.Decoder(shape).decode
        self._check = _check_of(inspect.type_info(shape))

    def read(self, body: bytes) -> S:
        """Decode a body.

        Raises:
            InvalidRequest: the body is not JSON, too deep, or invalid (with the error tree).
        """
        try:
            return self._decode(body)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return self.read_value(read_json(body))

    def read_value(self, value: Any) -> S:
        """Convert decoded JSON; raises what `read` does."""
        value, errors = self._check(value)
        if errors is not None:
            raise InvalidRequest(format_error_tree(errors), tree=errors)
        try:
            return msgspec.convert(value, self._shape)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from error


def read_json(body: bytes) -> Any:
    """Decode any JSON of at most MAX_DEPTH levels.

    Raises:
        InvalidRequest: it is not JSON, or nested too deeply.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequest(f"the JSON is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidRequest(f"the body cannot be read as JSON: {error}") from error
    _require_shallow(value)
    return value


def to_json(value: Any) -> bytes:
    """Encode a struct or plain values as compact UTF-8 JSON."""
    return msgspec.json.encode(value)


def _require_shallow(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                children.extend(v for v in item if isinstance(v, dict | list))
        if not children:
            return
        level = children
    raise InvalidRequest(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def _check_of(info: inspect.Type, predicate: str | None = None) -> Check:
    """Build the validating function of a type."""
    if isinstance(info, inspect.Metadata):
        return _check_of(info.type, (info.extra or {}).get(Predicate.KEY))
    for kind, make in _MAKERS:
        if isinstance(info, kind):
            return make(info, predicate)
    raise TypeError(f"no check for {info}")


def _check_bool(_info: Any, _predicate: str | None) -> Check:
    def check(value: Any) -> tuple[Any, Any]:
        return value, None if isinstance(value, bool) else _not("boolean?", value)

    return check


def _check_number(info: Any, predicate: str | None) -> Check:
    is_integer = isinstance(info, inspect.IntType)
    kind = "integer?" if is_integer else "number?"
    name = predicate or _bounds_name(info)

    def check(value: Any) -> tuple[Any, Any]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value, _not(kind, value)
        if is_integer and isinstance(value, float):
            if not value.is_integer():
                return value, _not(kind, value)
            value = int(value)
        return value, None if _within(value, info) else _not(name, value)

    return check


def _check_string(info: Any, predicate: str | None) -> Check:
    pattern = None if info.pattern is None else re.compile(info.pattern)
    name = predicate or (f"matches-{info.pattern}" if pattern else "non-empty?")

    def check(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, str):
            return value, _not("string?", value)
        is_valid = (
            (pattern is None or pattern.search(value) is not None)
            and (info.min_length is None or len(value) >= info.min_length)
            and (info.max_length is None or len(value) <= info.max_length)
        )
        return value, None if is_valid else _not(name, value)

    return check


def _check_struct(info: Any, _predicate: str | None) -> Check:
    checks = {field.encode_name: _check_of(field.type) for field in info.fields}
    required = [field.encode_name for field in info.fields if field.required]
    any_case = issubclass(info.cls, AnyCaseStruct)

    def check(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, dict):
            return value, _not("map?", value)
        converted: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for sent_key, item in value.items():
            key = _snake(sent_key) if any_case and sent_key not in checks else sent_key
            check_item = checks.get(key)
            if check_item is None:
                errors[sent_key] = DISALLOWED
                continue
            converted[key], fault = check_item(item)
            if fault is not None:
                errors[key] = fault
        errors.update({key: MISSING for key in required if key not in converted})
        return converted, errors or None

    return check


def _check_list(info: Any, _predicate: str | None) -> Check:
    check_item = _check_of(info.item_type)

    def check(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list):
            return value, _not("sequential?", value)
        if info.max_length is not None and len(value) > info.max_length:
            return value, _not(f"at-most-{info.max_length}-elements", value)
        converted: list[Any] = []
        errors: list[Any] = []
        faults = 0
        for index, item in enumerate(value):
            item_converted, fault = check_item(item)
            converted.append(item_converted)
            if fault is not None:
                errors.extend([None] * (index - len(errors)))
                errors.append(fault)
                faults += 1
                if faults == MAX_FAULTS:
                    break
        return converted, errors or None

    return check


def _check_tuple(info: Any, _predicate: str | None) -> Check:
    checks = [_check_of(item) for item in info.item_types]

    def check(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list):
            return value, _not("sequential?", value)
        if len(value) != len(checks):
            return value, _not(f"has-{len(checks)}-elements", value)
        results = [check_item(item) for check_item, item in zip(checks, value, strict=True)]
        faults = [fault for _, fault in results]
        return [item_converted for item_converted, _ in results], None if all(
            fault is None for fault in faults
        ) else faults

    return check


def _check_mapping(info: Any, _predicate: str | None) -> Check:
    check_key, check_item = _check_of(info.key_type), _check_of(info.value_type)

    def check(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, dict):
            return value, _not("map?", value)
        converted: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for key, item in value.items():
            converted[key], fault = check_item(item)
            fault = check_key(key)[1] or fault
            if fault is not None and len(errors) < MAX_FAULTS:
                errors[key] = fault
        return converted, errors or None

    return check


def _bounds_name(info: Any) -> str:
    low = info.ge if info.ge is not None else info.gt
    high = info.le if info.le is not None else info.lt
    if info.gt == 0:
        return "pos?"
    if low is not None and high is not None:
        return f"between-{low}-and-{high}"
    return f"greater-than-{info.gt}" if info.gt is not None else "non-negative?"


def _within(value: float, info: Any) -> bool:
    return (
        (info.gt is None or value > info.gt)
        and (info.ge is None or value >= info.ge)
        and (info.lt is None or value < info.lt)
        and (info.le is None or value <= info.le)
    )


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).replace("-", "_").lower()


def _not(predicate: str, value: Any) -> str:
    return f"(not ({predicate} {_format_value(value)}))"


def _format_value(value: Any) -> str:
    """Format an invalid value like Cook: the value itself if it is short."""
    if value is None:
        return "nil"
    if isinstance(value, dict):
        return "a-map"
    if isinstance(value, list):
        return "a-list"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"a-{type(value).__name__}"


_MAKERS: tuple[tuple[type, Callable[[Any, str | None], Check]], ...] = (
    (inspect.BoolType, _check_bool),
    (inspect.IntType, _check_number),
    (inspect.FloatType, _check_number),
    (inspect.StrType, _check_string),
    (inspect.StructType, _check_struct),
    (inspect.ListType, _check_list),
    (inspect.TupleType, _check_tuple),
    (inspect.DictType, _check_mapping),
)
