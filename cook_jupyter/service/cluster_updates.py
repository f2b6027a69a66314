"""Reports of clusters: applied to the store by the rules of the life cycle.

Lives here: `ClusterUpdates`, the service's implementation of `clusters.base.ClusterListener`. Not here: the
effect of a report on an instance (`model.lifecycle`), events for clients (`service.requests.events`).
"""

import logging
from collections.abc import Sequence

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import ProgressUpdate, StatusUpdate
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)


class ClusterUpdates:
    """Receives the reports of the clusters of one scheduler.

    Args:
        scheduler: the scheduler.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def report(self, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        """Commit status updates, and kill the instances that should not run. Return when both are done.

        A report on an instance of another cluster changes nothing; if the instance runs there, it is killed.

        Args:
            cluster: name of the reporting cluster.
            updates: status updates, oldest first.
        """
        kills = self._scheduler.kills
        foreign = [update for update in updates if kills.cluster_of(update.instance_id, cluster) != cluster]
        if foreign:
            updates = [update for update in updates if update not in foreign]
            log.warning("cluster %s reports instances of other clusters: %s", cluster, foreign[:10])
        verdicts = await self._scheduler.store.report(updates)
        kills.confirm(update.instance_id for update in updates if update.state.is_final)
        last_states = {update.instance_id: update.state for update in updates}
        unwanted = [
            update.instance_id
            for update, verdict in zip(updates, verdicts, strict=True)
            if verdict is Verdict.KILL and not last_states[update.instance_id].is_final
        ]
        misplaced = [update.instance_id for update in foreign if not update.state.is_final]
        if unwanted or misplaced:
            log.warning(
                "killing %s that should not run in cluster %s: %s",
                counted(len(unwanted) + len(misplaced), "instance"),
                cluster,
                (*unwanted, *misplaced)[:10],
            )
        for instance_id in unwanted:
            kills.set_cluster(instance_id, cluster)
        await kills.send(unwanted, settled=True)  # repeated until their ends are reported
        if misplaced:
            await self._scheduler.clusters[cluster].kill(misplaced)

    async def progress(self, cluster: str, updates: Sequence[ProgressUpdate]) -> None:
        """Commit reports of progress, or collect them for a while, depending on the settings."""
        kills = self._scheduler.kills
        updates = [update for update in updates if kills.cluster_of(update.instance_id, cluster) == cluster]
        if not self._scheduler.settings.maintenance.progress_interval_ms:
            await self._scheduler.store.progress(updates)
            return
        for update in updates:
            self._scheduler.progress_buffer.note(
                update.instance_id, update.sequence, percent=update.percent, message=update.message
            )

    def offers_changed(self) -> None:
        """Start a match cycle, as hosts have more room than before."""
        self._scheduler.wake.set()
