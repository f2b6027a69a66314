"""Drafts: blobs that are being written, invisible until they are complete.

Lives here: `BlobDraft` and its implementations for a directory and for fsspec.
Not here: the stores that make drafts (`payload.blobs`).

A draft is written piece by piece, so that a blob may be larger than memory. Its blob appears by renaming the
draft: whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from cook_jupyter.errors import StoreFull
from cook_jupyter.payload.envelope import Buffer

_MAX_PIECES = 512  # per writev; IOV_MAX is 1024 on Linux and macOS
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class BlobDraft(Protocol):
    """A blob that is being written."""

    def write(self, piece: Buffer) -> None:
        """Append bytes.

        Raises:
            StoreFull: the store has no room for them.
            OSError: they cannot be written for another reason.
        """

    def commit(self) -> None:
        """Make the blob appear under its name, in place of an earlier one; as durable as the store promises.

        Raises:
            StoreFull: the store has no room for it.
            OSError: it cannot be stored for another reason.
        """

    def discard(self) -> None:
        """Remove the draft; does nothing after `commit` or a second time."""


class FileDraft:
    """A draft beside its blob, in a directory.

    Args:
        root: directory of the store.
        name: checked name of the blob.
        synced: whether `commit` waits until content and name are on the disk.

    Raises:
        StoreFull: the directory has no room for a file.
        OSError: the file cannot be created for another reason.
    """

    __slots__ = ("_descriptor", "_folder", "_path", "_synced", "_target", "_what")

    def __init__(self, root: str, name: str, *, synced: bool) -> None:
        self._synced = synced
        self._what = f"{name} in {root}"
        self._target = f"{root}/{name}"
        self._folder, _, last = self._target.rpartition("/")
        # A name of its own: other stores of this process, and hosts that share the folder, put the same blob.
        self._path = f"{self._folder}/.{last}.{os.getpid()}.{os.urandom(6).hex()}"
        with _explaining_no_room(self._what):
            self._descriptor: int | None = self._create()

    def write(self, piece: Buffer) -> None:
        """Append bytes to the file."""
        self.write_pieces((piece,))

    def write_pieces(self, pieces: Sequence[Buffer]) -> None:
        """Append many pieces in few system calls."""
        assert self._descriptor is not None  # noqa: S101 - neither committed nor discarded
        with _explaining_no_room(self._what):
            _write_all(self._descriptor, pieces)

    def commit(self) -> None:
        """Close the file and rename it to the blob."""
        assert self._descriptor is not None  # noqa: S101 - neither committed nor discarded
        with _explaining_no_room(self._what):
            try:
                if self._synced:
                    os.fsync(self._descriptor)
            finally:
                self._close()
            os.replace(self._path, self._target)  # noqa: PTH105 - strings: every large call comes this way
            self._path = ""
            if self._synced:
                sync_directory(self._folder)

    def discard(self) -> None:
        """Close and remove the file."""
        with contextlib.suppress(OSError):
            self._close()
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 - as above
            self._path = ""

    def _create(self) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - as above
            return os.open(self._path, flags, 0o600)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class FsspecDraft:
    """A draft on a file system of fsspec: object stores publish whole files, others rename.

    Args:
        fs: the file system.
        folder: path of the store there.
        name: checked name of the blob.
        url: URL of the store, for messages.

    Raises:
        StoreFull: the file system has no room for a file.
        OSError: the file cannot be created for another reason.
    """

    def __init__(self, fs: Any, folder: str, name: str, url: str) -> None:
        self._fs = fs
        self._what = f"{name} in {url}"
        self._target = f"{folder}/{name}"
        self._path = f"{self._target}.{os.getpid()}.{os.urandom(4).hex()}.draft"
        with _explaining_no_room(self._what):
            fs.makedirs(self._target.rpartition("/")[0], exist_ok=True)
            self._file: Any = fs.open(self._path, "wb")

    def write(self, piece: Buffer) -> None:
        """Append bytes to the file."""
        with _explaining_no_room(self._what):
            self._file.write(piece)

    def commit(self) -> None:
        """Close the file and move it to the blob."""
        with _explaining_no_room(self._what):
            self._file.close()
            self._fs.mv(self._path, self._target)
        self._path = ""

    def discard(self) -> None:
        """Close and remove the file."""
        if not self._path:
            return
        for undo in (self._file.close, lambda: self._fs.rm_file(self._path)):
            with contextlib.suppress(OSError):
                undo()
        self._path = ""


@contextlib.contextmanager
def _explaining_no_room(what: str) -> Iterator[None]:
    """Raise `StoreFull` in place of a failure to write for want of room.

    Args:
        what: the blob and its store.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(f"no room to write {what}: {error.strerror}. Make room and try again.") from error
        raise


def sync_directory(folder: str | Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, pieces: Sequence[Buffer]) -> None:
    for group in _groups(pieces):
        waiting = [memoryview(piece).cast("B") for piece in group if len(piece)]
        while waiting:
            written = os.writev(descriptor, waiting)
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = waiting[0][written:]


def _groups(pieces: Sequence[Buffer]) -> Iterator[Sequence[Buffer]]:
    for start in range(0, len(pieces), _MAX_PIECES):
        yield pieces[start : start + _MAX_PIECES]
