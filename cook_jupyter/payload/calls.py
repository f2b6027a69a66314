"""Calls on a host: verify, unpickle, run; pack and sign what was returned or raised.

Lives here: `run_call`, all that a worker needs to know about calls.
Not here: encoding calls (`payload.encoding`), reading results (`payload.results`), processes (`worker`).

A host needs cloudpickle and the standard library alone; importing this module loads neither cloudpickle
nor anything of the user's.
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

RESULT_LIMIT = "COOK_CALL_RESULT_LIMIT"  # bytes; a variable of the job's environment
RESULT_LIMIT_BYTES = 256 * 1024 * 1024
INLINE_RESULT_BYTES = 64 * 1024

_FUNCTIONS_KEPT = 256
_FUNCTION_BYTES_KEPT = 64 * 1024  # larger ones are mapped anew, which costs nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What came of a call, for whoever reports the end of the instance.

    Attributes:
        ok: the function returned.
        exit_code: of the instance: 0, 1 when the function raised, or what it gave to sys.exit.
        inline: the signed result, when it is small.
        blob: where the signed result rests, when it is not.
        size: of the signed result, in bytes.
        out_of_memory: the function ran out of memory.
        begun: whether code of the user ran, or the call itself was refused; if not, the worker or the host
            failed, and the call can run elsewhere.
    """

    ok: bool
    exit_code: int
    inline: bytes | None
    blob: str | None
    size: int
    out_of_memory: bool = False
    begun: bool = True


def run_call(env: Mapping[str, str], *, job_id: str, instance_id: str) -> CallOutcome:
    """Verify, unpickle and run a call; pack and sign what it returned or raised.

    Whatever the user's code does is part of the outcome, SystemExit and KeyboardInterrupt included. Its
    traceback is also written to stderr.

    Args:
        env: the environment variables of the job: the call, and what a host needs to run it.
        job_id: the job that this instance belongs to; a call signed for another one is refused.
        instance_id: signed into the result, so that no other result can pass for it.
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
    pack = _Packer(
        key=key,
        store=store,
        facts={"job": job_id, "instance": instance_id, "host": _host()},
        limit=int(env.get(RESULT_LIMIT) or RESULT_LIMIT_BYTES),
        started=started,
    )
    try:
        opened = open_call(env, store=store, key=key, job_id=job_id)
        pack.private = bool(opened.header.get("private"))
        with call_context.notebook_context(opened.header), running_call(job_id, instance_id):
            # In a context of its own: what the call sets in context variables ends with it.
            outcome = contextvars.copy_context().run(_run, opened, store, pack)
    except BaseException as error:  # noqa: BLE001 - the call could not be opened
        if not pack.begun and not _is_verdict(error):
            return _unsigned_outcome(
                f"cook_jupyter: the call could not be read: {exception_data.plain(error)}", begun=False
            )
        outcome = pack.error(error)
    finally:
        _flush()
    return outcome


def _run(opened: VerifiedEnvelope, store: BlobStore, pack: _Packer) -> CallOutcome:
    try:
        return _run_function(opened, store, pack)
    except BaseException as error:
        if not pack.begun and not _is_verdict(error):
            raise
        return pack.error(error)


def _run_function(opened: VerifiedEnvelope, store: BlobStore, pack: _Packer) -> CallOutcome:
    function, arguments = _unpickle(opened, store, pack)
    call_context.reseed()
    pack.started = time.perf_counter()
    if opened.header["kind"] == "bundle":
        return _run_bundle(function, arguments, pack)
    args, kwargs = arguments
    del arguments
    value = function(*args, **kwargs)
    if type(value) is CoroutineType:
        value = _finished(value)
    pack.stop_the_clock()
    return pack.value(value)


def _run_bundle(function: Callable[..., Any], columns: Sequence[list[Any]], pack: _Packer) -> CallOutcome:
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
        except BaseException as error:  # noqa: BLE001 - each call of a bundle fails for itself
            _show(error)
            failed[len(values)] = _sendable(error)
            append(None)
    pack.stop_the_clock()
    return pack.bundle(values, failed)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an instance whose class has an async __call__
    )


def _call_async(function: Callable[..., Any], *args: Any) -> Any:
    return _finished(function(*args))


def _finished(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, in an event loop of its own."""
    import asyncio  # 30 ms, and seldom needed

    return asyncio.run(coroutine)


def _finish_all(values: list[Any], failed: dict[int, exception_data.ExceptionData]) -> None:
    """Run the coroutines among the values of a bundle, of a function that is not `async def` itself."""
    for place, value in enumerate(values):
        if type(value) is CoroutineType:
            try:
                values[place] = _finished(value)
            except BaseException as error:  # noqa: BLE001 - as in _run_bundle
                _show(error)
                failed[place] = _sendable(error)
                values[place] = None


def _unpickle(opened: VerifiedEnvelope, store: BlobStore, pack: _Packer) -> tuple[Callable[..., Any], Any]:
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
        pack.unread_function = digest
        raise
    pack.begun = True  # unpickling runs code of the user
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


_functions: OrderedDict[tuple[str, str], Sequence[Buffer]] = OrderedDict()  # by store and digest; verified
_verified: set[tuple[str, str]] = set()  # functions too large to be kept, in places where only we may write


def _function_frames(digest: str, store: BlobStore) -> Sequence[Buffer]:
    """The frames of a function.

    Its bytes are kept, not the object: no call sees what another one left in its globals.
    """
    place = (store.url, digest)
    frames = _functions.get(place)
    if frames is not None:
        _functions.move_to_end(place)
        return frames
    content = store.get(f"functions/{digest}")
    if place not in _verified:
        check_digest(content, digest)
    frames = unseal(content, direction="function", key=None, private=True).frames
    if len(content) <= _FUNCTION_BYTES_KEPT:
        _functions[place] = tuple(map(bytes, frames))
        if len(_functions) > _FUNCTIONS_KEPT:
            _functions.popitem(last=False)
    elif store.private:
        _verified.add(place)
    return frames


_store = functools.lru_cache(maxsize=16)(open_store)


class _Packer:
    """Packs and signs what came of one call."""

    def __init__(
        self, *, key: Key, store: BlobStore, facts: Mapping[str, Any], limit: int, started: float
    ) -> None:
        self.started = started
        self.begun = False  # whether code of the user may have run
        self.unread_function: str | None = None  # digest of the function whose blob is damaged or gone
        self.private = (
            False  # whether the notebook reads blobs from a directory that only the user can write to
        )
        self._seconds: float | None = None
        self._key = key
        self._store = store
        self._facts = facts
        self._limit = limit

    def stop_the_clock(self) -> None:
        """The user's code is done; packing is not its time."""
        self._seconds = time.perf_counter() - self.started

    def value(self, value: Any) -> CallOutcome:
        """The function returned."""
        from cook_jupyter.payload import pickling

        try:
            frames = pickling.to_frames(value)
        except Exception as error:
            raise _cannot_return(value, error) from error
        return self._finish({"kind": "value"}, frames)

    def bundle(self, values: list[Any], failed: dict[int, exception_data.ExceptionData]) -> CallOutcome:
        """All calls of a bundle are done, some perhaps badly."""
        from cook_jupyter.payload import pickling

        try:
            frames = pickling.to_frames((values, failed))
        except Exception:  # noqa: BLE001 - see `value`; now find out whose fault it is
            _finish_all(values, failed)
            for place, value in enumerate(values):
                try:
                    pickling.to_frames(value)
                except Exception as error:  # noqa: BLE001 - see `value`
                    failed[place] = _sendable(_cannot_return(value, error))
                    values[place] = None
            frames = pickling.to_frames((values, failed))
        memory = any(data.get("out_of_memory") for data in failed.values())
        return self._finish(
            {"kind": "bundle", "calls": len(values)},
            frames,
            exit_code=1 if failed else 0,
            out_of_memory=memory,
        )

    def error(self, error: BaseException) -> CallOutcome:
        """The function raised, or its call could not be run, or its result not be packed."""
        _show(error)
        memory = _is_memory_error(error)
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
                out_of_memory=memory,
            )
        except Exception as lost:  # noqa: BLE001 - no room, or too large: a shorter word must get through
            _show(lost)
            plain = exception_data.dump_exception(
                ResultLost(
                    f"{exception_data.plain(error)} (more cannot be told: {exception_data.plain(lost)})"
                )
            )
            return self._finish(
                header, [pickle.dumps(plain, protocol=5)], exit_code=exit_code, out_of_memory=memory
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
            self.stop_the_clock()
        size = sum(map(len, frames))
        if size > self._limit:
            raise ResultLost(
                f"the result takes {size / 2**20:.1f} MB and at most {self._limit / 2**20:.0f} MB are kept. "
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
    """The failure as data.

    What would end the notebook's own process, were it raised there, comes as one of our errors.
    """
    shown: BaseException = error
    if _is_memory_error(error):
        traceback.clear_frames(error.__traceback__)  # what filled the memory lives there
        shown = OutOfMemory(f"the function ran out of memory ({exception_data.plain(error)})")
    elif isinstance(error, SystemExit):
        shown = BadExit(f"the function called sys.exit({error.code!r}) instead of returning")
    elif not isinstance(error, Exception):
        shown = BadExit(f"the function ended with {exception_data.plain(error)}")
    if shown is not error:
        shown.__traceback__ = error.__traceback__
        shown.__cause__ = error if isinstance(error, Exception) else None
    return {
        **exception_data.dump_exception(shown, own_file=__file__),
        "out_of_memory": _is_memory_error(error),
    }


def _is_memory_error(error: BaseException) -> bool:
    """Return whether this process ran out of memory.

    Not so if a job that the function waited for did, or if the class is the user's own: such an error was
    raised on purpose, and arrives as it is. Libraries have classes of their own (`numpy`).
    """
    return (
        isinstance(error, MemoryError) and not isinstance(error, CookError) and not _is_of_user(type(error))
    )


def _is_of_user(of: type) -> bool:
    """Return whether a class was defined in the notebook or in a module of the user."""
    file = getattr(sys.modules.get(of.__module__), "__file__", None)
    return of.__module__ == "__main__" or (isinstance(file, str) and not is_installed(file))


def _cannot_return(value: Any, error: Exception) -> ResultLost:
    from cook_jupyter.payload import pickle_diagnosis

    named: Unpicklable = pickle_diagnosis.unpicklable([("the result", value)], error)
    return ResultLost(str(named).replace("cannot be sent", "cannot be sent back", 1))


def _unsigned_outcome(message: str, *, begun: bool) -> CallOutcome:
    """Without a key nothing can be signed, and unsigned results are not read: stderr is all there is."""
    with contextlib.suppress(Exception):
        sys.stderr.write(message + "\n")
    _flush()
    return CallOutcome(ok=False, exit_code=1, inline=None, blob=None, size=0, begun=begun)


def _is_verdict(error: BaseException) -> bool:
    """Whether a call that was refused before it ran would be refused by any worker.

    Otherwise it is this process or its host that fails: no memory, no descriptors, a disk that cannot be
    read, a damaged standard library.
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
