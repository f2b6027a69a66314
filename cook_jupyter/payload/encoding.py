"""Outgoing: a function and the arguments of its calls, as signed bytes.

Lives here: encoding a function, a call or a bundle of calls, and the environment variables that carry one,
written and read.
Not here: running them (`payload.calls`), reading what came of them (`payload.results`), futures (`executor`).
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cook_jupyter.errors import Tampered, TooLarge, Unpicklable, Unverifiable
from cook_jupyter.payload import call_context, module_state, versions
from cook_jupyter.payload.blobs import BlobStore
from cook_jupyter.payload.envelope import (
    Buffer,
    VerifiedEnvelope,
    require_complete,
    seal,
    size_of,
    snapshot,
    unseal,
)
from cook_jupyter.payload.keys import Key
from cook_jupyter.payload.requirements import CALL, CALL_BLOB, HostRequirements
from cook_jupyter.payload.transport import SealedPayload, seal_for_transport

if TYPE_CHECKING:
    from cook_jupyter.payload.pickling import LocalCode, Memo

Encoded = TypeVar("Encoded")

INLINE_CALL_BYTES = 48 * 1024  # 64 KiB as base64
LARGE_FUNCTION_BYTES = 10 * 1024 * 1024  # from here on the user is told what makes it so large
CALL_LIMIT_BYTES = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReference:
    """What a call names its function by.

    Attributes:
        digest: of the blob of the function.
        memo: the objects in the blob, so that arguments can refer to them.
    """

    digest: str
    memo: Memo


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionBlob:
    """A function, pickled once; calls name it by its digest.

    Attributes:
        pieces: content of the blob, in order.
        memo: the objects in it, so that the arguments of a call can refer to them.
    """

    digest: str
    pieces: Sequence[Buffer]
    size: int
    memo: Memo

    @property
    def reference(self) -> FunctionReference:
        """What a call needs of it."""
        return FunctionReference(digest=self.digest, memo=self.memo)

    @property
    def name(self) -> str:
        """Its blob."""
        return f"functions/{self.digest}"


def encode_function(function: Callable[..., Any], *, private: bool = False) -> FunctionBlob:
    """Pickle a function, with all that it carries.

    Args:
        function: the function.
        private: see `encode_call`.

    Raises:
        Unpicklable: something it carries cannot travel; the message names the path to it.
    """
    name = getattr(function, "__qualname__", None) or repr(function)[:80]
    _refuse_generator_function(function, name)
    (pickled, *buffers), memo = _function_frames(function, name, private=private)
    # The digest covers the buffers, so they are copied: a thread may change an array while it is hashed.
    frames = [pickled, *map(snapshot, buffers)]
    pieces = seal({}, frames, direction="function", key=None, private=True)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    size = size_of(pieces)
    if size > LARGE_FUNCTION_BYTES:
        from cook_jupyter.payload import pickle_diagnosis

        part, part_size = pickle_diagnosis.largest_part(function)
        warnings.warn(
            f"{name} carries {size / 2**20:.0f} MB along, most of it in {part} ({part_size / 2**20:.0f} MB). "
            "It is sent once, but looked through at each submission: pass it as an argument, or read it from "
            "a file.",
            stacklevel=3,
        )
    return FunctionBlob(digest=digest.hexdigest(), pieces=pieces, size=size, memo=memo)


def check_digest(content: Buffer, digest: str) -> None:
    """Check that the blob of a function is the one that a call names.

    Args:
        content: the blob.
        digest: the SHA-256 that is signed in the call.

    Raises:
        Unverifiable: the blob is not complete.
        Tampered: the blob is complete and is another one.
    """
    require_complete(content, direction="function")
    if hashlib.sha256(content).hexdigest() != digest:
        raise Tampered("the function of a call is not the one that was signed; it was not opened")


def encode_call(
    function: FunctionReference,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    key: Key,
    job_id: str,
    private: bool = False,
) -> SealedPayload:
    """Encode and sign a call of a function.

    Args:
        function: reference of what `encode_function` returned.
        args: positional arguments; large arrays are referred to, so write the call before they change.
        kwargs: arguments by name.
        key: the user's.
        job_id: the job that will run it, and no other can.
        private: whether both sides reach the blob store as a directory that only this user can write to.

    Raises:
        Unpicklable: an argument cannot travel; the message names the path to it.
        TooLarge: beyond 2 GiB.
    """
    keywords = dict(kwargs)
    named = itertools.chain(
        ((f"argument {place}", each) for place, each in enumerate(args, 1)),
        ((f"argument {name!r}", each) for name, each in keywords.items()),
    )
    from cook_jupyter.payload import pickling

    memo = None
    if pickling.PLAIN.issuperset(map(type, (*args, *keywords.values()))):
        frames = pickling.plain_arguments_to_frames(args, keywords)
    else:
        memo = function.memo
        frames = _argument_frames((args, keywords), named, memo, private=private)
    return _seal_call("call", frames, function=function, memo=memo, key=key, job_id=job_id, private=private)


def encode_bundle(
    function: FunctionReference,
    columns: Sequence[Sequence[Any]],
    *,
    key: Key,
    job_id: str,
    private: bool = False,
) -> SealedPayload:
    """Encode and sign many calls of one function in one job, each with positional arguments.

    Args:
        function: reference of what `encode_function` returned.
        columns: the first arguments of all calls, then the second ones, ...: as `map` takes its iterables.
        key: the user's.
        job_id: the job that will run it, and no other can.
        private: see `encode_call`.

    Raises:
        Unpicklable: an argument cannot travel; the message names the path to it.
        TooLarge: beyond 2 GiB.
    """
    named = (
        (f"argument {place} of call {row}", each)
        for place, column in enumerate(columns, 1)
        for row, each in enumerate(column, 1)
    )
    frames = _argument_frames(list(columns), named, function.memo, private=private)
    return _seal_call(
        "bundle", frames, function=function, memo=function.memo, key=key, job_id=job_id, private=private
    )


def call_environment(
    call: SealedPayload, *, job_id: str, store: BlobStore, requirements: HostRequirements
) -> dict[str, str]:
    """Return the environment variables that carry a call; a call that is not inline is stored first.

    Args:
        call: from `encode_call` or `encode_bundle`.
        job_id: the job that will run it.
        store: the blob store, as this process reaches it.
        requirements: what the host needs to run the call.
    """
    environment = requirements.variables()
    if call.inline:
        environment[CALL] = base64.b64encode(b"".join(call.pieces)).decode("ascii")
    else:
        name = f"calls/{job_id}"
        store.put(name, call.pieces)
        environment[CALL_BLOB] = name
    return environment


def open_call(environment: Mapping[str, str], *, store: BlobStore, key: Key, job_id: str) -> VerifiedEnvelope:
    """Verify the call that environment variables carry, and return it unopened.

    Args:
        environment: from `call_environment`.
        store: the blob store.
        key: signing key of the user.
        job_id: the job that runs the call.

    Raises:
        NotFound: the blob of the call is gone.
        Unverifiable: the call cannot be verified.
        Tampered: the call is not the one that was signed.
    """
    inline = environment.get(CALL)
    if inline is not None:
        try:
            content = bytearray(base64.b64decode(inline, validate=True))
        except ValueError as error:
            raise Unverifiable(f"the variable {CALL} of job {job_id} is damaged: {error}") from error
        return unseal(content, direction="call", key=key, job_id=job_id)
    blob = store.get(environment[CALL_BLOB])
    return unseal(blob, direction="call", key=key, job_id=job_id, private=store.private)


def _seal_call(
    kind: str,
    frames: list[Buffer],
    *,
    function: FunctionReference,
    memo: Memo | None,
    key: Key,
    job_id: str,
    private: bool,
) -> SealedPayload:
    header = {
        "kind": kind,
        "function": function.digest,
        "shares": memo is not None,  # objects with the function
        "job": job_id,
        "versions": versions.fingerprint(),
        "private": private,
        "cwd": call_context.current_folder(),
        "path": call_context.local_path(),
        "main": call_context.main_file(),
    }
    call = seal_for_transport(
        header,
        frames,
        direction="call",
        key=key,
        max_inline_bytes=INLINE_CALL_BYTES,
        private_blobs=private,
    )
    if (size := call.size) > CALL_LIMIT_BYTES:
        raise TooLarge(
            f"the arguments of a call take {size / 2**30:.1f} GiB and at most "
            f"{CALL_LIMIT_BYTES / 2**30:.0f} GiB can be sent; put the data into a file and pass its path"
        )
    return call


def _refuse_generator_function(function: Callable[..., Any], name: str) -> None:
    if inspect.isgeneratorfunction(function):
        kind, replacement = "a generator function", f"a function that returns list({name}(...))"
    elif inspect.isasyncgenfunction(function):
        kind = "an asynchronous generator function"
        replacement = f"an async def function that returns [value async for value in {name}(...)]"
    else:
        return
    raise Unpicklable(
        f"{name} is {kind}: a call returns a generator, which cannot be sent back. "
        f"Submit {replacement}, or one that does the work itself."
    )


def _function_frames(function: Any, name: str, *, private: bool) -> tuple[list[Buffer], Memo]:
    from cook_jupyter.payload import pickling

    def encode(local_code: pickling.LocalCode) -> tuple[list[Buffer], Memo]:
        from_disk = local_code is pickling.LocalCode.FROM_DISK
        changes = module_state.changes() if from_disk else []
        value = module_state.Changed(changes, function) if changes else function
        return pickling.to_frames_with_memo(value, local_code=local_code)

    return _encode_out(encode, [(name, function)], private=private)


def _argument_frames(
    value: Any, named: Iterable[tuple[str, Any]], memo: Memo | None, *, private: bool
) -> list[Buffer]:
    from cook_jupyter.payload import pickling

    def encode(local_code: pickling.LocalCode) -> list[Buffer]:
        return pickling.to_frames(value, local_code=local_code, after=memo)

    return _encode_out(encode, named, private=private)


def _encode_out(
    encode: Callable[[LocalCode], Encoded], named: Iterable[tuple[str, Any]], *, private: bool
) -> Encoded:
    """Pickle for the way out.

    Where the host reaches the files of local modules it imports them: a job runs what is on disk. Elsewhere
    local code travels by value, or by name where its modules hold what cannot travel.

    Args:
        encode: pickles, with local code in the given way.
        named: the parts of what is pickled and their names in an error message; read only then.
        private: see `encode_call`.
    """
    from cook_jupyter.payload import pickle_diagnosis, pickling

    try:
        return encode(pickling.LocalCode.FROM_DISK if private else pickling.LocalCode.BY_VALUE)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        try:
            # A module-level lock, say: the host imports the module then.
            return encode(pickling.LocalCode.BY_NAME)
        except Exception:  # noqa: BLE001 - see above
            raise pickle_diagnosis.unpicklable(named, error) from error
