"""Shares and quotas in force: the stored entries, resolved for a user and a pool.

Lives here: `Limits`, the service's copy of the two tables with Cook's rules of scope.
Not here: the entries' home (`store`), what a limit means for a decision (`scheduling`).

Source: the fair-share specification, section 2. For each resource on its own: the user's entry
in the pool, else that of the user `default`, else unset. Entries without pool count for the
default pool only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cook_jupyter.model.limits import (
    DEFAULT_USER,
    OLD_COUNT,
    SHARE_NAMES,
    UNLIMITED,
    UNLIMITED_COUNT,
    UNSET_QUOTA,
    LimitEntry,
    LimitKind,
    LimitName,
    Quota,
    Share,
    UserLimits,
)
from cook_jupyter.model.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """What shares that nobody set are parts of.

    Attributes:
        whole: all hosts of the pool together.
        parts: the number of equal parts that it is divided in.
    """

    whole: Resources = field(default_factory=Resources)
    parts: int = 1


UNDIVIDED: Final = Division()


class Limits:
    """Resolves limits from memory; the store holds the truth and is written first.

    Args:
        default_pool: the pool of entries that name none.
        default_shares: the share of the user `default` where no entry says one. Where neither says anything,
            everybody's share is one part of the pool (`Division`).
    """

    def __init__(self, *, default_pool: str, default_shares: Mapping[str, float]) -> None:
        self._default_pool = default_pool
        self._entries: dict[tuple[str, str, str], dict[LimitName, float]] = {}
        self._fallback_shares = dict(default_shares)
        self._quotas: dict[str, tuple[Mapping[str, Quota], Quota]] = {}  # remembered until an entry changes
        self._resolved: dict[str, tuple[Division, UserLimits]] = {}

    @property
    def depend_on_division(self) -> bool:
        """Whether shares that nobody set depend on what a pool has, and on who has jobs there."""
        return not self._fallback_shares

    def load(self, entries: Iterable[LimitEntry]) -> None:
        """Take all stored entries, in place of what was known."""
        self._entries.clear()
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.user, self._scope(entry.pool)), {})[entry.name] = (
                entry.amount
            )
        self._forget_resolved()

    def put(self, entries: Iterable[LimitEntry]) -> None:
        """Take entries that were just stored."""
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.user, self._scope(entry.pool)), {})[entry.name] = (
                entry.amount
            )
        self._forget_resolved()

    def retract(self, kind: str, user: str, pool: str) -> None:
        """Drop all entries of a kind that a user has in a pool."""
        self._entries.pop((kind, user, self._scope(pool)), None)
        self._forget_resolved()

    def values(
        self, kind: str, user: str, pool: str, division: Division = UNDIVIDED
    ) -> dict[LimitName, float]:
        """Return the amounts in force, by Cook's names (cpus, mem, gpus, count ...)."""
        scope = self._scope(pool)
        if kind == LimitKind.SHARE:
            unset: Mapping[LimitName, float] = dict.fromkeys(SHARE_NAMES, UNLIMITED) | {
                name: amount
                for name, amount in (self._fallback_shares or _part(division)).items()
                if name in SHARE_NAMES
            }
        else:
            unset = UNSET_QUOTA
        own = self._entries.get((kind, user, scope), {})
        default = self._entries.get((kind, DEFAULT_USER, scope), {})
        found = {name: own.get(name, default.get(name, amount)) for name, amount in unset.items()}
        if "count" in found:
            old = default.get("count", default.get(OLD_COUNT, found["count"]))
            count = own.get("count", own.get(OLD_COUNT, old))
            found["count"] = int(min(count, UNLIMITED_COUNT))  # tasks are whole
        return found

    def of_pool(self, pool: str, division: Division = UNDIVIDED) -> UserLimits:
        """Return all limits in force in a pool, as one value: the same one until one of them changes."""
        known = self._resolved.get(pool)
        if known is not None and known[0] == division:
            return known[1]
        quotas, default_quota = self._quotas_of(pool)
        found = UserLimits(
            shares={user: self._share(user, pool, division) for user in quotas},
            quotas=quotas,
            default_share=self._share(DEFAULT_USER, pool, division),
            default_quota=default_quota,
        )
        self._resolved[pool] = division, found
        return found

    def quota(self, user: str, pool: str) -> Quota:
        """Return the user's quota in the pool."""
        quotas, default = self._quotas_of(pool)
        return quotas.get(user, default)

    def _quotas_of(self, pool: str) -> tuple[Mapping[str, Quota], Quota]:
        """Return the quotas of the users with limits of their own, and that of all others."""
        known = self._quotas.get(pool)
        if known is None:
            scope = self._scope(pool)
            named = sorted({user for _, user, place in self._entries if place == scope} - {DEFAULT_USER})
            quotas = {user: self._quota(user, pool) for user in named}
            known = self._quotas[pool] = quotas, self._quota(DEFAULT_USER, pool)
        return known

    def _share(self, user: str, pool: str, division: Division) -> Share:
        """Return the user's share in the pool; amounts that are not above zero count as unset."""
        values = {
            name: amount if amount > 0 else UNLIMITED
            for name, amount in self.values(LimitKind.SHARE, user, pool, division).items()
        }
        return Share(cpus=values["cpus"], mem_mb=values["mem"], gpus=values["gpus"])

    def _quota(self, user: str, pool: str) -> Quota:
        values = self.values(LimitKind.QUOTA, user, pool)
        return Quota(
            cpus=values["cpus"],
            mem_mb=values["mem"],
            gpus=values["gpus"],
            count=int(values["count"]),
            launch_rate_saved=values["launch-rate-saved"],
            launch_rate_per_minute=values["launch-rate-per-minute"],
        )

    def _forget_resolved(self) -> None:
        self._quotas.clear()
        self._resolved.clear()

    def _scope(self, pool: str) -> str:
        return pool or self._default_pool


def _part(division: Division) -> dict[LimitName, float]:
    """Return everybody's part of a pool, of what it has."""
    whole = division.whole
    amounts = {"cpus": whole.cpus, "mem": whole.mem_mb, "gpus": whole.gpus}
    return {name: amount / division.parts for name, amount in amounts.items() if amount > 0}
