"""Encode a function and the arguments of its calls as signed bytes.

Lives here: encoding a function, a call or a bundle of calls, and the environment variables that carry a
call.
Not here: running calls (`payload.calls`), reading results (`payload.results`), futures (`executor`).
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
LARGE_FUNCTION_BYTES = 10 * 1024 * 1024  # larger functions cause a warning that names their largest part
CALL_LIMIT_BYTES = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReference:
    """Reference to a function, by which a call names it.

    Attributes:
        digest: SHA-256 of the function's blob.
        memo: the objects in the blob, so that arguments can refer to them.
    """

    digest: str
    memo: Memo


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionBlob:
    """A function that was pickled once; calls refer to it by its digest.

    Attributes:
        digest: SHA-256 of the content.
        pieces: content of the blob, in order.
        size: size of the blob, in bytes.
        memo: the objects in the blob, so that the arguments of a call can refer to them.
    """

    digest: str
    pieces: Sequence[Buffer]
    size: int
    memo: Memo

    @property
    def reference(self) -> FunctionReference:
        """Reference by which calls name the function."""
        return FunctionReference(digest=self.digest, memo=self.memo)

    @property
    def name(self) -> str:
        """Name of the function's blob."""
        return f"functions/{self.digest}"


def encode_function(function: Callable[..., Any], *, private: bool = False) -> FunctionBlob:
    """Pickle a function with everything that it refers to.

    Args:
        function: the function to pickle.
        private: whether both sides reach the blob store as a directory that only this user can write to.

    Raises:
        Unpicklable: something that the function refers to cannot be sent; the message names the path to it.
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
            "It is sent once, but inspected at each submission: pass it as an argument, or read it from "
            "a file.",
            stacklevel=3,
        )
    return FunctionBlob(digest=digest.hexdigest(), pieces=pieces, size=size, memo=memo)


def check_digest(content: Buffer, digest: str) -> None:
    """Check that the blob of a function is the one that a call names.

    Args:
        content: content of the blob.
        digest: the SHA-256 that is signed in the call.

    Raises:
        Unverifiable: the blob is incomplete.
        Tampered: the blob is complete but has other content.
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
        function: reference to the encoded function (`FunctionBlob.reference`).
        args: positional arguments; large arrays are referred to, so write the call before they change.
        kwargs: keyword arguments.
        key: signing key of the user.
        job_id: the only job that can run the call.
        private: whether both sides reach the blob store as a directory that only this user can write to.

    Raises:
        Unpicklable: an argument cannot be sent; the message names the path to it.
        TooLarge: the call is larger than 2 GiB.
    """
    keywords = dict(kwargs)
    named_values = itertools.chain(
        ((f"argument {index}", value) for index, value in enumerate(args, 1)),
        ((f"argument {name!r}", value) for name, value in keywords.items()),
    )
    from cook_jupyter.payload import pickling

    memo = None
    if pickling.PLAIN.issuperset(map(type, (*args, *keywords.values()))):
        frames = pickling.plain_arguments_to_frames(args, keywords)
    else:
        memo = function.memo
        frames = _argument_frames((args, keywords), named_values, memo, private=private)
    return _seal_call("call", frames, function=function, memo=memo, key=key, job_id=job_id, private=private)


def encode_bundle(
    function: FunctionReference,
    columns: Sequence[Sequence[Any]],
    *,
    key: Key,
    job_id: str,
    private: bool = False,
) -> SealedPayload:
    """Encode and sign the calls of a bundle: calls of one function with positional arguments, in one job.

    Args:
        function: reference to the encoded function (`FunctionBlob.reference`).
        columns: the first arguments of all calls, then the second ones, ..., like the iterables of `map`.
        key: signing key of the user.
        job_id: the only job that can run the calls.
        private: see `encode_call`.

    Raises:
        Unpicklable: an argument cannot be sent; the message names the path to it.
        TooLarge: the bundle is larger than 2 GiB.
    """
    named_values = (
        (f"argument {index} of call {row}", value)
        for index, column in enumerate(columns, 1)
        for row, value in enumerate(column, 1)
    )
    frames = _argument_frames(list(columns), named_values, function.memo, private=private)
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
    """Verify the call in a job's environment variables, without unpickling it.

    Args:
        environment: environment variables of the job, from `call_environment`.
        store: the blob store.
        key: signing key of the user.
        job_id: the job that runs the call.

    Raises:
        NotFound: the blob of the call does not exist.
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
        "shares": memo is not None,  # whether arguments and function have objects in common
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

    return _encode_for_host(encode, [(name, function)], private=private)


def _argument_frames(
    value: Any, named_values: Iterable[tuple[str, Any]], memo: Memo | None, *, private: bool
) -> list[Buffer]:
    from cook_jupyter.payload import pickling

    def encode(local_code: pickling.LocalCode) -> list[Buffer]:
        return pickling.to_frames(value, local_code=local_code, after=memo)

    return _encode_for_host(encode, named_values, private=private)


def _encode_for_host(
    encode: Callable[[LocalCode], Encoded], named_values: Iterable[tuple[str, Any]], *, private: bool
) -> Encoded:
    """Pickle for a host, with the best way to send local code.

    If the host reaches the files of local modules, it imports them: a job runs what is on disk. Otherwise
    local code travels by value, or by name if its modules hold something that cannot be pickled.

    Args:
        encode: pickles, with local code sent in the given way.
        named_values: the parts of what is pickled, each with its name for an error message.
        private: see `encode_call`.
    """
    from cook_jupyter.payload import pickle_diagnosis, pickling

    try:
        return encode(pickling.LocalCode.FROM_DISK if private else pickling.LocalCode.BY_VALUE)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        try:
            # For instance a lock at module level: the host can import the module.
            return encode(pickling.LocalCode.BY_NAME)
        except Exception:  # noqa: BLE001 - see above
            raise pickle_diagnosis.unpicklable(named_values, error) from error
