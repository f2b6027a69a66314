"""The hosts of one pool with an offer, in order of name, as columns.

Lives here: `Hosts`, which adds up the offers of one host and can be kept between cycles.
Not here: who is placed on them (`scheduling.matching`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf

import numpy as np

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.constraints import ConstraintClass, PoolDefaults, fails_class
from cook_jupyter.scheduling.tables import Floats, Integers


class Hosts:
    """Hosts in ascending order of name. Building one costs about 2 µs per host; keep it while offers stay.

    Attributes:
        offers: one per host; several offers of one host were added up.
        position: where a host stands in `offers`.
        all_plain: whether all are of the plain kind.
    """

    __slots__ = ("_classes", "_columns", "all_plain", "offers", "position")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        merged: dict[str, Offer] = {}
        for offer in offers:
            known = merged.get(offer.host)
            merged[offer.host] = offer if known is None else _added(known, offer)
        self.offers: list[Offer] = [merged[name] for name in sorted(merged)]
        self.position: Mapping[str, int] = {offer.host: at for at, offer in enumerate(self.offers)}
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)
        self._columns: HostColumns | None = None
        self._classes: dict[tuple[ConstraintClass, float, PoolDefaults], list[str | None]] = {}

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
            self.all_plain = self.all_plain and offer.kind is HostKind.PLAIN
            if self._columns is not None:
                self._columns.set(at, offer)
            for (wanted, gpus, defaults), fails in self._classes.items():
                fails[at] = fails_class(wanted, gpus, offer, defaults)

    def fails_class(self, wanted: ConstraintClass, gpus: float, defaults: PoolDefaults) -> list[str | None]:
        """Return the first constraint of the class that fails, by position; not to be changed."""
        key = (wanted, gpus, defaults)
        fails = self._classes.get(key)
        if fails is None:
            fails = self._classes[key] = [fails_class(wanted, gpus, offer, defaults) for offer in self.offers]
        return fails

    @property
    def columns(self) -> "HostColumns":
        """Room and totals as columns."""
        if self._columns is None:
            self._columns = HostColumns(self.offers)
        return self._columns


class HostColumns:
    """Numbers of hosts, by position. Where gpus are not a number (Kubernetes) there are always enough."""

    __slots__ = ("_states", "ports", "room_cpus", "room_gpus", "room_mem", "run_cpus", "run_mem", "tasks")

    def __init__(self, offers: list[Offer]) -> None:
        count = len(offers)
        self.room_cpus: Floats = np.fromiter((o.room.cpus for o in offers), np.float64, count)
        self.room_mem: Floats = np.fromiter((o.room.mem_mb for o in offers), np.float64, count)
        self.room_gpus: Floats = np.fromiter(map(_gpus, offers), np.float64, count)
        self.run_cpus: Floats = np.fromiter((o.running.cpus for o in offers), np.float64, count)
        self.run_mem: Floats = np.fromiter((o.running.mem_mb for o in offers), np.float64, count)
        self.ports: Floats = np.fromiter(map(port_count, offers), np.float64, count)
        self.tasks: Floats = np.fromiter((o.task_count for o in offers), np.float64, count)
        self._states: dict[bool, tuple[Integers, Integers, Integers]] = {}

    def set(self, at: int, offer: Offer) -> None:
        """Take the numbers of one host from its new offer."""
        self.room_cpus[at] = offer.room.cpus
        self.room_mem[at] = offer.room.mem_mb
        self.room_gpus[at] = _gpus(offer)
        self.run_cpus[at] = offer.running.cpus
        self.run_mem[at] = offer.running.mem_mb
        self.ports[at] = port_count(offer)
        self.tasks[at] = offer.task_count
        self._states.clear()

    def states(self, *, by_tasks: bool) -> tuple[Integers, Integers, Integers]:
        """Return the state of each host, and of each state its host of lowest name and how many it has.

        Hosts in the same state have equal numbers; that of tasks counts if `by_tasks`. When most hosts
        differ, each is in a state of its own, and states are numbered as hosts are.
        """
        known = self._states.get(by_tasks)
        if known is None:
            columns = [self.room_cpus, self.room_mem, self.run_cpus, self.run_mem, self.room_gpus, self.ports]
            known = self._states[by_tasks] = _states([*columns, self.tasks] if by_tasks else columns)
        return known


def port_count(offer: Offer) -> int:
    """Return how many ports the offer has."""
    return sum(last - first + 1 for first, last in offer.ports)


def _gpus(offer: Offer) -> float:
    return offer.room.gpus if offer.kind is HostKind.PLAIN else inf


def _states(columns: list[Floats]) -> tuple[Integers, Integers, Integers]:
    """Number the distinct rows of a table that is given by its columns."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        mixed ^= column.view(np.uint64)
        mixed *= np.uint64(0x9E3779B97F4A7C15)  # the golden ratio: spreads what differs over all bits
        mixed ^= mixed >> np.uint64(29)
    _, first, state, count = np.unique(mixed, return_index=True, return_inverse=True, return_counts=True)
    if 2 * len(first) > len(mixed):  # mostly different: then each host is a state of its own
        each = np.arange(len(mixed))
        return each, each, np.ones(len(mixed), dtype=np.int64)
    if any((column != column[first][state]).any() for column in columns):  # two rows met in one number
        table = np.stack(columns, axis=1)
        _, first, state, count = np.unique(
            table, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
    return state.reshape(-1), first, count


def _added(one: Offer, other: Offer) -> Offer:
    """Two offers of one host as one. What runs there is told by each of them, so it is not added."""
    return replace(
        one,
        room=one.room + other.room,
        ports=one.ports + other.ports,
        gpu_models={**one.gpu_models, **other.gpu_models},
        disk_mb={**one.disk_mb, **other.disk_mb},
    )
