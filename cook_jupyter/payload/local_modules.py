"""Local modules on a host: a job imports them as they are on disk when it starts.

Lives here: importing local modules from their source, recording the files and directories that determined
what was imported, and detecting whether any of them has changed since.
Not here: which files are local (`payload.installations`); starting a fresh process (`worker.runner`).

A warm process keeps the modules that it has imported. When a local file changes, everything that imported it
would have to change, too: modules that copied a name, classes registered elsewhere, compiled extensions.
Those cannot be listed, so one change makes all local modules stale: the worker continues in a fresh
interpreter, or, where that is impossible, imports all local modules again.

An import is determined by the content of the imported files and by the names in the directories on the search
path (a new file can shadow a module, or be one that was missing before). Installed packages count as a whole,
so that an upgraded package is not used in its old version. Files are compared by their status, and by content
if the status is inconclusive: an edit within two seconds of the previous one may leave size and times
unchanged. Python's cache of compiled modules has exactly that flaw, so local modules are compiled from
source, and no compiled files are read or written beside them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from cook_jupyter.payload.installations import OWN_PACKAGE, is_installed

Place = tuple[str, ...]  # current directory of a notebook and its entries of sys.path
Status = tuple[int, ...]

_SETTLED_NS = 2_000_000_000  # an older status can be trusted: file times have a resolution of up to 2 seconds
_MAX_PARKED_PLACES = 8
_SUFFIXES = tuple(importlib.machinery.all_suffixes())


def is_importable(name: str) -> bool:
    """Return whether a process with the same search path imports a loaded module from the same file.

    Never true for a module with the name of one in the standard library, which may be loaded there already.
    """
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and _still_means(top, sys.modules.get(top))


class LocalModules:
    """The local modules of this process, and the files and directories that determined their import.

    While a job runs, this object is the first entry of `sys.meta_path`.

    Args:
        package_folders: directories of installed packages. Installing, removing or replacing a package there
            makes the modules stale, too.
    """

    def __init__(self, package_folders: Sequence[str] = ()) -> None:
        self._installed = [_PackageFolder(path) for path in package_folders]
        self._names: set[str] = set()  # local modules, in sys.modules or parked
        self._files: dict[str, _File] = {}
        self._folders: dict[str, _Folder] = {}
        self._place: Place = ("",)
        self._parked: dict[Place, dict[str, ModuleType]] = {}
        self._last_module = ""
        self._is_stale = False  # remains true until the modules are forgotten, because a change is seen once
        self._is_checked = False

    # --- what changed -----------------------------------------------------------------------------

    def is_stale(self) -> bool:
        """Return whether importing again might give other modules than those in this process.

        If not, the next job starts without a second check, which costs a system call per file and directory.
        """
        watched: list[_File | _Folder] = [*self._files.values(), *self._folders.values(), *self._installed]
        self._is_stale = self._is_stale or any(entry.has_changed() for entry in watched)
        self._is_checked = not self._is_stale
        return self._is_stale

    def forget(self) -> None:
        """Remove all local modules, so that they are imported again."""
        for name in self._names:
            sys.modules.pop(name, None)
        for path in self._folders:
            _refresh_finder(path)
        self._is_stale = False
        self._names.clear()
        self._files.clear()
        self._folders.clear()
        self._parked.clear()

    # --- jobs -------------------------------------------------------------------------------------

    def begin_job(self, place: Place) -> None:
        """Prepare for the imports of a job whose search path and current directory are set.

        Args:
            place: current directory and search path of the job's notebook. Modules that would be another file
                there are set aside until the next job of their own notebook.
        """
        if not self._is_checked and self.is_stale():
            self.forget()
        self._is_checked = False
        if place != self._place:
            self._move_to(place)
        sys.meta_path.insert(0, self)
        self._last_module = next(reversed(sys.modules))

    def end_job(self) -> None:
        """Leave `sys.meta_path`, and record modules that were imported without this object."""
        with contextlib.suppress(ValueError):  # the job has removed it
            sys.meta_path.remove(self)
        if next(reversed(sys.modules)) == self._last_module:  # entries are in the order of their import
            return
        for name in reversed(list(sys.modules)):
            if name == self._last_module:
                break
            file = getattr(sys.modules[name], "__file__", None)
            if name not in self._names and isinstance(file, str) and _is_local(name, file):
                self._names.add(name)
                self._files.setdefault(file, _File(file, _file_status(file), None))

    # --- the import system's protocol -------------------------------------------------------------

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module with the other finders, and record what its import depends on."""
        for folder in sys.path if path is None else path:
            self._watch(folder, name.rpartition(".")[2])
        spec = _find_with([finder for finder in sys.meta_path if finder is not self], name, path, target)
        if spec is None:
            return None
        if spec.origin is None or not spec.has_location:
            if spec.submodule_search_locations and not all(
                map(is_installed, spec.submodule_search_locations)
            ):
                self._names.add(name)  # a namespace package
        elif _is_local(name, spec.origin):
            self._names.add(name)
            if type(spec.loader) is SourceFileLoader:
                spec.loader = _SourceLoader(name, spec.origin, self._remember)
            else:
                self._files[spec.origin] = _File(spec.origin, _file_status(spec.origin), None)
        return spec

    def _remember(self, path: str, status: Status | None, content: bytes) -> None:
        self._files[path] = _File(path, status, content)

    def _watch(self, path: str, name: str) -> None:
        if not path:  # the current directory, which is not the notebook's if that does not exist here
            path = self._place[0]
        folder = self._folders.get(path)
        if folder is None:
            if not path.startswith("/") or path.endswith(".zip") or is_installed(path):
                return
            folder = self._folders[path] = _Folder(path)
            _refresh_finder(path)
        folder.names.add(name)

    # --- several notebooks ------------------------------------------------------------------------

    def _move_to(self, place: Place) -> None:
        differs: dict[str, bool] = {}
        parked: dict[str, ModuleType] = {}
        for name in self._names:
            module = sys.modules.get(name)
            if module is None:
                continue
            top = name.partition(".")[0]
            if top not in differs:
                differs[top] = not _still_means(top, sys.modules.get(top))
            if differs[top]:
                parked[name] = module
        for name in parked:
            del sys.modules[name]
        self._parked[self._place] = parked
        for name, module in self._parked.pop(place, {}).items():
            sys.modules.setdefault(name, module)
        if len(self._parked) > _MAX_PARKED_PLACES:
            del self._parked[next(iter(self._parked))]
        self._place = place


class _SourceLoader(SourceFileLoader):
    """Compiles a module from source, never from a cache, and reports what was compiled."""

    def __init__(self, name: str, path: str, remember: Callable[[str, Status | None, bytes], None]) -> None:
        super().__init__(name, path)
        self._remember = remember

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module's present source."""
        path = self.get_filename(fullname)
        status = _file_status(path)  # before reading, so that the next job notices an edit in between
        content = self.get_data(path)
        self._remember(path, status, content)
        code: CodeType | None = self.source_to_code(content, path)
        return code


class _File:
    """An imported file."""

    __slots__ = ("_content", "_path", "_settled", "_status")

    def __init__(self, path: str, status: Status | None, content: bytes | None) -> None:
        self._path = path
        self._status = status
        self._content = content  # None if unknown: then only the status is compared
        self._settled = status is not None and _is_settled(status)

    def has_changed(self) -> bool:
        status = _file_status(self._path)
        if status is not None and status == self._status and self._settled:
            return False
        if status is None or self._status is None:
            return True
        if self._content is None:
            return status != self._status
        try:
            changed = Path(self._path).read_bytes() != self._content
        except OSError:
            return True
        self._status, self._settled = status, _is_settled(status)
        return changed


class _Folder:
    """A directory on the search path, and the names that were looked up in it."""

    __slots__ = ("_entries", "_path", "_settled", "_status", "names")

    def __init__(self, path: str) -> None:
        self._path = path
        self.names = {"__init__"}
        self._read()

    def _is_relevant(self, entry: str) -> bool:
        return entry.partition(".")[0] in self.names

    @staticmethod
    def _may_be_module(entry: str) -> bool:
        return "." not in entry or entry.endswith(_SUFFIXES)

    def has_changed(self) -> bool:
        if self._settled and _file_status(self._path) == self._status:
            return False
        old_entries = self._entries
        self._read()
        _refresh_finder(self._path)
        return any(map(self._is_relevant, old_entries ^ self._entries))

    def _read(self) -> None:
        self._status = _file_status(self._path)
        self._settled = self._status is None or _is_settled(self._status)
        try:
            entries = os.listdir(self._path)  # noqa: PTH208 - only names are needed
        except OSError:
            entries = []
        self._entries = set(filter(self._may_be_module, entries))


class _PackageFolder(_Folder):
    """A directory of installed packages, each of which has an entry with its name and version."""

    __slots__ = ()

    def _is_relevant(self, entry: str) -> bool:
        return True

    @staticmethod
    def _may_be_module(entry: str) -> bool:
        return entry.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))


def _file_status(path: str) -> Status | None:
    """Return a value that changes with a file or directory; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 - before each call
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _is_settled(status: Status) -> bool:
    return time.time_ns() - max(status[:2]) > _SETTLED_NS


def _is_local(name: str, file: str) -> bool:
    return name.partition(".")[0] != OWN_PACKAGE and not is_installed(file)


def _still_means(name: str, module: ModuleType | None) -> bool:
    """Return whether importing a top-level module would find the loaded one."""
    finders = [finder for finder in sys.meta_path if not isinstance(finder, LocalModules)]
    spec = _find_with(finders, name, None, None)
    if spec is None or module is None:
        return False
    if spec.has_location:
        return spec.origin == getattr(module, "__file__", None)
    return list(spec.submodule_search_locations or ()) == list(getattr(module, "__path__", ()))


def _find_with(
    finders: Sequence[Any], name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in finders:
        if hasattr(finder, "find_spec"):
            spec: ModuleSpec | None = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
    return None


def _refresh_finder(path: str) -> None:
    """Make Python list a directory again, because it relies on the directory's time, which is too coarse."""
    finder: Any = sys.path_importer_cache.get(path)
    if finder is not None and hasattr(finder, "invalidate_caches"):
        finder.invalidate_caches()
