"""Ends that the scheduler has not acknowledged, and the segments in which they are recorded.

Lives here: `Outbox`: what is to be reported to the next scheduler, and when a worker's segments can be
removed.
Not here: writing those segments (`worker.journal`).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from cook_jupyter.worker.recovery import remove_files
from cook_jupyter.worker.task import EndReport


class Outbox:
    """Ends by instance, oldest first.

    Args:
        folder: directory of the workers' journals.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._reports: dict[str, tuple[EndReport, str | None]] = {}
        self._ends_in: Counter[str] = Counter()
        self._segments: dict[str, int] = {}  # current segment of each worker
        self._closed: set[str] = set()  # segments that no longer grow

    def follows(self, worker: str, segment: int) -> bool:
        """Return whether a worker can be at a segment of its journal: the last known one, or the next."""
        return segment - self._segments.get(worker, 0) in (0, 1)

    def add(self, report: EndReport, location: tuple[str, int] | None) -> None:
        """Add an end.

        Args:
            report: report of the end.
            location: worker and segment of its record; None if it is in the supervisor's journal.
        """
        path = None
        if location is not None:
            worker, segment = location
            path = self._path(worker, segment)
            self._ends_in[path] += 1
            for earlier in range(self._segments.get(worker, 0), segment):
                self._closed.add(self._path(worker, earlier))
            self._segments[worker] = segment
        self._reports[report.end.instance_id] = (report, path)

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._reports

    def reports(self) -> Iterator[EndReport]:
        """Yield the reports of all ends."""
        return (report for report, _ in self._reports.values())

    def unrecorded(self) -> Iterator[EndReport]:
        """Yield ends whose segment was removed, so that they must be recorded in the supervisor's journal."""
        lost = {path for path in self._ends_in if not os.path.exists(path)}
        for instance_id, (report, path) in list(self._reports.items()) if lost else ():
            if path in lost:
                self._reports[instance_id] = (report, None)
                yield report
        for path in lost:
            del self._ends_in[path]

    def settle(self, instance_ids: Iterable[str]) -> None:
        """Remove ends that the scheduler has acknowledged."""
        for instance_id in instance_ids:
            _, path = self._reports.pop(instance_id, (None, None))
            if path is not None:
                self._ends_in[path] -= 1
                if not self._ends_in[path]:
                    del self._ends_in[path]

    def on_worker_gone(self, worker: str) -> None:
        """Record that a worker no longer writes."""
        for segment in range(self._segments.pop(worker, 0) + 1):
            self._closed.add(self._path(worker, segment))

    def remove_settled(self) -> None:
        """Remove the segments that have nothing relevant any more."""
        if self._closed:
            useless = [path for path in self._closed if path not in self._ends_in]
            self._closed.difference_update(useless)
            remove_files(useless)

    def _path(self, worker: str, segment: int) -> str:
        return f"{self._folder}/{worker}.{segment}"
