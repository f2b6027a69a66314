"""Queue limits: how many jobs of one user may wait in a pool.

Lives here: the limit in force, and counters of what waits, for whoever has no queue to ask.
Not here: the settings (`service.settings.schema`), the refusal (`service`), the queue itself
(`scheduling.queue.queue_index`).

Source: Cook's `queue_limit.clj`, as told in the fair-share specification, section 4.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.pool import PoolName


def most_waiting(pool_waiting: int, *, threshold: int, normal: int, constrained: int) -> int:
    """Return how many jobs of one user may wait in a pool.

    Args:
        pool_waiting: how many jobs of all users wait there now.
        threshold: more than that is a crowd.
        normal: the limit without one.
        constrained: the limit in one.
    """
    return normal if pool_waiting <= threshold else constrained


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLengths:
    """How many jobs wait, by pool and by user of a pool. A change makes a new value."""

    pools: Mapping[PoolName, int] = field(default_factory=dict)
    users: Mapping[PoolName, Mapping[str, int]] = field(default_factory=dict)

    def of_pool(self, pool: PoolName) -> int:
        """Return how many jobs wait in a pool."""
        return self.pools.get(pool, 0)

    def of_user(self, pool: PoolName, user: str) -> int:
        """Return how many jobs of a user wait in a pool."""
        return self.users.get(pool, {}).get(user, 0)

    def added(self, pool: PoolName, user: str, number: int) -> "QueueLengths":
        """Count jobs that a user submitted."""
        return QueueLengths(
            pools={**self.pools, pool: self.of_pool(pool) + number},
            users={
                **self.users,
                pool: {**self.users.get(pool, {}), user: self.of_user(pool, user) + number},
            },
        )

    def killed(self, jobs: Iterable[tuple[PoolName, str]]) -> "QueueLengths":
        """Take out waiting jobs, given by pool and user; what was not counted cannot be taken out."""
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
