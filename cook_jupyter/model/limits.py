"""Shares and quotas: what a user is entitled to, and what a user may never exceed.

Lives here: the two values, what is compared with them (`Usage`), which user has which (`UserLimits`), and the
numbers that stand for "no limit".
Not here: which entry applies to a user (the store resolves user, then the user
`default`, then these), or how limits are applied (`scheduling`).

Source: Cook's `share.clj` and `quota.clj`, as told in the specification, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

UNLIMITED = 1.7976931348623157e308
UNLIMITED_COUNT = 2147483647
UNLIMITED_LAUNCH_RATE_SAVED = 10000097.0
UNLIMITED_LAUNCH_RATE_PER_MINUTE = 600013.0
DEFAULT_USER = "default"

LimitName = str
SHARE_NAMES: tuple[LimitName, ...] = ("cpus", "mem", "gpus")
QUOTA_NAMES: tuple[LimitName, ...] = (
    "cpus",
    "mem",
    "gpus",
    "count",
    "launch-rate-saved",
    "launch-rate-per-minute",
)
OLD_COUNT: LimitName = (
    "old-count"  # where Cook kept the count before it was a quota like others; imported as such
)
UNSET_QUOTA: dict[LimitName, float] = {
    "cpus": UNLIMITED,
    "mem": UNLIMITED,
    "gpus": UNLIMITED,
    "count": UNLIMITED_COUNT,
    "launch-rate-saved": UNLIMITED_LAUNCH_RATE_SAVED,
    "launch-rate-per-minute": UNLIMITED_LAUNCH_RATE_PER_MINUTE,
}


class LimitKind:
    """The two tables that a limit may stand in."""

    SHARE = "share"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a user is entitled to in a pool; past it they may be preempted. Divisors of the DRU."""

    cpus: float = UNLIMITED
    mem_mb: float = UNLIMITED
    gpus: float = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What tasks hold or would hold together: their number and their resources."""

    count: int = 0
    cpus: float = 0.0
    mem_mb: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            count=self.count + other.count,
            cpus=self.cpus + other.cpus,
            mem_mb=self.mem_mb + other.mem_mb,
            gpus=self.gpus + other.gpus,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a user may never exceed in a pool. Zero is a value: nothing may start."""

    cpus: float = UNLIMITED
    mem_mb: float = UNLIMITED
    gpus: float = UNLIMITED
    count: int = UNLIMITED_COUNT
    launch_rate_saved: float = UNLIMITED_LAUNCH_RATE_SAVED
    launch_rate_per_minute: float = UNLIMITED_LAUNCH_RATE_PER_MINUTE

    def allows(self, usage: Usage) -> bool:
        """Tell whether the usage is within the quota; to stand exactly at it is within."""
        return (
            usage.count <= self.count
            and usage.cpus <= self.cpus
            and usage.mem_mb <= self.mem_mb
            and usage.gpus <= self.gpus
        )

    def less(self, usage: Usage) -> "Quota":
        """Return the quota that is left beside a usage; one that limits nothing stays as it is."""
        if not self.limits_usage:
            return self
        return replace(
            self,
            count=self.count - usage.count,
            cpus=self.cpus - usage.cpus,
            mem_mb=self.mem_mb - usage.mem_mb,
            gpus=self.gpus - usage.gpus,
        )

    @property
    def limits_usage(self) -> bool:
        """Whether any amount of usage is too much; False for a quota that nobody set."""
        return (
            self.count < UNLIMITED_COUNT
            or self.cpus < UNLIMITED
            or self.mem_mb < UNLIMITED
            or self.gpus < UNLIMITED
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """The shares and quotas of one pool, resolved: who is not named has the defaults.

    Whoever makes one has filled in, for each named user, what the user `default` has where the
    user has no entry of their own. A value: changed limits are a new one.
    """

    shares: Mapping[str, Share] = field(default_factory=dict)
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    default_share: Share = field(default_factory=Share)
    default_quota: Quota = field(default_factory=Quota)

    def share(self, user: str) -> Share:
        """Return what the user is entitled to."""
        return self.shares.get(user, self.default_share)

    def quota(self, user: str) -> Quota:
        """Return what the user may never exceed."""
        return self.quotas.get(user, self.default_quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEntry:
    """One stored limit: `kind`, for `user` in `pool`, of the resource `name`, is `amount`."""

    kind: str
    user: str
    pool: str
    name: LimitName
    amount: float
    reason: str = ""
