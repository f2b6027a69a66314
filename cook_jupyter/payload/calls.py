"""Run a call on a host, and encode and sign what the function returned or raised.

Lives here: `run_call`, the only function that a worker needs.
Not here: encoding calls (`payload.encoding`), reading results (`payload.results`), processes (`worker`).

A host needs only cloudpickle and the standard library. Importing this module loads neither cloudpickle nor
any module of the user.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import pickle
import socket
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from cook_jupyter.errors import (
    BadExit,
    CookError,
    EnvironmentMismatch,
    NotFound,
    OutOfMemory,
    ResultLost,
    Unpicklable,
    Unverifiable,
)
from cook_jupyter.payload import call_context, exception_data, versions
from cook_jupyter.payload.blobs import BlobStore, open_store
from cook_jupyter.payload.encoding import check_digest, open_call
from cook_jupyter.payload.envelope import Buffer, VerifiedEnvelope, unseal
from cook_jupyter.payload.installations import is_installed
from cook_jupyter.payload.keys import Key, read_key
from cook_jupyter.payload.requirements import read_requirements
from cook_jupyter.payload.running_call import running_call
from cook_jupyter.payload.transport import seal_for_transport

RESULT_LIMIT = "COOK_CALL_RESULT_LIMIT"  # environment variable of the job: maximum size in bytes
RESULT_LIMIT_BYTES = 256 * 1024 * 1024
INLINE_RESULT_BYTES = 64 * 1024

_FUNCTION_CACHE_SIZE = 256
_CACHED_FUNCTION_MAX_BYTES = 64 * 1024  # larger functions are mapped again for each call, at no cost


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """Outcome of a call, as reported at the end of its instance.

    Attributes:
        ok: whether the function returned.
        exit_code: exit code of the instance: 0, 1 if the function raised, or the argument of sys.exit.
        inline: the signed result, if it is small.
        blob: name of the blob with the signed result, if the result is large.
        size: size of the signed result, in bytes.
        out_of_memory: whether the function ran out of memory.
        begun: whether user code ran, or the call itself was refused. If not, the worker or the host failed,
            and the call can run elsewhere.
    """

    ok: bool
    exit_code: int
    inline: bytes | None
    blob: str | None
    size: int
    out_of_memory: bool = False
    begun: bool = True


def run_call(env: Mapping[str, str], *, job_id: str, instance_id: str) -> CallOutcome:
    """Verify, unpickle and run a call; encode and sign what it returned or raised.

    Anything that user code does is part of the outcome, even SystemExit and KeyboardInterrupt. The traceback
    is also written to stderr.

    Args:
        env: environment variables of the job: the call, and what a host needs to run it.
        job_id: the job of this instance; a call signed for another job is refused.
        instance_id: the instance, signed into the result so that no other result can be mistaken for it.
    """
    started = time.perf_counter()
    try:
        requirements = read_requirements(env, interpreter=sys.executable)
        key = read_key(requirements.key_file)
        store = _store(requirements.store_url)
    except Exception as error:  # noqa: BLE001 - a worker that an earlier call damaged may raise anything
        return _unsigned_outcome(
            f"cook_jupyter: this call cannot be run: {exception_data.plain(error)}", begun=_is_verdict(error)
        )
    packer = _ResultPacker(
        key=key,
        store=store,
        facts={"job": job_id, "instance": instance_id, "host": _host()},
        limit=int(env.get(RESULT_LIMIT) or RESULT_LIMIT_BYTES),
        started=started,
    )
    try:
        opened = open_call(env, store=store, key=key, job_id=job_id)
        packer.private = bool(opened.header.get("private"))
        with call_context.notebook_context(opened.header), running_call(job_id, instance_id):
            # In a context of its own: context variables that the call sets do not outlive it.
            outcome = contextvars.copy_context().run(_run, opened, store, packer)
    except BaseException as error:  # noqa: BLE001 - the call could not be opened
        if not packer.begun and not _is_verdict(error):
            return _unsigned_outcome(
                f"cook_jupyter: the call could not be read: {exception_data.plain(error)}", begun=False
            )
        outcome = packer.error(error)
    finally:
        _flush()
    return outcome


def _run(opened: VerifiedEnvelope, store: BlobStore, packer: _ResultPacker) -> CallOutcome:
    try:
        return _run_function(opened, store, packer)
    except BaseException as error:
        if not packer.begun and not _is_verdict(error):
            raise
        return packer.error(error)


def _run_function(opened: VerifiedEnvelope, store: BlobStore, packer: _ResultPacker) -> CallOutcome:
    function, arguments = _unpickle(opened, store, packer)
    call_context.reseed()
    packer.started = time.perf_counter()
    if opened.header["kind"] == "bundle":
        return _run_bundle(function, arguments, packer)
    args, kwargs = arguments
    del arguments
    value = function(*args, **kwargs)
    if type(value) is CoroutineType:
        value = _run_coroutine(value)
    packer.stop_timer()
    return packer.value(value)


def _run_bundle(
    function: Callable[..., Any], columns: Sequence[list[Any]], packer: _ResultPacker
) -> CallOutcome:
    if _is_async(function):
        function = functools.partial(_call_async, function)
    values: list[Any] = []
    failed: dict[int, exception_data.ExceptionData] = {}
    append = values.append
    calls = zip(*columns, strict=True)
    while True:
        try:  # around the loop, not in it: a short call costs a fraction of a microsecond
            for args in calls:
                append(function(*args))
            break
        except BaseException as error:  # noqa: BLE001 - the other calls of the bundle go on
            _show(error)
            failed[len(values)] = _sendable(error)
            append(None)
    packer.stop_timer()
    return packer.bundle(values, failed)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an instance whose class has an async __call__
    )


def _call_async(function: Callable[..., Any], *args: Any) -> Any:
    return _run_coroutine(function(*args))


def _run_coroutine(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, in a new event loop."""
    import asyncio  # 30 ms, and rarely needed

    return asyncio.run(coroutine)


def _run_coroutines(values: list[Any], failed: dict[int, exception_data.ExceptionData]) -> None:
    """Run the coroutines that a bundle's function returned without being `async def` itself."""
    for index, value in enumerate(values):
        if type(value) is CoroutineType:
            try:
                values[index] = _run_coroutine(value)
            except BaseException as error:  # noqa: BLE001 - as in _run_bundle
                _show(error)
                failed[index] = _sendable(error)
                values[index] = None


def _unpickle(
    opened: VerifiedEnvelope, store: BlobStore, packer: _ResultPacker
) -> tuple[Callable[..., Any], Any]:
    if (difference := versions.mismatch(opened.header["versions"])) is not None:
        raise EnvironmentMismatch(
            "the host's Python or packages differ from the notebook's, and nothing was unpickled. Use the "
            f"same environment on both sides.\n{difference}"
        )
    from cook_jupyter.payload import pickling

    digest = opened.header["function"]
    try:
        frames = _function_frames(digest, store)
    except (NotFound, Unverifiable):
        packer.unread_function = digest
        raise
    packer.begun = True  # unpickling runs user code
    try:
        return pickling.call_from_frames(frames, opened.frames, shared=opened.header.get("shares", True))
    except CookError:
        raise
    except Exception as error:
        error.add_note(
            "The call could not be unpickled on the host. Versions on both sides:\n"
            + versions.table(opened.header["versions"])
        )
        raise


_functions: OrderedDict[tuple[str, str], Sequence[Buffer]] = (
    OrderedDict()
)  # verified, by store URL and digest
_verified: set[tuple[str, str]] = (
    set()
)  # functions too large to cache, in stores that only this user can write to


def _function_frames(digest: str, store: BlobStore) -> Sequence[Buffer]:
    """Return the frames of a function, cached if they are small.

    The cache has the bytes, not the object, so that no call sees what another one left in its globals.
    """
    cache_key = (store.url, digest)
    frames = _functions.get(cache_key)
    if frames is not None:
        _functions.move_to_end(cache_key)
        return frames
    content = store.get(f"functions/{digest}")
    if cache_key not in _verified:
        check_digest(content, digest)
    frames = unseal(content, direction="function", key=None, private=True).frames
    if len(content) <= _CACHED_FUNCTION_MAX_BYTES:
        _functions[cache_key] = tuple(map(bytes, frames))
        if len(_functions) > _FUNCTION_CACHE_SIZE:
            _functions.popitem(last=False)
    elif store.private:
        _verified.add(cache_key)
    return frames


_store = functools.lru_cache(maxsize=16)(open_store)


class _ResultPacker:
    """Encodes and signs the result of one call."""

    def __init__(
        self, *, key: Key, store: BlobStore, facts: Mapping[str, Any], limit: int, started: float
    ) -> None:
        self.started = started
        self.begun = False  # whether user code may have run
        self.unread_function: str | None = None  # digest of the function whose blob is damaged or missing
        self.private = (
            False  # whether the notebook reads blobs from a directory that only the user can write to
        )
        self._seconds: float | None = None
        self._key = key
        self._store = store
        self._facts = facts
        self._limit = limit

    def stop_timer(self) -> None:
        """Record the run time of the user's code, which excludes encoding."""
        self._seconds = time.perf_counter() - self.started

    def value(self, value: Any) -> CallOutcome:
        """Return the outcome of a function that returned."""
        from cook_jupyter.payload import pickling

        try:
            frames = pickling.to_frames(value)
        except Exception as error:
            raise _cannot_return(value, error) from error
        return self._finish({"kind": "value"}, frames)

    def bundle(self, values: list[Any], failed: dict[int, exception_data.ExceptionData]) -> CallOutcome:
        """Return the outcome of a bundle whose calls have all ended, some perhaps with an exception."""
        from cook_jupyter.payload import pickling

        try:
            frames = pickling.to_frames((values, failed))
        except Exception:  # noqa: BLE001 - see `value`; now find the calls that cannot be pickled
            _run_coroutines(values, failed)
            for index, value in enumerate(values):
                try:
                    pickling.to_frames(value)
                except Exception as error:  # noqa: BLE001 - see `value`
                    failed[index] = _sendable(_cannot_return(value, error))
                    values[index] = None
            frames = pickling.to_frames((values, failed))
        out_of_memory = any(data.get("out_of_memory") for data in failed.values())
        return self._finish(
            {"kind": "bundle", "calls": len(values)},
            frames,
            exit_code=1 if failed else 0,
            out_of_memory=out_of_memory,
        )

    def error(self, error: BaseException) -> CallOutcome:
        """Return the outcome of a call that raised, was not run, or had no sendable result."""
        _show(error)
        out_of_memory = _is_memory_error(error)
        code = error.code if isinstance(error, SystemExit) else 1
        exit_code = code if isinstance(code, int) and 0 < code < 256 else 1
        header = {"kind": "error"}
        if self.unread_function is not None:
            header["unread_function"] = self.unread_function
        try:
            return self._finish(
                header,
                [pickle.dumps(_sendable(error), protocol=5)],
                exit_code=exit_code,
                out_of_memory=out_of_memory,
            )
        except Exception as packing_error:  # noqa: BLE001 - no room, or too large: send a shorter error
            _show(packing_error)
            plain = exception_data.dump_exception(
                ResultLost(
                    f"{exception_data.plain(error)} (its details were not sent: "
                    f"{exception_data.plain(packing_error)})"
                )
            )
            return self._finish(
                header,
                [pickle.dumps(plain, protocol=5)],
                exit_code=exit_code,
                out_of_memory=out_of_memory,
            )

    def _finish(
        self,
        header: Mapping[str, Any],
        frames: Sequence[Buffer],
        *,
        exit_code: int = 0,
        out_of_memory: bool = False,
    ) -> CallOutcome:
        if self._seconds is None:
            self.stop_timer()
        size = sum(map(len, frames))
        if size > self._limit:
            raise ResultLost(
                f"the result takes {size / 2**20:.1f} MB; the limit is {self._limit / 2**20:.0f} MB. "
                "Return less, or write it to a file and return its path."
            )
        facts = {**self._facts, **header, "seconds": self._seconds, "out_of_memory": out_of_memory}
        result = seal_for_transport(
            facts,
            frames,
            direction="result",
            key=self._key,
            max_inline_bytes=INLINE_RESULT_BYTES,
            private_blobs=self.private and self._store.private,
        )
        inline = blob = None
        if result.inline:
            inline = b"".join(result.pieces)
        else:
            blob = f"results/{self._facts['instance']}"
            self._store.put(blob, result.pieces)
        return CallOutcome(
            ok=exit_code == 0,
            exit_code=exit_code,
            inline=inline,
            blob=blob,
            size=result.size,
            out_of_memory=out_of_memory,
        )


def _sendable(error: BaseException) -> exception_data.ExceptionData:
    """Return an exception as data.

    An exception that would end the notebook's own process if it were raised there is converted to BadExit.
    """
    converted: BaseException = error
    if _is_memory_error(error):
        traceback.clear_frames(error.__traceback__)  # their local variables fill the memory
        converted = OutOfMemory(f"the function ran out of memory ({exception_data.plain(error)})")
    elif isinstance(error, SystemExit):
        converted = BadExit(f"the function called sys.exit({error.code!r}) instead of returning")
    elif not isinstance(error, Exception):
        converted = BadExit(f"the function ended with {exception_data.plain(error)}")
    if converted is not error:
        converted.__traceback__ = error.__traceback__
        converted.__cause__ = error if isinstance(error, Exception) else None
    return {
        **exception_data.dump_exception(converted, own_file=__file__),
        "out_of_memory": _is_memory_error(error),
    }


def _is_memory_error(error: BaseException) -> bool:
    """Return whether this process ran out of memory.

    An error of a job that the function waited for does not count, nor one whose class the user defined: that
    was raised on purpose and is sent as it is. Libraries such as numpy have their own classes, which count.
    """
    return (
        isinstance(error, MemoryError)
        and not isinstance(error, CookError)
        and not _is_user_class(type(error))
    )


def _is_user_class(cls: type) -> bool:
    """Return whether a class was defined in the notebook or in a module of the user."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return cls.__module__ == "__main__" or (isinstance(file, str) and not is_installed(file))


def _cannot_return(value: Any, error: Exception) -> ResultLost:
    from cook_jupyter.payload import pickle_diagnosis

    unpicklable: Unpicklable = pickle_diagnosis.unpicklable([("the result", value)], error)
    return ResultLost(str(unpicklable).replace("cannot be sent", "cannot be sent back", 1))


def _unsigned_outcome(message: str, *, begun: bool) -> CallOutcome:
    """Report a failure on stderr only: nothing can be signed, and unsigned results are not read."""
    with contextlib.suppress(Exception):
        sys.stderr.write(message + "\n")
    _flush()
    return CallOutcome(ok=False, exit_code=1, inline=None, blob=None, size=0, begun=begun)


def _is_verdict(error: BaseException) -> bool:
    """Return whether every worker would refuse a call that was refused before it ran.

    Otherwise this process or its host has failed: no memory, no descriptors, an unreadable disk, a damaged
    standard library.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | RecursionError):
            return False
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | PermissionError):
            return False
        cause = cause.__cause__
    return isinstance(error, CookError | OSError | ImportError | KeyError | ValueError)


def _show(error: BaseException) -> None:
    with contextlib.suppress(Exception):
        sys.stderr.write(exception_data.as_text(error, own_file=__file__))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


@functools.cache
def _host() -> str:
    return socket.gethostname()
