"""What clusters report, through the lifecycle, into the store.

Lives here: `Updates`, the service's ear. Not here: what a report does to a life
(`model.lifecycle`), who hears of it afterwards (`service.events`).
"""

import logging
from collections.abc import Sequence

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import ProgressUpdate, StatusUpdate
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)


class Updates:
    """Takes the reports of one scheduler's clusters (clusters.base.Reporter)."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def report(self, updates: Sequence[StatusUpdate]) -> None:
        """Commit updates, and kill what should not be alive. Returns when it is done."""
        verdicts = await self._scheduler.store.report(updates)
        if self._scheduler.kills:  # ends that were settled before are not news to the store
            self._scheduler.kills.heard(update.instance_id for update in updates if update.state.is_final)
        unwanted = [
            update.instance_id
            for update, verdict in zip(updates, verdicts, strict=True)
            if verdict is Verdict.KILL
        ]
        if unwanted:
            tasks = counted(len(unwanted), "task")
            log.warning("killing %s of jobs that have ended or gone on elsewhere: %s", tasks, unwanted[:10])
            for cluster in self._scheduler.clusters.values():
                await cluster.kill(unwanted)

    async def progress(self, updates: Sequence[ProgressUpdate]) -> None:
        """Take progress in; it is committed at once, or gathered for a while."""
        if not self._scheduler.settings.maintenance.progress_interval_ms:
            await self._scheduler.store.progress(updates)
            return
        for update in updates:
            self._scheduler.gathering.note(
                update.instance_id, update.sequence, percent=update.percent, message=update.message
            )

    def room_changed(self) -> None:
        """Let a match cycle look at the new room."""
        self._scheduler.wake.set()
