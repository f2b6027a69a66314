"""Frozen dataclasses that are constructed a million times a minute.

Lives here: `fast_init`, a decorator that constructs a frozen dataclass without a call per field;
`fast_constructor`, the constructor for hot paths; `evolve`, which is `dataclasses.replace` for such a class.
Not here: what the values are.

A frozen dataclass sets its fields one by one through `object.__setattr__`, and `replace` looks each up
by name: 6 and 19 µs for the twenty fields of an instance. Here a value is born as one of an open class of the
same slots, filled by plain assignment, and turned into what it is: 2 and 1 µs. Calling the class costs half
a microsecond before its first line runs; calling what `fast_constructor` returns does not.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MAKERS: Final[dict[object, Callable[..., Any]]] = {}
_COPIES: Final[dict[type, Callable[[Any], Any]]] = {}


def fast_init(cls: type[T]) -> type[T]:
    """Make a frozen, slotted, keyword-only dataclass quick to make and to evolve; goes above `@dataclass`."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    born = type(f"_Open{cls.__name__}", (), {"__slots__": tuple(names)})
    scope: dict[str, Any] = {
        "open_up": object.__setattr__,
        "new": object.__new__,
        "born": born,
        "closed": cls,
    }
    asked = ", ".join(_parameter(field, scope) for field in fields(cls))  # type: ignore[arg-type]
    filled = "\n".join(f"    self.{name} = {_value(name, scope)}" for name in names)
    copied = "\n".join(f"    self.{name} = other.{name}" for name in names)
    text = (
        f"def __init__(self, *, {asked}):\n    open_up(self, '__class__', born)\n{filled}\n"
        "    self.__class__ = closed\n"
        f"def make(*, {asked}):\n    self = new(born)\n{filled}\n"
        "    self.__class__ = closed\n    return self\n"
        f"def copy(other):\n    self = new(born)\n{copied}\n    return self\n"
    )
    exec(text, scope)  # noqa: S102 as dataclasses makes its own methods
    scope["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    cls.__init__ = scope["__init__"]  # type: ignore[method-assign]
    scope["make"].__qualname__ = cls.__qualname__
    _MAKERS[cls] = scope["make"]
    _COPIES[cls] = scope["copy"]
    return cls


def fast_constructor(cls: Callable[P, T]) -> Callable[P, T]:
    """Return the fast constructor of a `fast_init` class; it takes the arguments of the class."""
    return _MAKERS[cls]


def evolve(value: T, **changes: object) -> T:
    """Return the value with some fields changed; of a class that is `fast_init`.

    Raises:
        AttributeError: it has no field of that name.
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
        return f"{field.name}=born"  # stands for "not given": nobody can give it by chance
    return field.name


def _value(name: str, scope: dict[str, Any]) -> str:
    factory = f"factory_{name}"
    return f"{factory}() if {name} is born else {name}" if factory in scope else name
