"""Blobs: where large calls, large results and functions rest.

Lives here: `BlobStore` and two of its twins: a directory, and anything that fsspec names. The third,
over HTTP, is the client's.
Not here: writing a blob piece by piece (`payload.drafts`), what a blob holds (`payload.envelope`).

A blob is written once and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import mmap
import os
import re
import stat
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.payload.drafts import BlobDraft, FileDraft, FsspecDraft
from cook_jupyter.payload.envelope import Buffer
from cook_jupyter.payload.store_identity import folder_identity

_NAME = re.compile(
    r"functions/[0-9a-f]{64}|(calls|results)/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_SYNCED = "file+sync://"
_SMALLEST_MAPPED = 128 * 1024  # below, reading is cheaper than mapping


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


class ServedBlobStore(BlobStore, Protocol):
    """A blob store as a scheduler needs it that serves blobs: in pieces, however large they are."""

    def identity(self) -> str:
        """Return the identity of a directory (`payload.store_identity`); empty where the URL says it all."""

    def open(self, name: str) -> BinaryIO:
        """Open a blob for reading; the caller closes it.

        Raises:
            NotFound: there is no such blob.
            InvalidRequest: not a name of a blob.
        """

    def draft(self, name: str) -> BlobDraft:
        """Begin to write a blob.

        Raises:
            StoreFull: no room.
            InvalidRequest: not a name of a blob.
            OSError: the store cannot be written to for another reason.
        """


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
    def folder(self) -> Path:
        """The directory."""
        return self._root

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
        draft = self.draft(name)
        try:
            draft.write_pieces(pieces)
            draft.commit()
        finally:
            draft.discard()

    def identity(self) -> str:
        """Return the identity of the directory; empty if it has none and cannot be written to."""
        return folder_identity(self._root)

    def draft(self, name: str) -> FileDraft:
        """Begin a file beside the blob's place."""
        return FileDraft(self._place, checked_name(name), synced=self._synced)

    def open(self, name: str) -> BufferedReader:
        """Open the file of a blob."""
        try:
            return open(f"{self._place}/{checked_name(name)}", "rb")  # noqa: PTH123 - for each fetched result
        except FileNotFoundError as error:
            raise self._not_found(name) from error

    def get(self, name: str) -> Buffer:
        """Small blobs are read; large ones mapped, private to this process (copy on write)."""
        try:
            descriptor = os.open(f"{self._root}/{checked_name(name)}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._not_found(name) from error
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
        if self.size(name) != size:
            return False
        try:
            with self.open(name) as file:  # not mapped: a file that is cut short would end this process
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
        except NotFound:
            return False

    def delete(self, name: str) -> None:
        """Remove the file; whoever has mapped it keeps it."""
        (self._root / checked_name(name)).unlink(missing_ok=True)

    def _not_found(self, name: str) -> NotFound:
        return NotFound(f"there is no blob {name} in {self._root}", missing=(name,))


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
        draft = self.draft(name)
        try:
            for piece in pieces:
                draft.write(piece)
            draft.commit()
        finally:
            draft.discard()

    def identity(self) -> str:
        """Return nothing: the URL means the same everywhere."""
        return ""

    def draft(self, name: str) -> FsspecDraft:
        """Begin a file beside the blob's place."""
        return FsspecDraft(self._fs, self._root, checked_name(name), self._url)

    def open(self, name: str) -> BinaryIO:
        """Open the file of a blob."""
        try:
            return cast("BinaryIO", self._fs.open(f"{self._root}/{checked_name(name)}", "rb"))
        except FileNotFoundError as error:
            raise self._not_found(name) from error

    def get(self, name: str) -> Buffer:
        """The content, in memory."""
        try:
            return bytearray(self._fs.cat_file(f"{self._root}/{checked_name(name)}"))
        except FileNotFoundError as error:
            raise self._not_found(name) from error

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

    def _not_found(self, name: str) -> NotFound:
        return NotFound(f"there is no blob {name} in {self._url}", missing=(name,))
