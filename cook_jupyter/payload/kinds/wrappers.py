"""Wrappers by value: those of functools, contextvars, threading and weakref around functions and objects.

Lives here: caches of functions, cached properties, generic functions, context variables, thread-local data,
weak references, memory views.
Not here: locks, files and other objects that belong to one process (`kinds.refused`).
"""

from __future__ import annotations

import contextvars
import functools
import pickle
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

from cook_jupyter.payload import main_module
from cook_jupyter.payload.kinds.classes import publish
from cook_jupyter.payload.kinds.functions import Reduced

# --- functools ----------------------------------------------------------------------------------------------

LRU_CACHE = type(functools.lru_cache(len))
_sample_generic_function: Any = functools.singledispatch(len)
_GENERIC_FUNCTION = _sample_generic_function.__code__  # of every function that singledispatch returns
_SET_BY_SINGLEDISPATCH = frozenset(("register", "dispatch", "registry", "_clear_cache", "__wrapped__"))


def reduce_lru_cache(cached: Any) -> Reduced:
    """Reduce a cached function to its parts, without the content of its cache."""
    settings = cached.cache_parameters()
    args = (cached.__wrapped__, settings["maxsize"], settings["typed"], main_module.name_of(cached))
    attributes = {name: value for name, value in vars(cached).items() if name != "__wrapped__"}
    attributes.pop("cache_parameters", None)
    return make_lru_cache, args, (attributes,), None, None, fill_attributes


def make_lru_cache(
    function: Callable[..., Any], maxsize: int | None, typed: bool, main_name: str | None
) -> Any:
    """Create a cached function with an empty cache.

    Args:
        function: the function to cache.
        maxsize: maximum number of cached results; None means no limit.
        typed: whether 1 and 1.0 are different arguments.
        main_name: name of the cached function in `__main__`, if it can be found there.
    """
    cached = functools.lru_cache(maxsize=maxsize, typed=typed)(function)
    publish(cached, main_name)
    return cached


def fill_attributes(obj: Any, state: tuple[dict[str, Any]]) -> None:
    """Set the attributes of an object in its dictionary."""
    vars(obj).update(state[0])


def reduce_cached_property(prop: functools.cached_property[Any]) -> Reduced:
    """Reduce a cached property to its parts, without the lock that it has in Python 3.11."""
    return make_cached_property, (prop.func,), (prop.attrname, prop.__doc__), None, None, fill_cached_property


def make_cached_property(function: Callable[[Any], Any]) -> functools.cached_property[Any]:
    """Create a cached property that computes its value with a function."""
    return functools.cached_property(function)


def fill_cached_property(prop: functools.cached_property[Any], state: tuple[str | None, str | None]) -> None:
    """Set the name under which a cached property stores its value."""
    prop.attrname, prop.__doc__ = state


def is_generic_function(function: types.FunctionType) -> bool:
    """Return whether a function was created by `functools.singledispatch`."""
    return function.__code__ is _GENERIC_FUNCTION


def reduce_generic_function(function: Any) -> Reduced:
    """Reduce a function of `functools.singledispatch` to its parts."""
    registry = dict(function.registry)
    attributes = {name: value for name, value in vars(function).items() if name not in _SET_BY_SINGLEDISPATCH}
    args = (registry.pop(object), main_module.name_of(function))
    return make_generic_function, args, (attributes, registry), None, None, fill_generic_function


def make_generic_function(default: Callable[..., Any], main_name: str | None) -> Any:
    """Create a generic function with only its default implementation."""
    function = functools.singledispatch(default)
    publish(function, main_name)
    return function


def fill_generic_function(
    function: Any, state: tuple[dict[str, Any], dict[type, Callable[..., Any]]]
) -> None:
    """Register the implementations of a generic function."""
    attributes, registry = state
    vars(function).update(attributes)
    for cls, implementation in registry.items():
        function.register(cls, implementation)


# --- context variables, thread-local data -------------------------------------------------------------------


def reduce_context_variable(variable: contextvars.ContextVar[Any]) -> Reduced:
    """Reduce a context variable to its default, and its value in the current context."""
    default = _value_in(contextvars.Context(), variable)
    value = _value_in(contextvars.copy_context(), variable) if _is_set(variable) else ()
    args = (variable.name, default, _main_name(variable))
    return make_context_variable, args, (value,), None, None, fill_context_variable


def _main_name(variable: contextvars.ContextVar[Any]) -> str | None:
    return variable.name if main_module.namespace().get(variable.name) is variable else None


def _is_set(variable: contextvars.ContextVar[Any]) -> bool:
    return variable in contextvars.copy_context()


def _value_in(context: contextvars.Context, variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (context.run(variable.get),)
    except LookupError:
        return ()


def make_context_variable(
    name: str, default: tuple[Any, ...], main_name: str | None
) -> contextvars.ContextVar[Any]:
    """Create a context variable.

    Args:
        name: its name.
        default: its default; empty if it has none.
        main_name: its name in `__main__`, if it can be found there.
    """
    variable = contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)
    publish(variable, main_name)
    return variable


def fill_context_variable(variable: contextvars.ContextVar[Any], state: tuple[tuple[Any, ...]]) -> None:
    """Set a context variable in the context of the job."""
    for value in state[0]:
        variable.set(value)


def reduce_thread_local(local: threading.local) -> Reduced:
    """Reduce thread-local data to the attributes of this thread, which the job will see."""
    return type(local), (), (dict(vars(local)),), None, None, fill_attributes


# --- weak references ----------------------------------------------------------------------------------------


def reduce_weak_reference(reference: weakref.ref[Any]) -> Reduced:
    """Reduce a weak reference to its target, which will live as long as the job."""
    target = reference()
    if target is None:
        return make_dead_reference, ()
    return make_weak_reference, (target, reference.__callback__)


def make_weak_reference(target: Any, callback: Callable[[Any], Any] | None) -> weakref.ref[Any]:
    """Create a weak reference to an object that lives until the job ends."""
    main_module.keep_until_end(target)
    return weakref.ref(target, callback)


def make_dead_reference() -> weakref.ref[Any]:
    """Create a weak reference to an object that no longer exists."""
    return weakref.ref(_Gone())


class _Gone:
    """Object that is garbage as soon as it is created."""


def reduce_weak_collection(collection: Any) -> Reduced:
    """Reduce a collection of weak references to its content."""
    content = list(collection) if isinstance(collection, weakref.WeakSet) else dict(collection.items())
    return make_weak_collection, (type(collection),), (content,), None, None, fill_weak_collection


def make_weak_collection(kind: type) -> Any:
    """Create an empty collection of weak references."""
    return kind()


def fill_weak_collection(collection: Any, state: tuple[Any]) -> None:
    """Fill a collection of weak references, whose targets live as long as the job."""
    main_module.keep_until_end(state[0])
    collection.update(state[0])


# --- views --------------------------------------------------------------------------------------------------


def reduce_memory(view: memoryview) -> Reduced:
    """Reduce a memory view to a copy of its content."""
    content = view.tobytes() if view.readonly else bytearray(view.tobytes())
    args = (content, view.format, view.shape)
    try:
        make_memory(*args)
    except (TypeError, ValueError) as error:
        raise pickle.PicklingError(f"a memory view of format {view.format!r} cannot be pickled") from error
    return make_memory, args


def make_memory(content: bytes | bytearray, format_: str, shape: tuple[int, ...] | None) -> memoryview:
    """Create a memory view of bytes.

    Args:
        content: the bytes.
        format_: format of the items, as in `struct`.
        shape: lengths of the dimensions.
    """
    view: Any = memoryview(content)
    if format_ != "B" or len(shape or ()) != 1:
        view = view.cast(format_, shape)
    return view  # type: ignore[no-any-return]
