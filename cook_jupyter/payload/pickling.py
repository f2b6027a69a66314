"""Pickle objects to frames and back: cloudpickle protocol 5, with large buffers as separate frames.

Lives here: a pickler that sends what the other side cannot import by value, without touching cloudpickle's
registry, and an unpickler that returns a notebook's own classes and functions.
Not here: reducing each kind of object (`payload.kinds`), naming what cannot be pickled
(`payload.pickle_diagnosis`), signing (`payload.envelope`).

The function of a call and its arguments are two pickles but one graph of objects: the second pickle refers to
objects in the first. So a class, a sentinel or a list that both refer to is one object on the host, as in the
notebook.

Imports cloudpickle, so other modules import this one only when they need it.
"""

from __future__ import annotations

import contextvars
import copyreg
import ctypes
import functools
import io
import os
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, EnumType
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from cook_jupyter.payload import main_module
from cook_jupyter.payload.envelope import Buffer
from cook_jupyter.payload.installations import OWN_PACKAGE, is_installed
from cook_jupyter.payload.kinds import classes, enums, exceptions, functions, names, native, refused, wrappers
from cook_jupyter.payload.local_modules import is_importable

# Smaller buffers are copied into the pickle, because a frame of its own would cost more.
MIN_FRAME_BYTES = 32 * 1024
# Types whose values refer to nothing, so that a plain pickle is correct whatever else is sent with them.
PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))


class LocalCode(Enum):
    """How functions and classes of local modules are sent."""

    BY_NAME = 0  # the reader imports them, or fails
    BY_VALUE = 1  # as this process has them, for a reader that cannot access the file
    FROM_DISK = 2  # by name if the reader finds the same file under that name, otherwise by value


class Memo:
    """The objects of a pickle, kept alive so that a later pickle can refer to them."""

    def __init__(self, pickler: _Pickler) -> None:
        self._keeper = pickle.Pickler(io.BytesIO())  # stores a copy of a memo in C
        self._keeper.memo = pickler.memo
        self._globals_ref = dict(pickler.globals_ref)

    def apply_to(self, pickler: _Pickler) -> None:
        """Let a new pickler refer to these objects."""
        pickler.memo = self._keeper.memo
        pickler.globals_ref = dict(self._globals_ref)


def to_frames(
    value: Any, *, local_code: LocalCode = LocalCode.BY_NAME, after: Memo | None = None
) -> list[Buffer]:
    """Return the pickle of `value`, then the raw buffers it refers to: views of memory, not copies.

    Args:
        value: any value that cloudpickle accepts.
        local_code: how functions and classes of local modules are sent.
        after: objects of a pickle that is read before this one.

    Raises:
        Exception: pickling some object failed; see `payload.pickle_diagnosis`.
    """
    if type(value) in PLAIN:
        return [pickle.dumps(value, protocol=5)]  # the same bytes in a tenth of the time
    return _pickle(value, local_code, after)[0]


def plain_arguments_to_frames(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Buffer]:
    """Return what `to_frames` would return for arguments that are all of types in `PLAIN`."""
    return [pickle.dumps((args, kwargs), protocol=5)]


def to_frames_with_memo(
    value: Any, *, local_code: LocalCode = LocalCode.BY_NAME
) -> tuple[list[Buffer], Memo]:
    """Return what `to_frames` would, and the objects that a later pickle can refer to.

    Raises:
        Exception: pickling some object failed; see `payload.pickle_diagnosis`.
    """
    frames, pickler = _pickle(value, local_code, None)
    return frames, Memo(pickler)


def _pickle(value: Any, local_code: LocalCode, after: Memo | None) -> tuple[list[Buffer], _Pickler]:
    buffers: list[Buffer] = []
    file = io.BytesIO()
    pickler = _PICKLERS[local_code](file, protocol=5, buffer_callback=_keep_large(buffers))
    if after is not None:
        after.apply_to(pickler)
    pickler.dump(value)
    # Not getbuffer(): Python 3.12.1 crashes when it collects such a view in a cycle, as tracebacks are.
    return [file.getvalue(), *buffers], pickler


def dumps(value: Any) -> bytes:
    """Return the pickle of `value`, including its buffers.

    Raises:
        Exception: pickling some object failed.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def from_frames(frames: Sequence[Buffer], *, keep_classes: bool = False) -> Any:
    """Unpickle the value of verified frames.

    Args:
        frames: frames from `to_frames`; arrays become views of them.
        keep_classes: whether classes and functions of this process are returned as they are, instead of
            copies: a class that was sent with a call and comes back is the same class, including its methods.
    """
    if keep_classes:
        return _ClassKeepingUnpickler(io.BytesIO(frames[0]), buffers=frames[1:]).load()
    return pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - the caller has verified them


def call_from_frames(
    function_frames: Sequence[Buffer],
    argument_frames: Sequence[Buffer],
    *,
    shared: bool,
    keep_classes: bool = False,
) -> tuple[Callable[..., Any], Any]:
    """Unpickle the function and the arguments of a call from verified frames.

    Args:
        function_frames: frames from `to_frames_with_memo`.
        argument_frames: frames from `to_frames`.
        shared: whether the arguments were pickled after the memo of the function.
        keep_classes: see `from_frames`.
    """
    if not shared:
        function = from_frames(function_frames, keep_classes=keep_classes)
        return function, from_frames(argument_frames, keep_classes=keep_classes)
    unpickler_class = _ClassKeepingUnpickler if keep_classes else pickle.Unpickler
    content = io.BytesIO(b"".join((function_frames[0], argument_frames[0])))
    unpickler = unpickler_class(content, buffers=[*function_frames[1:], *argument_frames[1:]])
    return unpickler.load(), unpickler.load()


def is_local(module_name: str | None) -> bool:
    """Return whether a module is local: beside the notebook, or installed in editable mode."""
    if module_name is None:
        return False
    module = sys.modules.get(module_name)
    cached = _locality.get(module_name)
    if cached is not None and cached[0] is module:
        return cached[1]
    local = _lies_outside_installations(module_name, module)
    _locality[module_name] = (module, local)
    return local


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with the kinds of `payload.kinds`; what belongs to each process is sent by name.

    `random.random` is a method of a hidden generator: sent by value, it would give each of many equal calls
    the same "random" numbers. And `from os import environ` must not send the whole environment.

    Code keeps its file name, without which a traceback has no source lines: cloudpickle 3.1.3 replaces it by
    "<dynamic-code>".
    """

    local_from_disk = False

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(self, obj)
        if _is_plain(kind):  # type: ignore[arg-type]
            return NotImplemented
        if issubclass(kind, type):
            return self.reduce_class(obj)
        if isinstance(kind, EnumType):
            return enums.reduce_member(obj) if self.travels_by_value(kind) else NotImplemented
        if isinstance(obj, BaseException):
            return NotImplemented if exceptions.has_own_reduction(kind) else exceptions.reduce_exception(obj)
        if kind.__module__ == "__main__" and kind not in copyreg.dispatch_table:
            if isinstance(obj, threading.local):
                return wrappers.reduce_thread_local(obj)
            if names.reduces_itself(kind):
                return names.reduce_by_own_method(obj)
        return NotImplemented

    def _is_sent_by_value(self, module_name: str) -> bool:
        """Return whether functions and classes of a module are sent by value although it is imported here."""
        return module_name in main_module.NAMES

    def travels_by_value(self, obj: Any) -> bool:
        """Return whether an object with a module and a qualified name cannot be imported by the reader."""
        name = internals._whichmodule(obj, obj.__qualname__)  # noqa: SLF001 - as cloudpickle decides
        if name is None or self._is_sent_by_value(name):
            return True
        target: Any = sys.modules.get(name)
        for part in obj.__qualname__.split("."):
            target = getattr(target, part, None)
        return target is not obj

    def reduce_class(self, cls: type) -> Any:
        if cls in _NAMED_ELSEWHERE:
            return internals._class_reduce(cls)  # noqa: SLF001 - these are attributes of `types`
        if not self.travels_by_value(cls):
            return NotImplemented
        if cls in native.METACLASSES:
            return type, (native.METACLASSES[cls],)
        if cls in names.UNNAMED_BUILTIN_CLASSES:
            return names.builtin_class, (names.UNNAMED_BUILTIN_CLASSES[cls],)
        if not cls.__flags__ & _HEAP_TYPE or cls.__flags__ & _IMMUTABLE_TYPE:
            raise pickle.PicklingError(f"the class {cls.__name__!r} is in no module that a host could import")
        if isinstance(cls, EnumType):
            return enums.reduce_enum(cls)
        if isinstance(cls, tuple(native.METACLASSES)):
            return native.reduce_native_class(cls)
        return classes.reduce_class(cls)

    def reduce_function(self, function: types.FunctionType) -> Any:
        if not self.travels_by_value(function):
            return NotImplemented
        if wrappers.is_generic_function(function):
            return wrappers.reduce_generic_function(function)
        base_globals = self._base_globals(function.__globals__)
        return functions.reduce_function(function, base_globals, local_from_disk=self.local_from_disk)

    def _base_globals(self, namespace: dict[str, Any]) -> Any:
        """Return the placeholder in the pickle for the globals of a function, before they are filled."""
        if namespace is main_module.namespace():
            return functions.MAIN_GLOBALS
        base = self.globals_ref.get(id(namespace))
        if base is None:
            names = ("__package__", "__name__", "__path__", "__file__")
            base = self.globals_ref[id(namespace)] = {
                name: namespace[name] for name in names if name in namespace
            }
        return base

    def reduce_method(self, method: Any) -> Any:
        if not isinstance(method.__self__, types.ModuleType | None):
            name = type(method.__self__).__module__
            module = None if self._is_sent_by_value(name) else sys.modules.get(name)
            if module is not None and getattr(module, method.__name__, None) == method:
                return getattr, (module, method.__name__)
        return NotImplemented

    def reduce_opaque(self, obj: Any, reduce: Callable[[Any], Any] | None) -> Any:
        """Refer to an object that is a global of an importable module; otherwise reduce it, or refuse it."""
        module, name = names.home_of(obj)
        if module is not None and not self._is_sent_by_value(module):
            return getattr, (sys.modules[module], name)
        return NotImplemented if reduce is None else reduce(obj)


class _ByValuePickler(_Pickler):
    """Sends local code by value."""

    def _is_sent_by_value(self, module_name: str) -> bool:
        return module_name in main_module.NAMES or is_local(module_name)


class _FromDiskPickler(_ByValuePickler):
    """Sends local code by name if the reader finds the same file under it, otherwise by value."""

    local_from_disk = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._importable: dict[str, bool] = {}

    def _is_sent_by_value(self, module_name: str) -> bool:
        if not super()._is_sent_by_value(module_name):
            return False
        if module_name in main_module.NAMES:
            return True
        top = module_name.partition(".")[0]
        if top not in self._importable:
            self._importable[top] = is_importable(top)
        return not self._importable[top]


class _ClassKeepingUnpickler(pickle.Unpickler):
    """Returns the reader's own classes and functions unchanged.

    cloudpickle recognizes a class by an id, but fills it again from each pickle: its methods would become
    copies with other globals, unaffected by what the notebook redefines later.

    A function that is new here gets the globals of this process; those that it refers to and that do not
    exist here yet are taken from the pickle.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own: set[int] = set()  # ids of objects of this process that the pickle refers to

    def find_class(self, module: str, name: str) -> Any:
        constructor = super().find_class(module, name)
        if not module.startswith(_KINDS):
            return constructor
        if name in _CLASS_MAKERS:
            return functools.partial(self._resolve_class, constructor)
        if name in _NAMED_MAKERS:
            return functools.partial(self._resolve_named, constructor)
        if name == "fill_function":
            return self._fill_function
        if name in _FILLERS:
            return functools.partial(self._fill, constructor)
        return constructor

    def _resolve_class(self, make: Callable[..., Any], *args: Any) -> Any:
        *_, class_id, main_name, is_from_reader = args
        own = classes.known_class(class_id)
        if own is None and is_from_reader and main_name is not None:  # submitted before this process started
            own = main_module.find(main_name)
        return self._own_or_none(own, type) or make(*args)

    def _resolve_named(self, make: Callable[..., Any], *args: Any) -> Any:
        own = main_module.find(args[-1]) if args[-1] is not None else None
        if make is functions.make_function:
            kind = types.FunctionType if getattr(own, "__code__", None) == args[0] else None
        elif make is names.make_named:
            kind = args[1][0]
        else:
            kind = _NAMED_MAKERS[make.__name__]
        return (self._own_or_none(own, kind) if kind is not None else None) or make(*args)

    def _own_or_none(self, own: Any, kind: type) -> Any:
        if not isinstance(own, kind):
            return None
        self._own.add(id(own))
        return own

    def _fill(self, fill: Callable[[Any, Any], None], obj: Any, state: Any) -> None:
        if id(obj) not in self._own:
            fill(obj, state)

    def _fill_function(self, function: types.FunctionType, state: Any) -> None:
        if id(function) in self._own:
            return
        namespace = function.__globals__
        if namespace is main_module.namespace():
            functions.fill_function_with(function, state, functools.partial(classes.set_missing, namespace))
        else:
            functions.fill_function(function, state)


_KINDS = "cook_jupyter.payload.kinds."
_CLASS_MAKERS = frozenset(("make_class", "make_enum", "make_native_class"))
_NAMED_MAKERS: dict[str, Any] = {
    "make_function": types.FunctionType,
    "make_lru_cache": wrappers.LRU_CACHE,
    "make_generic_function": types.FunctionType,
    "make_context_variable": contextvars.ContextVar,
    "make_named": None,
    "make_new_type": typing.NewType,
}
_FILLERS = frozenset(
    (
        "fill_class",
        "fill_enum",
        "fill_native_class",
        "fill_attributes",
        "fill_generic_function",
        "fill_context_variable",
        "fill_named",
    )
)


@functools.lru_cache(maxsize=1024)
def _is_plain(kind: type) -> bool:
    """Return whether instances of a class are pickled as usual; called for each object."""
    return not (
        issubclass(kind, type | BaseException)
        or isinstance(kind, EnumType)
        or kind.__module__ == main_module.MAIN
    )


def _reduce_code(code: types.CodeType) -> tuple[Callable[..., types.CodeType], tuple[Any, ...]]:
    make, args = internals._code_reduce(code)  # noqa: SLF001 - knows the arguments of each version of Python
    return make, (*args[:_FILE_NAME_INDEX], code.co_filename, *args[_FILE_NAME_INDEX + 1 :])


def _keep_large(buffers: list[Buffer]) -> Callable[[pickle.PickleBuffer], bool]:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        with memoryview(buffer) as view:
            if view.nbytes < MIN_FRAME_BYTES:
                return True
        try:
            buffers.append(buffer.raw())
        except BufferError:  # not contiguous
            return True
        return False

    return keep


def _by_name_or(reduce: Callable[[Any], Any]) -> Callable[[_Pickler, Any], Any]:
    """Return a reducer for objects with a module and a qualified name, by which they may be imported."""

    def reduce_or_refer(pickler: _Pickler, obj: Any) -> Any:
        return reduce(obj) if pickler.travels_by_value(obj) else NotImplemented

    return reduce_or_refer


def _by_name_of_global_or(reduce: Callable[[Any], Any] | None) -> Callable[[_Pickler, Any], Any]:
    """Return a reducer for objects that do not know their own name."""

    def reduce_or_refer(pickler: _Pickler, obj: Any) -> Any:
        return pickler.reduce_opaque(obj, reduce)

    return reduce_or_refer


def _always(reduce: Callable[[Any], Any]) -> Callable[[_Pickler, Any], Any]:
    """Return a reducer that ignores the pickler."""

    def reduce_it(_: _Pickler, obj: Any) -> Any:
        return reduce(obj)

    return reduce_it


_PICKLERS = {
    LocalCode.BY_NAME: _Pickler,
    LocalCode.BY_VALUE: _ByValuePickler,
    LocalCode.FROM_DISK: _FromDiskPickler,
}
_FILE_NAME_INDEX = 10  # among the arguments of types.CodeType, since Python 3.11
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8  # Py_TPFLAGS: created by a class statement; implemented in C
_NAMED_ELSEWHERE = frozenset(
    (*internals._BUILTIN_TYPE_NAMES, type(None), type(...), type(NotImplemented))  # noqa: SLF001 - as cloudpickle
)
_REDUCERS: dict[type, Callable[[_Pickler, Any], Any]] = {
    types.FunctionType: _Pickler.reduce_function,
    types.CodeType: _always(_reduce_code),
    types.CellType: _always(functions.reduce_cell),
    types.MethodType: _Pickler.reduce_method,
    types.BuiltinMethodType: _Pickler.reduce_method,
    type(os.environ): _always(names.reduce_environment),
    wrappers.LRU_CACHE: _by_name_or(wrappers.reduce_lru_cache),
    functools.cached_property: _always(wrappers.reduce_cached_property),
    contextvars.ContextVar: _by_name_of_global_or(wrappers.reduce_context_variable),
    threading.local: _by_name_of_global_or(wrappers.reduce_thread_local),
    type(threading.Lock()): _by_name_of_global_or(None),
    type(threading.RLock()): _by_name_of_global_or(None),
    weakref.ref: _always(wrappers.reduce_weak_reference),
    weakref.WeakSet: _always(wrappers.reduce_weak_collection),
    weakref.WeakKeyDictionary: _always(wrappers.reduce_weak_collection),
    weakref.WeakValueDictionary: _always(wrappers.reduce_weak_collection),
    memoryview: _always(wrappers.reduce_memory),
    object: _by_name_of_global_or(names.reduce_sentinel),
    typing.NewType: _by_name_or(names.reduce_new_type),
    typing.ParamSpec: _always(names.reduce_type_parameter),
    typing.TypeVarTuple: _always(names.reduce_type_parameter),
    **dict.fromkeys(names.DATACLASS_SENTINELS, _always(names.reduce_dataclass_sentinel)),
    io.TextIOWrapper: _always(refused.reduce_file),
    ctypes.CDLL: _always(refused.refuse),
    weakref.ProxyType: _always(refused.refuse),
    weakref.CallableProxyType: _always(refused.refuse),
    weakref.finalize: _always(refused.refuse),
}
if hasattr(typing, "TypeAliasType"):  # Python 3.12
    _REDUCERS[typing.TypeAliasType] = _always(names.reduce_type_alias)
_locality: dict[str, tuple[types.ModuleType | None, bool]] = {}


def _lies_outside_installations(name: str, module: types.ModuleType | None) -> bool:
    if name.partition(".")[0] in {"__main__", "builtins", OWN_PACKAGE}:
        return False  # __main__ is always sent by value
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return False  # built in, frozen or compiled
    return not is_installed(file)
