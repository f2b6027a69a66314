"""A faulty disk for tests of the SQLite store: it refuses writes, or the process dies at one of them.

It is a SQLite VFS over the usual one, chosen by name: `SqliteStore(path, vfs=disk.name)`.
"""

import itertools
import os
from collections.abc import Callable

import apsw

_numbers = itertools.count()


class Disk(apsw.VFS):
    """Counts operations of the disk (writes, syncs, truncations) and makes one of them fail.

    Attributes:
        name: name of the VFS in SQLite.
        steps: number of operations so far.
    """

    def __init__(self) -> None:
        self.name = f"disk-{next(_numbers)}"
        self.steps = 0
        self._from, self._to = 0, 0
        self._event: Callable[[], None] = _nothing
        super().__init__(self.name, "")

    def refuse(self, step: int, *, steps: int = 1_000_000, error: type[apsw.Error] = apsw.FullError) -> None:
        """Refuse operations from a step on, counted from now."""

        def refuse_step() -> None:
            raise error("the disk of a test refuses")

        self._arm(step, steps, refuse_step)

    def die(self, step: int) -> None:
        """End the process, as kill -9 does, just before the given step."""
        self._arm(step, 1, lambda: os._exit(9))

    def heal(self) -> None:
        """Refuse nothing from now on."""
        self._arm(0, 0, _nothing)

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 apsw's name
        return _File(self, name, flags)

    def step(self) -> None:
        """Count one operation, and fail if it is to fail."""
        self.steps += 1
        if self._from <= self.steps < self._to:
            self._event()

    def _arm(self, step: int, steps: int, event: Callable[[], None]) -> None:
        self.steps = 0
        self._from, self._to, self._event = step, step + steps, event


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: object, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)  # type: ignore[arg-type]  # a name or a URIFilename, as SQLite passes it

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.step()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.step()
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.step()
        super().xTruncate(size)


def _nothing() -> None:
    pass
