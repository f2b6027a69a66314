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
    SHARE_NAMES,
    UNLIMITED,
    UNSET_QUOTA,
    LimitEntry,
    LimitKind,
    LimitName,
    Quota,
    Share,
)


class Limits:
    """Resolves limits from memory; the store holds the truth and is written first."""

    def __init__(self, *, default_pool: str, default_shares: Mapping[str, float]) -> None:
        self._default_pool = default_pool
        self._entries: dict[tuple[str, str, str], dict[LimitName, float]] = {}
        self._fallback_shares = dict(default_shares)
        self._shares: dict[tuple[str, str], Share] = {}
        self._quotas: dict[tuple[str, str], Quota] = {}
        self.version = 0  # grows with each change, so that others know when to read again

    def load(self, entries: Iterable[LimitEntry]) -> None:
        """Take all stored entries, in place of what was known."""
        self._entries.clear()
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.user, self._scope(entry.pool)), {})[entry.name] = (
                entry.amount
            )
        self._forget()

    def put(self, entries: Iterable[LimitEntry]) -> None:
        """Take entries that were just stored."""
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.user, self._scope(entry.pool)), {})[entry.name] = (
                entry.amount
            )
        self._forget()

    def retract(self, kind: str, user: str, pool: str) -> None:
        """Drop all entries of a kind that a user has in a pool."""
        self._entries.pop((kind, user, self._scope(pool)), None)
        self._forget()

    def values(self, kind: str, user: str, pool: str) -> dict[LimitName, float]:
        """Return the amounts in force, by Cook's names (cpus, mem, gpus, count ...)."""
        scope = self._scope(pool)
        if kind == LimitKind.SHARE:
            unset: Mapping[LimitName, float] = dict.fromkeys(SHARE_NAMES, UNLIMITED) | {
                name: amount for name, amount in self._fallback_shares.items() if name in SHARE_NAMES
            }
        else:
            unset = UNSET_QUOTA
        own = self._entries.get((kind, user, scope), {})
        default = self._entries.get((kind, DEFAULT_USER, scope), {})
        return {name: own.get(name, default.get(name, amount)) for name, amount in unset.items()}

    def share(self, user: str, pool: str) -> Share:
        """Return the user's share in the pool; amounts that are not above zero count as unset."""
        found = self._shares.get((user, pool))
        if found is None:
            v = {
                name: amount if amount > 0 else UNLIMITED
                for name, amount in self.values(LimitKind.SHARE, user, pool).items()
            }
            found = Share(cpus=v["cpus"], mem_mb=v["mem"], gpus=v["gpus"])
            self._shares[(user, pool)] = found
        return found

    def quota(self, user: str, pool: str) -> Quota:
        """Return the user's quota in the pool."""
        found = self._quotas.get((user, pool))
        if found is None:
            v = self.values(LimitKind.QUOTA, user, pool)
            found = Quota(
                cpus=v["cpus"],
                mem_mb=v["mem"],
                gpus=v["gpus"],
                count=int(v["count"]),
                launch_rate_saved=v["launch-rate-saved"],
                launch_rate_per_minute=v["launch-rate-per-minute"],
            )
            self._quotas[(user, pool)] = found
        return found

    def _scope(self, pool: str) -> str:
        return pool or self._default_pool

    def _forget(self) -> None:
        self._shares.clear()
        self._quotas.clear()
        self.version += 1
