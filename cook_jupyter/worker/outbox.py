"""Ends that the scheduler has not acknowledged, and the files that they are written down in.

Lives here: `Outbox`: what is to be reported again to the next scheduler, and when a worker's log may go.
Not here: writing those logs (`worker.journal`).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from cook_jupyter.worker.recovery import remove_files
from cook_jupyter.worker.task import EndReport


class Outbox:
    """Ends by instance, oldest first.

    Args:
        folder: where the workers' logs are.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._kept: dict[str, tuple[EndReport, str | None]] = {}
        self._pins: Counter[str] = Counter()
        self._segments: dict[str, int] = {}  # the one that each worker writes now
        self._closed: set[str] = set()  # segments that nothing is added to any more

    def follows(self, worker: str, segment: int) -> bool:
        """Return whether a worker can be at this segment of its log: the last known one, or the next."""
        return segment - self._segments.get(worker, 0) in (0, 1)

    def keep(self, report: EndReport, place: tuple[str, int] | None) -> None:
        """Keep an end.

        Args:
            report: the end as it is reported.
            place: the worker and the segment of its log; None if the supervisor's journal has it.
        """
        path = None
        if place is not None:
            worker, segment = place
            path = self._path(worker, segment)
            self._pins[path] += 1
            for earlier in range(self._segments.get(worker, 0), segment):
                self._closed.add(self._path(worker, earlier))
            self._segments[worker] = segment
        self._kept[report.end.instance_id] = (report, path)

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._kept

    def reports(self) -> Iterator[EndReport]:
        """Yield all ends that are kept."""
        return (report for report, _ in self._kept.values())

    def unwritten(self) -> Iterator[EndReport]:
        """Yield what is written down nowhere any more, as its log was removed; the journal is to have it."""
        lost = {path for path in self._pins if not os.path.exists(path)}
        for instance_id, (report, path) in list(self._kept.items()) if lost else ():
            if path in lost:
                self._kept[instance_id] = (report, None)
                yield report
        for path in lost:
            del self._pins[path]

    def settle(self, instance_ids: Iterable[str]) -> None:
        """Forget ends that the scheduler knows."""
        for instance_id in instance_ids:
            _, path = self._kept.pop(instance_id, (None, None))
            if path is not None:
                self._pins[path] -= 1
                if not self._pins[path]:
                    del self._pins[path]

    def worker_gone(self, worker: str) -> None:
        """Note that a worker writes no more."""
        for segment in range(self._segments.pop(worker, 0) + 1):
            self._closed.add(self._path(worker, segment))

    def remove_settled(self) -> None:
        """Remove the logs that hold nothing of interest any more."""
        if self._closed:
            useless = [path for path in self._closed if path not in self._pins]
            self._closed.difference_update(useless)
            remove_files(useless)

    def _path(self, worker: str, segment: int) -> str:
        return f"{self._folder}/{worker}.{segment}"
