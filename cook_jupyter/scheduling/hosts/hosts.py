"""The hosts of one pool with an offer, in order of name.

Lives here: `Hosts`, which adds up the offers of one host, and which is kept between cycles.
Not here: the same as columns (`scheduling.hosts.columns`), who is placed on them
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
    """Hosts in ascending order of name. Building one costs about 2 µs per host; keep it, and let it follow.

    Attributes:
        offers: one per host; several offers of one host were added up.
        position: where a host stands in `offers`.
        all_plain: whether all are of the plain kind.
        is_limited: whether any is offered for a time or for some users only.
    """

    __slots__ = ("_classes", "_columns", "_followed", "all_plain", "is_limited", "offers", "position")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        self._followed: Sequence[Offer] = list(offers)  # what these hosts were made of; empty: not known
        by_host = _by_host(self._followed)
        self.offers: list[Offer] = [by_host[name] for name in sorted(by_host)]
        self.position: Mapping[str, int] = {offer.host: at for at, offer in enumerate(self.offers)}
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)
        self.is_limited = any(offer.is_limited for offer in self.offers)
        self._columns: HostColumns | None = None
        self._classes = RecentValues[tuple[ConstraintClass, float, PoolDefaults], list[str | None]]()

    def __len__(self) -> int:
        return len(self.offers)

    def follow(self, offers: Sequence[Offer]) -> None:
        """Become what a new `Hosts` of these offers would be; only what is another object is touched.

        Give the same `Offer` for a host that did not change, and hosts in the order of the last time: looking
        at one costs 0.03 µs then. Several offers of one host are added up anew each time.
        """
        followed = self._followed
        if len(followed) == len(offers) == len(self.offers):
            pairs = [(old, new) for old, new in zip(followed, offers, strict=True) if old is not new]
            if all(old.host == new.host for old, new in pairs):
                self.update([new for _, new in pairs])
                self._followed = list(offers)
                return
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
        self._followed = list(offers)

    def update(self, offers: Sequence[Offer], *, gone: Collection[str] = ()) -> None:
        """Put new offers, one per host, in the place of the old ones of the same hosts, or beside them.

        Args:
            offers: of hosts that changed or are new; each is all that its host offers.
            gone: hosts that offer nothing any longer; those that are not here anyway are passed over.
        """
        self._followed = ()
        self._classes.next_round()
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
                fails[at] = failing_class_constraint(wanted, gpus, offer, defaults)
        if new:
            self._take_in(sorted(new, key=_host))
        of_interest = offers if self.all_plain else self.offers
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in of_interest)
        self.is_limited = any(offer.is_limited for offer in (self.offers if self.is_limited else offers))

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
        self._classes.clear()

    def failing_class_constraint(
        self, wanted: ConstraintClass, gpus: float, defaults: PoolDefaults
    ) -> list[str | None]:
        """Return the first constraint of the class that fails, by position; not to be changed."""
        return self._classes.get(
            (wanted, gpus, defaults),
            lambda: [failing_class_constraint(wanted, gpus, offer, defaults) for offer in self.offers],
        )

    @property
    def columns(self) -> HostColumns:
        """Facts about the hosts as columns."""
        if self._columns is None:
            self._columns = HostColumns(self.offers)
        return self._columns

    def fact(self, key: Hashable, fact: Callable[[Offer], float], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a fact of each offer as a column (`HostColumns.of`); not to be changed."""
        return self.columns.of(key, fact, self.offers, kind)

    def codes(self, attribute: str) -> tuple[Codes, Mapping[str | None, int]]:
        """Return the values of an attribute as numbers (`HostColumns.codes`); not to be changed."""
        return self.columns.codes(attribute, self.offers)


def _by_host(offers: Iterable[Offer]) -> dict[str, Offer]:
    by_host: dict[str, Offer] = {}
    for offer in offers:
        known = by_host.get(offer.host)
        by_host[offer.host] = offer if known is None else _added(known, offer)
    return by_host


def _host(offer: Offer) -> str:
    return offer.host


def _added(one: Offer, other: Offer) -> Offer:
    """Two offers of one host as one. What runs there is told by each of them, so it is not added.

    Who may use the one but not the other may use neither: which room a job takes is for the host to say.
    """
    untils = [offer.until_ms for offer in (one, other) if offer.until_ms is not None]
    users = [offer.users for offer in (one, other) if offer.users is not None]
    return replace(
        one,
        room=one.room + other.room,
        ports=one.ports + other.ports,
        gpu_models={**one.gpu_models, **other.gpu_models},
        disk_mb={**one.disk_mb, **other.disk_mb},
        until_ms=min(untils, default=None),
        users=frozenset.intersection(*users) if users else None,
    )
