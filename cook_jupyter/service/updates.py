"""What clusters report, through the lifecycle, into the store.

Lives here: `ClusterUpdates`, the service's ear. Not here: what a report does to a life
(`model.lifecycle`), who hears of it afterwards (`service.events`).
"""

import logging
from collections.abc import Sequence

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import ProgressUpdate, StatusUpdate
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)


class ClusterUpdates:
    """Takes the reports of one scheduler's clusters (clusters.base.ClusterListener)."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def report(self, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        """Commit updates, and kill what should not run there. Returns when it is done.

        What a cluster reports of another cluster's instance changes nothing; if it runs, it is killed there.

        Args:
            cluster: name of the cluster that reports.
            updates: updates, oldest first.
        """
        kills = self._scheduler.kills
        foreign = [update for update in updates if kills.cluster_of(update.instance_id, cluster) != cluster]
        if foreign:
            updates = [update for update in updates if update not in foreign]
            log.warning("cluster %s reports instances of other clusters: %s", cluster, foreign[:10])
        verdicts = await self._scheduler.store.report(updates)
        kills.heard(update.instance_id for update in updates if update.state.is_final)
        unwanted = [
            update.instance_id
            for update, verdict in zip(updates, verdicts, strict=True)
            if verdict is Verdict.KILL
        ]
        unwanted += [update.instance_id for update in foreign if not update.state.is_final]
        if unwanted:
            log.warning(
                "killing %s that should not run in cluster %s: %s",
                counted(len(unwanted), "instance"),
                cluster,
                unwanted[:10],
            )
            await self._scheduler.clusters[cluster].kill(unwanted)

    async def progress(self, cluster: str, updates: Sequence[ProgressUpdate]) -> None:
        """Take progress in; it is committed at once, or gathered for a while."""
        kills = self._scheduler.kills
        updates = [update for update in updates if kills.cluster_of(update.instance_id, cluster) == cluster]
        if not self._scheduler.settings.maintenance.progress_interval_ms:
            await self._scheduler.store.progress(updates)
            return
        for update in updates:
            self._scheduler.gathering.note(
                update.instance_id, update.sequence, percent=update.percent, message=update.message
            )

    def offers_changed(self) -> None:
        """Let a match cycle look at the new room."""
        self._scheduler.wake.set()
