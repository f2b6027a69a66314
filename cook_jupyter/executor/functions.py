"""Functions already sent: when the pickle of one may be used again, and whether it is still stored.

Lives here: telling that a function, and all that its pickle holds, is the same as when it was last sent;
storing it where the hosts find it; the pickles that were sent last, for a store that loses one.
Not here: pickling (`payload.encoding`), the store (`payload.blobs`), sending a pickle again
(`executor.unread_functions`).

Pickling a function costs more than all else in a submission. It may be left out only if nothing in the pickle
can have changed, so what a function refers to is compared object by object, and a function that refers to
anything that can be changed in place (a list, an array, an instance) is pickled again each time.
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

KEPT_BYTES = 16 * 1024 * 1024  # of pickles, in case their blobs are damaged while calls wait

_KEPT = 256
_MAX_SEEN = 1000
_MOST_PARTS = 512
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
    """Remembers which functions were pickled, and as what. Not for two threads at once."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[weakref.ref[Any], Parts, FunctionReference, int]] = OrderedDict()
        self._blobs: OrderedDict[str, FunctionBlob] = OrderedDict()  # by digest
        self._kept_bytes = 0

    def reference_of(
        self,
        function: Callable[..., Any],
        send: Callable[[FunctionBlob], None],
        is_stored: Callable[[str, int], bool] = lambda _digest, _size: True,
        *,
        private: bool = False,
    ) -> FunctionReference:
        """Return what calls name a function by.

        Args:
            function: the function to pickle.
            send: stores the pickle; called when it had to be made, not when the last one still holds.
            is_stored: returns whether the pickle with a digest and a size is still stored.
            private: whether both sides reach the blob store as a directory that only this user can write to.

        Raises:
            Unpicklable: something the function carries cannot travel.
        """
        # What the notebook changed in local modules travels with the function, so it is pickled again then.
        now = None if private and module_state.changes() else parts_of(function)
        known = self._known.get(id(function))
        if known is not None and now is not None and known[0]() is function and _same(known[1], now):
            _, _, reference, size = known
            if is_stored(reference.digest, size):
                self._known.move_to_end(id(function))
                if reference.digest in self._blobs:
                    self._blobs.move_to_end(reference.digest)
                return reference
        blob = encode_function(function, private=private)
        send(blob)
        self._keep(blob)
        if now is not None:
            self._known[id(function)] = (weakref.ref(function), now, blob.reference, blob.size)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return blob.reference

    def forget(self) -> None:
        """Send every function again: what rests in the store is not known any more."""
        self._known.clear()

    def blob(self, digest: str) -> FunctionBlob | None:
        """Return the pickle with a digest; None if it is not among those that were sent last.

        Args:
            digest: SHA-256 of the pickle.
        """
        return self._blobs.get(digest)

    def _keep(self, blob: FunctionBlob) -> None:
        if blob.digest in self._blobs:
            self._blobs.move_to_end(blob.digest)
            return
        self._blobs[blob.digest] = blob
        self._kept_bytes += blob.size
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= self._blobs.popitem(last=False)[1].size


class StoredFunctions:
    """The functions of a session in the blob store. Any thread may send one.

    Args:
        scheduler: the connection that knows the store.
    """

    def __init__(self, scheduler: SchedulerConnection) -> None:
        self._scheduler = scheduler
        self._cache = FunctionCache()
        self._seen_at: dict[str, float] = {}  # digests, and when each was last seen in the store
        self._is_doubted = False
        self._pickling = threading.Lock()

    def send(self, function: Callable[..., Any]) -> FunctionReference:
        """Store a function unless it is stored, and return what calls name it by."""
        with self._pickling:
            return self._cache.reference_of(
                function, self._put, self._is_stored, private=self._scheduler.store.private
            )

    def blob(self, digest: str) -> FunctionBlob | None:
        """Return the pickle with a digest; None if it is not among those that were sent last."""
        return self._cache.blob(digest)

    def doubt(self) -> None:
        """Send every function again, and compare what is stored: a host found one gone or damaged."""
        self._is_doubted = True
        self.forget()

    def forget(self) -> None:
        """Send every function again: what the store holds is not known any more."""
        self._cache.forget()
        self._seen_at.clear()

    def _put(self, blob: FunctionBlob) -> None:
        store = self._scheduler.store
        # A loss of power may have cut it short. Once a host found one damaged, no store is believed.
        if self._is_doubted or not store.holds(blob.name, blob.size, blob.digest):
            store.put(blob.name, blob.pieces)

    def _is_stored(self, digest: str, size: int) -> bool:
        """Return whether a function is still stored; over HTTP, asking costs more than it saves."""
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
    """All objects that a function's pickle depends on; None if one of them could be changed in place."""
    if not isinstance(function, types.FunctionType):
        return None
    parts: list[Any] = []
    # An import of a submodule changes what cloudpickle sends along; the search path, what a host can import.
    return ((len(sys.modules), *sys.path), *parts) if _collect(function, parts) else None


def _same(before: Parts, now: Parts) -> bool:
    return len(before) == len(now) and before[0] == now[0] and all(map(_is, before[1:], now[1:]))


def _is(one: Any, other: Any) -> bool:
    return one is other


def _collect(value: Any, parts: list[Any]) -> bool:
    """Add a value and what it refers to; False if any of it can be changed in place."""
    parts.append(value)
    kind = type(value)
    if kind in _ATOMS:
        return True
    if len(parts) > _MOST_PARTS:
        return False
    if kind is tuple or kind is frozenset:
        return all(_collect(part, parts) for part in value)
    if kind is types.FunctionType and not _is_installed(value):
        if any(value is part for part in parts[:-1]):  # it calls itself; its parts are there already
            return True
        return all(_collect(part, parts) for part in _captured(value))
    return _goes_by_name(value, kind)


def _goes_by_name(value: Any, kind: type) -> bool:
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
        except ValueError:  # not filled yet
            yield cell
    around = function.__globals__
    for name in _global_names(function.__code__):
        if name in around:
            yield around[name]
    if function.__dict__:
        yield function.__dict__  # can be changed in place


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """The names that code may look up in its globals, in a fixed order; some may be attributes only."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_global_names(constant))
    return tuple(sorted(names))


def _is_installed(value: Any) -> bool:
    """Whether a function or class is sent by its name alone: it lives in an installed module."""
    from cook_jupyter.payload import pickling

    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or module == "__main__" or pickling.is_local(module):
        return False
    found: Any = sys.modules.get(module)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value
