"""Shares and quotas in force: the stored entries, resolved for a user and a pool.

Lives here: `Limits`, the service's copy of the two tables with Cook's rules of scope.
Not here: the entries' home (`store`), what a limit means for a decision (`scheduling`).

Source: the fair-share specification, section 2. For each resource on its own: the user's entry
in the pool, else that of the user `default`, else unset. Entries without pool count for the
default pool only.
"""

from collections.abc import Iterable, Mapping

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


class Limits:
    """Resolves limits from memory; the store holds the truth and is written first.

    Args:
        default_pool: the pool of entries that name none.
        default_shares: the share of the user `default` where no entry says one.
        equal_parts: where those say nothing either, everybody's share is an equal part of the pool among
            those who have jobs in it; False: the whole pool. See `split`.
    """

    def __init__(
        self, *, default_pool: str, default_shares: Mapping[str, float], equal_parts: bool = True
    ) -> None:
        self._default_pool = default_pool
        self._equal_parts = equal_parts
        self._parts: dict[str, tuple[Resources, int]] = {}
        self._entries: dict[tuple[str, str, str], dict[LimitName, float]] = {}
        self._fallback_shares = dict(default_shares)
        self._resolved: dict[str, UserLimits] = {}

    @property
    def splits(self) -> bool:
        """Whether shares that nobody set depend on what there is: whether `split` does anything."""
        return not self._fallback_shares

    def split(self, pool: str, whole: Resources, users: int) -> None:
        """Say what a pool has in all, and how many users have jobs in it."""
        if not self.splits:
            return
        parts = (whole, max(1, users) if self._equal_parts else 1)
        if self._parts.get(pool) != parts:
            self._parts[pool] = parts
            self._resolved.pop(pool, None)

    def load(self, entries: Iterable[LimitEntry]) -> None:
        """Take all stored entries, in place of what was known."""
        self._entries.clear()
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.user, self._scope(entry.pool)), {})[entry.name] = (
                entry.amount
            )
        self._resolved.clear()

    def put(self, entries: Iterable[LimitEntry]) -> None:
        """Take entries that were just stored."""
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.user, self._scope(entry.pool)), {})[entry.name] = (
                entry.amount
            )
        self._resolved.clear()

    def retract(self, kind: str, user: str, pool: str) -> None:
        """Drop all entries of a kind that a user has in a pool."""
        self._entries.pop((kind, user, self._scope(pool)), None)
        self._resolved.clear()

    def values(self, kind: str, user: str, pool: str) -> dict[LimitName, float]:
        """Return the amounts in force, by Cook's names (cpus, mem, gpus, count ...)."""
        scope = self._scope(pool)
        if kind == LimitKind.SHARE:
            unset: Mapping[LimitName, float] = dict.fromkeys(SHARE_NAMES, UNLIMITED) | {
                name: amount
                for name, amount in (self._fallback_shares or self._part(scope)).items()
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

    def of_pool(self, pool: str) -> UserLimits:
        """Return all limits in force in a pool, as one value: the same one until a limit changes."""
        found = self._resolved.get(pool)
        if found is None:
            scope = self._scope(pool)
            named = sorted({user for _, user, place in self._entries if place == scope} - {DEFAULT_USER})
            found = UserLimits(
                shares={user: self._share(user, pool) for user in named},
                quotas={user: self._quota(user, pool) for user in named},
                default_share=self._share(DEFAULT_USER, pool),
                default_quota=self._quota(DEFAULT_USER, pool),
            )
            self._resolved[pool] = found
        return found

    def share(self, user: str, pool: str) -> Share:
        """Return the user's share in the pool; amounts that are not above zero count as unset."""
        return self.of_pool(pool).share(user)

    def quota(self, user: str, pool: str) -> Quota:
        """Return the user's quota in the pool."""
        return self.of_pool(pool).quota(user)

    def _share(self, user: str, pool: str) -> Share:
        values = {
            name: amount if amount > 0 else UNLIMITED
            for name, amount in self.values(LimitKind.SHARE, user, pool).items()
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

    def _part(self, pool: str) -> dict[LimitName, float]:
        """Everybody's part of a pool, of what it has."""
        whole, users = self._parts.get(pool, (Resources(), 1))
        amounts = {"cpus": whole.cpus, "mem": whole.mem_mb, "gpus": whole.gpus}
        return {name: amount / users for name, amount in amounts.items() if amount > 0}

    def _scope(self, pool: str) -> str:
        return pool or self._default_pool
