"""The hosts of a pool, kept from one cycle to the next: what is known of them full and empty.

Lives here: `Rooms`. Not here: where offers come from (`clusters`), who takes them (`scheduling`).
"""

from collections.abc import Mapping, Sequence

from cook_jupyter.model.offer import Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts import Hosts


class Rooms:
    """What is known of the hosts of one pool.

    Attributes:
        whole: all hosts together, as if they were empty.
        largest: the most cpus, and the most memory, that any single host has.
        attributes: by host, also of those that offer nothing now.
        locations: cluster -> where it is, of those that say so.
    """

    def __init__(self) -> None:
        self.whole = Resources()
        self.largest = Resources()
        self.attributes: dict[str, Mapping[str, str]] = {}
        self.locations: dict[str, str] = {}
        self._capacity: Sequence[Offer] = ()
        self._hosts = Hosts()

    @property
    def capacity(self) -> Sequence[Offer]:
        """Every host as if it were empty."""
        return self._capacity

    def see_capacity(self, capacity: Sequence[Offer]) -> bool:
        """Learn what hosts there are; returns whether they, or what they have, differ from before."""
        known = self._capacity
        if len(known) == len(capacity) and all(map(_same, known, capacity)):
            return False
        self._capacity = capacity
        whole: dict[str, Resources] = {}
        for offer in capacity:
            whole[offer.host] = whole.get(offer.host, Resources()) + offer.room + offer.running
            self.attributes[offer.host] = offer.attributes
            if offer.location is not None:
                self.locations[offer.cluster] = offer.location
        hosts = whole.values()
        self.whole = Resources(
            cpus=sum(host.cpus for host in hosts),
            mem_mb=sum(host.mem_mb for host in hosts),
            gpus=sum(host.gpus for host in hosts),
        )
        self.largest = Resources(
            cpus=max((host.cpus for host in hosts), default=0.0),
            mem_mb=max((host.mem_mb for host in hosts), default=0.0),
            gpus=max((host.gpus for host in hosts), default=0.0),
        )
        return True

    @property
    def offers(self) -> Sequence[Offer]:
        """The offers that the hosts were last given."""
        return self._hosts.offers

    def hosts(self, offers: Sequence[Offer]) -> Hosts:
        """Return the hosts with these offers; good until the next call."""
        self._hosts.follow(offers)
        return self._hosts


def _same(one: Offer, other: Offer) -> bool:
    return one is other or one == other
