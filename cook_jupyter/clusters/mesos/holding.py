"""When offers are kept, given back, and requested again.

Lives here: `OfferHolding`. Not here: the offers (`clusters.mesos.hosts`).

A job starts at once only on an offer that is held already. A framework that is alone holds all offers, and
asks for the rest of each one that it used with REVIVE, which brings it back within milliseconds. Beside other
frameworks it holds a part, gives the rest back for a while, and sends REVIVE seldom, as that lifts all its
filters and costs the master time.
"""

from collections.abc import Collection
from typing import Final

from cook_jupyter.clusters.mesos.hosts import MesosHost
from cook_jupyter.clusters.mesos.messages import OfferId
from cook_jupyter.clusters.mesos.options import MesosOptions

REVIVE_ALONE_S: Final = 0.02  # shortest time between two REVIVEs
REVIVE_SHARED_S: Final = 1.0


class OfferHolding:
    """The offer policy of one framework.

    Args:
        options: options of the cluster.
    """

    def __init__(self, options: MesosOptions) -> None:
        self._options = options
        self._revived_s = -1e9
        self.is_alone = False  # whether no other framework uses the cluster, as far as is known
        self.has_declined = False  # whether offers were given back that only a REVIVE brings back soon

    def revive_due_s(self, now_s: float) -> float:
        """Return how long to wait, from now on, until the next REVIVE may be sent."""
        interval_s = REVIVE_ALONE_S if self.is_alone else REVIVE_SHARED_S
        return max(0.0, self._revived_s + interval_s - now_s)

    def revived(self, now_s: float) -> None:
        """Note that REVIVE is sent."""
        self._revived_s = now_s
        self.has_declined = False

    def choose_declined(self, hosts: Collection[MesosHost], now_s: float) -> list[OfferId]:
        """Return the offers to give back now, and forget them.

        Args:
            hosts: all connected hosts.
            now_s: monotonic time.
        """
        if self.is_alone:
            return []
        offering = [host for host in hosts if host.offers]
        # Warm hosts are kept: they have executors of ours.
        offering.sort(key=lambda host: (bool(host.executor_ids), host.offered_s), reverse=True)
        kept = int(self._options.max_held * len(hosts))
        declined: list[OfferId] = []
        for host in offering[kept:]:
            if now_s >= host.offered_s + self._options.hold_s and not host.waiting:
                declined += host.take_offers()
        self.has_declined = self.has_declined or bool(declined)
        return declined
