"""Installed packages in a warm worker: their functions and classes are restored after a job replaced them.

Lives here: `Packages`, the namespaces of the modules of installed packages and of their main classes.
Not here: the standard library and the worker's own code (`worker.namespaces`), settings of packages
(`worker.process_settings`), modules of users (`payload.local_modules`).

A package changes its own namespaces during normal work: caches, counters, lazily imported parts. So only code
is compared: a function or class under a public name that is not the same object as after the import, and code
of a job under a new name. What packages do during an import belongs to them.

Each namespace costs some 20 ns per call, and the packages of a notebook have thousands of classes. So only
public modules are watched, and the public classes of modules near the top of their package. Where Python does
not count the changes of dictionaries, nothing is watched.
"""

import gc
import sys
from types import ModuleType
from typing import NamedTuple

from cook_jupyter.payload.installations import OWN_PACKAGE, is_installed
from cook_jupyter.worker.namespaces import (
    HAS_VERSIONS,
    HEAP_TYPE,
    NOT_STATE,
    Namespace,
    NamespaceVersions,
    Patches,
    is_code,
    is_standard,
)

MAX_WATCHED = 800  # namespaces, for 20 µs per call; NumPy and pandas together have 400, matplotlib 600
_MAX_DOTS = 1  # in the name of a module whose classes are watched, as in pandas.DataFrame


class RestoredPackages(NamedTuple):
    """Code of packages that a call had replaced.

    Attributes:
        restored: full names of what was restored.
        doubtful: those of them that were replaced before a package was imported, which may have used them.
    """

    restored: list[str]
    doubtful: list[str]


class Packages:
    """The code of the installed packages that this process has imported."""

    def __init__(self) -> None:
        self._versions = NamespaceVersions()
        self._watched_ids: set[int] = set()
        self._new_modules: list[tuple[str, ModuleType]] = []
        self._replaced_before: list[int] = []  # indices of namespaces that differed when an import began

    def on_executed(self, name: str, module: ModuleType) -> None:
        """Record a new module of an installed package, to be watched from the end of the import."""
        if HAS_VERSIONS:
            self._new_modules.append((name, module))

    def begin_import(self) -> None:
        """Record what was changed before an import."""
        self._replaced_before += self._versions.changed()

    def end_import(self) -> None:
        """Accept what an import changed, and watch what it added."""
        for index in self._versions.changed():
            if index not in self._replaced_before:
                self._versions.namespaces[index].accept()
        public = [(name, module) for name, module in self._new_modules if not _is_private(name)]
        self._new_modules.clear()
        for name, module in public:
            self._watch(PackageNamespace(name, vars(module), module))
        for name, module in public:
            if name.count(".") <= _MAX_DOTS:
                self._watch_classes(name, module)
        self._versions.accept()

    def restore(self) -> RestoredPackages:
        """Restore what differs."""
        replaced_before, self._replaced_before = self._replaced_before, []
        restored, doubtful = Patches(), Patches()
        changed = self._versions.changed()
        if not changed and not replaced_before:
            return RestoredPackages([], [])
        for index in {*changed, *replaced_before}:
            patches = doubtful if index in replaced_before else restored
            self._versions.namespaces[index].restore(patches)
        self._versions.accept()
        names = [*doubtful.code, *doubtful.state]
        return RestoredPackages([*restored.code, *restored.state, *names], names)

    def _watch_classes(self, name: str, module: ModuleType) -> None:
        """Watch the classes of its own package that a module has under public names."""
        package = name.partition(".")[0]
        for public_name, value in list(vars(module).items()):
            if public_name.startswith("_") or not issubclass(type(value), type):  # see `is_code`
                continue
            if value.__flags__ & HEAP_TYPE and str(value.__module__).partition(".")[0] == package:
                namespace = next(iter(gc.get_referents(value.__dict__)), None)
                if isinstance(namespace, dict):
                    self._watch(PackageNamespace(f"{name}.{public_name}", namespace, value))

    def _watch(self, namespace: "PackageNamespace") -> None:
        if id(namespace.names) in self._watched_ids or len(self._watched_ids) >= MAX_WATCHED:
            return
        self._watched_ids.add(id(namespace.names))
        self._versions.add(namespace)


class PackageNamespace(Namespace):
    """A module or class of an installed package, of which only code is restored."""

    __slots__ = ()

    def is_expected(self, name: str, value: object) -> bool:
        """Return whether the package itself may have given a name this value."""
        if name in NOT_STATE:
            return True
        is_private = name.startswith("_") and not name.endswith("__")
        original = self.original.get(name)
        if original is None or not is_code(original):
            may_be_of_package = is_private or not issubclass(type(self._owner), type)
            return not is_code(value) or (may_be_of_package and not _is_of_job(value))
        return is_private and not _is_of_job(value)

    def is_expected_to_lack(self, name: str) -> bool:
        """Return whether the package itself may have removed a name."""
        return not is_code(self.original[name]) or name.startswith("_")


def _is_private(module: str) -> bool:
    return module.partition(".")[0] == OWN_PACKAGE or module.startswith("_") or "._" in module


def _is_of_job(value: object) -> bool:
    """Return whether code was defined by a job or in a module of the user."""
    name = getattr(value, "__module__", None)
    if not isinstance(name, str):
        return False
    if name == "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return not is_standard(name) and isinstance(file, str) and not is_installed(file)
