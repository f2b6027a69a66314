"""Room that is being freed by preemption: for which jobs, on which hosts, and by which tasks that still end.

Lives here: `FreedRoom`, what is left of offers for everybody else, and which reservations are of no use.
Not here: who gets room (`scheduling.rebalancing.preemption`), the closing of whole hosts
(`scheduling.hosts.checker`), room that is kept for the heads of queues (`service.state.head_rooms`).

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
from cook_jupyter.service.settings.tables import RebalancerSettings

NOTHING: Final = Resources()
LAPSED_MS: Final = 3_600_000  # for so long nothing is preempted for a job that did not use its reservation


class FreedRoom:
    """Which host is reserved for which job, by pool, and what its victims still hold there.

    Pools may share hosts: what is reserved in one is kept from all.

    Args:
        settings: how room is reserved.
        ending: instances that were killed and whose end was not heard yet.
    """

    def __init__(self, settings: RebalancerSettings, ending: Container[InstanceId]) -> None:
        self._shared = settings.reservations == "shared"
        self.closes_hosts = settings.reserve == "host"
        self._ending = ending
        self._tables: dict[PoolName, dict[JobId, str]] = {}
        self._launches: dict[JobId, int] = {}  # launch numbers, from the moment of the decision
        self._victims: dict[JobId, dict[InstanceId, Resources]] = {}  # beneficiary -> what they held
        self._unused: set[JobId] = set()  # reserved, all room there, and not started when last looked at
        self._lapsed: dict[JobId, int] = {}  # job -> when its reservation lapsed

    def __bool__(self) -> bool:
        return bool(self._tables)

    # --- changes

    def put(self, pool: PoolName, hosts: Mapping[JobId, str], new_launch: Callable[[], int]) -> None:
        """Reserve room for jobs of a pool, in place of what was reserved in it before.

        From now on the jobs count as launched, in this order: whatever else their users start comes later.

        Args:
            pool: the pool.
            hosts: job -> the host on which room is reserved for it.
            new_launch: makes the launch number of a job that has none yet.
        """
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
        for job_id in hosts:
            if job_id not in self._launches:
                self._launches[job_id] = new_launch()
        self._victims = self._held_by_victims()

    def drop(self, pool: PoolName, job_id: JobId) -> int | None:
        """Reserve nothing more for a job that started or waits no more; return the launch number it had."""
        launch = self._launches.pop(job_id, None)
        self._unused.discard(job_id)
        table = self._tables.get(pool)
        if table is not None and table.pop(job_id, None) is not None and not table:
            del self._tables[pool]
        return launch

    def wait_for(self, victims: Mapping[JobId, Mapping[InstanceId, Resources]]) -> None:
        """Note the instances that were stopped for jobs, with what each of them held."""
        self._victims.update((job_id, dict(held)) for job_id, held in victims.items())

    def review(self, pool: PoolName, now_ms: int) -> dict[JobId, str]:
        """Return the reservations of a pool that a rebalance cycle keeps, and let the others lapse.

        A job gets two intervals of the rebalancer to start after its victims have ended. What has prevented
        it by then (a host that takes fewer tasks than its room allows, say) would prevent it again.
        """
        self._lapsed = {job: at_ms for job, at_ms in self._lapsed.items() if at_ms >= now_ms - LAPSED_MS}
        incomplete = self._held_by_victims()
        kept = {}
        for job_id, host in self.of(pool).items():
            if job_id in incomplete or job_id not in self._unused:
                kept[job_id] = host
                if job_id not in incomplete:
                    self._unused.add(job_id)
            else:
                self._unused.discard(job_id)
                self._launches.pop(job_id, None)
                self._lapsed[job_id] = now_ms
        return kept

    # --- questions

    def of(self, pool: PoolName) -> Mapping[JobId, str]:
        """Return the hosts that are reserved for jobs of a pool."""
        return self._tables.get(pool, {})

    def incomplete(self, pool: PoolName) -> dict[JobId, str]:
        """Return the reservations of a pool some of whose victims have not ended."""
        held = self._held_by_victims()
        return {job_id: host for job_id, host in self.of(pool).items() if job_id in held}

    def launch_of(self, job_id: JobId) -> int:
        """Return the launch number of a job for which room is reserved."""
        return self._launches[job_id]

    @property
    def lapsed(self) -> Collection[JobId]:
        """The jobs that did not use a reservation in the last hour."""
        return self._lapsed.keys()

    def closed(self) -> Mapping[JobId, str]:
        """Return the hosts that are closed to all but one job each; none if only room is reserved."""
        return self.everywhere() if self.closes_hosts else {}

    def everywhere(self) -> Mapping[JobId, str]:
        """Return what is reserved in all pools."""
        return {job_id: host for table in self._tables.values() for job_id, host in table.items()}

    def open_to_all(
        self, offers: Sequence[Offer], asked: Callable[[PoolName, JobId], Resources]
    ) -> Sequence[Offer]:
        """Return the offers without the room that is reserved.

        What victims of a job still hold need not be kept for it yet. Several jobs may wait for one victim.

        Args:
            offers: the room there is.
            asked: what a job of a pool needs.
        """
        if self.closes_hosts or not self._tables:
            return offers
        held = self._held_by_victims()
        needed: dict[str, Resources] = {}
        ending: dict[str, dict[InstanceId, Resources]] = {}
        for pool, table in self._tables.items():
            for job_id, host in table.items():
                needed[host] = needed.get(host, NOTHING) + asked(pool, job_id)
                ending.setdefault(host, {}).update(held.get(job_id, {}))
        kept = {
            host: _at_least_nothing(amount - sum(ending[host].values(), NOTHING))
            for host, amount in needed.items()
        }
        return [_less(offer, kept[offer.host]) if offer.host in kept else offer for offer in offers]

    def _held_by_victims(self) -> dict[JobId, dict[InstanceId, Resources]]:
        """Return what instances that were stopped for a job still hold: those whose end was not heard."""
        found = {}
        for job_id, victims in self._victims.items():
            ending = {
                instance_id: held for instance_id, held in victims.items() if instance_id in self._ending
            }
            if ending:
                found[job_id] = ending
        return found


def _less(offer: Offer, kept: Resources) -> Offer:
    """Return the offer as if what is reserved ran there already."""
    room = _at_least_nothing(offer.room - kept)
    return replace(offer, room=room, running=offer.running + (offer.room - room))


def _at_least_nothing(amount: Resources) -> Resources:
    return Resources(cpus=max(0.0, amount.cpus), mem_mb=max(0.0, amount.mem_mb), gpus=max(0.0, amount.gpus))
