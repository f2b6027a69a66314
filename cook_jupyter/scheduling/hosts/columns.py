"""Facts about hosts as columns, one value for each position.

Lives here: `HostColumns`: room and use, what follows from them, and any other fact of an offer that somebody
asks for as a column (`HostColumns.of`). Columns outlive a cycle and follow offers that change.
Not here: which hosts there are (`scheduling.hosts.hosts`), what a cycle has put on them
(`scheduling.matching.columnar`).
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.arrays import Floats, Integers
from cook_jupyter.scheduling.limits.recent_values import RecentValues

Singles = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]

_NUMBERS: Final = ("room_cpus", "room_mem", "room_gpus", "run_cpus", "run_mem", "ports", "tasks")
_HUGE: Final = 3e38  # about the largest number in single precision
_SLACK: Final = 1e-6  # of a host, by which estimates of room are too large rather than too small


class HostColumns:
    """Facts about hosts by position. Where gpus are not a number (Kubernetes) there are always enough.

    Attributes:
        room_cpus, room_mem, room_gpus, ports: what is free.
        run_cpus, run_mem, tasks: what runs.
    """

    __slots__ = ("_codes", "_facts", "_rough", "_states", *_NUMBERS)
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
        self._facts = RecentValues[Hashable, tuple[Callable[[Offer], Any], npt.NDArray[Any]]]()
        self._codes: dict[str, dict[str | None, int]] = {}
        self._rough: EstimateColumns | None = None
        self._states: Integers | None = None

    def set(self, ats: Sequence[int], offers: Sequence[Offer]) -> None:
        """Take the facts of some hosts from their new offers."""
        for name, column in zip(_NUMBERS, _numbers(offers), strict=True):
            getattr(self, name)[ats] = column
        self._forget_unused()
        for fact, known in self._facts.values():
            known[ats] = list(map(fact, offers))
        self._rough = self._states = None

    def take_in(self, ats: Sequence[int], offers: Sequence[Offer]) -> None:
        """Put in new hosts, each before the one that stands at its position now."""
        for name, column in zip(_NUMBERS, _numbers(offers), strict=True):
            setattr(self, name, np.insert(getattr(self, name), ats, column))
        for key, (fact, known) in self._facts.items():
            self._facts.replace(key, (fact, np.insert(known, ats, list(map(fact, offers)))))
        self._rough = self._states = None

    def leave_out(self, ats: Sequence[int]) -> None:
        """Forget the hosts at some positions."""
        for name in _NUMBERS:
            setattr(self, name, np.delete(getattr(self, name), ats))
        for key, (fact, known) in self._facts.items():
            self._facts.replace(key, (fact, np.delete(known, ats)))
        self._rough = self._states = None

    def of(
        self, key: Hashable, fact: Callable[[Offer], float], offers: Sequence[Offer], kind: npt.DTypeLike
    ) -> npt.NDArray[Any]:
        """Return a fact of each offer as a column; made once per key and kept up while it is asked for.

        Args:
            key: stands for the fact.
            fact: what it is, of one offer.
            offers: all of them.
            kind: of number.
        """
        return self._facts.get(key, lambda: (fact, np.array(list(map(fact, offers)), dtype=kind)))[1]

    def codes(self, attribute: str, offers: Sequence[Offer]) -> tuple[Codes, dict[str | None, int]]:
        """Return the value of an attribute by position, as a number, and the numbers of the values.

        Hosts without it have the value None. There may be values that no host has any longer.
        """
        values = self._codes.setdefault(attribute, {})

        def code(offer: Offer) -> int:
            return values.setdefault(offer.attributes.get(attribute), len(values))

        return self.of(("attribute", attribute), code, offers, np.int32), values

    def _forget_unused(self) -> None:
        if self._facts.next_round():
            for attribute in [name for name in self._codes if ("attribute", name) not in self._facts]:
                del self._codes[attribute]

    @property
    def rough(self) -> "EstimateColumns":
        """Estimates of fill and room; not to be changed."""
        if self._rough is None:
            self._rough = EstimateColumns(self)
        return self._rough

    @property
    def states(self) -> Integers:
        """Numbers of which two hosts have the same if they are of one size and in the same use."""
        if self._states is None:
            self._states = _states([getattr(self, name) for name in _NUMBERS])
        return self._states


class EstimateColumns:
    """Estimates in single precision, which are half as long to read, by position.

    Attributes:
        fill: how full the host is, one added: 1..3.
        per_cpu, per_mb: what one more cpu, one more MB adds to that.
        left_cpus, left_mem: what is free; never too small.
        whole_cpus, whole_mem: the whole host, exactly. A host without any of a resource is full of it to
            nobody's harm: only jobs that ask for none fit.
    """

    __slots__ = ("fill", "left_cpus", "left_mem", "per_cpu", "per_mb", "whole_cpus", "whole_mem")

    def __init__(self, columns: HostColumns) -> None:
        cpus = columns.room_cpus + columns.run_cpus
        mem = columns.room_mem + columns.run_mem
        self.whole_cpus: Floats = np.where(cpus == 0, 1.0, cpus)
        self.whole_mem: Floats = np.where(mem == 0, 1.0, mem)
        fill = 1.0 + columns.run_cpus / self.whole_cpus + columns.run_mem / self.whole_mem
        self.fill: Singles = fill.astype(np.float32)
        self.per_cpu: Singles = (1.0 / self.whole_cpus).astype(np.float32)
        self.per_mb: Singles = (1.0 / self.whole_mem).astype(np.float32)
        self.left_cpus = _not_less(columns.room_cpus, self.whole_cpus)
        self.left_mem = _not_less(columns.room_mem, self.whole_mem)


def left_estimate(left: float, whole: float) -> float:
    """Return what is free of a host as an estimate that is never too small, as `EstimateColumns` has it."""
    return min(left + abs(whole) * _SLACK, _HUGE)


def port_count(offer: Offer) -> int:
    """Return how many ports the offer has."""
    return sum(last - first + 1 for first, last in offer.ports)


def _not_less(left: Floats, whole: Floats) -> Singles:
    return np.minimum(left + np.abs(whole) * _SLACK, _HUGE).astype(np.float32)


def _states(columns: Sequence[Floats]) -> Integers:
    """Number the distinct rows of a table that is given by its columns."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        mixed ^= column.view(np.uint64)
        mixed *= np.uint64(0x9E3779B97F4A7C15)  # the golden ratio: spreads what differs over all bits
        mixed ^= mixed >> np.uint64(29)
    _, first, state = np.unique(mixed, return_index=True, return_inverse=True)
    if any((column != column[first][state]).any() for column in columns):  # two rows met in one number
        _, state = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return state.reshape(-1)


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
