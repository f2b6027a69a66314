"""State of local modules: what the notebook changed in a module without editing its file.

Lives here: finding such changes before a call is sent, and making them in the job's modules until it ends.
Not here: which version of a module a job imports (`payload.local_modules`): that on disk.

A job imports local modules from disk, so a module's constants are what its file assigns. Where the notebook
has set another value (`settings.RATE = 5`), put a function of its own into a module, or uses a mutable
object that it has imported from one (`from settings import CONFIG`), the job's module gets that for as long
as the job runs. Only modules whose file is as it was when it was imported take part: after an edit the file
decides.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import marshal
import os
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cook_jupyter.payload import main_module
from cook_jupyter.payload.installations import is_installed
from cook_jupyter.payload.local_modules import is_importable

Change = tuple[str, str, Any]  # module, name, value

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_PLAIN_CONTAINERS = (list, tuple, set, frozenset, dict)
_NOT_STATE = (
    *_PLAIN,
    tuple,
    frozenset,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    type,
)
_PYC_HEADER_BYTES = 16
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
    for name, module, literals in _unedited_modules():
        now = vars(module)
        differing = [key for key, value in literals.items() if key in now and not _is_same(now[key], value)]
        if not all(_is_plain(now[key]) for key in differing):
            differing = []  # the module manages something of this process
        differing += [
            key
            for key, value in now.items()
            if isinstance(value, types.FunctionType | type) and value.__module__ == main_module.MAIN
        ]
        if differing and is_importable(name):
            found += [(name, key, now[key]) for key in differing]
    return found


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
        for module_name, module, _ in _unedited_modules()
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


def _is_same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right and repr(left) == repr(right)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
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
_FOREIGN = frozenset((main_module.MAIN, "__mp_main__", "cook_jupyter"))


def _is_local_file(file: Any) -> bool:
    return isinstance(file, str) and file.endswith(".py") and not is_installed(file)


def _unedited_modules() -> Iterator[tuple[str, types.ModuleType, dict[str, Any]]]:
    """Yield the local modules whose files are as they were imported, and the constants in them."""
    for name, module in _local_modules():
        literals = _literals_of(module)
        if literals is not None:
            yield name, module, literals


def _literals_of(module: types.ModuleType) -> dict[str, Any] | None:
    """Return the constants that a module's file assigns; None if it was edited since or cannot be read."""
    file = str(module.__file__)
    try:
        found = os.stat(file)  # noqa: PTH116 - before each call
    except OSError:
        return None
    status = found.st_mtime_ns, found.st_ctime_ns, found.st_size
    spec = module.__spec__  # another one after a reload
    known = _literals.get(file)
    if known is None or known[0] is not spec:
        is_older = max(status[:2]) < _PROCESS_STARTED_NS
        known = _literals[file] = spec, status, _read_literals(file, is_unedited=is_older)
    return known[2] if known[1] == status else None  # edited, and not reloaded


_literals: dict[str, tuple[Any, tuple[int, ...], dict[str, Any] | None]] = {}


def _process_started_ns() -> int:
    """Return a time at which this process had started but not imported a local module; 0 if unknown."""
    try:
        status = Path("/proc/self/stat").read_text()
        tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
        ticks = int(status.rpartition(")")[2].split()[19]) + 1  # the clock counts whole ticks
        return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + ticks * tick_ns
    except (OSError, ValueError, IndexError, AttributeError):  # not on Linux
        return 0


_PROCESS_STARTED_NS = _process_started_ns()


def _read_literals(file: str, *, is_unedited: bool) -> dict[str, Any] | None:
    """Return the constants that a file assigns; None unless it is what was imported.

    Args:
        file: path of the file.
        is_unedited: whether the file is older than the process; else it is held against its compiled file,
            which is missing under `PYTHONDONTWRITEBYTECODE` and in folders that cannot be written.
    """
    try:
        source = Path(file).read_bytes()
        tree = ast.parse(source)
        if not is_unedited:
            compiled = Path(importlib.util.cache_from_source(file)).read_bytes()
            imported = marshal.loads(compiled[_PYC_HEADER_BYTES:])  # noqa: S302 - as the import system does
            if compile(source, file, "exec", dont_inherit=True) != imported:
                return None
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, NotImplementedError):
        return None
    literals: dict[str, Any] = {}
    for statement in tree.body:
        for name, value in _assigned(statement):
            literals[name] = value if name not in literals else _MISSING
    # A name with an underscore is the module's own: a cache, a flag.
    return {name: value for name, value in literals.items() if value is not _MISSING and name[0] != "_"}


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, Any]]:
    """Yield the names that a statement binds to constants; to `_MISSING`, if to something else."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    try:
        value = ast.literal_eval(getattr(statement, "value", None) or ast.Name("unknown"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = _MISSING
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, value
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        yield from (
            (node.id, _MISSING)
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del)
        )
