"""Decoding and validation of request bodies: fast for valid ones, with Cook's error tree for invalid ones.

Lives here: `BodyDecoder`, which decodes a body straight into a struct. Only if that fails it validates the
body a second time, element by element, to report each error. The struct is the one description of a body:
the validating functions are built from its types.
Not here: the structs (`wire.jobs`, `wire.limits` ...).

The second validation is more lenient, as Cook is: a struct that extends `AnyCaseStruct` takes its keys in
snake_case, kebab-case and camelCase, and a number without fraction is an integer (`86400000.0`).

Source: the REST specification, sections 1 and 1.1. The words of single errors are those of Prismatic's
schema library, which Cook's clients and tests see.
"""

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.wire.errors import describe

MAX_DEPTH = 32
MAX_FAULTS = 20  # wrong elements told of one list
MISSING = "missing-required-key"
DISALLOWED = "disallowed-key"


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True):
    """A request object: an unknown key is an error."""


class AnyCaseStruct(StrictStruct):
    """A request object whose keys may be written in snake, kebab or camel case."""


class Predicate:
    """The name under which a failed constraint is told: `Meta(extra=named("..."))`."""

    KEY = "predicate"


def named(predicate: str) -> dict[str, str]:
    """Return the `extra` of a msgspec `Meta` that names its predicate."""
    return {Predicate.KEY: predicate}


S = TypeVar("S", bound=msgspec.Struct)
Check = Callable[
    [Any], tuple[Any, Any]
]  # a value -> the value as it should be, and what is wrong (None: nothing)


class BodyDecoder(Generic[S]):
    """Reads request bodies of one shape."""

    def __init__(self, shape: type[S]) -> None:
        self._shape = shape
        self._decode = msgspec.json.Decoder(shape).decode
        self._look = _look_of(inspect.type_info(shape))

    def read(self, body: bytes) -> S:
        """Decode a body.

        Raises:
            InvalidRequest: it is not JSON, too deep, or not of this shape (with the tree).
        """
        try:
            return self._decode(body)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return self.read_value(read_json(body))

    def read_value(self, value: Any) -> S:
        """Take JSON that is decoded already; raises as `read` does."""
        value, wrong = self._look(value)
        if wrong is not None:
            raise InvalidRequest(describe(wrong), tree=wrong)
        try:
            return msgspec.convert(value, self._shape)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from error


def read_json(body: bytes) -> Any:
    """Decode any JSON of at most MAX_DEPTH levels.

    Raises:
        InvalidRequest: it is not JSON, or deeper.
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
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(v for v in each.values() if isinstance(v, dict | list))
            elif isinstance(each, list):
                below.extend(v for v in each if isinstance(v, dict | list))
        if not below:
            return
        level = below
    raise InvalidRequest(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def _look_of(info: inspect.Type, predicate: str | None = None) -> Check:
    """Make the slow look at one type."""
    if isinstance(info, inspect.Metadata):
        return _look_of(info.type, (info.extra or {}).get(Predicate.KEY))
    for kind, make in _MAKERS:
        if isinstance(info, kind):
            return make(info, predicate)
    raise TypeError(f"no look at {info}")


def _look_at_bool(_info: Any, _predicate: str | None) -> Check:
    def look(value: Any) -> tuple[Any, Any]:
        return value, None if isinstance(value, bool) else _not("boolean?", value)

    return look


def _look_at_number(info: Any, predicate: str | None) -> Check:
    whole = isinstance(info, inspect.IntType)
    kind = "integer?" if whole else "number?"
    name = predicate or _bounds_name(info)

    def look(value: Any) -> tuple[Any, Any]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value, _not(kind, value)
        if whole and isinstance(value, float):
            if not value.is_integer():
                return value, _not(kind, value)
            value = int(value)
        return value, None if _within(value, info) else _not(name, value)

    return look


def _look_at_string(info: Any, predicate: str | None) -> Check:
    pattern = None if info.pattern is None else re.compile(info.pattern)
    name = predicate or (f"matches-{info.pattern}" if pattern else "non-empty?")

    def look(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, str):
            return value, _not("string?", value)
        right = (
            (pattern is None or pattern.search(value) is not None)
            and (info.min_length is None or len(value) >= info.min_length)
            and (info.max_length is None or len(value) <= info.max_length)
        )
        return value, None if right else _not(name, value)

    return look


def _look_at_struct(info: Any, _predicate: str | None) -> Check:
    looks = {field.encode_name: _look_of(field.type) for field in info.fields}
    required = [field.encode_name for field in info.fields if field.required]
    any_case = issubclass(info.cls, AnyCaseStruct)

    def look(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, dict):
            return value, _not("map?", value)
        right: dict[str, Any] = {}
        wrong: dict[str, Any] = {}
        for written, each in value.items():
            key = _snake(written) if any_case and written not in looks else written
            look_at = looks.get(key)
            if look_at is None:
                wrong[written] = DISALLOWED
                continue
            right[key], fault = look_at(each)
            if fault is not None:
                wrong[key] = fault
        wrong.update({key: MISSING for key in required if key not in right})
        return right, wrong or None

    return look


def _look_at_list(info: Any, _predicate: str | None) -> Check:
    look_at = _look_of(info.item_type)

    def look(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list):
            return value, _not("sequential?", value)
        if info.max_length is not None and len(value) > info.max_length:
            return value, _not(f"at-most-{info.max_length}-elements", value)
        right: list[Any] = []
        wrong: list[Any] = []
        faults = 0
        for place, each in enumerate(value):
            fine, fault = look_at(each)
            right.append(fine)
            if fault is not None:
                wrong.extend([None] * (place - len(wrong)))
                wrong.append(fault)
                faults += 1
                if faults == MAX_FAULTS:
                    break
        return right, wrong or None

    return look


def _look_at_tuple(info: Any, _predicate: str | None) -> Check:
    looks = [_look_of(each) for each in info.item_types]

    def look(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list):
            return value, _not("sequential?", value)
        if len(value) != len(looks):
            return value, _not(f"has-{len(looks)}-elements", value)
        looked = [look_at(each) for look_at, each in zip(looks, value, strict=True)]
        faults = [fault for _, fault in looked]
        return [fine for fine, _ in looked], None if all(fault is None for fault in faults) else faults

    return look


def _look_at_mapping(info: Any, _predicate: str | None) -> Check:
    look_at_key, look_at = _look_of(info.key_type), _look_of(info.value_type)

    def look(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, dict):
            return value, _not("map?", value)
        right: dict[str, Any] = {}
        wrong: dict[str, Any] = {}
        for key, each in value.items():
            right[key], fault = look_at(each)
            fault = look_at_key(key)[1] or fault
            if fault is not None and len(wrong) < MAX_FAULTS:
                wrong[key] = fault
        return right, wrong or None

    return look


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
    return f"(not ({predicate} {_shown(value)}))"


def _shown(value: Any) -> str:
    """A wrong value as Cook shows it: itself if it is short."""
    if value is None:
        return "nil"
    if isinstance(value, dict):
        return "a-map"
    if isinstance(value, list):
        return "a-list"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"a-{type(value).__name__}"


_MAKERS: tuple[tuple[type, Callable[[Any, str | None], Check]], ...] = (
    (inspect.BoolType, _look_at_bool),
    (inspect.IntType, _look_at_number),
    (inspect.FloatType, _look_at_number),
    (inspect.StrType, _look_at_string),
    (inspect.StructType, _look_at_struct),
    (inspect.ListType, _look_at_list),
    (inspect.TupleType, _look_at_tuple),
    (inspect.DictType, _look_at_mapping),
)
