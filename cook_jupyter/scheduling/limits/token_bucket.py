"""Token buckets for rate limits.

Lives here: `TokenBucket`, a bucket as a value; `RateLimiter`, a bucket for each key; the launch rates of
users, which are part of their quotas.
Not here: the application of limits (`scheduling.ranking.considerable` for launches, `api` for requests), the
clock.

A bucket may go far below zero, because spending is recorded after the fact. A key in debt has to wait until
the debt is earned back.

Source: Cook's `rate_limit/token_bucket_filter.clj` and `generic.clj`, as described in the fair-share
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
    """Rate at which a bucket gains tokens, per millisecond, and its maximum number of tokens."""

    per_ms: float
    size: float

    @classmethod
    def per_minute(cls, tokens: float, size: float) -> "Rate":
        """Return a rate given in tokens per minute."""
        return cls(tokens / _MINUTE_MS, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """The number of tokens at time `last_ms`. A change makes a new value."""

    rate: Rate
    tokens: float
    last_ms: float

    @classmethod
    def full(cls, rate: Rate, now_ms: float) -> "TokenBucket":
        """Return a full bucket."""
        return cls(rate=rate, tokens=rate.size, last_ms=now_ms)

    def earned(self, now_ms: float) -> "TokenBucket":
        """Return the bucket with the tokens gained until `now_ms`; a time before the last one adds none.

        Only whole tokens are added: until there is one, the bucket is unchanged, so that slow rates add up,
        too.
        """
        elapsed_ms = now_ms - self.last_ms
        new_tokens = int(elapsed_ms * self.rate.per_ms) if elapsed_ms > 0 else 0
        if not new_tokens:
            return self
        tokens = min(self.rate.size, self.tokens + new_tokens)
        return TokenBucket(rate=self.rate, tokens=tokens, last_ms=now_ms)

    def spent(self, tokens: float, now_ms: float) -> "TokenBucket":
        """Return the bucket without some tokens; the number may become negative."""
        earned = self.earned(now_ms)
        return TokenBucket(rate=self.rate, tokens=earned.tokens - tokens, last_ms=earned.last_ms)

    @property
    def in_debt(self) -> bool:
        """Whether the number of tokens is negative."""
        return self.tokens < 0

    @property
    def wait_ms(self) -> float:
        """The time from `last_ms` until the bucket is out of debt; infinite at a rate of zero."""
        if self.tokens >= 0:
            return 0
        return ceil(-self.tokens / self.rate.per_ms) if self.rate.per_ms > 0 else inf


class RateLimiter(Generic[Key]):
    """A bucket for each key. New buckets are full; buckets that were not used for long are removed.

    Args:
        rate_of: returns the rate of a key when its bucket is created.
        enforce: whether limits are enforced; otherwise spending is only counted.
        expire_ms: time without use after which a bucket is removed.
    """

    def __init__(
        self, rate_of: Callable[[Key], Rate], *, enforce: bool = True, expire_ms: float = EXPIRE_MS
    ) -> None:
        self.enforce = enforce
        self._rate_of = rate_of
        self._expire_ms = expire_ms
        self._buckets: dict[
            Key, tuple[TokenBucket, float]
        ] = {}  # with the time of the last use, in order of that

    def __len__(self) -> int:
        return len(self._buckets)

    def bucket(self, key: Key, now_ms: float) -> TokenBucket:
        """Return the current bucket of a key."""
        self._forget_idle(now_ms)
        entry = self._buckets.pop(key, None)
        bucket = TokenBucket.full(self._rate_of(key), now_ms) if entry is None else entry[0].earned(now_ms)
        self._buckets[key] = (bucket, now_ms)
        return bucket

    def tokens(self, key: Key, now_ms: float) -> float:
        """Return the number of tokens of a key; negative if it is in debt."""
        return self.bucket(key, now_ms).tokens

    def spend(self, key: Key, tokens: float, now_ms: float) -> None:
        """Spend tokens of a key; their number may become negative."""
        self._buckets[key] = (self.bucket(key, now_ms).spent(tokens, now_ms), now_ms)

    def holds_back(self, key: Key, now_ms: float) -> bool:
        """Return whether the key has to wait, because it is in debt and limits are enforced."""
        return self.enforce and self.bucket(key, now_ms).in_debt

    def wait_ms(self, key: Key, now_ms: float) -> float:
        """Return the time until the key is out of debt, whether limits are enforced or not."""
        return self.bucket(key, now_ms).wait_ms

    def flush(self, key: Key | None = None) -> None:
        """Remove the bucket of a key, or all buckets; new ones are full and have the current rate."""
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
    """Return the launch rate of a user with this quota."""
    return Rate.per_minute(quota.launch_rate_per_minute, quota.launch_rate_saved)


def launch_tokens(
    limiter: RateLimiter[UserPool], users: Iterable[str], pool: PoolName, now_ms: float
) -> dict[str, float] | None:
    """Return the launch tokens of users in a pool; None if limits are not enforced.

    The result is an argument of `considerable.QueueFilters`.
    """
    if not limiter.enforce:
        return None
    return {user: limiter.tokens((user, pool), now_ms) for user in users}


def flush_launch_rate(limiter: RateLimiter[UserPool], user: str, pool: PoolName) -> None:
    """Reset the launch bucket of a user whose quota changed; of all users for the default user."""
    limiter.flush(None if user == DEFAULT_USER else (user, pool))
