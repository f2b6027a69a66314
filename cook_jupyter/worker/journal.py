"""What the processes of a host write down before they act, so that kill -9 makes nobody forget.

Lives here: `AgentJournal`, in which the node agent notes what it gave to whom, and `WorkerJournal`, in which
a worker notes how each of its tasks ended. Both are files of frames, appended with one write each.
Not here: what is concluded from them after a crash (`worker.recovery`).

Written is not synced: what was written survives the death of any process, not that of the machine. When
the machine dies, all that ran on it is lost anyway, and tried again.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping

from cook_jupyter.worker.frames import Frame, Header, pack, whole_frames
from cook_jupyter.worker.protocol import SETTLED, is_valid

LEDGER = "ledger"
_COMPACT_BEYOND = 1 << 20  # bytes
_SEGMENT_BYTES = 1 << 20


class AppendOnly:
    """A file that takes whole frames or nothing of them."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: it could not be written; the file is as it was before.
        """
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):  # a full disk takes a part, and says so on the next write
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += written

    def is_in(self, path: str) -> bool:
        """Return whether this is the file that a path leads to."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(path))
        except OSError:
            return False

    def is_removed(self) -> bool:
        """Return whether no path leads to the file any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


class AgentJournal:
    """What the agent noted of each instance that the scheduler has not acknowledged the end of.

    Notes are collected and written together; nothing may be done upon them before `flush` returned.
    """

    def __init__(self, folder: str, noted: Mapping[str, list[Frame]]) -> None:
        """Begin anew with what `read` found and is still of interest."""
        self._path = f"{folder}/{LEDGER}"
        self._kept = {
            key: [pack(frame.header, frame.tail) for frame in frames] for key, frames in noted.items()
        }
        self._unwritten: list[bytes] = []
        self._lasting = sum(len(frame) for frames in self._kept.values() for frame in frames)
        self._file = self._compacted()

    def note(self, instance_id: str, header: Header, tail: bytes = b"") -> None:
        """Note a frame about an instance."""
        frame = pack({**header, "id": instance_id}, tail)
        self._kept.setdefault(instance_id, []).append(frame)
        self._unwritten.append(frame)
        self._lasting += len(frame)

    def settle(self, instance_ids: Iterable[str]) -> None:
        """Note that the scheduler knows how these ended: they may be forgotten."""
        known = [instance_id for instance_id in instance_ids if instance_id in self._kept]
        for instance_id in known:
            self._lasting -= sum(map(len, self._kept.pop(instance_id)))
        if known:
            self._unwritten.append(pack({"t": "settled", "ids": known}))

    def flush(self) -> None:
        """Write what was noted since.

        Raises:
            OSError: it could not be written, and is forgotten.
        """
        if not self._unwritten:
            return
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        self._file.append(data)
        if self._file.size > _COMPACT_BEYOND + 2 * self._lasting:
            with contextlib.suppress(OSError):  # then the long one stays
                compacted = self._compacted()
                self._file.close()
                self._file = compacted

    def restore(self) -> None:
        """Write the file anew if it was removed.

        Raises:
            OSError: it could not be written.
        """
        if not self._file.is_in(self._path):
            restored = self._compacted()
            self._file.close()
            self._file = restored
            self._unwritten.clear()  # it is among what lasts

    def _compacted(self) -> AppendOnly:
        """Replace the file by one that holds only what lasts; whole or not at all."""
        draft = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        file = AppendOnly(draft)
        file.append(b"".join(frame for frames in self._kept.values() for frame in frames))
        os.rename(draft, self._path)
        return file

    @staticmethod
    def read(folder: str) -> dict[str, list[Frame]]:
        """Return what was noted of each instance that is not settled, in order."""
        noted: dict[str, list[Frame]] = {}
        for frame in read_frames(f"{folder}/{LEDGER}"):
            if is_valid(frame.header, SETTLED):
                for instance_id in frame.header["ids"]:
                    noted.pop(instance_id, None)
            elif isinstance(instance_id := frame.header.get("id"), str):  # else no agent wrote it
                noted.setdefault(instance_id, []).append(frame)
        return noted


class WorkerJournal:
    """How the tasks of one worker ended, in segments: `WORKER.0`, `WORKER.1`, ...

    The worker begins a new segment when one is long; the agent removes those whose ends are all acknowledged.
    One that somebody removed is begun anew.
    """

    def __init__(self, folder: str, worker: str, *, segment: int = 0) -> None:
        self._folder = folder
        self._stem = f"{folder}/{worker}"
        self.segment = segment
        self._file: AppendOnly | None = None
        with contextlib.suppress(OSError):  # a full disk: what is appended first tries again
            self._file = self._open()

    def _open(self) -> AppendOnly:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        return AppendOnly(f"{self._stem}.{self.segment}")

    def roll(self) -> int:
        """Begin a new segment if this one is long; return the number of the one that comes next.

        Raises:
            OSError: no new one could be made; the present one goes on.
        """
        if self._file is not None and self._file.size > _SEGMENT_BYTES:
            following = AppendOnly(f"{self._stem}.{self.segment + 1}")
            self._file.close()
            self._file = following
            self.segment += 1
        return self.segment

    def append(self, frame: bytes) -> None:
        """Write a frame down.

        Raises:
            OSError: it could not be written; the log is as it was before.
        """
        if self._file is None or self._file.is_removed():
            file = self._open()
            if self._file is not None:
                self._file.close()
            self._file = file
        self._file.append(frame)


def end_logs(folder: str) -> dict[str, list[str]]:
    """Return the paths of all segments by their worker, in the order they were written."""
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in os.listdir(folder):
        worker, _, number = name.rpartition(".")
        if worker and number.isdecimal():
            numbered.setdefault(worker, []).append((int(number), f"{folder}/{name}"))
    return {worker: [path for _, path in sorted(paths)] for worker, paths in numbered.items()}


def segment_of(path: str) -> int:
    """Return the number of a segment."""
    return int(path.rpartition(".")[2])


def read_frames(path: str) -> list[Frame]:
    """Return the whole frames in a file; none if it is not there."""
    try:
        with open(path, "rb") as file:
            return whole_frames(file.read())
    except FileNotFoundError:
        return []
