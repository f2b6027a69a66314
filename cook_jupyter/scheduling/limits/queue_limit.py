"""Queue limits: the maximum number of waiting jobs of a user in a pool.

Lives here: the limit, and counters of waiting jobs for callers without a queue index.
Not here: the settings (`service.settings.schema`), the refusal of jobs (`service.requests.admission`), the
queue itself (`scheduling.queue.queue_index`).

Source: Cook's `queue_limit.clj`, as described in the fair-share specification, section 4.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.pool import PoolName


def max_waiting(pool_waiting: int, *, threshold: int, normal: int, constrained: int) -> int:
    """Return the maximum number of waiting jobs of a user in a pool.

    Args:
        pool_waiting: number of waiting jobs of all users.
        threshold: number of waiting jobs above which the constrained limit applies.
        normal: limit up to the threshold.
        constrained: limit above the threshold.
    """
    return normal if pool_waiting <= threshold else constrained


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLengths:
    """Numbers of waiting jobs, by pool and by user of a pool. A change makes a new value."""

    pools: Mapping[PoolName, int] = field(default_factory=dict)
    users: Mapping[PoolName, Mapping[str, int]] = field(default_factory=dict)

    def of_pool(self, pool: PoolName) -> int:
        """Return the number of waiting jobs in a pool."""
        return self.pools.get(pool, 0)

    def of_user(self, pool: PoolName, user: str) -> int:
        """Return the number of waiting jobs of a user in a pool."""
        return self.users.get(pool, {}).get(user, 0)

    def added(self, pool: PoolName, user: str, number: int) -> "QueueLengths":
        """Return the counts with further jobs of a user."""
        return QueueLengths(
            pools={**self.pools, pool: self.of_pool(pool) + number},
            users={
                **self.users,
                pool: {**self.users.get(pool, {}), user: self.of_user(pool, user) + number},
            },
        )

    def killed(self, jobs: Iterable[tuple[PoolName, str]]) -> "QueueLengths":
        """Return the counts without some jobs, given by pool and user; counts do not fall below zero."""
        lengths = self
        for (pool, user), number in Counter(jobs).items():
            lengths = QueueLengths(
                pools={**lengths.pools, pool: max(0, lengths.of_pool(pool) - number)},
                users={
                    **lengths.users,
                    pool: {
                        **lengths.users.get(pool, {}),
                        user: max(0, lengths.of_user(pool, user) - number),
                    },
                },
            )
        return lengths
