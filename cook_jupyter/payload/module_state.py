"""State of local modules: what the notebook changed in a module without editing its file.

Lives here: finding such changes before a call is sent, warning of those that do not travel, and making them
in the job's modules until it ends.
Not here: which version of a module a job imports (`payload.local_modules`): that on disk; what the source of
a module says about its names (`payload.module_source`).

A job imports local modules from disk, so a module's constants are what its file assigns. Where the notebook
has set another value (`settings.RATE = 5`), added a name, put a function of its own into a module, or uses a
mutable object that it has imported from one (`from settings import CONFIG`), the job's module gets that for
as long as the job runs. Only modules whose file is as it was when it was imported take part: after an edit
the file decides.
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
_PLAIN_VALUES = frozenset(  # by name: importing them costs each worker some milliseconds
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
    """Stands in a pickle for an object that is read after changes of modules were made.

    Args:
        changes: the changes.
        value: the object.
    """

    def __init__(self, changes: list[Change], value: Any) -> None:
        self._parts = changes, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the changes, then give the object."""
        return change_modules, self._parts


def changes() -> list[Change]:
    """Return the constants and functions of local modules that differ from what their files say."""
    found: list[Change] = []
    for name, module, source in _modules_as_on_disk():
        now = vars(module)
        differing = [
            key for key, value in source.literals.items() if key in now and not _is_same(now[key], value)
        ]
        added = _added(now, source)
        if not source.is_certain:
            if differing or added:
                _warn_of_uncertain(name, now, [*differing, *added])
            continue
        unsendable = [key for key in (*differing, *added) if not _is_plain(now[key])]
        if unsendable:
            _warn_of_unsendable(name, now, [key for key in unsendable if key not in source.own])
            if not all(_is_plain(now[key]) for key in differing):
                differing = []  # the module manages something of this process
        differing += [key for key in added if key not in unsendable]
        differing += [
            key
            for key, value in now.items()
            if isinstance(value, types.FunctionType | type) and value.__module__ == main_module.MAIN
        ]
        if differing and is_importable(name):
            found += [(name, key, now[key]) for key in differing]
    return found


def _added(now: Mapping[str, Any], source: ModuleSource) -> list[str]:
    """Return the public names of a module that its file never binds; code is told from `__module__`."""
    if source.bound is None:
        return []
    return [
        key
        for key in now.keys() - source.bound - _OF_EACH_MODULE
        if key[0] != "_" and not isinstance(now[key], _NOT_VALUES)
    ]


def _warn_of_uncertain(name: str, now: Mapping[str, Any], differing: list[str]) -> None:
    _warn(
        name,
        differing,
        f"{', '.join(f'{name}.{key}' for key in differing[:5])}: the value here is not what the file "
        f"{name}.py says, and jobs see what the file says. Python writes no compiled files here "
        "(PYTHONDONTWRITEBYTECODE, or a folder that cannot be written), so nothing tells whether the module "
        "or its file was changed. Pass the value as an argument, or reload the module if you have edited it.",
    )


def _warn_of_unsendable(name: str, now: Mapping[str, Any], differing: list[str]) -> None:
    stored = frozenset().union(*(source.attributes for _, _, source in _modules_as_on_disk()))
    if differing := [key for key in differing if key not in stored]:  # no local module has set it
        _warn(
            name,
            differing,
            f"{_shown(name, now, differing)}, which does not travel: jobs see what the file {name}.py says. "
            "Pass it as an argument.",
        )


def _shown(name: str, now: Mapping[str, Any], differing: list[str]) -> str:
    kinds = ", ".join(f"{name}.{key} to {type(now[key]).__name__}" for key in differing[:5])
    return f"this process has set {kinds}"


def _warn(name: str, differing: list[str], text: str) -> None:
    """Warn once of the names of a module, where the submission is."""
    noted = (name, *sorted(differing))
    if noted not in _warned_of:
        _warned_of.add(noted)
        warnings.warn(text, stacklevel=_caller_level())


def _caller_level() -> int:
    """Return how far up the first frame outside of this package is, for `warnings.warn` in `_warn`."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - as `warnings` does
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(f"{OWN_PACKAGE}."):
        level, frame = level + 1, frame.f_back
    return level


_warned_of: set[tuple[str, ...]] = set()


def shared_objects(names: Mapping[str, Any]) -> list[Change]:
    """Return the mutable objects among globals of the notebook that are globals of local modules, too.

    Args:
        names: the globals that a function refers to.
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
    """Make changes in the modules of this process until the job ends.

    Args:
        changes: the changes.
        value: what is returned.
    """
    if main_module.is_in_job():
        for module_name, name, new in changes:
            old = vars(importlib.import_module(module_name)).get(name, _MISSING)
            if old is not new:
                _replace(module_name, name, old, new)
    return value


def _replace(module_name: str, name: str, old: Any, new: Any) -> None:
    """Give a global another value until the job ends, also in the modules that have imported it by name."""
    places = [(vars(sys.modules[module_name]), name)]
    if old is not _MISSING and not isinstance(old, _PLAIN):
        places += _globals_that_are(old)
    for namespace, key in places:
        namespace[key] = new

    def restore() -> None:
        again = [(vars(sys.modules[module_name]), name)] if module_name in sys.modules else []
        if not isinstance(new, _PLAIN):
            again += _globals_that_are(new)  # modules that were imported meanwhile, too
        for namespace, key in again:
            if old is _MISSING:
                namespace.pop(key, None)
            else:
                namespace[key] = old

    main_module.at_end_of_job(restore)


def _globals_that_are(value: Any) -> list[tuple[dict[str, Any], str]]:
    return [
        (vars(module), key)
        for _, module in _local_modules()
        for key, found in list(vars(module).items())
        if found is value
    ]


def _is_data(value: Any) -> bool:
    """Return whether a value is an array or a number of numpy, or a table of pandas."""
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
    return kind in _EXACT or repr(left) == repr(right)  # which tells 0.0 from -0.0, and True from 1 in a list


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN or (kind.__module__, kind.__qualname__) in _PLAIN_VALUES or _is_data(value):
        return True
    if kind is dict:
        return all(map(_is_plain, value.keys())) and all(map(_is_plain, value.values()))
    return kind in _PLAIN_CONTAINERS and all(map(_is_plain, value))


# --- modules and their files --------------------------------------------------------------------------------


def _local_modules() -> Iterator[tuple[str, types.ModuleType]]:
    """Yield the local modules that this process has imported from source."""
    for name in _local_names:
        module = sys.modules.get(name)
        if module is not None:
            yield name, module


class _LocalNames:
    """The names of local modules, looked for again when modules were imported."""

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
    """Yield the local modules whose files seem to be as they were imported, and their sources."""
    for name, module in _local_modules():
        source = source_of(module)
        if source is not None:
            yield name, module, source
