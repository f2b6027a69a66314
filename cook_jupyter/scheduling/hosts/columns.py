"""Facts about hosts as columns, one value per position.

Lives here: `HostColumns`: room and usage, values derived from them, and any other fact of offers on demand
(`HostColumns.of`). Columns are kept between cycles and updated with changed offers.
Not here: the set of hosts (`scheduling.hosts.hosts`), the assignments of a cycle
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
_HUGE: Final = 3e38  # close to the largest number in single precision
_SLACK: Final = 1e-6  # part of a host by which room is overestimated


class HostColumns:
    """Facts about hosts by position. Gpus are unlimited where they are not a number (Kubernetes).

    Attributes:
        room_cpus, room_mem, room_gpus, ports: free resources.
        run_cpus, run_mem, tasks: resources and number of running tasks.
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
        for name, column in zip(_NUMBERS, _number_table(offers), strict=True):
            setattr(self, name, column)
        self._facts = RecentValues[Hashable, tuple[Callable[[Offer], Any], npt.NDArray[Any]]]()
        self._codes: dict[str, dict[str | None, int]] = {}
        self._rough: EstimateColumns | None = None
        self._states: Integers | None = None

    def update(self, positions: Sequence[int], offers: Sequence[Offer]) -> None:
        """Update the facts of some hosts from their new offers."""
        for name, values in zip(_NUMBERS, _number_table(offers), strict=True):
            getattr(self, name)[positions] = values
        self._forget_unused()
        for fact, values in self._facts.values():
            values[positions] = list(map(fact, offers))
        self._rough = self._states = None

    def insert(self, positions: Sequence[int], offers: Sequence[Offer]) -> None:
        """Insert new hosts, each before the one at its position."""
        for name, column in zip(_NUMBERS, _number_table(offers), strict=True):
            setattr(self, name, np.insert(getattr(self, name), positions, column))
        for key, (fact, fact_column) in self._facts.items():
            self._facts.replace(key, (fact, np.insert(fact_column, positions, list(map(fact, offers)))))
        self._rough = self._states = None

    def remove(self, positions: Sequence[int]) -> None:
        """Remove the hosts at some positions."""
        for name in _NUMBERS:
            setattr(self, name, np.delete(getattr(self, name), positions))
        for key, (fact, fact_column) in self._facts.items():
            self._facts.replace(key, (fact, np.delete(fact_column, positions)))
        self._rough = self._states = None

    def of(
        self, key: Hashable, fact: Callable[[Offer], float], offers: Sequence[Offer], dtype: npt.DTypeLike
    ) -> npt.NDArray[Any]:
        """Return a fact of each offer as a column, which is cached and updated as long as it is used.

        Args:
            key: key of the fact.
            fact: returns the fact of an offer.
            offers: all offers, by position.
            dtype: numpy type of the column.
        """
        return self._facts.get(key, lambda: (fact, np.array(list(map(fact, offers)), dtype=dtype)))[1]

    def codes(self, attribute: str, offers: Sequence[Offer]) -> tuple[Codes, dict[str | None, int]]:
        """Return the values of an attribute by position, as codes, and the code of each value.

        Hosts without the attribute have the value None. There may be codes of values that no host has any
        more.
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
        """Estimates of fill and room; not to be modified."""
        if self._rough is None:
            self._rough = EstimateColumns(self)
        return self._rough

    @property
    def states(self) -> Integers:
        """Numbers that are equal for hosts of equal size and usage."""
        if self._states is None:
            self._states = _states([getattr(self, name) for name in _NUMBERS])
        return self._states


class EstimateColumns:
    """Estimates by position, in single precision to halve the memory that is read.

    Attributes:
        fill: fill of the host plus 1: 1..3.
        per_cpu, per_mb: increase of the fill per cpu and per MB.
        left_cpus, left_mem: free resources; never underestimated.
        whole_cpus, whole_mem: resources of the empty host, exact; 1 where it has none, as only jobs that
            request none fit there.
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
        self.left_cpus = _free_estimates(columns.room_cpus, self.whole_cpus)
        self.left_mem = _free_estimates(columns.room_mem, self.whole_mem)


def free_estimate(free: float, whole: float) -> float:
    """Return an estimate of a free amount that is never too small, as in `EstimateColumns`."""
    return min(free + abs(whole) * _SLACK, _HUGE)


def port_count(offer: Offer) -> int:
    """Return the number of free ports of an offer."""
    return sum(high - low + 1 for low, high in offer.ports)


def _free_estimates(free: Floats, whole: Floats) -> Singles:
    return np.minimum(free + np.abs(whole) * _SLACK, _HUGE).astype(np.float32)


def _states(columns: Sequence[Floats]) -> Integers:
    """Return the number of each row of a table among its distinct rows."""
    _, first_indices, state = np.unique(_mixed(columns), return_index=True, return_inverse=True)
    if any((column != column[first_indices][state]).any() for column in columns):  # a collision
        _, state = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return state.reshape(-1)


def _mixed(columns: Sequence[Floats]) -> npt.NDArray[np.uint64]:
    """Return a hash of each row of a table."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        mixed ^= column.view(np.uint64)
        mixed *= np.uint64(0x9E3779B97F4A7C15)  # the golden ratio: spreads differences over all bits
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _number_table(offers: Sequence[Offer]) -> Floats:
    """Return one row per name in `_NUMBERS`, with one value per offer."""
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
