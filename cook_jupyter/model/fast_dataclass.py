"""Frozen dataclasses that are constructed a million times a minute.

Lives here: `fast_init`, a decorator that constructs a frozen dataclass without a call per field;
`fast_constructor`, the constructor for hot paths; `evolve`, which is `dataclasses.replace` for such a class.
Not here: the values themselves.

A frozen dataclass sets its fields one by one through `object.__setattr__`, and `replace` looks up each of
them by name: 6 and 19 µs for the twenty fields of an instance. Here a value is created as an instance of a
mutable class with the same slots, its fields are assigned, and its class is changed to the frozen one: 2 and
1 µs. Calling the class costs half a microsecond before its first line runs; the function that
`fast_constructor` returns avoids that.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CONSTRUCTORS: Final[dict[object, Callable[..., Any]]] = {}
_COPIES: Final[dict[type, Callable[[Any], Any]]] = {}


def fast_init(cls: type[T]) -> type[T]:
    """Speed up construction of a frozen, slotted, keyword-only dataclass; apply above `@dataclass`."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    open_class = type(f"_Open{cls.__name__}", (), {"__slots__": tuple(names)})
    scope: dict[str, Any] = {
        "open_up": object.__setattr__,
        "new": object.__new__,
        "born": open_class,
        "closed": cls,
    }
    parameters = ", ".join(_parameter(field, scope) for field in fields(cls))  # type: ignore[arg-type]
    assignments = "\n".join(f"    self.{name} = {_value(name, scope)}" for name in names)
    copies = "\n".join(f"    self.{name} = other.{name}" for name in names)
    text = (
        f"def __init__(self, *, {parameters}):\n    open_up(self, '__class__', born)\n{assignments}\n"
        "    self.__class__ = closed\n"
        f"def make(*, {parameters}):\n    self = new(born)\n{assignments}\n"
        "    self.__class__ = closed\n    return self\n"
        f"def copy(other):\n    self = new(born)\n{copies}\n    return self\n"
    )
    exec(text, scope)  # noqa: S102 as `dataclasses` does for its methods
    scope["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    cls.__init__ = scope["__init__"]  # type: ignore[method-assign]
    scope["make"].__qualname__ = cls.__qualname__
    _CONSTRUCTORS[cls] = scope["make"]
    _COPIES[cls] = scope["copy"]
    return cls


def fast_constructor(cls: Callable[P, T]) -> Callable[P, T]:
    """Return the fast constructor of a `fast_init` class; it takes the arguments of the class."""
    return _CONSTRUCTORS[cls]


def evolve(value: T, **changes: object) -> T:
    """Return a copy of a value of a `fast_init` class with some fields changed.

    Raises:
        AttributeError: the value has no field of that name.
    """
    cls = type(value)
    other: Any = _COPIES[cls](value)
    for name, change in changes.items():
        setattr(other, name, change)
    other.__class__ = cls
    return other  # type: ignore[no-any-return]


def _parameter(field: "Field[Any]", scope: dict[str, Any]) -> str:
    if field.default is not MISSING:
        scope[f"default_{field.name}"] = field.default
        return f"{field.name}=default_{field.name}"
    if field.default_factory is not MISSING:
        scope[f"factory_{field.name}"] = field.default_factory
        return f"{field.name}=born"  # a sentinel for "not given"
    return field.name


def _value(name: str, scope: dict[str, Any]) -> str:
    factory = f"factory_{name}"
    return f"{factory}() if {name} is born else {name}" if factory in scope else name
