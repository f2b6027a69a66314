"""The hosts of one pool with an offer, in order of name, as columns.

Lives here: `Hosts`, which adds up the offers of one host and can be kept between cycles.
Not here: who is placed on them (`scheduling.matching`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from cook_jupyter.model.offer import Offer
from cook_jupyter.scheduling.tables import Floats


class Hosts:
    """Hosts in ascending order of name. Building one costs about 2 µs per host; keep it while offers stay.

    Attributes:
        offers: one per host; several offers of one host were added up.
        position: where a host stands in `offers`.
    """

    __slots__ = ("_columns", "offers", "position")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        merged: dict[str, Offer] = {}
        for offer in offers:
            known = merged.get(offer.host)
            merged[offer.host] = offer if known is None else _added(known, offer)
        self.offers: list[Offer] = [merged[name] for name in sorted(merged)]
        self.position: Mapping[str, int] = {offer.host: at for at, offer in enumerate(self.offers)}
        self._columns: HostColumns | None = None

    def __len__(self) -> int:
        return len(self.offers)

    def update(self, offers: Iterable[Offer]) -> None:
        """Put new offers in the place of the old ones of the same hosts, all of which are known.

        Raises:
            KeyError: a host is not among these; build a new `Hosts` then.
        """
        for offer in offers:
            at = self.position[offer.host]
            self.offers[at] = offer
            if self._columns is not None:
                self._columns.set(at, offer)

    @property
    def columns(self) -> "HostColumns":
        """Room and totals as columns."""
        if self._columns is None:
            self._columns = HostColumns(self.offers)
        return self._columns


class HostColumns:
    """Numbers of hosts, by position. Totals are what is offered and what runs, together."""

    __slots__ = ("plain", "ports", "room_cpus", "room_gpus", "room_mem", "run_cpus", "run_mem", "tasks")

    def __init__(self, offers: list[Offer]) -> None:
        count = len(offers)
        self.room_cpus: Floats = np.fromiter((o.room.cpus for o in offers), np.float64, count)
        self.room_mem: Floats = np.fromiter((o.room.mem_mb for o in offers), np.float64, count)
        self.room_gpus: Floats = np.fromiter((o.room.gpus for o in offers), np.float64, count)
        self.run_cpus: Floats = np.fromiter((o.running.cpus for o in offers), np.float64, count)
        self.run_mem: Floats = np.fromiter((o.running.mem_mb for o in offers), np.float64, count)
        self.ports = np.fromiter((port_count(o) for o in offers), np.int64, count)
        self.tasks = np.fromiter((o.task_count for o in offers), np.int64, count)

    def set(self, at: int, offer: Offer) -> None:
        """Take the numbers of one host from its new offer."""
        self.room_cpus[at] = offer.room.cpus
        self.room_mem[at] = offer.room.mem_mb
        self.room_gpus[at] = offer.room.gpus
        self.run_cpus[at] = offer.running.cpus
        self.run_mem[at] = offer.running.mem_mb
        self.ports[at] = port_count(offer)
        self.tasks[at] = offer.task_count


def port_count(offer: Offer) -> int:
    """Return how many ports the offer has."""
    return sum(last - first + 1 for first, last in offer.ports)


def _added(one: Offer, other: Offer) -> Offer:
    """Two offers of one host as one. What runs there is told by each of them, so it is not added."""
    return replace(
        one,
        room=one.room + other.room,
        ports=one.ports + other.ports,
        gpu_models={**one.gpu_models, **other.gpu_models},
        disk_mb={**one.disk_mb, **other.disk_mb},
    )
