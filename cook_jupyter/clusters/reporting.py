"""Reports of a cluster to its listener, in order and until they are committed.

Lives here: `UpdateReporter`, which collects updates, reports them in batches, and tells when they are
committed.
Not here: where updates come from (the clusters), what they mean (`model.lifecycle`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import ClusterListener
from cook_jupyter.errors import SchedulerError, SchedulerUnreachable
from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import InstanceId, ProgressUpdate, StatusUpdate
from cook_jupyter.worker.clock import now_ms

log = logging.getLogger(__name__)

_GATHER_S = 0.003  # ends within that time are reported together
_TEMPORARY = (OSError, SchedulerError, SchedulerUnreachable)  # failures after which reporting is retried
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

Receipt = TypeVar("Receipt")


class Report(NamedTuple, Generic[Receipt]):
    """An update, with what the cluster needs to acknowledge it to its sender."""

    update: StatusUpdate
    receipt: Receipt


class UpdateReporter(Generic[Receipt]):
    """The reports of one cluster.

    Args:
        cluster: name of the cluster.
        on_committed: called with reports after they were committed, oldest first.
        gathers: returns whether it is worth waiting a moment for further updates.
    """

    def __init__(
        self,
        cluster: str,
        *,
        on_committed: Callable[[Sequence[Report[Receipt]]], None],
        gathers: Callable[[], bool] = lambda: False,
    ) -> None:
        self._cluster = cluster
        self._on_committed = on_committed
        self._gathers = gathers
        self._reports: list[Report[Receipt]] = []
        self._progress: dict[InstanceId, ProgressUpdate] = {}
        self._has_reports = asyncio.Event()
        self._all_reported = asyncio.Event()
        self._all_reported.set()

    def put(self, update: StatusUpdate, receipt: Receipt) -> None:
        """Add an update to report."""
        self._reports.append(Report(update, receipt))
        self._all_reported.clear()
        self._has_reports.set()

    def put_progress(self, update: ProgressUpdate) -> None:
        """Add progress to report; it replaces earlier progress of its instance."""
        self._progress[update.instance_id] = update
        self._has_reports.set()

    async def wait_all_reported(self) -> None:
        """Wait until no update is pending."""
        await self._all_reported.wait()

    async def run(self, listener: ClusterListener) -> None:
        """Report updates in batches; runs until cancelled. What fails for a time is reported again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._has_reports.wait()
            if self._gathers():  # no room is idle meanwhile, and many ends cost little more than one
                await asyncio.sleep(_GATHER_S)
            self._has_reports.clear()
            batch = tuple(self._reports)
            try:
                if batch:
                    await self._report_batch(listener, [report.update for report in batch])
                progress, self._progress = tuple(self._progress.values()), {}
                if progress:
                    await self._report_progress(listener, progress)
            except _TEMPORARY:
                # For example, a full disk. The updates remain pending; their senders keep the ends, too.
                log.exception(
                    "%s could not be reported; the next try is in %.2g s",
                    counted(len(batch), "update"),
                    pause_s,
                )
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                self._has_reports.set()
                continue
            pause_s = _FIRST_PAUSE_S
            del self._reports[: len(batch)]
            if not self._reports:
                self._all_reported.set()
            if batch:
                self._on_committed(batch)

    async def _report_batch(self, listener: ClusterListener, batch: Sequence[StatusUpdate]) -> None:
        """Report updates; one that is refused for its content does not block others and is not repeated."""
        try:
            await listener.report(self._cluster, batch)
        except _TEMPORARY:
            raise
        except Exception:
            if len(batch) > 1:
                for update in batch:
                    await self._report_batch(listener, [update])
                return
            [refused] = batch
            log.exception("an update is refused: %r", refused)
        else:
            return
        substitute = translation.lost(refused.instance_id, now_ms())
        if refused.state.is_final and refused != substitute:
            try:
                await listener.report(self._cluster, [substitute])
            except _TEMPORARY:
                raise
            except Exception:
                log.exception("the end of %s cannot be reported at all", refused.instance_id)

    async def _report_progress(self, listener: ClusterListener, progress: Sequence[ProgressUpdate]) -> None:
        """Report progress; refused progress is not repeated, since newer progress follows."""
        try:
            await listener.progress(self._cluster, progress)
        except _TEMPORARY:
            raise
        except Exception:
            log.exception("progress was refused: %s", counted(len(progress), "report"))
