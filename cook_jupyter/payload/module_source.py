"""Source analysis of local modules: the names that a file binds, and whether it is what was imported.

Lives here: `ModuleSource`, read once for each version of a file.
Not here: changes that the notebook made to a module (`payload.module_state`).

Python does not keep the source that it imports. A file that is older than this process, or that compiles to
the compiled file beside it, is certainly what was imported. A newer file is uncertain if Python writes no
compiled files.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_PYC_HEADER_BYTES = 16
_MISSING = object()
_DYNAMIC_NAMES = frozenset({"exec", "eval", "globals", "locals", "setattr", "vars", "__dict__"})


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """The names that the file of a module binds.

    Attributes:
        literals: public names that are assigned constants, with their values.
        bound: all names that may be bound as globals; None if unknown (`exec`, `import *`).
        assigned_globals: globals that the module's functions assign.
        attributes: names of attributes that the module assigns on any object (`settings.debug = True`).
        is_certain: whether the file is certainly what was imported.
    """

    literals: Mapping[str, Any]
    bound: frozenset[str] | None
    assigned_globals: frozenset[str]
    attributes: frozenset[str]
    is_certain: bool


def source_of(module: ModuleType) -> ModuleSource | None:
    """Return the names that a module's file binds; None if it is unreadable or was edited since the import.

    Args:
        module: a module that was imported from a source file.
    """
    file = str(module.__file__)
    try:
        status = os.stat(file)  # noqa: PTH116 - called for each submission
    except OSError:
        return None
    version = status.st_mtime_ns, status.st_ctime_ns, status.st_size
    spec = module.__spec__  # another one after a reload
    cached = _sources.get(file)
    if cached is None or cached[0] is not spec:
        is_older = max(version[:2]) < _PROCESS_STARTED_NS
        cached = _sources[file] = spec, version, _read(file, is_older=is_older)
    return cached[2] if cached[1] == version else None  # edited, and not reloaded


_sources: dict[str, tuple[Any, tuple[int, ...], ModuleSource | None]] = {}


def _process_started_ns() -> int:
    """Return a time after the start of this process but before its first local import; 0 if unknown."""
    try:
        status = Path("/proc/self/stat").read_text()
        tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
        ticks = int(status.rpartition(")")[2].split()[19]) + 1  # the clock counts whole ticks
        return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + ticks * tick_ns
    except (OSError, ValueError, IndexError, AttributeError):  # not on Linux
        return 0


_PROCESS_STARTED_NS = _process_started_ns()


def _read(file: str, *, is_older: bool) -> ModuleSource | None:
    """Return the names that a file binds; None if it is not what was imported.

    Args:
        file: path of the file.
        is_older: whether the file is older than the process; otherwise it is compared with its compiled file.
    """
    try:
        source = Path(file).read_bytes()
        tree = ast.parse(source)
        is_certain = is_older
        if not is_older and (imported := _compiled(file)) is not None:
            if compile(source, file, "exec", dont_inherit=True) != imported:
                return None
            is_certain = True
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, NotImplementedError):
        return None
    names = _Names()
    names.visit(tree)
    return ModuleSource(
        literals=_literals(tree),
        bound=None if names.is_dynamic else frozenset(names.bound),
        assigned_globals=frozenset(names.assigned_globals),
        attributes=frozenset(names.attributes),
        is_certain=is_certain,
    )


def _compiled(file: str) -> CodeType | None:
    """Return the content of a module's compiled file; None if it does not exist."""
    try:
        compiled = Path(importlib.util.cache_from_source(file)).read_bytes()
    except FileNotFoundError:
        return None
    code: CodeType = marshal.loads(compiled[_PYC_HEADER_BYTES:])  # noqa: S302 - as the import system does
    return code


def _literals(tree: ast.Module) -> dict[str, Any]:
    """Return the constants that are assigned exactly once to public names."""
    literals: dict[str, Any] = {}
    for statement in tree.body:
        for name, value in _assigned(statement):
            literals[name] = value if name not in literals else _MISSING
    return {name: value for name, value in literals.items() if value is not _MISSING and name[0] != "_"}


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, Any]]:
    """Yield the names that a statement binds, with constants or `_MISSING` for anything else."""
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


class _Names(ast.NodeVisitor):
    """Collects the names that a module may bind, including local ones of functions, which does no harm."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.assigned_globals: set[str] = set()
        self.attributes: set[str] = set()
        self.is_dynamic = False

    def visit_Name(self, node: ast.Name) -> None:
        self._record(node.id, is_bound=not isinstance(node.ctx, ast.Load))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._record(node.attr, is_bound=False)
        if isinstance(node.ctx, ast.Store):
            self.attributes.add(node.attr)
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        self.assigned_globals.update(node.names)
        self.bound.update(node.names)

    def visit_alias(self, node: ast.alias) -> None:
        self._record((node.asname or node.name).partition(".")[0], is_bound=True)
        self.is_dynamic |= node.name == "*"

    def generic_visit(self, node: ast.AST) -> None:
        name = getattr(node, "name", None)  # of functions, classes, handlers and patterns
        if isinstance(name, str):
            self._record(name, is_bound=True)
        super().generic_visit(node)

    def _record(self, name: str, *, is_bound: bool) -> None:
        self.is_dynamic |= name in _DYNAMIC_NAMES
        if is_bound:
            self.bound.add(name)
