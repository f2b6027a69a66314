"""What is kept for jobs for which others were stopped, until they have started.

Lives here: `Reservations`, and the room that is left for everybody else. Not here: who gets one
(`scheduling.preemption`), the closing of whole hosts (`scheduling.rules`).

Cook closes a host to all others until the job it was freed for has started. On a cluster of many hosts that
costs little; on one machine it stops everything for as long as a victim takes to end. So we keep the room
that the job needs, as it comes free, and leave the rest of the host to the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from cook_jupyter.model.job import JobId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.policies import RebalancerSettings

NOTHING: Final = Resources()


class Reservations:
    """Which host is kept for which job, by pool. Pools may share hosts: what one keeps is kept from all."""

    def __init__(self, settings: RebalancerSettings) -> None:
        self._shared = settings.reservations == "shared"
        self.closes_hosts = settings.reserve == "host"
        self._tables: dict[PoolName, dict[JobId, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._tables)

    def put(self, pool: PoolName, hosts: Mapping[JobId, str]) -> None:
        """Keep hosts for jobs of a pool, in place of what was kept for it before."""
        if self._shared:
            self._tables.clear()
        if hosts:
            self._tables[pool] = dict(hosts)
        else:
            self._tables.pop(pool, None)

    def drop(self, pool: PoolName, job_id: JobId) -> None:
        """Keep nothing more for a job: it started, or waits no more."""
        table = self._tables.get(pool)
        if table is not None and table.pop(job_id, None) is not None and not table:
            del self._tables[pool]

    def of(self, pool: PoolName) -> Mapping[JobId, str]:
        """Return what is kept for jobs of a pool."""
        return self._tables.get(pool, {})

    def closed(self) -> Mapping[JobId, str]:
        """Return the hosts that are closed to all but one job each; none if only room is kept."""
        return self.everywhere() if self.closes_hosts else {}

    def everywhere(self) -> Mapping[JobId, str]:
        """Return what is kept in all pools."""
        return {job_id: host for table in self._tables.values() for job_id, host in table.items()}

    def left(
        self,
        offers: Sequence[Offer],
        asked: Callable[[PoolName, JobId], Resources],
        coming: Mapping[JobId, Resources],
    ) -> Sequence[Offer]:
        """Return the offers without the room that is kept.

        Args:
            offers: the room there is.
            asked: what a job needs.
            coming: job -> what its victims still hold; that much need not be kept yet.
        """
        if self.closes_hosts or not self._tables:
            return offers
        kept: dict[str, Resources] = {}
        for pool, table in self._tables.items():
            for job_id, host in table.items():
                due = _at_least_nothing(asked(pool, job_id) - coming.get(job_id, NOTHING))
                kept[host] = kept.get(host, NOTHING) + due
        return [_less(offer, kept[offer.host]) if offer.host in kept else offer for offer in offers]


def _less(offer: Offer, kept: Resources) -> Offer:
    """The offer as if what is kept ran there already."""
    room = _at_least_nothing(offer.room - kept)
    return replace(offer, room=room, running=offer.running + (offer.room - room))


def _at_least_nothing(amount: Resources) -> Resources:
    return Resources(cpus=max(0.0, amount.cpus), mem_mb=max(0.0, amount.mem_mb), gpus=max(0.0, amount.gpus))
