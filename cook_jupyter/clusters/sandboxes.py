"""Files of instances: the `Sandboxes` of a cluster.

Lives here: the protocol, and `MemorySandboxes`, its in-memory implementation.
Not here: sandboxes that are directories of this machine (`clusters.local.sandboxes`), which cluster to ask
about an instance (`service.requests.instance_files`), who may read what (`api`).

A path names a file either relative to the sandbox, or absolutely, as the host of the instance knows it.
Symbolic links are followed inside the sandbox and never out of it: a job controls its sandbox, and could
otherwise expose whatever the scheduler can read. Every implementation passes one contract suite.
"""

import posixpath
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.model.files import FileEntry, SandboxFile
from cook_jupyter.model.instance import Instance, InstanceId

_MAX_LINKS = 40  # as the kernel


class Sandboxes(Protocol):
    """The sandboxes of the instances of a cluster.

    All methods take an instance of the cluster. They raise `NotFound` if it has no sandbox yet, if its
    sandbox was removed, or if the path does not exist, leads out of the sandbox, or cannot be read.
    """

    def url(self, instance: Instance) -> str | None:
        """Return where the host of an instance serves its files, such as `http://host:5051`.

        None means that they are reached through the scheduler alone.
        """

    async def browse(self, instance: Instance, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory in the order of their names; of a file there are none.

        Raises:
            NotFound: see the class.
        """

    def open(self, instance: Instance, path: str) -> AbstractAsyncContextManager[SandboxFile]:
        """Open a regular file for the duration of the context.

        Raises:
            NotFound: see the class; also if the path is neither a regular file nor a directory.
            InvalidRequest: the path is a directory.
        """


def no_sandbox(instance: Instance) -> NotFound:
    """Return the error about an instance that has not got its sandbox yet."""
    instance_id = instance.instance_id
    return NotFound(f"instance {instance_id} has no sandbox: it was not started", missing=(instance_id,))


def removed_sandbox(instance: Instance) -> NotFound:
    """Return the error about an instance whose sandbox is gone."""
    instance_id = instance.instance_id
    return NotFound(f"the sandbox of instance {instance_id} was removed", missing=(instance_id,))


def no_such_file(path: str) -> NotFound:
    """Return the error about a path that is not a readable file in a sandbox, for whatever reason."""
    return NotFound(f"no such file in a sandbox: {path[:200]!r}")


def is_directory(path: str) -> InvalidRequest:
    """Return the error about a directory that should be read as a file."""
    return InvalidRequest(f"{path[:200]!r} is a directory; browse it instead")


@dataclass(frozen=True, slots=True)
class _Link:
    target: str


@dataclass(frozen=True, slots=True)
class _MemoryFile:
    content: bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    async def read(self, offset: int, length: int) -> bytes:
        """Return a part of the bytes."""
        return self.content[offset : offset + length]


class MemorySandboxes:
    """Sandboxes in memory; `write`, `link` and `remove` do what instances would do.

    Args:
        url: address at which hosts serve files; None if they do not.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._sandboxes: dict[InstanceId, dict[str, bytes | _Link]] = {}  # relative path -> content

    def write(self, instance_id: InstanceId, path: str, content: bytes) -> None:
        """Write a file, with its directories and its sandbox.

        Args:
            instance_id: instance of the sandbox.
            path: path relative to the sandbox.
            content: the whole content.
        """
        self._sandboxes.setdefault(instance_id, {})[path] = content

    def link(self, instance_id: InstanceId, path: str, target: str) -> None:
        """Make a symbolic link.

        Args:
            instance_id: instance of the sandbox.
            path: path of the link, relative to the sandbox.
            target: absolute path, or path relative to the directory of the link.
        """
        self._sandboxes.setdefault(instance_id, {})[path] = _Link(target)

    def remove(self, instance_id: InstanceId) -> None:
        """Remove a sandbox with all its files."""
        self._sandboxes.pop(instance_id, None)

    def url(self, instance: Instance) -> str | None:
        """Return the address that the constructor was given."""
        return self._url

    async def browse(self, instance: Instance, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory."""
        files = self._files(instance)
        resolved = self._resolve(instance, path)
        if isinstance(files.get(resolved), bytes):
            return []
        prefix = f"{resolved}/" if resolved else ""
        names = {name[len(prefix) :].split("/")[0] for name in files if name.startswith(prefix)}
        return [self._entry(instance, prefix, name) for name in sorted(names)]

    @asynccontextmanager
    async def open(self, instance: Instance, path: str) -> AsyncIterator[SandboxFile]:
        """Open a file."""
        content = self._files(instance).get(self._resolve(instance, path))
        if not isinstance(content, bytes):
            raise is_directory(path)
        yield _MemoryFile(content)

    def _files(self, instance: Instance) -> dict[str, bytes | _Link]:
        if instance.sandbox is None:
            raise no_sandbox(instance)
        try:
            return self._sandboxes[instance.instance_id]
        except KeyError:
            raise removed_sandbox(instance) from None

    def _resolve(self, instance: Instance, path: str) -> str:
        """Return a path that exists, relative to the sandbox and without links; empty for the sandbox."""
        files, sandbox = self._files(instance), instance.sandbox or ""
        links = iter(range(_MAX_LINKS))
        resolved = self._follow(files, sandbox, posixpath.join(sandbox, path), links)
        if resolved is None:
            raise no_such_file(path)
        return resolved

    def _follow(
        self, files: dict[str, bytes | _Link], sandbox: str, path: str, links: Iterator[int]
    ) -> str | None:
        here: list[str] = []  # of an absolute path
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for number, part in enumerate(parts):
            if part == "..":
                del here[-1:]
                continue
            here.append(part)
            absolute = "/" + "/".join(here)
            if absolute == sandbox or sandbox.startswith(f"{absolute}/"):
                continue
            if not absolute.startswith(f"{sandbox}/"):
                return None
            relative = absolute[len(sandbox) + 1 :]
            content = files.get(relative)
            if isinstance(content, _Link):
                if next(links, None) is None:
                    return None
                target = posixpath.join(sandbox, posixpath.dirname(relative), content.target)
                return self._follow(files, sandbox, "/".join((target, *parts[number + 1 :])), links)
            is_last = number == len(parts) - 1
            if isinstance(content, bytes) and not is_last:
                return None
            if content is None and not any(name.startswith(f"{relative}/") for name in files):
                return None
        absolute = "/" + "/".join(here)
        return absolute[len(sandbox) + 1 :] if f"{absolute}/".startswith(f"{sandbox}/") else None

    def _entry(self, instance: Instance, prefix: str, name: str) -> FileEntry:
        content = self._files(instance).get(prefix + name)
        kind, size = stat.S_IFDIR | 0o700, 0
        if isinstance(content, bytes):
            kind, size = stat.S_IFREG | 0o600, len(content)
        elif isinstance(content, _Link):
            kind, size = stat.S_IFLNK | 0o777, len(content.target)
        is_folder = stat.S_ISDIR(kind)
        return FileEntry(
            name=name,
            mode=kind,
            is_directory=is_folder,
            link_count=2 if is_folder else 1,
            size=size,
            modified_s=0,
            uid="0",
            gid="0",
        )
