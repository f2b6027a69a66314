"""Objects that `pickle` only refers to by name: sent by value if no host knows that name.

Lives here: NewType, ParamSpec, TypeVarTuple, type aliases, sentinels made by `object()`, and objects whose
own `__reduce__` returns the name of a global of `__main__`.
Not here: functions and classes (`kinds.functions`, `kinds.classes`); TypeVar, which cloudpickle sends.
"""

from __future__ import annotations

import _collections_abc
import builtins
import contextvars
import copyreg
import dataclasses
import os
import pickle
import sys
import threading
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cook_jupyter.payload import main_module
from cook_jupyter.payload.kinds.classes import publish
from cook_jupyter.payload.kinds.functions import Reduced

# --- typing -------------------------------------------------------------------------------------------------


def reduce_new_type(new_type: Any) -> Reduced:
    """Reduce a NewType to its parts."""
    args = (new_type.__qualname__, new_type.__supertype__, new_type.__module__, main_module.name_of(new_type))
    return make_new_type, args


def make_new_type(name: str, supertype: Any, module: str, main_name: str | None) -> Any:
    """Create a NewType.

    Args:
        name: its qualified name.
        supertype: its supertype.
        module: the module that defined it.
        main_name: its name in `__main__`, if it can be found there.
    """
    new_type: Any = typing.NewType(name, supertype)  # type: ignore[misc]
    new_type.__module__ = module
    publish(new_type, main_name)
    return new_type


def reduce_type_parameter(parameter: Any) -> Reduced:
    """Reduce a ParamSpec or a TypeVarTuple to its parts."""
    return make_type_parameter, (type(parameter).__name__, parameter.__name__, parameter.__module__)


def make_type_parameter(kind: str, name: str, module: str) -> Any:
    """Return the type parameter in `__main__`, created if needed.

    Args:
        kind: ParamSpec or TypeVarTuple.
        name: its name.
        module: the module that defined it.
    """
    existing = main_module.namespace().get(name)
    if module == main_module.MAIN and type(existing) is getattr(typing, kind):
        return existing
    parameter = getattr(typing, kind)(name)
    parameter.__module__ = module
    publish(parameter, name if module == main_module.MAIN else None)
    return parameter


def reduce_type_alias(alias: Any) -> Reduced:
    """Reduce an alias made by a `type` statement to its parts."""
    return make_type_alias, (alias.__name__, alias.__value__, alias.__type_params__)


def make_type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Create a type alias.

    Args:
        name: its name.
        value: the type.
        parameters: its type parameters.
    """
    alias = typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined]
    publish(alias, name)
    return alias


# --- classes ------------------------------------------------------------------------------------------------

UNNAMED_BUILTIN_CLASSES: dict[
    type, str
] = {  # `dict_keys`, `list_iterator`: their own module does not have them
    value: name
    for name, value in vars(_collections_abc).items()
    if isinstance(value, type) and value.__module__ == "builtins" and not hasattr(builtins, value.__name__)
}


def builtin_class(name: str) -> type:
    """Return the class of a built-in object that has a name only in the abstract collections."""
    found: type = vars(_collections_abc)[name]
    return found


# --- sentinels ----------------------------------------------------------------------------------------------


def reduce_sentinel(sentinel: object) -> Reduced:
    """Refer to an `object()` by its name in `__main__`."""
    _, name = home_of(sentinel)
    return make_sentinel, (name,)


def make_sentinel(main_name: str) -> object:
    """Return the `object()` with a name in `__main__`, created if needed.

    Args:
        main_name: its name; empty if it has none.
    """
    existing = main_module.namespace().get(main_name)
    if type(existing) is object:
        return existing
    created = object()
    publish(created, main_name or None)
    return created


def home_of(obj: Any) -> tuple[str | None, str]:
    """Return the module and the name under which an object is a global; None and "" if there is none.

    `__main__` is searched last, because objects that it has imported belong to another module.
    """
    module, name = _homes.of(obj)
    if module is not None:
        return module, name
    for name, value in list(main_module.namespace().items()):
        if value is obj:
            return main_module.MAIN, name
    return None, ""


class _Homes:
    """The global names of objects that do not know their own name, updated when modules were imported.

    A module that is registered under another name than its own is skipped, because modules are pickled by
    their own name: `multiprocessing`, for instance, registers `__main__` again as `__mp_main__`.
    """

    KINDS = (object, contextvars.ContextVar, threading.local, type(threading.Lock()), type(threading.RLock()))

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, str]] = {}
        self._modules = 0

    def of(self, obj: Any) -> tuple[str | None, str]:
        if self._modules != len(sys.modules):
            self._read()
        module, name = self._names.get(id(obj), ("", ""))
        is_current = module and getattr(sys.modules.get(module), name, None) is obj
        return (module, name) if is_current else (None, "")

    def _read(self) -> None:
        modules = dict(sys.modules)
        self._modules = len(modules)
        self._names = {
            id(value): (module_name, name)
            for module_name, module in modules.items()
            for name, value in list(_globals_of_importable(module, modules).items())
            if type(value) in self.KINDS
        }


def _globals_of_importable(module: Any, modules: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the globals of a module; none for `__main__` or a module registered under another name."""
    names: Mapping[str, Any] = getattr(module, "__dict__", {})
    own_name = names.get("__name__")
    if own_name == main_module.MAIN or not isinstance(own_name, str) or modules.get(own_name) is not module:
        return {}
    return names


_homes = _Homes()


def reduce_environment(variables: Any) -> Any:
    """Refer to the environment variables of the process that reads the pickle."""
    return (getattr, (os, "environ")) if variables is os.environ else NotImplemented


DATACLASS_SENTINELS: dict[type, str] = {
    type(getattr(dataclasses, name)): name
    for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")
    if hasattr(dataclasses, name)
}


def reduce_dataclass_sentinel(sentinel: Any) -> Reduced:
    """Refer to a sentinel of the module `dataclasses` by name: a copy would be meaningless."""
    return getattr, (dataclasses, DATACLASS_SENTINELS[type(sentinel)])


# --- objects that reduce themselves to a name ---------------------------------------------------------------


def reduces_itself(cls: type) -> bool:
    """Return whether a class defines how its instances are pickled."""
    instances: Any = cls
    return (
        instances.__reduce_ex__ is not object.__reduce_ex__ or instances.__reduce__ is not object.__reduce__
    )


def reduce_by_own_method(obj: Any) -> Any:
    """Reduce an object of `__main__` with its own method; by value if that returns the name of a global."""
    reduced = obj.__reduce_ex__(5)
    if not isinstance(reduced, str) or pickle.whichmodule(obj, reduced) not in main_module.NAMES:  # type: ignore[attr-defined]
        return reduced
    make, args, state = _default_reduction(obj)
    return make_named, (make, args, reduced), (state,), None, None, fill_named


def make_named(make: Callable[..., Any], args: tuple[Any, ...], name: str) -> Any:
    """Create an object that has a name in `__main__`.

    Args:
        make: function that creates the object.
        args: arguments of `make`.
        name: name of the object.
    """
    created = make(*args)
    publish(created, name)
    return created


def fill_named(obj: Any, state: tuple[Any]) -> None:
    """Set the state of an object, as `pickle` does."""
    content = state[0]
    if content is None:
        return
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(content)
        return
    by_dict, by_slot = content if isinstance(content, tuple) else (content, None)
    vars(obj).update(by_dict or {})
    for name, value in (by_slot or {}).items():
        object.__setattr__(obj, name, value)


def _default_reduction(obj: Any) -> tuple[Any, ...]:
    """Return what `object.__reduce_ex__` would for an instance, even if its class overrides that."""
    cls = type(obj)
    slot_names = copyreg._slotnames(cls)  # type: ignore[attr-defined]  # noqa: SLF001 - as copyreg itself
    slots = {name: getattr(obj, name) for name in slot_names if hasattr(obj, name)}
    state = (dict(vars(obj)) if hasattr(obj, "__dict__") else None, slots)
    return copyreg.__newobj__, (cls,), state  # type: ignore[attr-defined]
