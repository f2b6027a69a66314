"""Room reserved for beneficiaries of preemptions until they start.

Lives here: `Reservations`: the host of each beneficiary, the victims that have not ended yet, and the
beneficiaries that did not use their reservation.
Not here: the choice of beneficiaries and victims (`scheduling.rebalancing.preemption`), the closing of whole
hosts (`scheduling.hosts.checker`), room that is kept for the heads of queues (`service.state.queue_heads`).

Cook closes a host to all other jobs until the beneficiary has started. With many hosts that costs little;
with one host, nothing else can start for as long as the victims take to end. So by default only the room that
the beneficiary requests is reserved, as it becomes free, and other jobs may use the rest of the host.
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
LAPSED_MS: Final = 3_600_000  # time without preemption for a job that did not use its reservation


class Reservations:
    """The reservations of all pools. Pools may share hosts, so a reservation of one pool binds all others.

    Args:
        settings: the kind of reservations.
        ending: instances that were killed and whose end has not been reported yet.
    """

    def __init__(self, settings: RebalancerSettings, ending: Container[InstanceId]) -> None:
        self._shared = settings.reservations == "shared"
        self.closes_hosts = settings.reserve == "host"
        self._ending = ending
        self._tables: dict[PoolName, dict[JobId, str]] = {}  # pool -> beneficiary -> host
        self._launch_numbers: dict[JobId, int] = {}  # of beneficiaries, from the time of the decision
        self._victims: dict[JobId, dict[InstanceId, Resources]] = {}  # beneficiary -> victims and their usage
        self._unused: set[JobId] = set()  # had all of their room at the last review, but had not started
        self._lapsed: dict[JobId, int] = {}  # job -> time at which its reservation lapsed

    def __bool__(self) -> bool:
        """Return whether anything is reserved."""
        return bool(self._tables)

    # Changes

    def replace(self, pool: PoolName, hosts: Mapping[JobId, str], new_number: Callable[[], int]) -> None:
        """Replace the reservations of a pool.

        From now on the beneficiaries count as launched, in the order of `hosts`, so that jobs which their
        users start in the meantime come after them.

        Args:
            pool: the pool.
            hosts: beneficiary -> host on which room is reserved.
            new_number: function that returns the launch number of a new beneficiary.
        """
        for job_id in self.for_pool(pool):
            if job_id not in hosts:
                self._launch_numbers.pop(job_id, None)
                self._unused.discard(job_id)
        if self._shared:
            self._tables.clear()
        if hosts:
            self._tables[pool] = dict(hosts)
        else:
            self._tables.pop(pool, None)
        for job_id in hosts:
            if job_id not in self._launch_numbers:
                self._launch_numbers[job_id] = new_number()
        self._victims = self._ending_victims()

    def remove(self, pool: PoolName, job_id: JobId) -> int | None:
        """Remove the reservation of a job that has started or no longer waits.

        Returns:
            launch number of the job; None if it had no reservation.
        """
        number = self._launch_numbers.pop(job_id, None)
        self._unused.discard(job_id)
        table = self._tables.get(pool)
        if table is not None and table.pop(job_id, None) is not None and not table:
            del self._tables[pool]
        return number

    def record_victims(self, victims: Mapping[JobId, Mapping[InstanceId, Resources]]) -> None:
        """Record the instances that were stopped for beneficiaries, with the usage of each."""
        self._victims.update((job_id, dict(usages)) for job_id, usages in victims.items())

    def review(self, pool: PoolName, now_ms: int) -> dict[JobId, str]:
        """Return the reservations of a pool that a rebalance cycle keeps, and let the unused ones lapse.

        A job has two rebalance cycles to start after its victims have ended. An obstacle that has prevented
        it by then, such as a host that accepts fewer tasks than it has room for, would prevent it again.
        """
        self._lapsed = {job: at_ms for job, at_ms in self._lapsed.items() if at_ms >= now_ms - LAPSED_MS}
        incomplete = self._ending_victims()
        kept = {}
        for job_id, host in self.for_pool(pool).items():
            if job_id in incomplete or job_id not in self._unused:
                kept[job_id] = host
                if job_id not in incomplete:
                    self._unused.add(job_id)
            else:
                self._unused.discard(job_id)
                self._launch_numbers.pop(job_id, None)
                self._lapsed[job_id] = now_ms
        return kept

    # Queries

    def for_pool(self, pool: PoolName) -> Mapping[JobId, str]:
        """Return the host of each beneficiary of a pool."""
        return self._tables.get(pool, {})

    def incomplete(self, pool: PoolName) -> dict[JobId, str]:
        """Return the reservations of a pool for which some victim has not ended."""
        victims = self._ending_victims()
        return {job_id: host for job_id, host in self.for_pool(pool).items() if job_id in victims}

    def launch_number(self, job_id: JobId) -> int:
        """Return the launch number of a beneficiary."""
        return self._launch_numbers[job_id]

    @property
    def lapsed(self) -> Collection[JobId]:
        """The jobs whose reservation lapsed within the last hour."""
        return self._lapsed.keys()

    def closed_hosts(self) -> Mapping[JobId, str]:
        """Return the hosts that are closed to all jobs but one; none if only room is reserved."""
        return self.for_all_pools() if self.closes_hosts else {}

    def for_all_pools(self) -> Mapping[JobId, str]:
        """Return the host of each beneficiary of all pools."""
        return {job_id: host for table in self._tables.values() for job_id, host in table.items()}

    def unreserved_offers(
        self, offers: Sequence[Offer], request_of: Callable[[PoolName, JobId], Resources]
    ) -> Sequence[Offer]:
        """Return offers without the room that is reserved on their hosts.

        Room that victims still hold is not free yet, and need not be reserved. Several beneficiaries may wait
        for the same victim.

        Args:
            offers: the free room of all hosts.
            request_of: function that returns the resources that a job of a pool requests.
        """
        if self.closes_hosts or not self._tables:
            return offers
        victims = self._ending_victims()
        requested: dict[str, Resources] = {}
        ending: dict[str, dict[InstanceId, Resources]] = {}
        for pool, table in self._tables.items():
            for job_id, host in table.items():
                requested[host] = requested.get(host, NOTHING) + request_of(pool, job_id)
                ending.setdefault(host, {}).update(victims.get(job_id, {}))
        reserved = {
            host: _at_least_zero(amount - sum(ending[host].values(), NOTHING))
            for host, amount in requested.items()
        }
        return [
            _without(offer, reserved[offer.host]) if offer.host in reserved else offer for offer in offers
        ]

    def _ending_victims(self) -> dict[JobId, dict[InstanceId, Resources]]:
        """Return the victims whose end has not been reported, with their usage, by beneficiary."""
        by_beneficiary = {}
        for job_id, victims in self._victims.items():
            ending = {
                instance_id: usage for instance_id, usage in victims.items() if instance_id in self._ending
            }
            if ending:
                by_beneficiary[job_id] = ending
        return by_beneficiary


def _without(offer: Offer, reserved: Resources) -> Offer:
    """Return an offer as if the reserved room were in use."""
    room = _at_least_zero(offer.room - reserved)
    return replace(offer, room=room, running=offer.running + (offer.room - room))


def _at_least_zero(amount: Resources) -> Resources:
    return Resources(cpus=max(0.0, amount.cpus), mem_mb=max(0.0, amount.mem_mb), gpus=max(0.0, amount.gpus))
