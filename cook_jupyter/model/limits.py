"""Shares and quotas: the amounts that a user is entitled to, and those that a user may never exceed.

Lives here: shares, quotas, the usage that is compared with them, the limits of all users of a pool
(`UserLimits`), and the numbers that mean "no limit".
Not here: which stored entry applies to a user (`service.state.limits`: the user's own, then that of the user
`default`, then these numbers), and the application of limits (`scheduling`).

Source: Cook's `share.clj` and `quota.clj`, as described in the specification, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cook_jupyter.model.pool import PoolName

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
OLD_COUNT: LimitName = "old-count"  # Cook's former place of the count; imported as the count
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
    """Amounts that a user is entitled to in a pool, and may be preempted beyond; the divisors of the DRU."""

    cpus: float = UNLIMITED
    mem_mb: float = UNLIMITED
    gpus: float = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Number of some tasks, and the resources that they hold or request together."""

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
    """Amounts that a user may never exceed in a pool. With zero nothing may start."""

    cpus: float = UNLIMITED
    mem_mb: float = UNLIMITED
    gpus: float = UNLIMITED
    count: int = UNLIMITED_COUNT
    launch_rate_saved: float = UNLIMITED_LAUNCH_RATE_SAVED
    launch_rate_per_minute: float = UNLIMITED_LAUNCH_RATE_PER_MINUTE

    def allows(self, usage: Usage) -> bool:
        """Return whether the usage is within the quota; usage equal to the quota is."""
        return (
            usage.count <= self.count
            and usage.cpus <= self.cpus
            and usage.mem_mb <= self.mem_mb
            and usage.gpus <= self.gpus
        )

    def less(self, usage: Usage) -> "Quota":
        """Return the quota that remains beside a usage; a quota that limits nothing is returned unchanged."""
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
        """Whether the quota limits any amount; False for a quota that was not set."""
        return (
            self.count < UNLIMITED_COUNT
            or self.cpus < UNLIMITED
            or self.mem_mb < UNLIMITED
            or self.gpus < UNLIMITED
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """Resolved shares and quotas of one pool; users that are not named have the defaults.

    For each named user, amounts without an entry of that user are already those of the user `default`. A
    change makes a new value.
    """

    shares: Mapping[str, Share] = field(default_factory=dict)
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    default_share: Share = field(default_factory=Share)
    default_quota: Quota = field(default_factory=Quota)

    def share(self, user: str) -> Share:
        """Return the share of a user."""
        return self.shares.get(user, self.default_share)

    def quota(self, user: str) -> Quota:
        """Return the quota of a user."""
        return self.quotas.get(user, self.default_quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEntry:
    """A stored limit: the amount of one resource in the share or the quota of a user in a pool."""

    kind: str
    user: str
    pool: PoolName
    name: LimitName
    amount: float
    reason: str = ""
