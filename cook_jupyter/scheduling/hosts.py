"""The hosts of one pool with an offer, in order of name, as columns.

Lives here: `Hosts`, which adds up the offers of one host and can be kept between cycles.
Not here: who is placed on them (`scheduling.matching`).
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final

import numpy as np

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.constraints import ConstraintClass, PoolDefaults, fails_class
from cook_jupyter.scheduling.tables import Floats, Integers


class Hosts:
    """Hosts in ascending order of name. Building one costs about 2 µs per host; keep it, and let it follow.

    Attributes:
        offers: one per host; several offers of one host were added up.
        position: where a host stands in `offers`.
        all_plain: whether all are of the plain kind.
    """

    __slots__ = ("_classes", "_columns", "all_plain", "offers", "position")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        by_host = _by_host(offers)
        self.offers: list[Offer] = [by_host[name] for name in sorted(by_host)]
        self.position: Mapping[str, int] = {offer.host: at for at, offer in enumerate(self.offers)}
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)
        self._columns: HostColumns | None = None
        self._classes: dict[tuple[ConstraintClass, float, PoolDefaults], list[str | None]] = {}

    def __len__(self) -> int:
        return len(self.offers)

    def follow(self, offers: Iterable[Offer]) -> None:
        """Become what a new `Hosts` of these offers would be; only what is another object is touched.

        Give the same `Offer` for a host that did not change: looking at one costs 0.1 µs then. Several
        offers of one host are added up anew each time.
        """
        by_host = _by_host(offers)
        known, position = self.offers, self.position
        changed = []
        for host, offer in by_host.items():
            at = position.get(host)
            if at is None or known[at] is not offer:
                changed.append(offer)
        new = sum(offer.host not in position for offer in changed)
        gone = () if len(by_host) - new == len(known) else position.keys() - by_host.keys()
        self.update(changed, gone=gone)

    def update(self, offers: Sequence[Offer], *, gone: Collection[str] = ()) -> None:
        """Put new offers, one per host, in the place of the old ones of the same hosts, or beside them.

        Args:
            offers: of hosts that changed or are new; each is all that its host offers.
            gone: hosts that offer nothing any longer; those that are not here anyway are passed over.
        """
        if gone:
            self._leave_out(sorted(self.position[host] for host in gone if host in self.position))
        changed = [offer for offer in offers if offer.host in self.position]
        new = [offer for offer in offers if offer.host not in self.position]
        ats = [self.position[offer.host] for offer in changed]
        for at, offer in zip(ats, changed, strict=True):
            self.offers[at] = offer
        if changed and self._columns is not None:
            self._columns.set(ats, changed)
        for (wanted, gpus, defaults), fails in self._classes.items():
            for at, offer in zip(ats, changed, strict=True):
                fails[at] = fails_class(wanted, gpus, offer, defaults)
        if new:
            self._take_in(sorted(new, key=_host))
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)

    def _leave_out(self, ats: list[int]) -> None:
        """Forget the hosts at some positions."""
        if not ats:
            return
        if self._columns is not None:
            self._columns.leave_out(ats)
        for at in reversed(ats):
            del self.offers[at]
        self._stand_anew()

    def _take_in(self, new: list[Offer]) -> None:
        """Put in hosts that are not here yet, given by name."""
        ats = [bisect_left(self.offers, offer.host, key=_host) for offer in new]
        if self._columns is not None:
            self._columns.take_in(ats, new)
        self.offers = sorted([*self.offers, *new], key=_host)
        self._stand_anew()

    def _stand_anew(self) -> None:
        self.position = {offer.host: at for at, offer in enumerate(self.offers)}
        self._classes = {}

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


_NUMBERS: Final = ("room_cpus", "room_mem", "room_gpus", "run_cpus", "run_mem", "ports", "tasks")


class HostColumns:
    """Numbers of hosts, by position. Where gpus are not a number (Kubernetes) there are always enough."""

    __slots__ = ("_states", "ports", "room_cpus", "room_gpus", "room_mem", "run_cpus", "run_mem", "tasks")
    room_cpus: Floats
    room_mem: Floats
    room_gpus: Floats
    run_cpus: Floats
    run_mem: Floats
    ports: Floats
    tasks: Floats

    def __init__(self, offers: Sequence[Offer]) -> None:
        for name, column in zip(_NUMBERS, _numbers(offers), strict=True):
            setattr(self, name, column)
        self._states: dict[bool, tuple[Integers, Integers, Integers]] = {}

    def set(self, ats: Sequence[int], offers: Sequence[Offer]) -> None:
        """Take the numbers of some hosts from their new offers."""
        for name, column in zip(_NUMBERS, _numbers(offers), strict=True):
            getattr(self, name)[ats] = column
        self._states.clear()

    def take_in(self, ats: Sequence[int], offers: Sequence[Offer]) -> None:
        """Put in new hosts, each before the one that stands at its position now."""
        for name, column in zip(_NUMBERS, _numbers(offers), strict=True):
            setattr(self, name, np.insert(getattr(self, name), ats, column))
        self._states.clear()

    def leave_out(self, ats: Sequence[int]) -> None:
        """Forget the hosts at some positions."""
        for name in _NUMBERS:
            setattr(self, name, np.delete(getattr(self, name), ats))
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


def _numbers(offers: Sequence[Offer]) -> Floats:
    """One row per number, in the order of `_NUMBERS`, of one value per offer."""
    table = np.array(
        [
            (
                offer.room.cpus,
                offer.room.mem_mb,
                offer.room.gpus if offer.kind is HostKind.PLAIN else inf,
                offer.running.cpus,
                offer.running.mem_mb,
                port_count(offer) if offer.ports else 0,
                offer.task_count,
            )
            for offer in offers
        ],
        dtype=np.float64,
    )
    return np.ascontiguousarray(table.reshape(-1, len(_NUMBERS)).T)


def _by_host(offers: Iterable[Offer]) -> dict[str, Offer]:
    by_host: dict[str, Offer] = {}
    for offer in offers:
        known = by_host.get(offer.host)
        by_host[offer.host] = offer if known is None else _added(known, offer)
    return by_host


def _host(offer: Offer) -> str:
    return offer.host


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
