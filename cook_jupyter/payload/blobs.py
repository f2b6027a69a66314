"""Blobs: where large calls, large results and functions rest.

Lives here: `BlobStore` and two of its twins: a directory, and anything that fsspec names. The third,
over HTTP, is the client's.
Not here: what a blob holds (`payload.envelope`).

A blob is written once and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from cook_jupyter.errors import InvalidRequest, NotFound, StoreFull
from cook_jupyter.payload.envelope import Buffer

_NAME = re.compile(
    r"functions/[0-9a-f]{64}|(calls|results)/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_SYNCED = "file+sync://"
_SMALLEST_MAPPED = 128 * 1024  # below, reading is cheaper than mapping
_MOST_PIECES = 512  # per writev; IOV_MAX is 1024 on Linux and macOS
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BlobStore(Protocol):
    """Bytes under a checked name: functions/SHA256, calls/JOB or results/INSTANCE."""

    @property
    def url(self) -> str:
        """How another process opens the same store."""

    @property
    def private(self) -> bool:
        """Whether nobody but this user can write here."""

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a blob whole; writing the same again is allowed.

        Raises:
            InvalidRequest: not a name of a blob.
            StoreFull: no room; nothing was changed.
        """

    def get(self, name: str) -> Buffer:
        """The content, writable without changing the blob.

        Raises:
            NotFound: there is no such blob.
        """

    def has(self, name: str) -> bool:
        """Whether the blob is there."""

    def size(self, name: str) -> int | None:
        """The size of the blob in bytes; None if it is not there."""

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Return whether the blob is there, complete and undamaged, as far as this store can tell cheaply.

        Args:
            name: the blob.
            size: bytes that it must have.
            digest: SHA-256 that it must have.
        """

    def delete(self, name: str) -> None:
        """Forget a blob; one that is not there is forgotten already."""


def checked_name(name: str) -> str:
    """Return `name` if it is one of a blob.

    Raises:
        InvalidRequest: it is not, for instance because it would lead out of the store.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:200]!r} names no blob: functions/SHA256, calls/UUID or results/UUID, in lower case"
        )
    return name


def open_store(url: str) -> BlobStore:
    """The store at a path, a file:// URL, or any URL that fsspec knows."""
    if "://" not in url:
        return DirectoryStore(Path(url))
    if url.startswith(_SYNCED):
        return DirectoryStore(Path(url.removeprefix(_SYNCED)), synced=True)
    if url.startswith("file://"):
        return DirectoryStore(Path(url.removeprefix("file://")))
    return FsspecStore(url)


class DirectoryStore:
    """A directory; large blobs are mapped into memory, not read.

    Args:
        root: the directory.
        synced: whether `put` returns only when the blob is on the disk, so that it survives a loss of power.
    """

    def __init__(self, root: Path, *, synced: bool = False) -> None:
        self._root = root
        self._place = str(root)
        self._synced = synced
        self._private: bool | None = None

    @property
    def url(self) -> str:
        """The directory's path; behind `file+sync://` if blobs must be on the disk."""
        return f"{_SYNCED if self._synced else ''}{self._root}"

    @property
    def private(self) -> bool:
        """Whether the directory is ours and closed to others."""
        if self._private is None:
            try:
                found = self._root.stat()
            except OSError:
                return False
            self._private = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return self._private

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a draft beside the blob's place, then rename it."""
        target = f"{self._root}/{checked_name(name)}"
        folder, _, last = target.rpartition("/")
        # A name of its own: other stores of this process, and hosts that share the folder, put the same blob.
        draft = f"{folder}/.{last}.{os.getpid()}.{os.urandom(6).hex()}"
        try:
            descriptor = self._create(folder, draft)
            try:
                _write_all(descriptor, pieces)
                if self._synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, target)  # noqa: PTH105 - strings: this is the hot path of every large call
            if self._synced:
                sync_directory(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(draft)  # noqa: PTH108
            if error.errno in _FULL:
                raise StoreFull(
                    f"no room to write {name} in {self._root}: {error.strerror}. Make room and try again."
                ) from error
            raise

    def get(self, name: str) -> Buffer:
        """Small blobs are read; large ones mapped, private to this process (copy on write)."""
        try:
            descriptor = os.open(f"{self._root}/{checked_name(name)}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"there is no blob {name} in {self._root}", missing=(name,)) from error
        try:
            size = os.fstat(descriptor).st_size
            if size >= _SMALLEST_MAPPED:
                return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY))
            content = bytearray(size)
            view = memoryview(content)
            done = 0
            while done < size and (count := os.readv(descriptor, [view[done:]])):
                done += count
            return content
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        """Whether the blob is there."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """The size of the file."""
        try:
            return os.stat(f"{self._place}/{checked_name(name)}").st_size  # noqa: PTH116 - for each submission
        except FileNotFoundError:
            return None

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Compare the size of the file, then its content."""
        return self.size(name) == size and hashlib.sha256(self.get(name)).hexdigest() == digest

    def delete(self, name: str) -> None:
        """Remove the file; whoever has mapped it keeps it."""
        (self._root / checked_name(name)).unlink(missing_ok=True)

    def _create(self, folder: str, draft: str) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(draft, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
            return os.open(draft, flags, 0o600)


class FsspecStore:
    """Anything that fsspec names: s3://bucket/prefix, memory://, a shared file system behind a gateway."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        fsspec = importlib.import_module("fsspec")
        fs, root = fsspec.core.url_to_fs(self._url)
        self._fs: Any = fs
        self._root: str = root.rstrip("/")

    @property
    def url(self) -> str:
        """As it was given."""
        return self._url

    @property
    def private(self) -> bool:
        """Never: who may write there is not ours to know."""
        return False

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a draft and move it: object stores publish whole, file systems rename."""
        target = f"{self._root}/{checked_name(name)}"
        folder = target.rpartition("/")[0]
        draft = f"{target}.{os.getpid()}.{os.urandom(4).hex()}.draft"
        try:
            self._fs.makedirs(folder, exist_ok=True)
            with self._fs.open(draft, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            self._fs.mv(draft, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._fs.rm_file(draft)
            if error.errno in _FULL:
                raise StoreFull(
                    f"no room to write {name} in {self._url}. Make room and try again."
                ) from error
            raise

    def get(self, name: str) -> Buffer:
        """The content, in memory."""
        try:
            return bytearray(self._fs.cat_file(f"{self._root}/{checked_name(name)}"))
        except FileNotFoundError as error:
            raise NotFound(f"there is no blob {name} in {self._url}", missing=(name,)) from error

    def has(self, name: str) -> bool:
        """Whether the blob is there."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """The size of the file."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.size(f"{self._root}/{checked_name(name)}"))
        except FileNotFoundError:
            return None

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Compare the size of the file: reading all of it may cost more than writing it."""
        return self.size(name) == size

    def delete(self, name: str) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{checked_name(name)}")


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
    for start in range(0, len(pieces), _MOST_PIECES):
        yield pieces[start : start + _MOST_PIECES]
