"""Namespaces of the standard library and of the worker's own code, restored after a job has patched them.

Lives here: copies of the namespaces of standard modules and their classes, and of the packages that every
call depends on (this one and cloudpickle), made when the worker is new or when a module is imported; finding
and undoing differences; observing the imports of a job.
Not here: all other state of the process (`worker.process_state`), modules of users (`payload.local_modules`).

A worker has several hundred namespaces, and comparing all their names after each call would take a third of a
millisecond. CPython up to 3.13 counts the changes of each dictionary (PEP 509), so comparing one number per
namespace finds those to examine. Where Python has no such numbers, all names are compared.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from cook_jupyter.payload.installations import OWN_PACKAGE

# Names that Python itself adds or replaces while a program runs.
NOT_STATE = frozenset(
    {
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__warningregistry__",
    }
)
_STREAMS = frozenset({"stdout", "stderr"})  # of sys: `worker.process_state` sets them
_UNWATCHED = frozenset({"encodings", "errno", "opcode", "stat", "token", "zipimport"})
# Python's own machinery: half of all classes, and none that programs patch.
_CLASSES_UNWATCHED = frozenset(
    {"_ast", "_collections_abc", "_weakrefset", "abc", "ast", "collections", "contextlib", "ctypes"}
    | {"dis", "enum", "functools", "importlib", "inspect", "re", "tokenize", "types", "typing", "weakref"}
)
# Every call depends on their code. Their variables change during normal work, and are not restored.
_RUNTIME_PACKAGES = frozenset({OWN_PACKAGE, "cloudpickle"})
# Their variables change with each call, and comparing them would take 0.1 ms each time.
_CHANGED_BY_EACH_CALL = frozenset(
    {f"{OWN_PACKAGE}.payload.{name}" for name in ("main_module", "running_call")}
)
HEAP_TYPE = 1 << 9  # the flag of classes that can be changed
_VERSION_OFFSET = 3 * ctypes.sizeof(ctypes.c_void_p)  # ob_refcnt, ob_type, ma_used, ma_version_tag
_MISSING = object()
_BUILTINS: dict[str, Any] = vars(sys.modules["builtins"])
_ORIGINAL_BUILTINS = dict(_BUILTINS)


def restore_builtins() -> bool:
    """Restore the builtins, on which everything else depends; return whether anything differed."""
    if not _builtins_probe.may_have_changed():
        return False
    try:
        differs = _BUILTINS != _ORIGINAL_BUILTINS
    except:  # noqa: E722 - a value that cannot be compared; even the names of exceptions may be patched
        differs = True
    if not differs:
        _builtins_probe.accept()
        return False
    _BUILTINS.update(_ORIGINAL_BUILTINS)  # before any builtin function is called
    for name in set(_BUILTINS) - set(_ORIGINAL_BUILTINS):
        del _BUILTINS[name]
    _builtins_probe.accept()
    return True


class ChangeProbe:
    """Detects whether a dictionary may have changed since `accept`; without versions, always."""

    __slots__ = ("_last", "_version")

    def __init__(self, names: dict[str, Any]) -> None:
        self._version = _version_cell(names)
        self._last: int | None = None

    def may_have_changed(self) -> bool:
        """Return whether the dictionary may have changed since the last `accept`."""
        return not HAS_VERSIONS or self._version.value != self._last

    def accept(self) -> None:
        """Make the present state the one to compare with."""
        self._last = self._version.value


class StandardLibrary:
    """The namespaces of all imported standard modules, and of the code that runs calls."""

    def __init__(self) -> None:
        self._versions = NamespaceVersions()
        self._namespaces_by_id: dict[int, Namespace] = {}
        for name, module in list(sys.modules.items()):
            if is_watched(name) and isinstance(module, ModuleType):
                self.record_module(name, module)

    def record_module(self, name: str, module: ModuleType) -> None:
        """Record the present state of a module as the one to restore.

        Args:
            name: its name in `sys.modules`.
            module: a module for which `is_watched` is true.
        """
        top = name.partition(".")[0]
        code_only = top in _RUNTIME_PACKAGES
        if name in ("__main__", "builtins") or top in _UNWATCHED or name in _CHANGED_BY_EACH_CALL:
            return
        self._add(Namespace(name, vars(module), module, code_only=code_only))
        if top in _CLASSES_UNWATCHED:
            return
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__flags__ & HEAP_TYPE and value.__module__ == name:
                namespace = next(iter(gc.get_referents(value.__dict__)), None)
                if isinstance(namespace, dict):
                    full_name = f"{name}.{value.__qualname__}"
                    self._add(Namespace(full_name, namespace, value, code_only=code_only))

    def restore(self) -> Patches:
        """Undo all changes since the namespaces were recorded."""
        patches = Patches()
        changed = self._versions.changed()
        if changed:
            for index in changed:
                self._versions.namespaces[index].restore(patches)
            self._versions.accept()
        return patches

    def _add(self, namespace: Namespace) -> None:
        existing = self._namespaces_by_id.get(id(namespace.names))
        if existing is not None:  # a module that was reloaded
            existing.original = namespace.original
            return
        self._namespaces_by_id[id(namespace.names)] = namespace
        self._versions.add(namespace)


class NamespaceVersions:
    """Namespaces and their versions.

    Attributes:
        namespaces: the namespaces, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.namespaces: list[Namespace] = []
        self._cells: list[ctypes.c_uint64] = []
        self._accepted = b""

    def add(self, namespace: Namespace) -> None:
        """Add a namespace, whose present state is the one to compare with."""
        cell = _version_cell(namespace.names)
        self.namespaces.append(namespace)
        self._cells.append(cell)
        self._accepted += bytes(cell)

    def changed(self) -> list[int]:
        """Return the indices of namespaces that may have changed since they were accepted or added."""
        versions = b"".join(self._cells)  # in a fifth of the time of reading the numbers one by one
        if not HAS_VERSIONS:
            return list(range(len(self._cells)))
        if versions == self._accepted:
            return []
        pairs = zip(_numbers(versions), _numbers(self._accepted), strict=True)
        return [index for index, (version, accepted) in enumerate(pairs) if version != accepted]

    def accept(self) -> None:
        """Make the present state of all namespaces the one to compare with."""
        self._accepted = b"".join(self._cells)


class Patches:
    """What was restored in namespaces.

    Attributes:
        state: full names of variables that differed.
        code: full names of functions and classes that differed.
    """

    def __init__(self) -> None:
        self.state: list[str] = []
        self.code: list[str] = []


class Namespace:
    """The names of one module or class, and their original values.

    Args:
        name: full name of the module or class.
        names: its namespace itself.
        owner: the module or class.
        code_only: whether only functions, classes, modules and descriptors are restored.
    """

    __slots__ = ("_code_only", "_name", "_owner", "names", "original")

    def __init__(
        self, name: str, names: dict[str, Any], owner: ModuleType | type, *, code_only: bool = False
    ) -> None:
        self._code_only = code_only
        self._name = name
        self._owner = owner
        self.names = names
        self.original = dict(names)

    def restore(self, patches: Patches) -> None:
        """Restore every value that differs, and remove added names."""
        original = self.original
        with contextlib.suppress(Exception):  # a value that cannot be compared is not the original one
            if self.names == original:  # compares identities first, without a call
                return
        for name, value in list(self.names.items()):
            original_value = original.get(name, _MISSING)
            if original_value is not value and not self.is_expected(name, value):
                self._record(patches, name, value if original_value is _MISSING else original_value)
                self._set(name, original_value)
        for name in original.keys() - self.names.keys():
            if not self.is_expected_to_lack(name):
                self._record(patches, name, original[name])
                self._set(name, original[name])

    def accept(self) -> None:
        """Make the present values the original ones."""
        self.original = dict(self.names)

    def is_expected_to_lack(self, name: str) -> bool:
        """Return whether the removal of a name is normal while a program runs."""
        return name in NOT_STATE or (self._code_only and not is_code(self.original[name]))

    def is_expected(self, name: str, value: object) -> bool:
        """Return whether this value of a name is normal while a program runs."""
        if name in NOT_STATE:
            return True
        if self._code_only:
            return not is_code(self.original.get(name))
        if self._name == "sys" and name in _STREAMS:
            return True
        if isinstance(value, ModuleType):
            return sys.modules.get(f"{self._name}.{name}") is value
        if name in self.original:
            return False
        # Attributes that a package of the standard library imports from its submodules on first use.
        return str(getattr(value, "__module__", "")).startswith(f"{self._name}.") or self._creates(name)

    def _creates(self, name: str) -> bool:
        """Return whether the module creates an attribute when it is first read (PEP 562), as `typing`."""
        create = self.original.get("__getattr__")
        if not isinstance(self._owner, ModuleType) or not callable(create):
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the attribute may be deprecated
                create(name)
        except Exception:  # noqa: BLE001 - an AttributeError, or whatever a module that is not loaded whole raises
            return False
        return True

    def _record(self, patches: Patches, name: str, value: object) -> None:
        full_name = f"{self._name}.{name}"
        (patches.code if callable(value) else patches.state).append(full_name)

    def _set(self, name: str, value: object) -> None:
        if isinstance(self._owner, type):
            if value is _MISSING:
                type.__delattr__(self._owner, name)
            else:
                type.__setattr__(self._owner, name, value)
        elif value is _MISSING:
            del self.names[name]
        else:
            self.names[name] = value


class ImportObserver:
    """A finder in `sys.meta_path` that finds nothing itself, and reports each import.

    Whatever a module does to the process during its import remains as long as it is loaded: another job that
    imports it finds it loaded, so nothing is done again. Therefore the callbacks run before and after an
    import, and make what an installed package did part of the state to restore.

    Args:
        is_installed: predicate for files of installed packages.
        before: callback before the outermost import of a standard or installed module.
        after: callback after it.
        executed: callback with name and module for each such module that is new.
    """

    def __init__(
        self,
        is_installed: Callable[[str], bool],
        before: Callable[[], None],
        after: Callable[[], None],
        executed: Callable[[str, ModuleType], None],
    ) -> None:
        self.imported = 0  # number of imports of installed modules
        self._is_installed = is_installed
        self._before = before
        self._after = after
        self._executed = executed
        self._depth = 0
        self._is_searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module with the other finders, with a loader that reports its execution."""
        if self._is_searching:
            return None
        standard = is_standard(name)
        spec = self._find(name, path, target)
        loader: Any = None if spec is None else spec.loader
        if spec is None or loader is None or not hasattr(loader, "exec_module"):
            return spec
        if not standard and not (spec.origin and self._is_installed(spec.origin)):
            return spec
        if isinstance(loader, type):  # loader of built-in and frozen modules
            observed: Any = _Loader(loader, self)
            spec.loader = observed
        else:
            execute = loader.exec_module
            loader.exec_module = lambda module: self.execute(execute, module, loader)
        return spec

    def execute(self, execute: Callable[[ModuleType], None], module: ModuleType, loader: Any) -> None:
        """Execute a module.

        Args:
            execute: method of the loader.
            module: the new module.
            loader: loader that the module should name.
        """
        if not isinstance(loader, type):
            del loader.exec_module
        elif module.__spec__ is not None:
            original: Any = loader
            module.__spec__.loader = module.__loader__ = original
        name = module.__name__
        self.imported += not is_standard(name)
        if self._depth == 0:
            self._before()
        self._depth += 1
        try:
            execute(module)
            self._executed(name, module)
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._after()

    def _find(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        self._is_searching = True
        try:
            for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
                spec: ModuleSpec | None = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        finally:
            self._is_searching = False
        return None


class _Loader:
    """Observed loader of a built-in module."""

    def __init__(self, loader: Any, observer: ImportObserver) -> None:
        self._loader = loader
        self._observer = observer

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._observer.execute(self._loader.exec_module, module, self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def is_watched(name: str) -> bool:
    """Return whether a worker restores the module with this name after a call."""
    return is_standard(name) or name.partition(".")[0] in _RUNTIME_PACKAGES


def is_code(value: object) -> bool:
    """Return whether a value is a function, a class, a module or a descriptor.

    Only its type is examined, because a placeholder for a lazily imported module imports it when asked for
    its class.
    """
    kind = type(value)
    return callable(value) or issubclass(kind, ModuleType) or hasattr(kind, "__get__")


def is_standard(name: str) -> bool:
    """Return whether a module with this name belongs to the standard library."""
    return name.partition(".")[0] in sys.stdlib_module_names


def _version_cell(names: dict[str, Any]) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(id(names) + _VERSION_OFFSET)


def _numbers(versions: bytes) -> list[int]:
    return memoryview(versions).cast("Q").tolist()


def _has_versions() -> bool:
    """Return whether this Python counts the changes of a dictionary where CPython 3.11 does."""
    if sys.implementation.name != "cpython":
        return False
    probe: dict[str, int] = {}
    version = _version_cell(probe)
    versions = [version.value, version.value]
    for change in (lambda: probe.update(a=1), lambda: probe.update(a=2), lambda: probe.pop("a")):
        change()
        versions.append(version.value)
    return versions[0] == versions[1] and versions[1:] == sorted(set(versions[1:]))


HAS_VERSIONS = _has_versions()
_builtins_probe = ChangeProbe(_BUILTINS)
_builtins_probe.accept()
