"""The standard library and the worker's own code in a warm worker: what a job patched is put back.

Lives here: copies of the namespaces of standard modules and their classes, and of the packages that every
call depends on (this one and cloudpickle), taken when the worker is new or when a module is imported; finding
and undoing what differs from them; which imports a job made.
Not here: all other state of the process (`worker.process_state`), modules of users (`payload.local_modules`).

A worker holds some hundreds of namespaces, and going through all their names after each call would take a
third of a millisecond. CPython up to 3.13 numbers every change of a dictionary (PEP 509), so comparing one
number per namespace finds those to look at. Where Python keeps no such numbers all names are compared.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from cook_jupyter.payload.installations import OWN_PACKAGE

# Python itself adds or replaces these as a program runs.
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
# The machinery of Python itself: half of all classes, and none that programs patch.
_CLASSES_UNWATCHED = frozenset(
    {"_ast", "_collections_abc", "_weakrefset", "abc", "ast", "collections", "contextlib", "ctypes"}
    | {"dis", "enum", "functools", "importlib", "inspect", "re", "tokenize", "types", "typing", "weakref"}
)
# Every call depends on their code. Their variables change as they work, and are let be.
_RUNTIME_PACKAGES = frozenset({OWN_PACKAGE, "cloudpickle"})
# Their variables change with each call, so that comparing them would cost each call 0.1 ms.
_CHANGED_BY_EACH_CALL = frozenset(
    {f"{OWN_PACKAGE}.payload.{name}" for name in ("main_module", "running_call")}
)
HEAP_TYPE = 1 << 9  # the flag of classes that can be changed
_VERSION_OFFSET = 3 * ctypes.sizeof(ctypes.c_void_p)  # ob_refcnt, ob_type, ma_used, ma_version_tag
_MISSING = object()
_BUILTINS: dict[str, Any] = vars(sys.modules["builtins"])
_ORIGINAL_BUILTINS = dict(_BUILTINS)


def restore_builtins() -> bool:
    """Put the builtins back; return whether anything differed. Nothing else works without them."""
    if not _builtins_probe.may_have_changed():
        return False
    try:
        differs = _BUILTINS != _ORIGINAL_BUILTINS
    except:  # noqa: E722 - a value that cannot be compared; the names of exceptions may be patched
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
    """Tells whether a dictionary may have changed since `accept`; always, where Python cannot say."""

    __slots__ = ("_last", "_version")

    def __init__(self, names: dict[str, Any]) -> None:
        self._version = _version_cell(names)
        self._last: int | None = None

    def may_have_changed(self) -> bool:
        """Return whether the dictionary may be another than at the last `accept`."""
        return not HAS_VERSIONS or self._version.value != self._last

    def accept(self) -> None:
        """Compare with the present state from now on."""
        self._last = self._version.value


class StandardLibrary:
    """The namespaces of all standard modules that this process has imported, and of what runs its calls."""

    def __init__(self) -> None:
        self._versions = NamespaceVersions()
        self._seen: dict[int, Namespace] = {}
        for name, module in list(sys.modules.items()):
            if is_watched(name) and isinstance(module, ModuleType):
                self.remember(name, module)

    def remember(self, name: str, module: ModuleType) -> None:
        """Take a module as it is now for the state to restore.

        Args:
            name: its name in `sys.modules`.
            module: a module for which `is_watched` holds.
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
        """Undo all changes since the namespaces were remembered."""
        patches = Patches()
        changed = self._versions.changed()
        if changed:
            for place in changed:
                self._versions.namespaces[place].restore(patches)
            self._versions.accept()
        return patches

    def _add(self, namespace: Namespace) -> None:
        known = self._seen.get(id(namespace.names))
        if known is not None:  # a module that was reloaded
            known.original = namespace.original
            return
        self._seen[id(namespace.names)] = namespace
        self._versions.add(namespace)


class NamespaceVersions:
    """Namespaces, and which of them may have changed.

    Attributes:
        namespaces: the namespaces, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.namespaces: list[Namespace] = []
        self._cells: list[ctypes.c_uint64] = []
        self._accepted = b""

    def add(self, namespace: Namespace) -> None:
        """Compare a namespace with its present state from now on."""
        cell = _version_cell(namespace.names)
        self.namespaces.append(namespace)
        self._cells.append(cell)
        self._accepted += bytes(cell)

    def changed(self) -> list[int]:
        """Return the places of the namespaces that may be others than when they were accepted or added."""
        versions = b"".join(self._cells)  # a fifth of the time of reading the numbers one by one
        if not HAS_VERSIONS:
            return list(range(len(self._cells)))
        if versions == self._accepted:
            return []
        pairs = zip(_numbers(versions), _numbers(self._accepted), strict=True)
        return [place for place, (version, known) in enumerate(pairs) if version != known]

    def accept(self) -> None:
        """Compare with the present state of all from now on."""
        self._accepted = b"".join(self._cells)


class Patches:
    """What was restored in namespaces.

    Attributes:
        state: variables that differed, by their full names.
        code: functions and classes that differed.
    """

    def __init__(self) -> None:
        self.state: list[str] = []
        self.code: list[str] = []


class Namespace:
    """The names of one module or class, and their values when it was new.

    Args:
        name: full name of the module or class.
        names: its namespace itself.
        owner: the module or class.
        code_only: whether only functions, classes, modules and attributes that compute are restored.
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
        """Put every value back that is not the original one, and take away what was added."""
        original = self.original
        with contextlib.suppress(Exception):  # a value that cannot be compared is not the original
            if self.names == original:  # compares identities first, without a call
                return
        for name, value in list(self.names.items()):
            before = original.get(name, _MISSING)
            if before is not value and not self.is_expected(name, value):
                self._note(patches, name, value if before is _MISSING else before)
                self._set(name, before)
        for name in original.keys() - self.names.keys():
            if not self.is_expected_to_lack(name):
                self._note(patches, name, original[name])
                self._set(name, original[name])

    def accept(self) -> None:
        """Take the present values for the ones to restore."""
        self.original = dict(self.names)

    def is_expected_to_lack(self, name: str) -> bool:
        """Return whether a program may have removed a name as it ran."""
        return name in NOT_STATE or (self._code_only and not is_code(self.original[name]))

    def is_expected(self, name: str, value: object) -> bool:
        """Return whether a program may have given a name this value as it ran."""
        if name in NOT_STATE:
            return True
        if self._code_only:
            return not is_code(self.original.get(name))
        if self._name == "sys" and name in _STREAMS:
            return True
        if isinstance(value, ModuleType):
            return sys.modules.get(f"{self._name}.{name}") is value
        # What a package of the standard library looks up in its parts when it is first asked for.
        return name not in self.original and str(getattr(value, "__module__", "")).startswith(
            f"{self._name}."
        )

    def _note(self, patches: Patches, name: str, value: object) -> None:
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
    """A finder in `sys.meta_path` that finds nothing itself, and tells of each import.

    What a module does to the process while it is imported belongs to it for as long as it is loaded: another
    job that imports it finds it loaded, and nothing is done a second time. So the observer is told before and
    after, and makes what an installed package did part of the state to return to.

    Args:
        is_installed: whether a file belongs to an installed package.
        before: called before the outermost import of a standard or installed module.
        after: called after it.
        executed: called with the name of each such module and the module itself when it is new.
    """

    def __init__(
        self,
        is_installed: Callable[[str], bool],
        before: Callable[[], None],
        after: Callable[[], None],
        executed: Callable[[str, ModuleType], None],
    ) -> None:
        self.imported = 0  # how many installed modules were imported so far
        self._is_installed = is_installed
        self._before = before
        self._after = after
        self._executed = executed
        self._depth = 0
        self._looking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with a loader that tells this object when it is done."""
        if self._looking:
            return None
        standard = is_standard(name)
        spec = self._find(name, path, target)
        loader: Any = None if spec is None else spec.loader
        if spec is None or loader is None or not hasattr(loader, "exec_module"):
            return spec
        if not standard and not (spec.origin and self._is_installed(spec.origin)):
            return spec
        if isinstance(loader, type):  # of built-in and frozen modules
            observed: Any = _Loader(loader, self)
            spec.loader = observed
        else:
            execute = loader.exec_module
            loader.exec_module = lambda module: self.execute(execute, module, loader)
        return spec

    def execute(self, execute: Callable[[ModuleType], None], module: ModuleType, loader: Any) -> None:
        """Execute a module.

        Args:
            execute: the loader's own way.
            module: the new module.
            loader: the one that the module is to name.
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
        self._looking = True
        try:
            for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
                spec: ModuleSpec | None = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        finally:
            self._looking = False
        return None


class _Loader:
    """The loader of a built-in module, observed."""

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
    """Return whether a worker restores the module of this name after a call."""
    return is_standard(name) or name.partition(".")[0] in _RUNTIME_PACKAGES


def is_code(value: object) -> bool:
    """Return whether a value is a function, a class, a module or an attribute that computes.

    Only its type is asked: what stands for a module that is imported late imports it, asked for its class.
    """
    kind = type(value)
    return callable(value) or issubclass(kind, ModuleType) or hasattr(kind, "__get__")


def is_standard(name: str) -> bool:
    """Return whether a module of this name belongs to the standard library."""
    return name.partition(".")[0] in sys.stdlib_module_names


def _version_cell(names: dict[str, Any]) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(id(names) + _VERSION_OFFSET)


def _numbers(versions: bytes) -> list[int]:
    return memoryview(versions).cast("Q").tolist()


def _has_versions() -> bool:
    """Find out whether this Python numbers the changes of a dictionary where CPython 3.11 does."""
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
