"""Exceptions by value: class, attributes, notes and chain, whatever the arguments of their `__init__`.

Lives here: reducing one exception, and rebuilding it without calling its class.
Not here: chains with their tracebacks (`payload.exception_data`).

`pickle` calls the class with `args`, which fails for a class whose `__init__` takes other arguments. Here an
exception is created by the `__new__` of its built-in base class, and its state is set attribute by attribute.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

from cook_jupyter.payload.kinds.functions import Reduced

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
_NOT_STATE = frozenset(("args", "obj", "exceptions", "message", "with_traceback"))


def reduce_exception(error: BaseException) -> Reduced:
    """Reduce an exception to its parts."""
    links = (error.__cause__, error.__context__, error.__suppress_context__)
    state = (error.args, dict(vars(error)), dict(native_state(error)), links)
    return make_exception, (type(error), *group_arguments(error)), state, None, None, fill_exception


def has_own_reduction(cls: type[BaseException]) -> bool:
    """Return whether a class defines how its exceptions are pickled."""
    return any(
        name in vars(parent)
        for parent in cls.__mro__
        if parent.__flags__ & _HEAP_TYPE
        for name in ("__reduce__", "__reduce_ex__", "__setstate__")
    )


def group_arguments(error: BaseException) -> tuple[Any, ...]:
    """Return the arguments for `__new__` of the built-in base class: message and exceptions of a group."""
    return (error.message, list(error.exceptions)) if isinstance(error, BaseExceptionGroup) else ()


def native_state(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an exception outside its dictionary: `errno`, `code`, `name`, slots."""
    for parent in type(error).__mro__:
        for name, descriptor in vars(parent).items():
            if (
                not isinstance(descriptor, types.MemberDescriptorType | types.GetSetDescriptorType)
                or name in _NOT_STATE
                or name.startswith("__")
            ):
                continue
            try:
                value = descriptor.__get__(error)
            except AttributeError:  # not set
                continue
            if value is not None:
                yield name, value


def make_exception(cls: type[BaseException], *arguments: Any) -> BaseException:
    """Create an exception without calling its class.

    Args:
        cls: class of the exception.
        arguments: arguments from `group_arguments`.
    """
    base: Any = cls
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__  # not in the order of `__mro__`: only the `__new__` of this base is allowed
    error: BaseException = base.__new__(cls, *arguments)
    return error


def fill_exception(error: BaseException, state: tuple[Any, ...]) -> None:
    """Set the state of an exception."""
    args, attributes, native, (cause, context, suppress) = state
    object.__setattr__(error, "args", args)
    vars(error).update(attributes)
    for name, value in native.items():
        with contextlib.suppress(AttributeError, TypeError):  # attribute of another version of Python
            object.__setattr__(error, name, value)
    set_links(error, cause, context, suppress=suppress)


def set_links(
    error: BaseException, cause: BaseException | None, context: BaseException | None, *, suppress: bool
) -> None:
    """Set the chain of an exception, even if its class prevents setting attributes.

    Args:
        error: the exception.
        cause: its `__cause__`.
        context: its `__context__`.
        suppress: its `__suppress_context__`.
    """
    object.__setattr__(error, "__cause__", cause)
    object.__setattr__(error, "__context__", context)
    object.__setattr__(error, "__suppress_context__", suppress)
