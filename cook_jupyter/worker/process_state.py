"""The state of a warm worker: entering a call's sandbox, and restoring the process after the call.

Lives here: entering a sandbox, restoring everything that a call changed, and reporting what cannot be
restored.
Not here: the table of settings (`worker.process_settings`), patches of the standard library
(`worker.namespaces`), the consequences for the worker (`worker.runner`).

After each call the process is compared with its original state. Differences are restored if that is certainly
possible; otherwise the worker is retired, and the next call runs in a fresh one. The comparison is part of
every call, so each reading must take microseconds; expensive checks run only in case of doubt.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import faulthandler
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from sys import getprofile, gettrace, setprofile, settrace
from time import tzset
from types import ModuleType
from typing import Any, NamedTuple, TextIO, TypeVar

from cook_jupyter.payload.installations import OWN_PACKAGE, is_installed
from cook_jupyter.worker import processes
from cook_jupyter.worker.environment import base_environment, process_environment
from cook_jupyter.worker.namespaces import (
    ChangeProbe,
    ImportObserver,
    StandardLibrary,
    is_standard,
    is_watched,
    restore_builtins,
)
from cook_jupyter.worker.packages import Packages
from cook_jupyter.worker.process_settings import (
    MODULE_SETTINGS,
    ImportedState,
    Setting,
    interpreter_settings,
    process_settings,
)
from cook_jupyter.worker.sandbox import Sandbox

_T = TypeVar("_T")
_DESCRIPTORS = "/proc/self/fd" if processes.LINUX else "/dev/fd"
_THREAD_START_S = 0.01
# Packages open these once and keep them; closing them would break the package.
_DEVICES = ("/dev/urandom", "/dev/random", "/dev/nvidia", "/dev/dri/", "/dev/kfd", "/dev/infiniband/")


class Residue(NamedTuple):
    """What a call has changed in its worker.

    Attributes:
        restored: names of what was different and has been restored.
        remaining: names of what could not be restored; if any, the worker must be retired.
    """

    restored: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()


class ProcessState:
    """The original state of this process, as far as a call may change it.

    Args:
        home: working directory between calls.

    Attributes:
        environment: variables that every task inherits.
        process_environment: variables for an interpreter that replaces this one.
        has_imported: whether calls have imported packages or modules of users.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self.environment = base_environment(os.environ)
        self.process_environment = process_environment(os.environ)
        self.has_imported = False
        self._own_out, self._own_err = os.dup(1), os.dup(2)
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._streams = (_stream(1), _stream(2))
        faulthandler.enable(self._streams[1])  # a segmentation fault prints a traceback
        self._variables = _EnvironmentDiff()
        sys.stdout, sys.stderr = self._streams
        with contextlib.suppress(FileNotFoundError):  # it was removed; the agent restores it
            self._enter_home()
        self._time_zone, self._time_zone_names = os.environ.get("TZ"), time.tzname
        self._recursion_limit = sys.getrecursionlimit()
        self._trace, self._profile = sys.gettrace(), sys.getprofile()
        self._settings = [*process_settings(), *interpreter_settings()]
        self._reads = [setting.read for setting in self._settings]
        self._values = [read() for read in self._reads]
        self._imported = ImportedState()
        self._library = StandardLibrary()
        for name in MODULE_SETTINGS.keys() & sys.modules.keys():
            self._on_executed(name, sys.modules[name])
        self._packages = Packages()
        self._imports = ImportObserver(is_installed, self._begin_import, self._end_import, self._on_executed)
        sys.meta_path.insert(0, self._imports)
        self._imported.accept()
        self._modules: dict[str, ModuleType] = {}
        self._modules_probe = ChangeProbe(sys.modules)
        self._descriptors: set[str] = set()
        self._descriptors_of: tuple[int, ...] = ()
        self._counts = _Counts()
        self._descriptor_count = (0, 0)
        self._native_threads = self._counts.threads()
        self._imports_before = 0
        self._restored: list[str] = []
        self._remaining: list[str] = []

    # --- before and during a call -----------------------------------------------------------------

    def enter(self, sandbox: Sandbox, environment: Mapping[str, str], *, segment: int = 0) -> None:
        """Enter a sandbox.

        Args:
            sandbox: directory and streams of the next call.
            environment: variables of the call, in addition to `environment`.
            segment: current segment of the worker's journal, because the next one has another descriptor.
        """
        descriptors_of = (sandbox.stdout, sandbox.stderr, segment)
        self._imports_before = self._imports.imported
        if self._modules_probe.may_have_changed():
            self._modules = dict(sys.modules)
            self._modules_probe.accept()
        if descriptors_of != self._descriptors_of:
            self._descriptors_of = descriptors_of
            listed = os.listdir(_DESCRIPTORS)
            self._descriptors = {name for name in listed if _target(name) is not None}
            self._descriptor_count = self._counts.descriptors()
        os.dup2(sandbox.stdout, 1)
        os.dup2(sandbox.stderr, 2)
        os.chdir(sandbox.path)
        self._variables.replace_with({**self.environment, **environment})
        if os.environ.get("TZ") != self._time_zone:
            tzset()

    @staticmethod
    def run(call: Callable[[], _T]) -> _T:
        """Run a call with its own context variables, such as decimal contexts and numpy's error handling."""
        return contextvars.Context().run(call)

    # --- after a call -----------------------------------------------------------------------------

    def restore(self) -> Residue:
        """Restore what the last call changed.

        Never raises; failures are reported as remaining differences.
        """
        # First what all the following depends on.
        if gettrace() is not self._trace:
            settrace(self._trace)
        if getprofile() is not self._profile:
            setprofile(self._profile)
        builtins_differed = restore_builtins()
        self._restored = ["builtins"] if builtins_differed else []
        self._remaining = []
        steps = (
            self._restore_recursion_limit,
            self._restore_time_zone,  # before its names in `time` are restored
            self._restore_library,
            self._restore_modules,
            self._restore_streams,
            self._enter_home,
            self._restore_settings,
            self._restore_imported,
            self._end_threads,
            self._end_children,
            self._check_descriptors,
        )
        for step in steps:
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - the state of the process is unknown: retire it
                self._remaining.append(f"{step.__name__.strip('_')} failed: {error!r}")
        return Residue(tuple(self._restored), tuple(self._remaining))

    def _restore_recursion_limit(self) -> None:
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
            self._restored.append("recursion limit")

    def _restore_modules(self) -> None:
        """Restore modules that were removed or replaced, and remove those that were not imported."""
        if not self._modules_probe.may_have_changed():
            return
        current = sys.modules
        with contextlib.suppress(Exception):  # a module was replaced by an object that cannot be compared
            # Compares identities first; each call replaces and restores `__main__`.
            if current == self._modules:
                self._modules_probe.accept()
                return
        added = current.keys() - self._modules.keys()
        self.has_imported |= not all(map(is_standard, added))
        for name, module in self._modules.items():
            if current.get(name) is not module and not _is_local(name, module):
                current[name] = module
                self._restored.append(f"module {name}")
        for name in added - {"__mp_main__"}:
            if "." not in name and getattr(current[name], "__spec__", None) is None:
                del current[name]
                self._restored.append(f"module {name}")

    def _restore_time_zone(self) -> None:
        if os.environ.get("TZ") != self._time_zone or time.tzname != self._time_zone_names:
            if self._time_zone is None:
                os.environ.pop("TZ", None)
            else:
                os.environ["TZ"] = self._time_zone
            tzset()

    def _restore_library(self) -> None:
        patches = self._library.restore()
        self._restored += patches.state
        self._restored += patches.code
        if patches.code and self._imports.imported > self._imports_before:
            # A package may have patched it during its import, and rely on it.
            self._remaining.append("patches beside imports: " + ", ".join(patches.code[:5]))
        packages = self._packages.restore()
        self._restored += packages.restored
        if packages.doubtful:
            self._remaining.append("patches before imports: " + ", ".join(packages.doubtful[:5]))

    def _restore_streams(self) -> None:
        for stream in (sys.__stdout__, sys.__stderr__, *self._streams):
            with contextlib.suppress(Exception):
                stream.flush()  # type: ignore[union-attr]
        if sys.stdout is not self._streams[0] or sys.stderr is not self._streams[1]:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
        if self._streams[0].closed or self._streams[1].closed:
            self._streams = (_stream(1), _stream(2))
        if sys.stdout is not self._streams[0] or sys.stderr is not self._streams[1]:
            sys.stdout, sys.stderr = self._streams
        os.dup2(self._own_out, 1)
        os.dup2(self._own_err, 2)
        faulthandler.cancel_dump_traceback_later()
        if not faulthandler.is_enabled():
            faulthandler.enable(self._streams[1])
            self._restored.append("faulthandler")

    def _enter_home(self) -> None:
        os.chdir(self._home)
        os.umask(self._umask)

    def _restore_settings(self) -> None:
        if [read() for read in self._reads] == self._values:
            return
        for setting, original_value in zip(self._settings, self._values, strict=True):
            if setting.read() == original_value:
                continue
            if setting.restore is not None:
                with contextlib.suppress(Exception):
                    setting.restore(original_value)
                    if setting.read() == original_value:
                        self._restored.append(setting.name)
                        continue
            self._remaining.append(setting.name)

    def _restore_imported(self) -> None:
        self._restored += self._imported.restore()

    def _end_threads(self) -> None:
        threads_before, self._native_threads = self._native_threads, self._counts.threads()
        if self._native_threads > threads_before:
            # Threads of a numerical library, or one of Python's that is not counted yet.
            deadline = time.monotonic() + _THREAD_START_S
            while not _has_other_threads() and time.monotonic() < deadline:
                time.sleep(0.001)
        if not _has_other_threads():
            return
        monitored: Any = sys.modules.get("tqdm")  # its monitor is a thread that is started once
        monitor = getattr(getattr(monitored, "tqdm", None), "monitor", None)
        if monitor is not None:
            monitor.exit()
            monitored.tqdm.monitor = None
        if _has_other_threads():
            names = [t.name for t in threading.enumerate() if t is not threading.current_thread()]
            self._remaining.append("threads: " + ", ".join(names[:5]))

    def _end_children(self) -> None:
        if processes.has_children():
            processes.end_descendants()
            self._remaining.append("child processes")

    def _check_descriptors(self) -> None:
        if self._counts.descriptors() == self._descriptor_count:
            return
        gc.collect()  # closes files that only a reference cycle holds
        listed = set(os.listdir(_DESCRIPTORS))
        left_open = [target for name in listed - self._descriptors if (target := _target(name)) is not None]
        closed = sum(_target(name) is None for name in self._descriptors)
        if closed or not all(target.startswith(_DEVICES) for target in left_open):
            self._remaining.append(f"descriptors: {len(left_open)} left open, {closed} closed")
        self._descriptors_of = ()  # list them again

    # --- imports ----------------------------------------------------------------------------------

    def _begin_import(self) -> None:
        self._imported.begin_import()
        self._packages.begin_import()

    def _end_import(self) -> None:
        self._imported.end_import()
        self._packages.end_import()

    def _on_executed(self, name: str, module: ModuleType) -> None:
        if is_watched(name):
            self._library.record_module(name, module)
        else:
            self._packages.on_executed(name, module)
        if name in MODULE_SETTINGS:
            settings: list[Setting] = MODULE_SETTINGS[name](module)
            self._settings += settings
            self._reads += [setting.read for setting in settings]
            self._values += [setting.read() for setting in settings]


class _Counts:
    """Counts the descriptors and threads of this process with one system call each.

    Linux reports the number of entries in the status of a directory of /proc: that of threads as the link
    count, and from Linux 6.2 that of descriptors as the size. Elsewhere the entries are listed.
    """

    def __init__(self) -> None:
        self._task = self._fd = -1
        if processes.LINUX:
            self._task = os.open("/proc/self/task", os.O_RDONLY | os.O_CLOEXEC)
            self._fd = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_CLOEXEC)

    def threads(self) -> int:
        """Return a number that grows with each thread; 0 where the system does not report it."""
        return os.fstat(self._task).st_nlink if processes.LINUX else 0

    def descriptors(self) -> tuple[int, int]:
        """Return the number of open descriptors, and the lowest unused descriptor."""
        count = os.fstat(self._fd).st_size if processes.LINUX else 0
        lowest = os.dup(1)
        os.close(lowest)
        return count or len(os.listdir(_DESCRIPTORS)), lowest


class _EnvironmentDiff:
    """Sets `os.environ` for the next task, in time proportional to the differences from the last one.

    Comparing all variables would take a tenth of a millisecond, so changes by a task itself are detected by
    comparing CPython's private `os.environ._data`.
    """

    def __init__(self) -> None:
        self._current: dict[str, str] = dict(os.environ)
        self._raw: dict[bytes, bytes] | None = self._private_data()

    def replace_with(self, variables: dict[str, str]) -> None:
        """Set and remove variables so that exactly these remain."""
        raw = getattr(os.environ, "_data", None)
        if raw is None or raw != self._raw:
            self._current = dict(os.environ)
        for name in self._current.keys() - variables.keys():
            del os.environ[name]
        for name, value in variables.items():
            if self._current.get(name) != value:
                os.environ[name] = value
        self._current = variables
        self._raw = self._private_data()

    @staticmethod
    def _private_data() -> dict[bytes, bytes] | None:
        raw = getattr(os.environ, "_data", None)
        return None if raw is None else dict(raw)


def _is_local(name: str, module: ModuleType) -> bool:
    """Return whether a module is the user's own; `payload.local_modules` decides when those are set aside."""
    if name == "__main__" or is_standard(name) or name.partition(".")[0] == OWN_PACKAGE:
        return False
    file = getattr(module, "__file__", None)
    return not isinstance(file, str) or not is_installed(file)


def _has_other_threads() -> bool:
    """Return whether Python runs threads besides this one, including daemons and unnamed threads."""
    return _thread._count() > 0 or len(sys._current_frames()) > 1


def _stream(descriptor: int) -> TextIO:
    """Open standard output or error, with line buffering."""
    stream = open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    assert isinstance(stream, TextIOWrapper)  # noqa: S101
    return stream


def _target(descriptor: str) -> str | None:
    """Return the file of a descriptor; None if it is closed, like that of the listing itself."""
    try:
        return os.readlink(f"{_DESCRIPTORS}/{descriptor}")
    except OSError:
        return None
