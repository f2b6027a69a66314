"""Installed packages in a warm worker: functions and classes of theirs that a job replaced are put back.

Lives here: `Packages`, the namespaces of the modules of installed packages and of their best-known classes.
Not here: the standard library and the worker's own code (`worker.namespaces`), settings of packages
(`worker.process_settings`), modules of users (`payload.local_modules`).

A package changes its own namespaces as it works: caches, counters, parts that it imports late. So only code
is looked at: a function or class under a public name that is another object than after the import, and code
of a job under a new name. What packages do while one is imported belongs to them.

Each namespace costs each call some 20 ns, and the packages of a notebook have thousands of classes. So only
public modules are watched, and the public classes of those near the top of their package. Where Python does
not number the changes of dictionaries nothing is watched.
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

MAX_WATCHED = 800  # namespaces; 20 microseconds for each call. NumPy and pandas have 400, matplotlib 600
_MAX_DOTS = 1  # in the name of a module whose classes are watched: pandas.DataFrame, scipy.stats.norm_gen


class RestoredPackages(NamedTuple):
    """What a call had replaced in packages.

    Attributes:
        restored: full names of what was put back.
        doubtful: those of them that were replaced before a package was imported, which may have seen that.
    """

    restored: list[str]
    doubtful: list[str]


class Packages:
    """The code of the installed packages that this process has imported."""

    def __init__(self) -> None:
        self._versions = NamespaceVersions()
        self._seen: set[int] = set()
        self._executed: list[tuple[str, ModuleType]] = []
        self._replaced_before: list[int] = []  # places of namespaces that differed when an import began

    def executed(self, name: str, module: ModuleType) -> None:
        """Take note of a new module of an installed package; it is looked at when the import has ended."""
        if HAS_VERSIONS:
            self._executed.append((name, module))

    def begin_import(self) -> None:
        """Note what was changed before an import."""
        self._replaced_before += self._versions.changed()

    def end_import(self) -> None:
        """Accept what an import changed, and watch what it added."""
        for place in self._versions.changed():
            if place not in self._replaced_before:
                self._versions.namespaces[place].accept()
        public = [(name, module) for name, module in self._executed if not _is_private(name)]
        self._executed.clear()
        for name, module in public:
            self._watch(PackageNamespace(name, vars(module), module))
        for name, module in public:
            if name.count(".") <= _MAX_DOTS:
                self._watch_classes(name, module)
        self._versions.accept()

    def restore(self) -> RestoredPackages:
        """Put back what differs."""
        replaced_before, self._replaced_before = self._replaced_before, []
        restored, doubtful = Patches(), Patches()
        changed = self._versions.changed()
        if not changed and not replaced_before:
            return RestoredPackages([], [])
        for place in {*changed, *replaced_before}:
            patches = doubtful if place in replaced_before else restored
            self._versions.namespaces[place].restore(patches)
        self._versions.accept()
        names = [*doubtful.code, *doubtful.state]
        return RestoredPackages([*restored.code, *restored.state, *names], names)

    def _watch_classes(self, name: str, module: ModuleType) -> None:
        """Watch the classes of its package that a module has under public names."""
        package = name.partition(".")[0]
        for public_name, value in list(vars(module).items()):
            if public_name.startswith("_") or not issubclass(type(value), type):  # see `is_code`
                continue
            if value.__flags__ & HEAP_TYPE and str(value.__module__).partition(".")[0] == package:
                namespace = next(iter(gc.get_referents(value.__dict__)), None)
                if isinstance(namespace, dict):
                    self._watch(PackageNamespace(f"{name}.{public_name}", namespace, value))

    def _watch(self, namespace: "PackageNamespace") -> None:
        if id(namespace.names) in self._seen or len(self._seen) >= MAX_WATCHED:
            return
        self._seen.add(id(namespace.names))
        self._versions.add(namespace)


class PackageNamespace(Namespace):
    """A module or class of an installed package, of which only code is restored."""

    __slots__ = ()

    def is_expected(self, name: str, value: object) -> bool:
        """Return whether the package itself may have given a name this value."""
        if name in NOT_STATE:
            return True
        is_private = name.startswith("_") and not name.endswith("__")
        before = self.original.get(name)
        if before is None or not is_code(before):
            may_be_the_package = is_private or not issubclass(type(self._owner), type)
            return not is_code(value) or (may_be_the_package and not _is_of_job(value))
        return is_private and not _is_of_job(value)

    def is_expected_to_lack(self, name: str) -> bool:
        """Return whether the package itself may have removed a name."""
        return not is_code(self.original[name]) or name.startswith("_")


def _is_private(module: str) -> bool:
    return module.partition(".")[0] == OWN_PACKAGE or module.startswith("_") or "._" in module


def _is_of_job(value: object) -> bool:
    """Return whether code was defined by a job or in a module of its user."""
    name = getattr(value, "__module__", None)
    if not isinstance(name, str):
        return False
    if name == "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return not is_standard(name) and isinstance(file, str) and not is_installed(file)
