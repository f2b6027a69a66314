"""Sandboxes that are directories of this machine.

Lives here: `LocalSandboxes`. Not here: making and removing sandboxes (`worker.sandbox`, `worker.retention`).
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cook_jupyter.clusters.sandboxes import is_directory, no_sandbox, no_such_file, removed_sandbox
from cook_jupyter.errors import NotFound
from cook_jupyter.model.files import FileEntry, SandboxFile
from cook_jupyter.model.instance import Instance

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalSandboxes:
    """The sandboxes of the instances of this machine, each at the path that its instance names."""

    def url(self, instance: Instance) -> str | None:
        """Return None: no other server of this machine has the files."""
        return None

    async def browse(self, instance: Instance, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory."""
        return await asyncio.to_thread(_browse, instance, path)

    @asynccontextmanager
    async def open(self, instance: Instance, path: str) -> AsyncIterator[SandboxFile]:
        """Open a file; reading is done in threads."""
        descriptor = await asyncio.to_thread(_open_file, instance, path)
        try:
            yield _LocalFile(descriptor)
        finally:
            os.close(descriptor)


class _LocalFile:
    """A file behind a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @property
    def size(self) -> int:
        """The size when the file was opened."""
        return self._size

    async def read(self, offset: int, length: int) -> bytes:
        """Return a part of the file."""
        return await asyncio.to_thread(self._read, offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        # A buffer of the whole length is allocated before anything is read.
        length = min(length, os.fstat(self._descriptor).st_size - offset)
        return os.pread(self._descriptor, length, offset) if length > 0 else b""


def _open_file(instance: Instance, path: str) -> int:
    """Return the descriptor of a regular file."""
    descriptor, mode = _open(instance, path)
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise is_directory(path) if stat.S_ISDIR(mode) else no_such_file(path)


def _browse(instance: Instance, path: str) -> list[FileEntry]:
    descriptor, mode = _open(instance, path)
    try:
        return _entries(descriptor) if stat.S_ISDIR(mode) else []
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _open(instance: Instance, path: str) -> tuple[int, int]:
    """Open a regular file or a directory of a sandbox; return its descriptor and its mode.

    The path is resolved first. Then it is walked from the sandbox on without following links: if the job puts
    a link in the place of a directory meanwhile, opening fails.

    Raises:
        NotFound: as `Sandboxes` says.
    """
    root = _root_of(instance)
    try:
        resolved = os.path.realpath(f"{root}/{path}" if not path.startswith("/") else path, strict=True)
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise no_such_file(path) from error
    if resolved != root and not resolved.startswith(f"{root.rstrip('/')}/"):
        raise no_such_file(path)
    try:
        return _walk(root, [part for part in resolved[len(root) :].split("/") if part])
    except OSError as error:
        raise _unreadable(path, error) from error


def _root_of(instance: Instance) -> str:
    """Return the path of a sandbox without links."""
    if instance.sandbox is None:
        raise no_sandbox(instance)
    try:
        return os.path.realpath(instance.sandbox, strict=True)
    except OSError as error:
        raise removed_sandbox(instance) from error


def _walk(root: str, parts: Sequence[str]) -> tuple[int, int]:
    """Open what is below a directory, without following any link."""
    descriptor = os.open(root, _DIRECTORY)
    try:
        for number, part in enumerate(parts):
            mode = os.stat(part, dir_fd=descriptor, follow_symlinks=False).st_mode
            is_last = number == len(parts) - 1
            if is_last and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise NotFound(f"not a file: {part!r}")  # opening a pipe or a device may have effects
            below = os.open(part, _FILE if is_last and stat.S_ISREG(mode) else _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        return descriptor, os.fstat(descriptor).st_mode
    except BaseException:
        os.close(descriptor)
        raise


def _entries(descriptor: int) -> list[FileEntry]:
    entries = []
    for name in sorted(os.listdir(descriptor)):
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError:  # it was removed in the meantime
            continue
        entries.append(
            FileEntry(
                name=name,
                mode=status.st_mode,
                is_directory=_is_directory(name, descriptor),
                link_count=status.st_nlink,
                size=status.st_size,
                modified_s=int(status.st_mtime),
                uid=str(status.st_uid),
                gid=str(status.st_gid),
            )
        )
    return entries


def _is_directory(name: str, descriptor: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=descriptor).st_mode)
    except OSError:
        return False


def _unreadable(path: str, error: OSError) -> NotFound:
    return NotFound(f"the file {path.rpartition('/')[2]!r} cannot be read: {error.strerror}")
