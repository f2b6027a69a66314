"""Journals of the processes of a host, written before they act, so that a kill -9 loses nothing.

Lives here: `AgentJournal`, in which the node agent records launches and ends, and `WorkerJournal`, in which a
worker records the ends of its tasks. Both are files of frames, appended with one write each.
Not here: the conclusions drawn from them after a crash (`worker.recovery`).

Journals are written but not synced: they survive the death of any process, but not that of the machine. If
the machine goes down, all its instances are lost anyway, and tried again.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping

from cook_jupyter.worker.frames import Frame, Header, pack, whole_frames
from cook_jupyter.worker.protocol import SETTLED, is_valid

JOURNAL_FILE = "ledger"
_COMPACT_ABOVE_BYTES = 1 << 20
_SEGMENT_BYTES = 1 << 20


class AppendOnly:
    """A file to which frames are appended completely or not at all."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Append data.

        Raises:
            OSError: writing failed; the file is unchanged.
        """
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):  # a full disk accepts a part, and fails on the next write
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += written

    def is_in(self, path: str) -> bool:
        """Return whether a path leads to this file."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(path))
        except OSError:
            return False

    def is_removed(self) -> bool:
        """Return whether no path leads to the file any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class AgentJournal:
    """Records on each instance whose end the scheduler has not acknowledged.

    Records are collected and written together; nothing may be done on their basis before `flush` has
    returned.
    """

    def __init__(self, folder: str, records: Mapping[str, list[Frame]]) -> None:
        """Start a new file with those records from `read` that are still relevant."""
        self._path = f"{folder}/{JOURNAL_FILE}"
        self._records = {
            key: [pack(frame.header, frame.tail) for frame in frames] for key, frames in records.items()
        }
        self._unwritten: list[bytes] = []
        self._live_bytes = sum(len(frame) for frames in self._records.values() for frame in frames)
        self._file = self._write_compacted()

    def record(self, instance_id: str, header: Header, tail: bytes = b"") -> None:
        """Add a record on an instance."""
        frame = pack({**header, "id": instance_id}, tail)
        self._records.setdefault(instance_id, []).append(frame)
        self._unwritten.append(frame)
        self._live_bytes += len(frame)

    def settle(self, instance_ids: Iterable[str]) -> None:
        """Record that the scheduler knows how instances ended, so that they can be forgotten."""
        settled = [instance_id for instance_id in instance_ids if instance_id in self._records]
        for instance_id in settled:
            self._live_bytes -= sum(map(len, self._records.pop(instance_id)))
        if settled:
            self._unwritten.append(pack({"t": "settled", "ids": settled}))

    def flush(self) -> None:
        """Write the new records.

        Raises:
            OSError: writing failed; the new records are dropped.
        """
        if not self._unwritten:
            return
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        self._file.append(data)
        if self._file.size > _COMPACT_ABOVE_BYTES + 2 * self._live_bytes:
            with contextlib.suppress(OSError):  # the long file remains
                compacted = self._write_compacted()
                self._file.close()
                self._file = compacted

    def restore(self) -> None:
        """Write the file again if it was removed.

        Raises:
            OSError: writing failed.
        """
        if not self._file.is_in(self._path):
            restored = self._write_compacted()
            self._file.close()
            self._file = restored
            self._unwritten.clear()  # included above

    def _write_compacted(self) -> AppendOnly:
        """Replace the file atomically by one with only the live records."""
        temporary = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        file = AppendOnly(temporary)
        file.append(b"".join(frame for frames in self._records.values() for frame in frames))
        os.rename(temporary, self._path)
        return file

    @staticmethod
    def read(folder: str) -> dict[str, list[Frame]]:
        """Return the records on each instance that is not settled, in order."""
        records: dict[str, list[Frame]] = {}
        for frame in read_frames(f"{folder}/{JOURNAL_FILE}"):
            if is_valid(frame.header, SETTLED):
                for instance_id in frame.header["ids"]:
                    records.pop(instance_id, None)
            elif isinstance(instance_id := frame.header.get("id"), str):  # otherwise no agent wrote it
                records.setdefault(instance_id, []).append(frame)
        return records


class WorkerJournal:
    """The ends of the tasks of one worker, in segments: `WORKER.0`, `WORKER.1`, ...

    The worker starts a new segment when one is long; the agent removes segments whose ends are all
    acknowledged. A segment that was removed otherwise is started again.
    """

    def __init__(self, folder: str, worker: str, *, segment: int = 0) -> None:
        self._folder = folder
        self._stem = f"{folder}/{worker}"
        self.segment = segment
        self._file: AppendOnly | None = None
        with contextlib.suppress(OSError):  # a full disk: `append` tries again
            self._file = self._open()

    def _open(self) -> AppendOnly:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        return AppendOnly(f"{self._stem}.{self.segment}")

    def roll(self) -> int:
        """Start a new segment if this one is long; return the number of the segment for the next frame.

        Raises:
            OSError: no new segment could be created; the present one remains in use.
        """
        if self._file is not None and self._file.size > _SEGMENT_BYTES:
            next_segment = AppendOnly(f"{self._stem}.{self.segment + 1}")
            self._file.close()
            self._file = next_segment
            self.segment += 1
        return self.segment

    def append(self, frame: bytes) -> None:
        """Append a frame.

        Raises:
            OSError: writing failed; the file is unchanged.
        """
        if self._file is None or self._file.is_removed():
            file = self._open()
            if self._file is not None:
                self._file.close()
            self._file = file
        self._file.append(frame)


def worker_segments(folder: str) -> dict[str, list[str]]:
    """Return the paths of all segments by worker, in the order in which they were written."""
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
    """Return the complete frames in a file; none if it does not exist."""
    try:
        with open(path, "rb") as file:
            return whole_frames(file.read())
    except FileNotFoundError:
        return []
