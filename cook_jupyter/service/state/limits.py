"""The shares and quotas in force: the stored entries, resolved for each user and pool.

Lives here: `Limits`, an in-memory view of the entries, with Cook's rules of precedence.
Not here: the entries themselves (`store`), the effect of a limit on decisions (`scheduling`).

Source: the fair-share specification, section 2. For each resource separately: the entry of the user in the
pool, or else that of the user `default`, or else unset. Entries without a pool apply to the default pool
only.
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
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDivision:
    """The division of a pool into equal parts. Where nobody has set a share, it is one part.

    Attributes:
        total: resources of all hosts of the pool.
        parts: number of parts.
    """

    total: Resources = field(default_factory=Resources)
    parts: int = 1


UNDIVIDED: Final = PoolDivision()


class Limits:
    """Resolves limits in memory. The store is always written first.

    Args:
        default_pool: pool of the entries that name none.
        default_shares: share of the user `default` where no entry sets one. Where this is empty too, the
            share of every user is an equal part of the pool (`PoolDivision`).
    """

    def __init__(self, *, default_pool: PoolName, default_shares: Mapping[str, float]) -> None:
        self._default_pool = default_pool
        self._default_shares = dict(default_shares)
        self._entries: dict[
            tuple[str, str, PoolName], dict[LimitName, float]
        ] = {}  # (kind, user, pool) -> amounts
        self._quotas: dict[PoolName, tuple[Mapping[str, Quota], Quota]] = {}  # cache, until an entry changes
        self._resolved: dict[PoolName, tuple[PoolDivision, UserLimits]] = {}  # cache, until an entry changes

    @property
    def depend_on_division(self) -> bool:
        """Whether unset shares depend on the hosts of a pool and on the number of users with jobs in it."""
        return not self._default_shares

    def load(self, entries: Iterable[LimitEntry]) -> None:
        """Replace all entries by those of the store."""
        self._entries.clear()
        self.update(entries)

    def update(self, entries: Iterable[LimitEntry]) -> None:
        """Add or replace entries that were just stored."""
        for entry in entries:
            amounts = self._entries.setdefault(
                (entry.kind, entry.user, self._pool_or_default(entry.pool)), {}
            )
            amounts[entry.name] = entry.amount
        self._clear_caches()

    def remove(self, kind: str, user: str, pool: PoolName) -> None:
        """Remove all entries of a kind that a user has in a pool."""
        self._entries.pop((kind, user, self._pool_or_default(pool)), None)
        self._clear_caches()

    def values(
        self, kind: str, user: str, pool: PoolName, division: PoolDivision = UNDIVIDED
    ) -> dict[LimitName, float]:
        """Return the amounts in force by Cook's names (cpus, mem, gpus, count ...)."""
        pool = self._pool_or_default(pool)
        if kind == LimitKind.SHARE:
            unset: Mapping[LimitName, float] = dict.fromkeys(SHARE_NAMES, UNLIMITED) | {
                name: amount
                for name, amount in (self._default_shares or _equal_share(division)).items()
                if name in SHARE_NAMES
            }
        else:
            unset = UNSET_QUOTA
        of_user = self._entries.get((kind, user, pool), {})
        of_default = self._entries.get((kind, DEFAULT_USER, pool), {})
        amounts = {name: of_user.get(name, of_default.get(name, amount)) for name, amount in unset.items()}
        if "count" in amounts:
            default_count = of_default.get("count", of_default.get(OLD_COUNT, amounts["count"]))
            count = of_user.get("count", of_user.get(OLD_COUNT, default_count))
            amounts["count"] = int(min(count, UNLIMITED_COUNT))  # an integer, also where an entry is not
        return amounts

    def for_pool(self, pool: PoolName, division: PoolDivision = UNDIVIDED) -> UserLimits:
        """Return all limits in force in a pool: the same value until one of them changes."""
        cached = self._resolved.get(pool)
        if cached is not None and cached[0] == division:
            return cached[1]
        quotas, default_quota = self._quotas_in(pool)
        limits = UserLimits(
            shares={user: self._share(user, pool, division) for user in quotas},
            quotas=quotas,
            default_share=self._share(DEFAULT_USER, pool, division),
            default_quota=default_quota,
        )
        self._resolved[pool] = division, limits
        return limits

    def quota(self, user: str, pool: PoolName) -> Quota:
        """Return the quota of a user in a pool."""
        quotas, default = self._quotas_in(pool)
        return quotas.get(user, default)

    def _quotas_in(self, pool: PoolName) -> tuple[Mapping[str, Quota], Quota]:
        """Return the quotas of the users with entries in a pool, and the quota of all other users."""
        cached = self._quotas.get(pool)
        if cached is None:
            entry_pool = self._pool_or_default(pool)
            users = sorted({user for _, user, name in self._entries if name == entry_pool} - {DEFAULT_USER})
            quotas = {user: self._quota(user, pool) for user in users}
            cached = self._quotas[pool] = quotas, self._quota(DEFAULT_USER, pool)
        return cached

    def _share(self, user: str, pool: PoolName, division: PoolDivision) -> Share:
        """Return the share of a user in a pool; amounts that are not positive count as unset."""
        values = {
            name: amount if amount > 0 else UNLIMITED
            for name, amount in self.values(LimitKind.SHARE, user, pool, division).items()
        }
        return Share(cpus=values["cpus"], mem_mb=values["mem"], gpus=values["gpus"])

    def _quota(self, user: str, pool: PoolName) -> Quota:
        values = self.values(LimitKind.QUOTA, user, pool)
        return Quota(
            cpus=values["cpus"],
            mem_mb=values["mem"],
            gpus=values["gpus"],
            count=int(values["count"]),
            launch_rate_saved=values["launch-rate-saved"],
            launch_rate_per_minute=values["launch-rate-per-minute"],
        )

    def _clear_caches(self) -> None:
        self._quotas.clear()
        self._resolved.clear()

    def _pool_or_default(self, pool: PoolName) -> PoolName:
        return pool or self._default_pool


def _equal_share(division: PoolDivision) -> dict[LimitName, float]:
    """Return one part of a pool, without the resources that the pool does not have."""
    total = division.total
    amounts = {"cpus": total.cpus, "mem": total.mem_mb, "gpus": total.gpus}
    return {name: amount / division.parts for name, amount in amounts.items() if amount > 0}
