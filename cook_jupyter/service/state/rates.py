"""How fast users may submit and launch, and clusters may be sent tasks.

Lives here: `Rates`, the token buckets of one scheduler. They begin full, also after a restart.
Not here: a bucket (`scheduling.limits.token_bucket`), which jobs wait for tokens
(`scheduling.ranking.considerable`).

Source: the fair-share specification, section 8.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil, inf

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.limits import UNSET_QUOTA, UserLimits
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.limits.token_bucket import (
    Rate,
    RateLimiter,
    UserPool,
    flush_launch_rate,
    launch_rate,
    launch_tokens,
)
from cook_jupyter.service.settings.tables import Bucket, RateSettings
from cook_jupyter.service.state.limits import Limits


class Rates:
    """The token buckets of users, and of clusters."""

    def __init__(self, settings: RateSettings, limits: Limits) -> None:
        self._submission = _limiter(settings.job_submission)
        self._clusters = _limiter(settings.cluster_launch)
        self._requests = _limiter(settings.requests)
        self._launch: RateLimiter[UserPool] = RateLimiter(
            lambda key: launch_rate(limits.quota(*key)), enforce=settings.enforce_launch_rate
        )
        self._limited: tuple[UserLimits | None, frozenset[str] | None] = (None, frozenset())

    @property
    def enforces_launches(self) -> bool:
        """Whether users' launch rates hold jobs back."""
        return self._launch.enforce

    def require_slow_enough(self, user: str, now_ms: int) -> None:
        """Refuse a submission of a user who is in debt.

        Raises:
            InvalidRequest: in Cook's words.
        """
        if self._submission is not None and self._submission.holds_back(user, now_ms):
            wait_ms = self._submission.wait_ms(user, now_ms)
            seconds = "ever" if wait_ms == inf else f"{ceil(wait_ms / 1000)} seconds"
            raise InvalidRequest(
                f"User {user} is inserting too quickly. Not allowed to insert for {seconds}."
            )

    def submitted(self, user: str, number: int, now_ms: int) -> None:
        """Count accepted jobs."""
        if self._submission is not None:
            self._submission.spend(user, number, now_ms)

    def request_wait_ms(self, user: str, now_ms: int) -> float | None:
        """Count a request to the API; returns how long its user must wait if it is one too many."""
        limiter = self._requests
        if limiter is None:
            return None
        if limiter.holds_back(user, now_ms):
            return limiter.wait_ms(user, now_ms)
        limiter.spend(user, 1, now_ms)
        return None

    def tokens(
        self, pool: PoolName, limits: UserLimits, users: Callable[[], Iterable[str]], now_ms: int
    ) -> dict[str, float] | None:
        """Return how many jobs users may launch in a pool now, of those whose rate is limited at all.

        Args:
            pool: where.
            limits: of its users.
            users: tells who has jobs there; asked only if everybody's rate is limited.
            now_ms: the time.
        """
        if not self._launch.enforce:
            return None
        limited = self._limited_users(limits)
        if limited is not None and not limited:
            return None
        return launch_tokens(self._launch, users() if limited is None else limited, pool, now_ms)

    def launched(self, pool: PoolName, users: Iterable[str], clusters: Iterable[str], now_ms: int) -> None:
        """Count what was sent: a token for each task, of its user's and of its cluster's bucket."""
        limited = self._limited[1]
        if limited is None or limited:
            for user, number in Counter(users).items():
                if limited is None or user in limited:
                    self._launch.spend((user, pool), number, now_ms)
        if self._clusters is not None:
            for cluster, number in Counter(clusters).items():
                self._clusters.spend(cluster, number, now_ms)

    def indebted(self, clusters: Iterable[str], now_ms: int) -> frozenset[str]:
        """Return the clusters that may be sent nothing now."""
        limiter = self._clusters
        if limiter is None:
            return frozenset()
        return frozenset(cluster for cluster in clusters if limiter.holds_back(cluster, now_ms))

    def limits_changed(self, user: str, pool: PoolName) -> None:
        """Make the launch bucket of a user anew, or those of all if the default user's limits changed."""
        flush_launch_rate(self._launch, user, pool)

    def _limited_users(self, limits: UserLimits) -> frozenset[str] | None:
        """Whose launch rate these limits limit; None: everybody's."""
        if self._limited[0] is not limits:
            named = frozenset(user for user, quota in limits.quotas.items() if _is_set(launch_rate(quota)))
            everybody = _is_set(launch_rate(limits.default_quota))
            self._limited = (limits, None if everybody else named)
        return self._limited[1]


_UNSET = Rate.per_minute(UNSET_QUOTA["launch-rate-per-minute"], UNSET_QUOTA["launch-rate-saved"])


def _is_set(rate: Rate) -> bool:
    return rate != _UNSET


def _limiter(bucket: Bucket | None) -> RateLimiter[str] | None:
    if bucket is None:
        return None
    rate = Rate.per_minute(bucket.tokens_per_minute, bucket.bucket_size)
    return RateLimiter(lambda _: rate, enforce=bucket.enforce)
