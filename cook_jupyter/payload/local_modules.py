"""Local modules on a host: a job imports them as they are on disk when it starts.

Lives here: importing local modules from their source, remembering which files and folders decided what was
imported, and telling whether any of them has changed since.
Not here: which files are local (`payload.installations`); starting a fresh process (`worker.runner`).

A warm process keeps what it has imported. When one local file has changed, everything that imported it would
have to change too: modules that copied a name, classes registered elsewhere, compiled extensions. Nobody can
list those, so one change makes all local modules stale: a worker goes on in a fresh interpreter, and where
that is impossible all local modules are imported anew.

What decides an import: the content of the files that were imported, and which names the folders on the search
path offer (a new file can shadow a module, or be the one that was missing). What is installed counts as a
whole: a package that was upgraded would otherwise go on in its old version. Files are compared by their
status, and by their content if the status says nothing certain: an edit within two seconds of the last one
may leave size and times as they were. Python's own cache of compiled modules has that very flaw, so local
modules are compiled from their source, and no compiled file is read or written beside them.
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

Place = tuple[str, ...]  # the current folder of a notebook and its part of sys.path
Status = tuple[int, ...]

_SETTLED_NS = 2_000_000_000  # a status that is older can be trusted: file times have ticks of up to 2 seconds
_MAX_PARKED_PLACES = 8
_SUFFIXES = tuple(importlib.machinery.all_suffixes())


def is_importable(name: str) -> bool:
    """Return whether a process with the same search path imports a loaded module from the same file.

    It may have a module of the standard library's name loaded already, so none of those counts.
    """
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and _still_means(top, sys.modules.get(top))


class LocalModules:
    """The local modules of this process, and what decided their import.

    While a job runs this object is the first entry of `sys.meta_path`.

    Args:
        package_folders: folders with installed packages; a package that is installed, removed or replaced by
            another version is a change, too.
    """

    def __init__(self, package_folders: Sequence[str] = ()) -> None:
        self._installed = [_PackageFolder(path) for path in package_folders]
        self._names: set[str] = set()  # of local modules, in sys.modules or parked
        self._files: dict[str, _File] = {}
        self._folders: dict[str, _Folder] = {}
        self._place: Place = ("",)
        self._parked: dict[Place, dict[str, ModuleType]] = {}
        self._last_module = ""
        self._is_stale = False  # stays until all is forgotten: a change is noticed once
        self._is_checked = False

    # --- what changed -----------------------------------------------------------------------------

    def is_stale(self) -> bool:
        """Return whether importing again could give other modules than those that this process holds.

        If not, the next job begins without looking again: a look costs a system call per file and folder.
        """
        watched: list[_File | _Folder] = [*self._files.values(), *self._folders.values(), *self._installed]
        self._is_stale = self._is_stale or any(one.has_changed() for one in watched)
        self._is_checked = not self._is_stale
        return self._is_stale

    def forget(self) -> None:
        """Have all local modules imported anew."""
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
        """Prepare for the imports of a job; its search path and current folder are set.

        Args:
            place: where the notebook is. A module that means another file there is put aside until a job of
                its own notebook comes.
        """
        if not self._is_checked and self.is_stale():
            self.forget()
        self._is_checked = False
        if place != self._place:
            self._move_to(place)
        sys.meta_path.insert(0, self)
        self._last_module = next(reversed(sys.modules))

    def end_job(self) -> None:
        """Leave `sys.meta_path`, and take note of modules that were imported around this object."""
        with contextlib.suppress(ValueError):  # the job removed it
            sys.meta_path.remove(self)
        if next(reversed(sys.modules)) == self._last_module:  # it keeps the order of its entries
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
        """Find a module as the other finders do, and remember what a local one depends on."""
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
        if not path:  # the current folder: a job without its notebook's folder runs in one of its own
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
        meant_elsewhere: dict[str, bool] = {}
        parked: dict[str, ModuleType] = {}
        for name in self._names:
            module = sys.modules.get(name)
            if module is None:
                continue
            top = name.partition(".")[0]
            if top not in meant_elsewhere:
                meant_elsewhere[top] = not _still_means(top, sys.modules.get(top))
            if meant_elsewhere[top]:
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
    """Compiles a module from its source, never from a cache, and reports what was compiled."""

    def __init__(self, name: str, path: str, remember: Callable[[str, Status | None, bytes], None]) -> None:
        super().__init__(name, path)
        self._remember = remember

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module's source as it is now."""
        path = self.get_filename(fullname)
        status = _file_status(path)  # before reading: an edit in between is noticed by the next job
        content = self.get_data(path)
        self._remember(path, status, content)
        code: CodeType | None = self.source_to_code(content, path)
        return code


class _File:
    """A file that was imported."""

    __slots__ = ("_content", "_path", "_settled", "_status")

    def __init__(self, path: str, status: Status | None, content: bytes | None) -> None:
        self._path = path
        self._status = status
        self._content = content  # None if it is not known: then its status decides
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
    """A folder on the search path, and the names that were looked for in it."""

    __slots__ = ("_offers", "_path", "_settled", "_status", "names")

    def __init__(self, path: str) -> None:
        self._path = path
        self.names = {"__init__"}
        self._read()

    def _matters(self, entry: str) -> bool:
        return entry.partition(".")[0] in self.names

    @staticmethod
    def _is_offer(entry: str) -> bool:
        return "." not in entry or entry.endswith(_SUFFIXES)

    def has_changed(self) -> bool:
        if self._settled and _file_status(self._path) == self._status:
            return False
        before = self._offers
        self._read()
        _refresh_finder(self._path)
        return any(map(self._matters, before ^ self._offers))

    def _read(self) -> None:
        self._status = _file_status(self._path)
        self._settled = self._status is None or _is_settled(self._status)
        try:
            entries = os.listdir(self._path)  # noqa: PTH208 - names are all that is needed
        except OSError:
            entries = []
        self._offers = set(filter(self._is_offer, entries))


class _PackageFolder(_Folder):
    """A folder with installed packages, each of which leaves its name and version there."""

    __slots__ = ()

    def _matters(self, entry: str) -> bool:
        return True

    @staticmethod
    def _is_offer(entry: str) -> bool:
        return entry.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))


def _file_status(path: str) -> Status | None:
    """Return what changes when a file or a folder does; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - before each call
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


def _is_settled(status: Status) -> bool:
    return time.time_ns() - max(status[:2]) > _SETTLED_NS


def _is_local(name: str, file: str) -> bool:
    return name.partition(".")[0] != OWN_PACKAGE and not is_installed(file)


def _still_means(name: str, module: ModuleType | None) -> bool:
    """Return whether importing a top-level module would find the one that is loaded."""
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
    """Have Python list a folder anew: it tells by the folder's time, which has ticks, whether it must."""
    finder: Any = sys.path_importer_cache.get(path)
    if finder is not None and hasattr(finder, "invalidate_caches"):
        finder.invalidate_caches()
