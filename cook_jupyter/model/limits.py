"""Shares and quotas: what a user is entitled to, and what a user may never exceed.

Lives here: the two values and the numbers that stand for "no limit".
Not here: which entry applies to a user (the store resolves user, then the user
`default`, then these), or how limits are applied (`scheduling`).

Source: Cook's `share.clj` and `quota.clj`, as told in the specification, section 2.
"""

from dataclasses import dataclass

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
class Quota:
    """What a user may never exceed in a pool. Zero is a value: nothing may start."""

    cpus: float = UNLIMITED
    mem_mb: float = UNLIMITED
    gpus: float = UNLIMITED
    count: int = UNLIMITED_COUNT
    launch_rate_saved: float = UNLIMITED_LAUNCH_RATE_SAVED
    launch_rate_per_minute: float = UNLIMITED_LAUNCH_RATE_PER_MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEntry:
    """One stored limit: `kind`, for `user` in `pool`, of the resource `name`, is `amount`."""

    kind: str
    user: str
    pool: str
    name: LimitName
    amount: float
    reason: str = ""
