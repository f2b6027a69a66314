"""Token buckets: how fast somebody may go on doing something.

Lives here: `TokenBucket`, one of them as a value; `RateLimiter`, one for each key; and how fast a user may
launch jobs, which quotas say.
Not here: who is held back by which (`scheduling.ranking.considerable` for launches, `api` for requests), the
clock.

A bucket may go far below empty: what was spent was spent. Whoever is in debt waits until it is earned back.

Source: Cook's `rate_limit/token_bucket_filter.clj` and `generic.clj`, as told in the fair-share
specification, section 8.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import ceil, inf
from typing import Final, Generic, NamedTuple, TypeVar

from cook_jupyter.model.limits import DEFAULT_USER, Quota
from cook_jupyter.model.pool import PoolName

Key = TypeVar("Key", bound=Hashable)

EXPIRE_MS: Final = 120 * 60 * 1000
_MINUTE_MS: Final = 60_000


class Rate(NamedTuple):
    """How fast tokens come, per millisecond, and how many a bucket holds at most."""

    per_ms: float
    size: float

    @classmethod
    def per_minute(cls, tokens: float, size: float) -> "Rate":
        """Return the rate of so many tokens a minute."""
        return cls(tokens / _MINUTE_MS, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """How many tokens somebody has, as of `last_ms`. A change makes a new value."""

    rate: Rate
    tokens: float
    last_ms: float

    @classmethod
    def full(cls, rate: Rate, now_ms: float) -> "TokenBucket":
        """Return a new bucket."""
        return cls(rate=rate, tokens=rate.size, last_ms=now_ms)

    def earned(self, now_ms: float) -> "TokenBucket":
        """Add what has come since. A time before the last one counts as the last one.

        Tokens come whole: as long as there is none, nothing changes, so that slow rates add up too.
        """
        passed = now_ms - self.last_ms
        more = int(passed * self.rate.per_ms) if passed > 0 else 0
        if not more:
            return self
        tokens = min(self.rate.size, self.tokens + more)
        return TokenBucket(rate=self.rate, tokens=tokens, last_ms=now_ms)

    def spent(self, tokens: float, now_ms: float) -> "TokenBucket":
        """Take tokens out, more than there are if need be."""
        earned = self.earned(now_ms)
        return TokenBucket(rate=self.rate, tokens=earned.tokens - tokens, last_ms=earned.last_ms)

    @property
    def in_debt(self) -> bool:
        """Whether more was spent than there was."""
        return self.tokens < 0

    @property
    def wait_ms(self) -> float:
        """How long from `last_ms` on until it is out of debt; infinite if it earns nothing."""
        if self.tokens >= 0:
            return 0
        return ceil(-self.tokens / self.rate.per_ms) if self.rate.per_ms > 0 else inf


class RateLimiter(Generic[Key]):
    """A bucket for each key. New ones are full; so is one again that nobody asked for in a long time.

    Args:
        rate_of: the rate of a key, asked for whenever its bucket is made.
        enforce: whether anybody is held back; if not, spending is only counted.
        expire_ms: after how long without a question a bucket is forgotten.
    """

    def __init__(
        self, rate_of: Callable[[Key], Rate], *, enforce: bool = True, expire_ms: float = EXPIRE_MS
    ) -> None:
        self.enforce = enforce
        self._rate_of = rate_of
        self._expire_ms = expire_ms
        self._buckets: dict[
            Key, tuple[TokenBucket, float]
        ] = {}  # with the time of the last question, in order

    def __len__(self) -> int:
        return len(self._buckets)

    def bucket(self, key: Key, now_ms: float) -> TokenBucket:
        """Return the bucket of a key with all that it has earned."""
        self._forget_idle(now_ms)
        known = self._buckets.pop(key, None)
        bucket = TokenBucket.full(self._rate_of(key), now_ms) if known is None else known[0].earned(now_ms)
        self._buckets[key] = (bucket, now_ms)
        return bucket

    def tokens(self, key: Key, now_ms: float) -> float:
        """Return how many tokens a key has; below zero it is in debt."""
        return self.bucket(key, now_ms).tokens

    def spend(self, key: Key, tokens: float, now_ms: float) -> None:
        """Take tokens from a key, more than it has if need be."""
        self._buckets[key] = (self.bucket(key, now_ms).spent(tokens, now_ms), now_ms)

    def holds_back(self, key: Key, now_ms: float) -> bool:
        """Tell whether the key has to wait: it is in debt, and the limit is enforced."""
        return self.enforce and self.bucket(key, now_ms).in_debt

    def wait_ms(self, key: Key, now_ms: float) -> float:
        """Return how long until the key is out of debt, enforced or not."""
        return self.bucket(key, now_ms).wait_ms

    def flush(self, key: Key | None = None) -> None:
        """Forget the bucket of a key, or all: they are made anew, full, at the rate there is then."""
        if key is None:
            self._buckets.clear()
        else:
            self._buckets.pop(key, None)

    def _forget_idle(self, now_ms: float) -> None:
        while self._buckets:
            oldest = next(iter(self._buckets))
            if now_ms - self._buckets[oldest][1] <= self._expire_ms:
                return
            del self._buckets[oldest]


UserPool = tuple[str, PoolName]


def launch_rate(quota: Quota) -> Rate:
    """Return how fast a user with this quota may launch jobs."""
    return Rate.per_minute(quota.launch_rate_per_minute, quota.launch_rate_saved)


def launch_tokens(
    limiter: RateLimiter[UserPool], users: Iterable[str], pool: PoolName, now_ms: float
) -> dict[str, float] | None:
    """Return how many jobs each user may launch in the pool now; None if the limit is not enforced.

    It is what `considerable.QueueFilters.tokens` wants.
    """
    if not limiter.enforce:
        return None
    return {user: limiter.tokens((user, pool), now_ms) for user in users}


def flush_launch_rate(limiter: RateLimiter[UserPool], user: str, pool: PoolName) -> None:
    """Heed that a user's quota has changed: make the bucket anew; the default user stands for everybody."""
    limiter.flush(None if user == DEFAULT_USER else (user, pool))
