"""Limits on the rates of submissions, launches and requests.

Lives here: `Rates`, the token buckets of one scheduler. They are full at first, also after a restart.
Not here: a single bucket (`scheduling.limits.token_bucket`), which jobs wait for tokens
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
    """The token buckets of users and of clusters.

    Args:
        settings: the rates that the operator has set.
        limits: the quotas in force, which have the launch rates of users.
    """

    def __init__(self, settings: RateSettings, limits: Limits) -> None:
        self._submissions = _build_limiter(settings.job_submission)
        self._cluster_launches = _build_limiter(settings.cluster_launch)
        self._requests = _build_limiter(settings.requests)
        self._launches: RateLimiter[UserPool] = RateLimiter(
            lambda key: launch_rate(limits.quota(*key)), enforce=settings.enforce_launch_rate
        )
        self._limited_users: tuple[UserLimits | None, frozenset[str] | None] = (None, frozenset())  # cache

    @property
    def enforces_launch_rates(self) -> bool:
        """Whether the launch rates of users hold jobs back."""
        return self._launches.enforce

    def require_submission_tokens(self, user: str, now_ms: int) -> None:
        """Refuse a submission of a user whose bucket is in debt.

        Raises:
            InvalidRequest: the bucket is in debt; the message is Cook's.
        """
        if self._submissions is not None and self._submissions.holds_back(user, now_ms):
            wait_ms = self._submissions.wait_ms(user, now_ms)
            seconds = "ever" if wait_ms == inf else f"{ceil(wait_ms / 1000)} seconds"
            raise InvalidRequest(
                f"User {user} is inserting too quickly. Not allowed to insert for {seconds}."
            )

    def spend_submissions(self, user: str, jobs: int, now_ms: int) -> None:
        """Spend a token for each accepted job."""
        if self._submissions is not None:
            self._submissions.spend(user, jobs, now_ms)

    def request_wait_ms(self, user: str, now_ms: int) -> float | None:
        """Spend a token for a request to the API.

        Returns:
            None; or the time for which the user must wait, if the bucket is in debt and nothing was spent.
        """
        limiter = self._requests
        if limiter is None:
            return None
        if limiter.holds_back(user, now_ms):
            return limiter.wait_ms(user, now_ms)
        limiter.spend(user, 1, now_ms)
        return None

    def launch_tokens_in(
        self, pool: PoolName, limits: UserLimits, users: Callable[[], Iterable[str]], now_ms: int
    ) -> dict[str, float] | None:
        """Return the number of jobs that each user with a launch rate may launch in a pool now.

        Args:
            pool: the pool.
            limits: limits of the users of the pool.
            users: function that returns the users with jobs there; called only if every user has a rate.
            now_ms: the time.

        Returns:
            user -> tokens; None if no user has a launch rate, or rates are not enforced.
        """
        if not self._launches.enforce:
            return None
        limited = self._users_with_rate(limits)
        if limited is not None and not limited:
            return None
        return launch_tokens(self._launches, users() if limited is None else limited, pool, now_ms)

    def spend_launches(
        self, pool: PoolName, users: Iterable[str], clusters: Iterable[str], now_ms: int
    ) -> None:
        """Spend two tokens for each launched task: one of its user and one of its cluster.

        Args:
            pool: the pool.
            users: user of each task.
            clusters: cluster of each task.
            now_ms: the time.
        """
        limited = self._limited_users[1]
        if limited is None or limited:
            for user, tasks in Counter(users).items():
                if limited is None or user in limited:
                    self._launches.spend((user, pool), tasks, now_ms)
        if self._cluster_launches is not None:
            for cluster, tasks in Counter(clusters).items():
                self._cluster_launches.spend(cluster, tasks, now_ms)

    def clusters_in_debt(self, clusters: Iterable[str], now_ms: int) -> frozenset[str]:
        """Return the clusters that may not launch anything now."""
        limiter = self._cluster_launches
        if limiter is None:
            return frozenset()
        return frozenset(cluster for cluster in clusters if limiter.holds_back(cluster, now_ms))

    def reset_launch_rate(self, user: str, pool: PoolName) -> None:
        """Reset the launch bucket of a user whose limits changed; all buckets for the user `default`."""
        flush_launch_rate(self._launches, user, pool)

    def _users_with_rate(self, limits: UserLimits) -> frozenset[str] | None:
        """Return the users whose launch rate is limited; None if every user's is."""
        if self._limited_users[0] is not limits:
            users = frozenset(user for user, quota in limits.quotas.items() if _is_set(launch_rate(quota)))
            limits_everyone = _is_set(launch_rate(limits.default_quota))
            self._limited_users = (limits, None if limits_everyone else users)
        return self._limited_users[1]


_UNSET = Rate.per_minute(UNSET_QUOTA["launch-rate-per-minute"], UNSET_QUOTA["launch-rate-saved"])


def _is_set(rate: Rate) -> bool:
    return rate != _UNSET


def _build_limiter(bucket: Bucket | None) -> RateLimiter[str] | None:
    if bucket is None:
        return None
    rate = Rate.per_minute(bucket.tokens_per_minute, bucket.bucket_size)
    return RateLimiter(lambda _: rate, enforce=bucket.enforce)
