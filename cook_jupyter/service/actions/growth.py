"""Growth: asking clusters to add hosts for jobs for which no host has room.

Lives here: `Growth`, which asks each cluster that can grow, and no more often than is useful.
Not here: for which jobs (`scheduling.decisions`), which cluster for which job
(`scheduling.growth.cluster_choice`), how a cluster grows (`clusters`).
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.errors import CookError
from cook_jupyter.model.job import JobId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.growth.cluster_choice import distribute_jobs
from cook_jupyter.scheduling.snapshot import PoolSnapshot
from cook_jupyter.store.base import Store

log = logging.getLogger(__name__)

REPEAT_AFTER_MS: Final = 120_000  # then a request is repeated for a job that still waits; as in Cook
SILENCE_MS: Final = 30_000  # interval without requests to a cluster that did not take one in time
TIMEOUT_S: Final = 2.0  # for a cluster to take a request: the match cycle waits meanwhile
MIN_INTERVAL_MS: Final = 1000  # between two requests for a pool; match cycles may follow each other at once


class Growth:
    """The requests for room that a scheduler sends to its clusters.

    Args:
        clusters: clusters by name.
        store: the store, which has the jobs.
        timeout_s: time that a cluster has to take a request.
    """

    def __init__(
        self, clusters: Mapping[str, ComputeCluster], store: Store, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.timeout_s = timeout_s
        self._clusters = clusters
        self._store = store
        self._requested_ms: dict[JobId, int] = {}  # job -> time of the last request for it, oldest first
        self._next_ms: dict[PoolName, int] = {}
        self._silent_until_ms: dict[str, int] = {}  # cluster -> time from which on it is asked again

    def is_due(self, pool: PoolName, now_ms: int) -> bool:
        """Return whether some cluster can grow in a pool, and none has been asked in the last moments."""
        return now_ms >= self._next_ms.get(pool, now_ms) and any(
            cluster.can_grow(pool) for cluster in self._clusters.values()
        )

    async def request(
        self, snapshot: PoolSnapshot, job_ids: Sequence[JobId], locations: Mapping[str, str]
    ) -> int:
        """Ask the clusters that can grow for room for jobs, except those with a recent request.

        A failure of a cluster is logged; the next request for the pool includes its jobs again. A cluster
        that does not take the request in time gets none for a while, so that it does not delay every cycle.

        Args:
            snapshot: the pool of the jobs.
            job_ids: waiting jobs in the order of the queue.
            locations: cluster -> location, for clusters that have one.

        Returns:
            number of jobs for which room was requested.
        """
        now_ms, pool = snapshot.now_ms, snapshot.pool.name
        self._next_ms[pool] = now_ms + MIN_INTERVAL_MS
        self._drop_requests_until(now_ms - REPEAT_AFTER_MS)
        new_ids = [job_id for job_id in job_ids if job_id not in self._requested_ms]
        if not new_ids:
            return 0
        jobs = {job.job_id: job for job in await self._store.jobs(new_ids) if job is not None}
        growing = [name for name in snapshot.growing if now_ms >= self._silent_until_ms.get(name, now_ms)]
        by_cluster = distribute_jobs(jobs.values(), {name: locations.get(name) for name in growing})
        count = 0
        for name, cluster_ids in by_cluster.items():
            try:
                async with asyncio.timeout(self.timeout_s):
                    await self._clusters[name].grow_for(pool, [jobs[job_id].spec for job_id in cluster_ids])
            except TimeoutError:
                self._silent_until_ms[name] = now_ms + SILENCE_MS
                log.warning(
                    "cluster %s did not take a request to grow for %d jobs within %g s; it is not asked again"
                    " for %d s",
                    name,
                    len(cluster_ids),
                    self.timeout_s,
                    SILENCE_MS // 1000,
                )
            except (CookError, OSError) as error:
                log.warning("cluster %s cannot grow for %d jobs: %s", name, len(cluster_ids), error)
            else:
                self._requested_ms.update(dict.fromkeys(cluster_ids, now_ms))
                count += len(cluster_ids)
        return count

    def _drop_requests_until(self, last_ms: int) -> None:
        while self._requested_ms:
            job_id = next(iter(self._requested_ms))
            if self._requested_ms[job_id] > last_ms:
                return
            del self._requested_ms[job_id]
