"""Outgoing: a function and the arguments of its calls, as signed bytes.

Lives here: encoding a function, a call or a bundle of calls, and the environment variables that carry one.
Not here: running them (`payload.calls`), reading what came of them (`payload.results`), futures (`executor`).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cook_jupyter.errors import Tampered, TooLarge
from cook_jupyter.payload import surroundings, versions
from cook_jupyter.payload.blobs import BlobStore
from cook_jupyter.payload.envelope import Buffer, seal, size_of
from cook_jupyter.payload.keys import Key

CALL = "COOK_CALL"  # the call itself, base64
CALL_BLOB = "COOK_CALL_BLOB"  # or the name of the blob that holds it
CALL_STORE = "COOK_CALL_STORE"  # where blobs rest
CALL_KEYFILE = "COOK_CALL_KEYFILE"

INLINE_CALL_BYTES = 48 * 1024  # 64 KiB as base64
LARGE_FUNCTION_BYTES = 10 * 1024 * 1024  # from here on the user is told what makes it so large
CALL_LIMIT_BYTES = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionBlob:
    """A function, pickled once; calls name it by its digest.

    Attributes:
        pieces: what rests in the blob store under `name`. They may refer to the function's own arrays.
    """

    digest: str
    pieces: Sequence[Buffer]
    size: int

    @property
    def name(self) -> str:
        """Its blob."""
        return f"functions/{self.digest}"


def encode_function(function: Callable[..., Any]) -> FunctionBlob:
    """Pickle a function, with all that it carries.

    Raises:
        Unpicklable: something it carries cannot travel; the message names the path to it.
    """
    name = getattr(function, "__qualname__", None) or repr(function)[:80]
    pieces = seal({}, _frames_out(function, [(name, function)]), direction="function", key=None, private=True)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    size = size_of(pieces)
    if size > LARGE_FUNCTION_BYTES:
        from cook_jupyter.payload import culprits

        part, part_size = culprits.largest_part(function)
        warnings.warn(
            f"{name} carries {size / 2**20:.0f} MB along, most of it in {part} ({part_size / 2**20:.0f} MB). "
            "It is sent once, but looked through at each submission: pass it as an argument, or read it from "
            "a file.",
            stacklevel=3,
        )
    return FunctionBlob(digest=digest.hexdigest(), pieces=pieces, size=size)


def check_digest(content: Buffer, digest: str) -> None:
    """See that a function's blob is the one that a call names.

    Raises:
        Tampered: it is another one.
    """
    if hashlib.sha256(content).hexdigest() != digest:
        raise Tampered("the function of a call is not the one that was signed; it was not opened")


def encode_call(
    digest: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    key: Key,
    job_id: str,
    private: bool = False,
) -> list[Buffer]:
    """A signed call of the function with that digest.

    Args:
        digest: of `encode_function`.
        args: positional arguments; large arrays are referred to, so write the call before they change.
        kwargs: arguments by name.
        key: the user's.
        job_id: the job that will run it, and no other can.
        private: blobs, of this call or its result, rest where only this user can write, and both sides reach
            them there.

    Raises:
        Unpicklable: an argument cannot travel; the message names the path to it.
        TooLarge: beyond 2 GiB.
    """
    keywords = dict(kwargs)
    named = itertools.chain(
        ((f"argument {place}", each) for place, each in enumerate(args, 1)),
        ((f"argument {name!r}", each) for name, each in keywords.items()),
    )
    frames = _frames_out((args, keywords), named)
    return _seal_call("call", frames, digest=digest, key=key, job_id=job_id, private=private)


def encode_bundle(
    digest: str, columns: Sequence[Sequence[Any]], *, key: Key, job_id: str, private: bool = False
) -> list[Buffer]:
    """Many signed calls of one function in one job, each with positional arguments.

    Args:
        digest: of `encode_function`.
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
    frames = _frames_out(list(columns), named)
    return _seal_call("bundle", frames, digest=digest, key=key, job_id=job_id, private=private)


def call_environment(
    pieces: Sequence[Buffer], *, job_id: str, store: BlobStore, key_file: str
) -> dict[str, str]:
    """The environment variables that carry a call; a large one is written to the store first."""
    environment = {CALL_STORE: store.url, CALL_KEYFILE: key_file}
    if size_of(pieces) <= INLINE_CALL_BYTES:
        environment[CALL] = base64.b64encode(b"".join(pieces)).decode("ascii")
    else:
        name = f"calls/{job_id}"
        store.put(name, pieces)
        environment[CALL_BLOB] = name
    return environment


def _seal_call(
    kind: str, frames: list[Buffer], *, digest: str, key: Key, job_id: str, private: bool
) -> list[Buffer]:
    header = {
        "kind": kind,
        "function": digest,
        "job": job_id,
        "versions": versions.fingerprint(),
        "private": private,
        "cwd": surroundings.current_folder(),
        "path": surroundings.local_path(),
    }
    pieces = seal(header, frames, direction="call", key=key, private=private)
    if (size := size_of(pieces)) > CALL_LIMIT_BYTES:
        raise TooLarge(
            f"the arguments of a call take {size / 2**30:.1f} GiB and at most "
            f"{CALL_LIMIT_BYTES / 2**30:.0f} GiB can be sent; put the data into a file and pass its path"
        )
    return pieces


def _frames_out(value: Any, named: Iterable[tuple[str, Any]]) -> list[Buffer]:
    """Pickle for the way out: local code by value; by reference where its modules hold what cannot travel.

    Args:
        value: what to pickle.
        named: its parts, under the names that an error shall use; looked at only then.
    """
    from cook_jupyter.payload import culprits, pickling

    try:
        return pickling.to_frames(value, by_value=True)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        try:
            return pickling.to_frames(value)  # a module-level lock, say: the host imports the module then
        except Exception:  # noqa: BLE001 - see above
            raise culprits.unpicklable(named, error) from error
