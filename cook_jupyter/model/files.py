"""Files of instances: what a directory of a sandbox holds, and what can be done with an open file.

Lives here: `FileEntry` and `SandboxFile`. Not here: how files are reached (`clusters.sandboxes`).
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file, directory or link in a directory of a sandbox.

    Attributes:
        name: name in its directory.
        mode: type and permissions, as `st_mode`.
        is_directory: whether it is a directory, or a link to one.
        link_count: number of hard links.
        size: size in bytes.
        modified_s: time of the last modification; seconds since the epoch.
        uid: user who owns it, as a number or a name.
        gid: group that owns it, likewise.
    """

    name: str
    mode: int
    is_directory: bool
    link_count: int
    size: int
    modified_s: int
    uid: str
    gid: str


class SandboxFile(Protocol):
    """An open file of a sandbox."""

    @property
    def size(self) -> int:
        """The size in bytes when the file was opened; it may grow."""

    async def read(self, offset: int, length: int) -> bytes:
        """Return bytes from `offset` on: fewer than `length` at the end of the file, none beyond it."""
