"""Changes that the notebook made to local modules without editing their files.

Lives here: finding these changes before a call is sent, warning of those that cannot be sent, and applying
them to the job's modules until it ends.
Not here: which version of a module a job imports (`payload.local_modules`); the names that a module's source
binds (`payload.module_source`).

A job imports local modules from disk, so their constants have the values in the file. If the notebook has
assigned another value (`settings.RATE = 5`), added a name, put one of its functions into a module, or uses a
mutable object imported from one (`from settings import CONFIG`), the job's module has the notebook's object
while the job runs. This applies only to modules whose file is unchanged since the import; after an edit, the
file is used.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from cook_jupyter.payload import main_module
from cook_jupyter.payload.installations import OWN_PACKAGE, is_installed
from cook_jupyter.payload.local_modules import is_importable
from cook_jupyter.payload.module_source import ModuleSource, source_of

Change = tuple[str, str, Any]  # module, name, value

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_EXACT = frozenset((int, bool, str, bytes, type(None)))
_PLAIN_CONTAINERS = (list, tuple, set, frozenset, dict)
_PLAIN_VALUES = frozenset(  # by name, because importing them costs each worker some milliseconds
    (
        ("builtins", "bytearray"),
        ("builtins", "range"),
        ("builtins", "slice"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
        ("uuid", "UUID"),
    )
)
_NOT_STATE = (
    *_PLAIN,
    tuple,
    frozenset,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    type,
)
_NOT_VALUES = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
_OF_EACH_MODULE = vars(types.ModuleType("")).keys() | {"__builtins__", "__cached__", "__file__"}
_MISSING = object()


class Changed:
    """Represents an object in a pickle that is read after changes of modules were applied.

    Args:
        changes: the changes.
        value: the object.
    """

    def __init__(self, changes: list[Change], value: Any) -> None:
        self._parts = changes, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Apply the changes, then return the object."""
        return change_modules, self._parts


def changes() -> list[Change]:
    """Return the constants and functions of local modules that differ from their files."""
    found_changes: list[Change] = []
    for name, module, source in _modules_as_on_disk():
        current = vars(module)
        differing = [
            key
            for key, value in source.literals.items()
            if key in current and not _is_same(current[key], value)
        ]
        added = _added(current, source)
        if not source.is_certain:
            if differing or added:
                _warn_of_uncertain(name, current, [*differing, *added])
            continue
        unsendable = [key for key in (*differing, *added) if not _is_plain(current[key])]
        if unsendable:
            _warn_of_unsendable(
                name, current, [key for key in unsendable if key not in source.assigned_globals]
            )
            if not all(_is_plain(current[key]) for key in differing):
                differing = []  # the module manages a resource of this process
        differing += [key for key in added if key not in unsendable]
        differing += [
            key
            for key, value in current.items()
            if isinstance(value, types.FunctionType | type) and value.__module__ == main_module.MAIN
        ]
        if differing and is_importable(name):
            found_changes += [(name, key, current[key]) for key in differing]
    return found_changes


def _added(current: Mapping[str, Any], source: ModuleSource) -> list[str]:
    """Return the public names of a module that its file never binds; functions and classes do not count."""
    if source.bound is None:
        return []
    return [
        key
        for key in current.keys() - source.bound - _OF_EACH_MODULE
        if key[0] != "_" and not isinstance(current[key], _NOT_VALUES)
    ]


def _warn_of_uncertain(name: str, current: Mapping[str, Any], differing: list[str]) -> None:
    _warn(
        name,
        differing,
        f"{', '.join(f'{name}.{key}' for key in differing[:5])}: the value here is not what the file "
        f"{name}.py says, and jobs see what the file says. Python writes no compiled files here "
        "(PYTHONDONTWRITEBYTECODE, or a read-only directory), so it is unknown whether the module "
        "or its file was changed. Pass the value as an argument, or reload the module if you have edited it.",
    )


def _warn_of_unsendable(name: str, current: Mapping[str, Any], differing: list[str]) -> None:
    assigned = frozenset().union(*(source.attributes for _, _, source in _modules_as_on_disk()))
    if differing := [key for key in differing if key not in assigned]:  # no local module has set it
        _warn(
            name,
            differing,
            f"{_describe(name, current, differing)}, which cannot be sent: jobs use the file {name}.py. "
            "Pass it as an argument.",
        )


def _describe(name: str, current: Mapping[str, Any], differing: list[str]) -> str:
    kinds = ", ".join(f"{name}.{key} to {type(current[key]).__name__}" for key in differing[:5])
    return f"this process has set {kinds}"


def _warn(name: str, differing: list[str], text: str) -> None:
    """Warn of names of a module, once, at the line of the submission."""
    warning = (name, *sorted(differing))
    if warning not in _warned_of:
        _warned_of.add(warning)
        warnings.warn(text, stacklevel=_caller_level())


def _caller_level() -> int:
    """Return the `stacklevel` for `warnings.warn` in `_warn` that shows the caller of cook_jupyter."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - as `warnings` does
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(f"{OWN_PACKAGE}."):
        level, frame = level + 1, frame.f_back
    return level


_warned_of: set[tuple[str, ...]] = set()


def shared_objects(names: Mapping[str, Any]) -> list[Change]:
    """Return the mutable objects among the globals of a notebook function that local modules also have.

    Args:
        names: the globals that the function refers to.
    """
    candidates = {id(value) for value in names.values() if not isinstance(value, _NOT_STATE)}
    if not candidates:
        return []
    return [
        (module_name, key, value)
        for module_name, module, source in _modules_as_on_disk()
        if source.is_certain
        for key, value in vars(module).items()
        if id(value) in candidates and is_importable(module_name)
    ]


def change_modules(changes: list[Change], value: Any = None) -> Any:
    """Apply changes to the modules of this process until the job ends.

    Args:
        changes: the changes.
        value: the value to return.
    """
    if main_module.is_in_job():
        for module_name, name, new in changes:
            old = vars(importlib.import_module(module_name)).get(name, _MISSING)
            if old is not new:
                _replace(module_name, name, old, new)
    return value


def _replace(module_name: str, name: str, old: Any, new: Any) -> None:
    """Give a global another value until the job ends, also in modules that have imported it by name."""
    bindings = [(vars(sys.modules[module_name]), name)]
    if old is not _MISSING and not isinstance(old, _PLAIN):
        bindings += _bindings_of(old)
    for namespace, key in bindings:
        namespace[key] = new

    def restore() -> None:
        current_bindings = [(vars(sys.modules[module_name]), name)] if module_name in sys.modules else []
        if not isinstance(new, _PLAIN):
            current_bindings += _bindings_of(new)  # also in modules that were imported meanwhile
        for namespace, key in current_bindings:
            if old is _MISSING:
                namespace.pop(key, None)
            else:
                namespace[key] = old

    main_module.at_end_of_job(restore)


def _bindings_of(value: Any) -> list[tuple[dict[str, Any], str]]:
    return [
        (vars(module), key)
        for _, module in _local_modules()
        for key, obj in list(vars(module).items())
        if obj is value
    ]


def _is_data(value: Any) -> bool:
    """Return whether a value is a numpy array or scalar, or a pandas table, series or index."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return not value.dtype.hasobject
    pandas: Any = sys.modules.get("pandas")
    return pandas is not None and type(value) in (
        getattr(pandas, "DataFrame", None),
        getattr(pandas, "Series", None),
        getattr(pandas, "Index", None),
    )


def _is_same(left: Any, right: Any) -> bool:
    kind = type(left)
    if kind is not type(right) or left != right:
        return False
    return kind in _EXACT or repr(left) == repr(
        right
    )  # repr distinguishes 0.0 from -0.0, and [True] from [1]


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN or (kind.__module__, kind.__qualname__) in _PLAIN_VALUES or _is_data(value):
        return True
    if kind is dict:
        return all(map(_is_plain, value.keys())) and all(map(_is_plain, value.values()))
    return kind in _PLAIN_CONTAINERS and all(map(_is_plain, value))


# --- modules and their files --------------------------------------------------------------------------------


def _local_modules() -> Iterator[tuple[str, types.ModuleType]]:
    """Yield the local modules that this process imported from source."""
    for name in _local_names:
        module = sys.modules.get(name)
        if module is not None:
            yield name, module


class _LocalNames:
    """The names of local modules, cached until more modules are imported."""

    def __init__(self) -> None:
        self._modules = 0
        self._names: list[str] = []

    def __iter__(self) -> Iterator[str]:
        if self._modules != len(sys.modules):
            self._modules = len(sys.modules)
            self._names = [
                name
                for name, module in list(sys.modules.items())
                if name.partition(".")[0] not in _FOREIGN
                and _is_local_file(getattr(module, "__file__", None))
            ]
        return iter(self._names)


_local_names = _LocalNames()
_FOREIGN = main_module.NAMES | {"cook_jupyter"}


def _is_local_file(file: Any) -> bool:
    return isinstance(file, str) and file.endswith(".py") and not is_installed(file)


def _modules_as_on_disk() -> Iterator[tuple[str, types.ModuleType, ModuleSource]]:
    """Yield the local modules whose files are apparently unchanged since the import, with their sources."""
    for name, module in _local_modules():
        source = source_of(module)
        if source is not None:
            yield name, module, source
