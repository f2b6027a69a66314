"""What is kept for jobs for which others were stopped, until they have started.

Lives here: `Reservations`, the room that is left for everybody else, and which reservations are of no use.
Not here: who gets one (`scheduling.preemption`), the closing of whole hosts (`scheduling.rules`).

Cook closes a host to all others until the job it was freed for has started. On a cluster of many hosts that
costs little; on one machine it stops everything for as long as a victim takes to end. So we keep the room
that the job needs, as it comes free, and leave the rest of the host to the others.
"""

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from typing import Final

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.policies import RebalancerSettings

NOTHING: Final = Resources()
LAPSED_MS: Final = 3_600_000  # for so long nothing is preempted for a job that did not use its reservation


class Reservations:
    """Which host is kept for which job, by pool. Pools may share hosts: what one keeps is kept from all."""

    def __init__(self, settings: RebalancerSettings) -> None:
        self._shared = settings.reservations == "shared"
        self.closes_hosts = settings.reserve == "host"
        self._tables: dict[PoolName, dict[JobId, str]] = {}
        self._launches: dict[JobId, int] = {}  # launch numbers, from the moment of the decision
        self._unused: set[JobId] = set()  # reserved, all room there, and not started when last looked at
        self._lapsed: dict[JobId, int] = {}  # job -> when its reservation lapsed

    def __bool__(self) -> bool:
        return bool(self._tables)

    def put(self, pool: PoolName, hosts: Mapping[JobId, str]) -> None:
        """Keep hosts for jobs of a pool, in place of what was kept for it before."""
        for job_id in self.of(pool):
            if job_id not in hosts:
                self._launches.pop(job_id, None)
                self._unused.discard(job_id)
        if self._shared:
            self._tables.clear()
        if hosts:
            self._tables[pool] = dict(hosts)
        else:
            self._tables.pop(pool, None)

    def drop(self, pool: PoolName, job_id: JobId) -> int | None:
        """Keep nothing more for a job that started or waits no more; returns the launch number it had."""
        launch = self._launches.pop(job_id, None)
        self._unused.discard(job_id)
        table = self._tables.get(pool)
        if table is not None and table.pop(job_id, None) is not None and not table:
            del self._tables[pool]
        return launch

    def launch_of(self, job_id: JobId, new: Callable[[], int]) -> int:
        """Return the launch number of a job, made by `new` when it is asked for first."""
        number = self._launches.get(job_id)
        if number is None:
            number = self._launches[job_id] = new()
        return number

    def usable(self, pool: PoolName, ending: Container[JobId], now_ms: int) -> dict[JobId, str]:
        """Return the reservations of a pool that a rebalance cycle keeps; the others lapse.

        A job gets two intervals of the rebalancer to start after its victims have ended. What has prevented
        it by then (a host that takes fewer tasks than its room allows, say) would prevent it again.

        Args:
            pool: the pool.
            ending: jobs some of whose victims have not ended.
            now_ms: the time.
        """
        self._lapsed = {job: at_ms for job, at_ms in self._lapsed.items() if at_ms >= now_ms - LAPSED_MS}
        kept = {}
        for job_id, host in self.of(pool).items():
            if job_id in ending or job_id not in self._unused:
                kept[job_id] = host
                if job_id not in ending:
                    self._unused.add(job_id)
            else:
                self._unused.discard(job_id)
                self._launches.pop(job_id, None)
                self._lapsed[job_id] = now_ms
        return kept

    @property
    def lapsed(self) -> Collection[JobId]:
        """The jobs that did not use a reservation in the last hour."""
        return self._lapsed.keys()

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
        coming: Mapping[JobId, Mapping[InstanceId, Resources]],
    ) -> Sequence[Offer]:
        """Return the offers without the room that is kept.

        Args:
            offers: the room there is.
            asked: what a job needs.
            coming: job -> what each of its victims still holds; that much need not be kept yet. Jobs may wait
                for the same victim.
        """
        if self.closes_hosts or not self._tables:
            return offers
        needed: dict[str, Resources] = {}
        ending: dict[str, dict[InstanceId, Resources]] = {}
        for pool, table in self._tables.items():
            for job_id, host in table.items():
                needed[host] = needed.get(host, NOTHING) + asked(pool, job_id)
                ending.setdefault(host, {}).update(coming.get(job_id, {}))
        kept = {
            host: _at_least_nothing(amount - sum(ending[host].values(), NOTHING))
            for host, amount in needed.items()
        }
        return [_less(offer, kept[offer.host]) if offer.host in kept else offer for offer in offers]


def _less(offer: Offer, kept: Resources) -> Offer:
    """The offer as if what is kept ran there already."""
    room = _at_least_nothing(offer.room - kept)
    return replace(offer, room=room, running=offer.running + (offer.room - room))


def _at_least_nothing(amount: Resources) -> Resources:
    return Resources(cpus=max(0.0, amount.cpus), mem_mb=max(0.0, amount.mem_mb), gpus=max(0.0, amount.gpus))
