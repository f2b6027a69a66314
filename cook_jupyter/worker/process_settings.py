"""The settings that a call can change in its worker: how each is read and restored.

Lives here: one `Setting` for each, of the process (`process_settings`), of the interpreter
(`interpreter_settings`) and of imported modules (`MODULE_SETTINGS`).
Not here: when settings are compared (`worker.process_state`), patches of the standard library
(`worker.namespaces`). docs/reference/warm-workers.md has the whole table for users.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]
import _thread
import _tracemalloc
import codecs
import contextlib
import contextvars
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

from cook_jupyter.payload.installations import is_installed
from cook_jupyter.worker import processes


class NotRestorable(Exception):
    """A setting cannot be restored, so the worker is retired."""


class Setting(NamedTuple):
    """A setting that a call can change.

    Attributes:
        name: name in the documentation and in the agent's log.
        read: function that returns its value; values are compared with `==`.
        restore: function that sets a value; None if that is impossible, and the worker is retired.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object] | None = None


# --- of the process ---------------------------------------------------------------------------------------

_SIGNALS = sorted(map(int, signal.valid_signals()))
_CODEC_ERRORS = ("strict", "ignore", "replace", "backslashreplace", "xmlcharrefreplace", "surrogateescape")
# For prctl(2), how each attribute is read and set: whether /proc and debuggers may access the process, timer
# slack, new privileges (which cannot be reset).
_ATTRIBUTES = ((3, 4), (30, 29), (39, 38))
_ATTRIBUTES_IN_MEMORY = [2, 37]  # the signal at the parent's death, and whether this process adopts orphans
_SET_ATTRIBUTES_IN_MEMORY = [1, 36]
_libc = ctypes.CDLL(None)
_attribute = ctypes.c_int()
_attribute_reference = ctypes.byref(_attribute)
_LISTING_BYTES = 4096  # of /proc/self/limits, which has about 1,300
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def process_settings() -> list[Setting]:
    """Return the settings that the operating system keeps for this process."""
    settings = [
        Setting("interval timers", _timers, _set_timers),
        Setting("signal handlers", _signal_handlers, _set_signal_handlers),
        Setting("signal wakeup descriptor", _remove_wakeup_descriptor, lambda _before: None),
        Setting("signal mask", lambda: _signal.pthread_sigmask(signal.SIG_BLOCK, ()), _set_signal_mask),
        Setting("niceness", lambda: os.getpriority(os.PRIO_PROCESS, 0), _set_niceness),
        Setting("user and group ids", _ids),
    ]
    if hasattr(_libc, "fegetround"):
        settings.append(Setting("rounding of floating-point numbers", _libc.fegetround, _libc.fesetround))
    if processes.LINUX:
        settings.append(Setting("attributes of the process", _attributes, _set_attributes))
    if hasattr(os, "sched_getaffinity"):
        settings += [
            Setting(
                "cpu affinity", lambda: os.sched_getaffinity(0), lambda cpus: os.sched_setaffinity(0, cpus)
            ),
            Setting("scheduling policy", lambda: os.sched_getscheduler(0)),
        ]
    with contextlib.suppress(ImportError):
        settings.append(_resource_limits())
    return settings


def _timers() -> list[tuple[float, float]]:
    return list(map(_signal.getitimer, _TIMERS))


def _set_timers(saved: list[tuple[float, float]]) -> None:
    for which, (seconds, interval) in zip(_TIMERS, saved, strict=True):
        signal.setitimer(which, seconds, interval)


def _signal_handlers() -> list[Any]:
    return list(map(_signal.getsignal, _SIGNALS))  # in a thirtieth of the time of `signal.getsignal`


def _set_signal_handlers(handlers: Sequence[Any]) -> None:
    for number, handler, current in zip(_SIGNALS, handlers, _signal_handlers(), strict=True):
        if handler != current:
            if handler is None:  # set by a library in C before Python started
                raise NotRestorable(signal.Signals(number).name)
            signal.signal(number, handler)


def _remove_wakeup_descriptor() -> int:
    return signal.set_wakeup_fd(-1)  # it cannot be read without changing it


def _set_signal_mask(mask: Iterable[int]) -> None:
    if signal.sigpending():  # unblocking it would end the worker
        raise NotRestorable("a blocked signal is pending")
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set_niceness(niceness: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, niceness)  # lowering it requires privileges


def _ids() -> tuple[object, ...]:
    if hasattr(os, "getresuid"):
        return os.getresuid(), os.getresgid(), os.getgroups()
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()


def _attributes() -> list[int]:
    prctl = _libc.prctl
    values = [prctl(get, 0, 0, 0, 0) for get, _ in _ATTRIBUTES]
    for get in _ATTRIBUTES_IN_MEMORY:
        prctl(get, _attribute_reference)
        values.append(_attribute.value)
    return values


def _set_attributes(values: Sequence[int]) -> None:
    for number, value in zip(
        [put for _, put in _ATTRIBUTES] + _SET_ATTRIBUTES_IN_MEMORY, values, strict=True
    ):
        _libc.prctl(number, value, 0, 0, 0)


def _resource_limits() -> Setting:
    import resource

    numbers = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
    limits = list(map(resource.getrlimit, numbers))

    def read() -> list[tuple[int, int]]:
        return list(map(resource.getrlimit, numbers))

    def restore(_before: object) -> None:
        for number, limit in zip(numbers, limits, strict=True):
            if resource.getrlimit(number) != limit:
                resource.setrlimit(number, limit)  # raising a hard limit requires privileges

    if not processes.LINUX:
        return Setting("resource limits", read, restore)
    # One system call instead of sixteen. The file tells the limits of the process that opened it.
    listing = os.open("/proc/self/limits", os.O_RDONLY | os.O_CLOEXEC)
    return Setting("resource limits", lambda: os.pread(listing, _LISTING_BYTES, 0), restore)


# --- of the interpreter -----------------------------------------------------------------------------------


def interpreter_settings() -> list[Setting]:
    """Return the settings that Python keeps for all code in this process."""
    settings = [
        Setting("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Setting("asynchronous generator hooks", lambda: tuple(sys.get_asyncgen_hooks()), _set_asyncgen_hooks),
        Setting(
            "coroutine origin tracking",
            sys.get_coroutine_origin_tracking_depth,
            sys.set_coroutine_origin_tracking_depth,
        ),
        Setting("limit on digits of integers", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
        Setting("dynamic loading flags", _dlopen_flags, _set_dlopen_flags),
        Setting("garbage collector", _collector, _set_collector),
        Setting("sys.path and sys.argv", _lists_of_sys, _set_lists_of_sys),
        Setting("socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Setting("thread stack size", _thread.stack_size, _thread.stack_size),
        Setting("locale", _current_locale, _set_locale),
        Setting("tracemalloc", _tracemalloc.is_tracing, lambda _before: _tracemalloc.stop()),
        Setting("names of log levels", lambda: dict(logging._levelToName), _set_level_names),
        Setting("codec error handlers", _codec_errors, _set_codec_errors),
    ]
    if hasattr(sys, "monitoring"):  # from Python 3.12 on
        settings.append(Setting("monitoring tools", _monitoring_tools, _free_monitoring_tools))
    return settings


def _set_asyncgen_hooks(hooks: tuple[Any, Any]) -> None:
    sys.set_asyncgen_hooks(*hooks)


def _dlopen_flags() -> int:
    return sys.getdlopenflags() if hasattr(sys, "getdlopenflags") else 0


def _set_dlopen_flags(flags: int) -> None:
    sys.setdlopenflags(flags)


def _collector() -> tuple[object, ...]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug(), list(gc.callbacks), len(gc.garbage)


def _set_collector(state: tuple[Any, ...]) -> None:
    enabled, thresholds, debug, callbacks, garbage = state
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*thresholds)
    gc.set_debug(debug)
    gc.callbacks[:] = callbacks
    del gc.garbage[garbage:]


def _lists_of_sys() -> tuple[list[Any], ...]:
    return list(sys.path), list(sys.argv), list(sys.warnoptions)


def _set_lists_of_sys(lists: tuple[list[Any], ...]) -> None:
    sys.path[:], sys.argv[:], sys.warnoptions[:] = lists


def _current_locale() -> str:
    return _locale.setlocale(_locale.LC_ALL, None)


def _set_locale(name: str) -> None:
    _locale.setlocale(_locale.LC_ALL, name)


def _monitoring_tools() -> list[str | None]:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    return [monitoring.get_tool(number) for number in range(6)]


def _free_monitoring_tools(saved: list[str | None]) -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    for number, name in enumerate(saved):
        if name is None and monitoring.get_tool(number) is not None:
            monitoring.set_events(number, 0)
            monitoring.free_tool_id(number)


def _set_level_names(names: dict[int, str]) -> None:
    """Restore changed names; added names remain, because a package adds its names once, at import."""
    for level, name in names.items():
        if logging.getLevelName(level) != name:
            logging.addLevelName(level, name)


def _codec_errors() -> list[Any]:
    return list(map(codecs.lookup_error, _CODEC_ERRORS))


def _set_codec_errors(handlers: list[Any]) -> None:
    for name, handler in zip(_CODEC_ERRORS, handlers, strict=True):
        codecs.register_error(name, handler)


# --- state that imports may change permanently ------------------------------------------------------------


class ImportedState:
    """Lists and loggers whose state may result from the import of a package.

    What a package does during its import becomes part of the state to restore: a second job that imports it
    finds it loaded, so nothing is done again.
    """

    def __init__(self) -> None:
        self._lists: dict[str, list[Any]] = {}
        self._loggers: dict[str, _LoggerState] = {}
        self._disabled_level = 0
        self.accept()

    def accept(self) -> None:
        """Make the present state the one to restore."""
        self._lists = {name: list(items) for name, items in self._current_lists()}
        self._loggers = {name: _LoggerState(logger) for name, logger in _loggers()}
        self._disabled_level = logging.root.manager.disable

    def begin_import(self) -> None:
        """Record the state before an import."""
        self._before = {name: list(items) for name, items in self._current_lists()}
        self._loggers_before = {name for name, _ in _loggers()}

    def end_import(self) -> None:
        """Accept what the import added."""
        for name, items in self._current_lists():
            saved = self._before[name]
            self._lists[name][:0] = [item for item in items if item not in saved]
        for name, logger in _loggers():
            if name not in self._loggers_before:
                self._loggers[name] = _LoggerState(logger)

    def restore(self) -> list[str]:
        """Restore the state; return the names of what differed."""
        differed = []
        for name, items in self._current_lists():
            if items != self._lists[name]:
                items[:] = self._lists[name]
                differed.append(name)
        warnings._filters_mutated()  # type: ignore[attr-defined] # warn each job again, not once per worker
        if self._restore_logging():
            differed.append("logging")
        return differed

    def _restore_logging(self) -> bool:
        differed = logging.root.manager.disable != self._disabled_level
        for name, logger in _loggers():
            state = self._loggers.get(name)
            if state is None and _is_of_local_module(name):
                self._loggers[name] = _LoggerState(logger)
            else:
                differed |= (state or _NEW_LOGGER).restore(logger)
        if differed:
            logging.root.manager.disable = self._disabled_level
            logging.root.manager._clear_cache()  # type: ignore[attr-defined]
        return differed

    @staticmethod
    def _current_lists() -> tuple[tuple[str, list[Any]], ...]:
        return (
            ("warning filters", cast("list[Any]", warnings.filters)),
            ("sys.meta_path", sys.meta_path),
            ("sys.path_hooks", sys.path_hooks),
        )


class _LoggerState:
    """The configuration of a logger."""

    __slots__ = ("_disabled", "_filters", "_handlers", "_level", "_propagate")

    def __init__(self, logger: logging.Logger | None) -> None:
        self._level = logging.NOTSET if logger is None else logger.level
        self._propagate = True if logger is None else logger.propagate
        self._disabled = False if logger is None else logger.disabled
        self._filters = [] if logger is None else list(logger.filters)
        self._handlers = [] if logger is None else list(logger.handlers)

    def restore(self, logger: logging.Logger) -> bool:
        """Apply the configuration to a logger; return whether it was different."""
        if (
            logger.level == self._level
            and logger.handlers == self._handlers
            and logger.propagate == self._propagate
            and logger.disabled == self._disabled
            and logger.filters == self._filters
        ):
            return False
        for handler in logger.handlers:
            if handler not in self._handlers:
                with contextlib.suppress(Exception):  # its stream may be closed
                    handler.close()
        logger.handlers[:] = self._handlers
        logger.filters[:] = self._filters
        logger.level, logger.propagate, logger.disabled = self._level, self._propagate, self._disabled
        return True


_NEW_LOGGER = _LoggerState(None)


def _is_of_local_module(name: str) -> bool:
    """Return whether a logger has the name of a user's module, which configures it at import."""
    file = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
    return isinstance(file, str) and not is_installed(file)


def _loggers() -> list[tuple[str, logging.Logger]]:
    loggers: list[tuple[str, logging.Logger]] = [
        (name, logger)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    ]
    loggers.append(("root", logging.root))
    return loggers


# --- of modules, from their import on ---------------------------------------------------------------------


def _decimal(module: Any) -> list[Setting]:
    contexts = (module.DefaultContext, module.BasicContext, module.ExtendedContext)
    fields = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")

    def read() -> list[list[Any]]:
        return [[getattr(c, field) for field in fields] + [dict(c.traps)] for c in contexts]

    def restore(values: list[list[Any]]) -> None:
        for context, (*plain, traps) in zip(contexts, values, strict=True):
            for field, value in zip(fields, plain, strict=True):
                setattr(context, field, value)
            context.traps.update(traps)

    return [Setting("decimal contexts", read, restore)]


def _multiprocessing(module: Any) -> list[Setting]:
    context = module._default_context

    def restore(value: Any) -> None:
        context._actual_context = value

    return [Setting("multiprocessing start method", lambda: context._actual_context, restore)]


def _csv(module: Any) -> list[Setting]:
    return [Setting("csv field size limit", module.field_size_limit, module.field_size_limit)]


def _element_tree(module: Any) -> list[Setting]:
    return [_dictionary("XML namespaces", module._namespace_map)]


def _asyncio(module: Any) -> list[Setting]:
    return [Setting("running event loop", module._get_running_loop, module._set_running_loop)]


def _numpy(module: Any) -> list[Setting]:
    """Return the settings that this version of NumPy does not keep in context variables."""

    def set_errors(values: tuple[dict[str, Any], Any, int]) -> None:
        module.seterr(**values[0])
        module.seterrcall(values[1])
        module.setbufsize(values[2])

    def set_print_options(options: dict[str, Any]) -> None:
        module.set_printoptions(**options)

    def errors() -> tuple[dict[str, Any], Any, int]:
        return module.geterr(), module.geterrcall(), module.getbufsize()

    settings = [
        Setting("numpy.seterr", errors, set_errors),
        Setting("numpy.set_printoptions", module.get_printoptions, set_print_options),
    ]
    changes = (lambda: module.seterr(divide="call"), lambda: module.set_printoptions(precision=1))
    return [
        setting for setting, change in zip(settings, changes, strict=True) if _leaves_context(setting, change)
    ]


def _leaves_context(setting: Setting, change: Callable[[], object]) -> bool:
    """Return whether a change affects other contexts than the one in which it is made; then undo it."""
    saved = setting.read()
    contextvars.Context().run(change)
    leaves = bool(setting.read() != saved)
    if leaves and setting.restore is not None:
        setting.restore(saved)
    return leaves


def _pandas(module: Any) -> list[Setting]:
    options = getattr(getattr(module, "_config", None), "config", None)
    values = getattr(options, "_global_config", None)
    return [_dictionary("pandas options", values)] if isinstance(values, dict) else []


def _matplotlib(module: Any) -> list[Setting]:
    parameters = getattr(module, "rcParams", None)
    return [_dictionary("matplotlib rcParams", parameters)] if isinstance(parameters, dict) else []


def _pyplot(module: Any) -> list[Setting]:
    return [Setting("open figures", module.get_fignums, lambda _before: module.close("all"))]


MODULE_SETTINGS: dict[str, Callable[[Any], list[Setting]]] = {
    "_csv": _csv,
    "asyncio.events": _asyncio,
    "decimal": _decimal,
    "matplotlib": _matplotlib,
    "matplotlib.pyplot": _pyplot,
    "multiprocessing.context": _multiprocessing,
    "numpy": _numpy,
    "pandas": _pandas,
    "xml.etree.ElementTree": _element_tree,
}


def _dictionary(name: str, values: dict[Any, Any]) -> Setting:
    """Return a setting for a dictionary of plain values and nested dictionaries."""

    def restore(saved: dict[Any, Any]) -> None:
        _fill(values, saved)

    return Setting(name, lambda: _copy(values), restore)


def _copy(values: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: _copy(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value
        for key, value in dict.items(values)
    }


def _fill(values: dict[Any, Any], saved: dict[Any, Any]) -> None:
    for key in dict.keys(values) - saved.keys():
        dict.__delitem__(values, key)
    for key, value in saved.items():
        current = dict.get(values, key)
        if isinstance(value, dict) and isinstance(current, dict):
            _fill(current, value)
        else:
            dict.__setitem__(values, key, list(value) if isinstance(value, list) else value)
