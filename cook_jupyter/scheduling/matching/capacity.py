"""The hosts of a pool as if they were empty.

Lives here: `PoolCapacity`, a value that is built when hosts change. Not here: their current room
(`scheduling.snapshot`), the source of hosts (`clusters`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cook_jupyter.model.offer import Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.head_room import HostAmounts, whole_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolCapacity:
    """All hosts of a pool, empty.

    Attributes:
        offers: offers of the empty hosts; a host of several clusters has several.
        max_tasks: maximum number of tasks per host; None if not limited.
        whole: resources of all hosts together.
        largest: for each resource, the amount of the host that has most of it.
        clusters: host -> its cluster.
        limited: host -> offer of the empty host, for hosts whose offer ends or is for some users only.
        hosts: the same hosts as `Hosts`.
        amounts: amounts of each of `hosts`, by position.
    """

    offers: Sequence[Offer] = ()
    max_tasks: int | None = None
    whole: Resources
    largest: Resources
    clusters: Mapping[str, str]
    limited: Mapping[str, Offer]
    hosts: Hosts
    amounts: Sequence[HostAmounts]

    @classmethod
    def of(cls, offers: Sequence[Offer], max_tasks: int | None = None) -> "PoolCapacity":
        """Return the capacity of some hosts.

        Args:
            offers: offers of the empty hosts.
            max_tasks: maximum number of tasks per host; None if not limited.
        """
        by_host: dict[str, Resources] = {}
        for offer in offers:
            by_host[offer.host] = by_host.get(offer.host, Resources()) + offer.room + offer.running
        wholes = by_host.values()
        hosts = Hosts(offers)
        return cls(
            offers=offers,
            max_tasks=max_tasks,
            whole=Resources(
                cpus=sum(whole.cpus for whole in wholes),
                mem_mb=sum(whole.mem_mb for whole in wholes),
                gpus=sum(whole.gpus for whole in wholes),
            ),
            largest=Resources(
                cpus=max((whole.cpus for whole in wholes), default=0.0),
                mem_mb=max((whole.mem_mb for whole in wholes), default=0.0),
                gpus=max((whole.gpus for whole in wholes), default=0.0),
            ),
            clusters={offer.host: offer.cluster for offer in offers},
            limited={offer.host: offer for offer in hosts.offers if offer.is_limited},
            hosts=hosts,
            amounts=[whole_of(offer, max_tasks) for offer in hosts.offers],
        )
