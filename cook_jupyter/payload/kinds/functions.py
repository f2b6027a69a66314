"""Functions by value: with one copy of their globals and of each closure's variables.

Lives here: functions of `__main__` and closures, cells, and the names that a function needs from `__main__`.
Not here: when a function is sent by value (`payload.pickling`), the job's `__main__` (`payload.main_module`).
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cloudpickle import cloudpickle as internals

from cook_jupyter.payload import main_module, module_state

Reduced = tuple[Any, ...]

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_empty = types.CellType()


class MainGlobals:
    """Placeholder in a pickle for the globals of `__main__`."""

    def __reduce__(self) -> Reduced:
        """Refer to the globals of the process that reads the pickle."""
        return main_module.namespace, ()


MAIN_GLOBALS = MainGlobals()


def reduce_function(
    function: types.FunctionType, base_globals: Any, *, local_from_disk: bool = False
) -> Reduced:
    """Reduce a function to its parts.

    Args:
        function: the function.
        base_globals: placeholder in the pickle for the globals of the function.
        local_from_disk: whether the reader imports local modules from their files.
    """
    attributes, slots = internals._function_getstate(function)  # noqa: SLF001 - has no other interface
    del slots["__closure__"]
    if parameters := getattr(function, "__type_params__", ()):
        slots["__type_params__"] = parameters
    name = None
    if base_globals is MAIN_GLOBALS:
        name = main_module.name_of(function)
        slots["__globals__"].update(_names_looked_up(function, slots["__globals__"]))
        if local_from_disk and (shared := module_state.shared_objects(slots["__globals__"])):
            slots["shared"] = shared
    args = (function.__code__, base_globals, function.__closure__, name)
    return make_function, args, (attributes, slots), None, None, fill_function


def make_function(
    code: types.CodeType,
    namespace: dict[str, Any],
    closure: tuple[types.CellType, ...] | None,
    main_name: str | None,
) -> types.FunctionType:
    """Create a function, to be filled later.

    Args:
        code: its code.
        namespace: its globals.
        closure: the cells of its free variables.
        main_name: its name in `__main__`, if it can be found there.
    """
    namespace.setdefault("__builtins__", internals.__builtins__)
    function = types.FunctionType(code, namespace, None, None, closure)
    if main_name is not None and "." not in main_name and main_module.is_in_job():
        namespace[main_name] = function
    return function


def fill_function(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Set the globals that a function refers to, and its attributes."""
    fill_function_with(function, state, function.__globals__.update)


def fill_function_with(
    function: types.FunctionType,
    state: tuple[dict[str, Any], dict[str, Any]],
    set_globals: Callable[[Mapping[str, Any]], None],
) -> None:
    """Set the attributes of a function.

    Args:
        function: a function from `make_function`.
        state: its state from `reduce_function`.
        set_globals: callback that sets the globals that the function refers to.
    """
    attributes, slots = state
    function.__dict__.update(attributes)
    set_globals(slots.pop("__globals__"))
    module_state.change_modules(slots.pop("shared", []))
    del slots["_cloudpickle_submodules"]  # unpickling has imported them, which is their only purpose
    for name, value in slots.items():
        setattr(function, name, value)


def reduce_cell(cell: types.CellType) -> Reduced:
    """Reduce the cell of a closure variable, which functions that share it continue to share."""
    try:
        content = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (content,), None, None, fill_cell


def fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    """Set the variable of a closure."""
    cell.cell_contents = state[0]


def names_in_annotations(annotations: Iterable[Any]) -> dict[str, Any]:
    """Return the globals of `__main__` that are mentioned in annotations written as strings."""
    namespace = main_module.namespace()
    identifiers = {
        identifier
        for annotation in annotations
        if isinstance(annotation, str)
        for identifier in _IDENTIFIER.findall(annotation)
    }
    return {
        identifier: namespace[identifier] for identifier in sorted(identifiers) if identifier in namespace
    }


def _names_looked_up(function: types.FunctionType, found_globals: Mapping[str, Any]) -> dict[str, Any]:
    """Return globals of `__main__` that a function uses through annotations or the module itself."""
    names = names_in_annotations(function.__annotations__.values()) if function.__annotations__ else {}
    code = function.__code__
    main = sys.modules[main_module.MAIN]
    if main_module.MAIN in code.co_names or any(value is main for value in found_globals.values()):
        namespace = main_module.namespace()
        names.update({name: namespace[name] for name in code.co_names if name in namespace})
    return names
