"""Cache of sent functions: whether the pickle of a function may be reused, and whether it is still stored.

Lives here: detecting that a function, and everything in its pickle, is unchanged since it was sent; storing
it where hosts find it; the most recently sent pickles, in case the store loses one.
Not here: pickling (`payload.encoding`), the store (`payload.blobs`), sending a pickle again
(`executor.unread_functions`).

Pickling a function takes longer than the rest of a submission. It can be skipped only if nothing in the
pickle can have changed, so what a function refers to is compared object by object, and a function that refers
to a mutable object (a list, an array, an instance) is pickled again each time.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from cook_jupyter.executor.blobs import HttpStore
from cook_jupyter.executor.connection import SchedulerConnection
from cook_jupyter.payload import module_state
from cook_jupyter.payload.encoding import FunctionBlob, FunctionReference, encode_function

CACHED_BLOB_BYTES = 16 * 1024 * 1024  # of pickles, in case their blobs are damaged while calls wait

_CACHE_SIZE = 256
_MAX_SEEN = 1000
_MAX_PARTS = 512
_ATOMS = frozenset(
    (
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        type(...),
        range,
        types.CodeType,
    )
)

Parts = tuple[Any, ...]


class FunctionCache:
    """Remembers which functions were pickled, and the result. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, tuple[weakref.ref[Any], Parts, FunctionReference, int]] = (
            OrderedDict()
        )
        self._blobs: OrderedDict[str, FunctionBlob] = OrderedDict()  # by digest
        self._blob_bytes = 0

    def reference_of(
        self,
        function: Callable[..., Any],
        send: Callable[[FunctionBlob], None],
        is_stored: Callable[[str, int], bool] = lambda _digest, _size: True,
        *,
        private: bool = False,
    ) -> FunctionReference:
        """Return the reference by which calls name a function.

        Args:
            function: the function to pickle.
            send: callback that stores a new pickle; not called if the last one can be reused.
            is_stored: callback that returns whether the pickle with a digest and a size is still stored.
            private: whether both sides reach the blob store as a directory that only this user can write to.

        Raises:
            Unpicklable: something that the function refers to cannot be sent.
        """
        # Changes of local modules are sent with the function, so it is pickled again if there are any.
        parts = None if private and module_state.changes() else parts_of(function)
        entry = self._entries.get(id(function))
        if entry is not None and parts is not None and entry[0]() is function and _same(entry[1], parts):
            _, _, reference, size = entry
            if is_stored(reference.digest, size):
                self._entries.move_to_end(id(function))
                if reference.digest in self._blobs:
                    self._blobs.move_to_end(reference.digest)
                return reference
        blob = encode_function(function, private=private)
        send(blob)
        self._cache_blob(blob)
        if parts is not None:
            self._entries[id(function)] = (weakref.ref(function), parts, blob.reference, blob.size)
            if len(self._entries) > _CACHE_SIZE:
                self._entries.popitem(last=False)
        return blob.reference

    def forget(self) -> None:
        """Forget all functions, because it is unknown what the store still has."""
        self._entries.clear()

    def blob(self, digest: str) -> FunctionBlob | None:
        """Return the pickle with a digest; None if it was not sent recently.

        Args:
            digest: SHA-256 of the pickle.
        """
        return self._blobs.get(digest)

    def _cache_blob(self, blob: FunctionBlob) -> None:
        if blob.digest in self._blobs:
            self._blobs.move_to_end(blob.digest)
            return
        self._blobs[blob.digest] = blob
        self._blob_bytes += blob.size
        while self._blob_bytes > CACHED_BLOB_BYTES:
            self._blob_bytes -= self._blobs.popitem(last=False)[1].size


class StoredFunctions:
    """The functions of a session in the blob store. Safe for use by any thread.

    Args:
        scheduler: connection to the scheduler with the store.
    """

    def __init__(self, scheduler: SchedulerConnection) -> None:
        self._scheduler = scheduler
        self._cache = FunctionCache()
        self._seen_at: dict[str, float] = {}  # time when each digest was last seen in the store
        self._is_unreliable = False
        self._pickling = threading.Lock()

    def send(self, function: Callable[..., Any]) -> FunctionReference:
        """Store a function unless it is stored already; return the reference by which calls name it."""
        with self._pickling:
            return self._cache.reference_of(
                function, self._put, self._is_stored, private=self._scheduler.store.private
            )

    def blob(self, digest: str) -> FunctionBlob | None:
        """Return the pickle with a digest; None if it was not sent recently."""
        return self._cache.blob(digest)

    def distrust_store(self) -> None:
        """Send all functions again, and compare stored ones, because a host found one missing or damaged."""
        self._is_unreliable = True
        self.forget()

    def forget(self) -> None:
        """Forget all functions, because it is unknown what the store still has."""
        self._cache.forget()
        self._seen_at.clear()

    def _put(self, blob: FunctionBlob) -> None:
        store = self._scheduler.store
        # A power failure may have truncated it. Once a host finds a damaged one, the store is not trusted.
        if self._is_unreliable or not store.holds(blob.name, blob.size, blob.digest):
            store.put(blob.name, blob.pieces)

    def _is_stored(self, digest: str, size: int) -> bool:
        """Return whether a function is still stored; not checked over HTTP, where it would take too long."""
        store, now = self._scheduler.store, time.monotonic()
        seen_at = self._seen_at.get(digest)
        is_recent = seen_at is not None and now - seen_at < self._scheduler.file_check_interval_s
        if is_recent or isinstance(store, HttpStore):
            return True
        is_stored = store.size(f"functions/{digest}") == size
        if is_stored:
            if len(self._seen_at) >= _MAX_SEEN:
                self._seen_at.clear()
            self._seen_at[digest] = now
        return is_stored


def parts_of(function: Callable[..., Any]) -> Parts | None:
    """Return all objects that a function's pickle depends on; None if one of them is mutable."""
    if not isinstance(function, types.FunctionType):
        return None
    parts: list[Any] = []
    # Imported submodules affect what cloudpickle sends; the search path affects what a host can import.
    return ((len(sys.modules), *sys.path), *parts) if _collect(function, parts) else None


def _same(old: Parts, new: Parts) -> bool:
    return len(old) == len(new) and old[0] == new[0] and all(map(_is_identical, old[1:], new[1:]))


def _is_identical(left: Any, right: Any) -> bool:
    return left is right


def _collect(value: Any, parts: list[Any]) -> bool:
    """Add a value and the objects it refers to; return False if any of them is mutable."""
    parts.append(value)
    kind = type(value)
    if kind in _ATOMS:
        return True
    if len(parts) > _MAX_PARTS:
        return False
    if kind is tuple or kind is frozenset:
        return all(_collect(part, parts) for part in value)
    if kind is types.FunctionType and not _is_installed(value):
        if any(value is part for part in parts[:-1]):  # it is recursive; its parts are already included
            return True
        return all(_collect(part, parts) for part in _captured(value))
    return _is_sent_by_name(value, kind)


def _is_sent_by_name(value: Any, kind: type) -> bool:
    if kind is types.ModuleType:
        return sys.modules.get(value.__name__) is value
    if kind is types.BuiltinFunctionType:
        return value.__self__ is None or isinstance(value.__self__, types.ModuleType)  # not `words.append`
    return (kind is types.FunctionType or isinstance(value, type)) and _is_installed(value)


def _captured(function: types.FunctionType) -> Iterator[Any]:
    yield function.__code__
    yield from (function.__name__, function.__qualname__, function.__module__, function.__doc__)
    yield function.__defaults__
    yield from (function.__kwdefaults__ or {}).values()
    yield from function.__annotations__.values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty cell
            yield cell
    namespace = function.__globals__
    for name in _global_names(function.__code__):
        if name in namespace:
            yield namespace[name]
    if function.__dict__:
        yield function.__dict__  # mutable


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that code may look up in its globals, sorted; some may only be attributes."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_global_names(constant))
    return tuple(sorted(names))


def _is_installed(value: Any) -> bool:
    """Return whether a function or class is sent by name, because it belongs to an installed module."""
    from cook_jupyter.payload import pickling

    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or module == "__main__" or pickling.is_local(module):
        return False
    target: Any = sys.modules.get(module)
    for name in value.__qualname__.split("."):
        target = getattr(target, name, None)
    return target is value
