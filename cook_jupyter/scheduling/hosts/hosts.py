"""The hosts of one pool with an offer, in order of name.

Lives here: `Hosts`, which adds up the offers of each host and is kept between cycles.
Not here: hosts as columns (`scheduling.hosts.columns`), the placement of jobs
(`scheduling.matching.matching`).
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.scheduling.constraints.constraints import (
    ConstraintClass,
    PoolDefaults,
    failing_class_constraint,
)
from cook_jupyter.scheduling.hosts.columns import Codes, HostColumns
from cook_jupyter.scheduling.limits.recent_values import RecentValues


class Hosts:
    """Hosts in ascending order of name. Building takes about 2 µs per host, so keep the object and update it.

    Attributes:
        offers: one offer per host; several offers of one host are added up.
        position: host -> its position in `offers`.
        all_plain: whether all hosts are of the plain kind.
        is_limited: whether any offer ends or is for some users only.
    """

    __slots__ = ("_classes", "_columns", "_source_offers", "all_plain", "is_limited", "offers", "position")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        self._source_offers: Sequence[Offer] = list(offers)  # the offers of the last update; empty if unknown
        by_host = _merge_by_host(self._source_offers)
        self.offers: list[Offer] = [by_host[name] for name in sorted(by_host)]
        self.position: Mapping[str, int] = {offer.host: index for index, offer in enumerate(self.offers)}
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)
        self.is_limited = any(offer.is_limited for offer in self.offers)
        self._columns: HostColumns | None = None
        self._classes = RecentValues[tuple[ConstraintClass, float, PoolDefaults], list[str | None]]()

    def __len__(self) -> int:
        return len(self.offers)

    def update_from_offers(self, offers: Sequence[Offer]) -> None:
        """Update the hosts as if they were built from these offers; only changed `Offer` objects cost time.

        Pass the same object for an unchanged host, and the hosts in the same order as the last time: then an
        unchanged host costs 0.03 µs. Several offers of one host are added up each time.
        """
        followed = self._source_offers
        if len(followed) == len(offers) == len(self.offers):
            pairs = [(old, new) for old, new in zip(followed, offers, strict=True) if old is not new]
            if all(old.host == new.host for old, new in pairs):
                self.update([new for _, new in pairs])
                self._source_offers = list(offers)
                return
        by_host = _merge_by_host(offers)
        old_offers, position = self.offers, self.position
        changed = []
        for host, offer in by_host.items():
            index = position.get(host)
            if index is None or old_offers[index] is not offer:
                changed.append(offer)
        new = sum(offer.host not in position for offer in changed)
        removed = () if len(by_host) - new == len(old_offers) else position.keys() - by_host.keys()
        self.update(changed, removed=removed)
        self._source_offers = list(offers)

    def update(self, offers: Sequence[Offer], *, removed: Collection[str] = ()) -> None:
        """Replace or add the offers of some hosts, and remove others.

        Args:
            offers: offers of hosts that changed or are new, one per host.
            removed: hosts without an offer now; unknown hosts are ignored.
        """
        self._source_offers = ()
        self._classes.next_round()
        if removed:
            self._remove(sorted(self.position[host] for host in removed if host in self.position))
        changed = [offer for offer in offers if offer.host in self.position]
        new = [offer for offer in offers if offer.host not in self.position]
        positions = [self.position[offer.host] for offer in changed]
        for index, offer in zip(positions, changed, strict=True):
            self.offers[index] = offer
        if changed and self._columns is not None:
            self._columns.update(positions, changed)
        for (constraint_class, gpus, defaults), fails in self._classes.items():
            for index, offer in zip(positions, changed, strict=True):
                fails[index] = failing_class_constraint(constraint_class, gpus, offer, defaults)
        if new:
            self._insert(sorted(new, key=_host))
        of_interest = offers if self.all_plain else self.offers
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in of_interest)
        self.is_limited = any(offer.is_limited for offer in (self.offers if self.is_limited else offers))

    def _remove(self, positions: list[int]) -> None:
        """Remove the hosts at some positions."""
        if not positions:
            return
        if self._columns is not None:
            self._columns.remove(positions)
        for index in reversed(positions):
            del self.offers[index]
        self._rebuild_positions()

    def _insert(self, new: list[Offer]) -> None:
        """Insert new hosts, given in order of name."""
        positions = [bisect_left(self.offers, offer.host, key=_host) for offer in new]
        if self._columns is not None:
            self._columns.insert(positions, new)
        self.offers = sorted([*self.offers, *new], key=_host)
        self._rebuild_positions()

    def _rebuild_positions(self) -> None:
        self.position = {offer.host: index for index, offer in enumerate(self.offers)}
        self._classes.clear()

    def failing_class_constraint(
        self, constraint_class: ConstraintClass, gpus: float, defaults: PoolDefaults
    ) -> list[str | None]:
        """Return the first failing constraint of a class by position; not to be modified."""
        return self._classes.get(
            (constraint_class, gpus, defaults),
            lambda: [
                failing_class_constraint(constraint_class, gpus, offer, defaults) for offer in self.offers
            ],
        )

    @property
    def columns(self) -> HostColumns:
        """Facts about the hosts as columns."""
        if self._columns is None:
            self._columns = HostColumns(self.offers)
        return self._columns

    def fact(self, key: Hashable, fact: Callable[[Offer], float], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a fact of each offer as a column (`HostColumns.of`); not to be modified."""
        return self.columns.of(key, fact, self.offers, dtype)

    def codes(self, attribute: str) -> tuple[Codes, Mapping[str | None, int]]:
        """Return the values of an attribute as numbers (`HostColumns.codes`); not to be modified."""
        return self.columns.codes(attribute, self.offers)


def _merge_by_host(offers: Iterable[Offer]) -> dict[str, Offer]:
    by_host: dict[str, Offer] = {}
    for offer in offers:
        previous = by_host.get(offer.host)
        by_host[offer.host] = offer if previous is None else _add_offers(previous, offer)
    return by_host


def _host(offer: Offer) -> str:
    return offer.host


def _add_offers(left: Offer, right: Offer) -> Offer:
    """Add up two offers of one host. Running tasks are in both offers, so they are not added.

    Only users who may use both offers may use the sum, because the host decides which of its room a job
    takes.
    """
    untils = [offer.until_ms for offer in (left, right) if offer.until_ms is not None]
    users = [offer.users for offer in (left, right) if offer.users is not None]
    return replace(
        left,
        room=left.room + right.room,
        ports=left.ports + right.ports,
        gpu_models={**left.gpu_models, **right.gpu_models},
        disk_mb={**left.disk_mb, **right.disk_mb},
        until_ms=min(untils, default=None),
        users=frozenset.intersection(*users) if users else None,
    )
