"""Objects to frames and back: cloudpickle protocol 5, large buffers apart.

Lives here: a private pickler, which sends what the other side cannot import by value without touching
cloudpickle's registry, and an unpickler, which gives a notebook its own classes back.
Not here: naming what cannot travel (`payload.culprits`), signing (`payload.envelope`).

Imports cloudpickle, so other modules import this one when they first need it.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from cook_jupyter.payload.envelope import Buffer
from cook_jupyter.payload.installations import OWN_PACKAGE, is_installed
from cook_jupyter.payload.local_modules import is_importable

SMALLEST_BUFFER_APART = (
    32 * 1024
)  # a smaller one is copied into the pickle: a frame of its own would cost more


class LocalCode(Enum):
    """How functions and classes of local modules travel: beside the notebook or installed editable."""

    BY_NAME = 0  # the reader imports them, or fails
    BY_VALUE = 1  # whole, as this process holds them: for a reader that does not reach the file
    FROM_DISK = 2  # by name if the reader finds the same file under that name; else whole


def to_frames(value: Any, *, local_code: LocalCode = LocalCode.BY_NAME) -> list[Buffer]:
    """The pickle of `value`, then the raw buffers it refers to: views of the caller's memory, not copies.

    Args:
        value: anything that cloudpickle takes.
        local_code: how functions and classes of local modules travel.

    Raises:
        Exception: whatever the pickling of some object raised; see `payload.culprits`.
    """
    buffers: list[Buffer] = []
    file = io.BytesIO()
    make = _PICKLERS[local_code]
    make(file, protocol=5, buffer_callback=_keep_large(buffers)).dump(value)
    # Not getbuffer(): Python 3.12.1 crashes when it collects such a view in a cycle, as tracebacks are.
    return [file.getvalue(), *buffers]


def dumps(value: Any) -> bytes:
    """Return the pickle of `value`, with its buffers inside.

    Raises:
        Exception: whatever the pickling of some object raised.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def from_frames(frames: Sequence[Buffer], *, keep_classes: bool = False) -> Any:
    """The value of verified frames.

    Args:
        frames: as `to_frames` made them; arrays are views of them.
        keep_classes: leave classes that were defined in this process as they are. A class that went out with
            a call and comes back with its result is then the very same, methods included.
    """
    if keep_classes:
        return _HomecomingUnpickler(io.BytesIO(frames[0]), buffers=frames[1:]).load()
    return pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - the caller has verified them


def is_local(module_name: str | None) -> bool:
    """Whether a module belongs to the user: beside the notebook or installed editable."""
    if module_name is None:
        return False
    module = sys.modules.get(module_name)
    known = _locality.get(module_name)
    if known is not None and known[0] is module:
        return known[1]
    local = _lies_outside_installations(module_name, module)
    _locality[module_name] = (module, local)
    return local


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, but what each process has of its own goes by its name.

    `random.random` is a method of a hidden generator: sent by value, that would give each of many equal calls
    the same "random" numbers. And `from os import environ` must not send all of the environment along.

    Code keeps the name of its file, without which a traceback has no source lines: cloudpickle 3.1.3 replaces
    the name by "<dynamic-code>".
    """

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.CodeType:
            return _reduce_code(obj)
        if isinstance(obj, _METHODS) and not isinstance(obj.__self__, types.ModuleType | None):
            module = sys.modules.get(type(obj.__self__).__module__)
            if module is not None and getattr(module, obj.__name__, None) == obj:
                return getattr, (module, obj.__name__)
        elif obj is os.environ:
            return getattr, (os, "environ")
        return super().reducer_override(obj)


class _ByValuePickler(_Pickler):
    """What is local travels by value."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            if self._goes_whole(obj):
                return self._dynamic_function_reduce(obj)
        elif isinstance(obj, type) and obj.__module__ != "__main__" and self._goes_whole(obj):
            return internals._dynamic_class_reduce(obj)  # noqa: SLF001 - its registry is global
        return super().reducer_override(obj)

    def _goes_whole(self, obj: types.FunctionType | type) -> bool:
        return is_local(obj.__module__)


class _FromDiskPickler(_ByValuePickler):
    """What is local travels by its name, if the other side finds the same file under it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._importable: dict[str, bool] = {}

    def _goes_whole(self, obj: types.FunctionType | type) -> bool:
        name = obj.__module__
        if not is_local(name):
            return False
        top = name.partition(".")[0]
        if top not in self._importable:
            self._importable[top] = is_importable(top)
        return not self._importable[top]


class _HomecomingUnpickler(pickle.Unpickler):
    """Gives back the reader's own classes, unchanged.

    cloudpickle knows a class by an id, but fills it anew from every pickle: its methods would become
    copies with other globals, deaf to what the notebook redefines later.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._strangers: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        if module == "cloudpickle.cloudpickle":
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return self._meet(getattr(internals, name))
            if name == "_class_setstate":
                return self._fill
        return super().find_class(module, name)

    def _meet(self, make: Callable[..., type]) -> Callable[..., type]:
        def meet(*args: Any) -> type:
            known = internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])  # noqa: SLF001 - has no other face
            if known is not None:
                return known  # type: ignore[no-any-return]
            made = make(*args)
            self._strangers.add(made)
            return made

        return meet

    def _fill(self, made: type, state: Any) -> Any:
        if made in self._strangers:
            internals._class_setstate(made, state)  # noqa: SLF001 - what the pickle itself would call
        return made


def _reduce_code(code: types.CodeType) -> tuple[Callable[..., types.CodeType], tuple[Any, ...]]:
    make, args = internals._code_reduce(code)  # noqa: SLF001 - knows the arguments of each version of Python
    return make, (*args[:_FILE_NAME_INDEX], code.co_filename, *args[_FILE_NAME_INDEX + 1 :])


def _keep_large(buffers: list[Buffer]) -> Callable[[pickle.PickleBuffer], bool]:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        with memoryview(buffer) as view:
            if view.nbytes < SMALLEST_BUFFER_APART:
                return True
        try:
            buffers.append(buffer.raw())
        except BufferError:  # not contiguous
            return True
        return False

    return keep


_PICKLERS = {
    LocalCode.BY_NAME: _Pickler,
    LocalCode.BY_VALUE: _ByValuePickler,
    LocalCode.FROM_DISK: _FromDiskPickler,
}
_FILE_NAME_INDEX = 10  # among the arguments of types.CodeType, since Python 3.11
_METHODS = (types.MethodType, types.BuiltinMethodType)
_locality: dict[str, tuple[types.ModuleType | None, bool]] = {}


def _lies_outside_installations(name: str, module: types.ModuleType | None) -> bool:
    if name.partition(".")[0] in {"__main__", "builtins", OWN_PACKAGE}:
        return False  # __main__ is by value anyway: cloudpickle sees to it
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return False  # built in, frozen or compiled
    return not is_installed(file)
