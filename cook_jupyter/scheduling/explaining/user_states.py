"""User satisfaction: which users of a pool are starved, hungry or satisfied, with amounts.

Lives here: `classify_users`, for one pool or quota group; the usage and requests of the users of an index;
the numbers to report at an interval.
Not here: the interval and the recipients (`service.requests.monitoring`).

Source: Cook's `monitor.clj`, as described in the fair-share specification, section 11. One of its quirks is
kept, so that dashboards are comparable: a starved user with running tasks counts with at most as many starved
jobs, because shares do not limit numbers of jobs. Unlike in Cook, running gpus count against a quota.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.queue.queue_index import QueueIndex

ALL: Final = "all"  # key of all users together
NOTHING: Final = Usage()

UsageByUser = Mapping[str, Usage]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStates:
    """The states of the users of a pool. A user may be in several of them.

    Attributes:
        running: user -> usage of running jobs.
        waiting: user -> requests of waiting jobs.
        starved: user with waiting jobs and less than the share of every resource -> the shortfall.
        waiting_under_quota: user with waiting jobs and less than every quota -> requests within the quota.
        hungry: user with waiting jobs who is not starved -> requests of waiting jobs.
        satisfied: user with running jobs and no waiting jobs -> usage.
    """

    running: UsageByUser = field(default_factory=dict)
    waiting: UsageByUser = field(default_factory=dict)
    starved: UsageByUser = field(default_factory=dict)
    waiting_under_quota: UsageByUser = field(default_factory=dict)
    hungry: UsageByUser = field(default_factory=dict)
    satisfied: UsageByUser = field(default_factory=dict)

    @property
    def users(self) -> dict[str, int]:
        """Number of users by state, and in total; each user is either starved, hungry or satisfied."""
        return {
            "total": len(self.running.keys() | self.waiting.keys()),
            "starved": len(self.starved),
            "waiting_under_quota": len(self.waiting_under_quota),
            "hungry": len(self.hungry),
            "satisfied": len(self.satisfied),
        }

    @property
    def states(self) -> dict[str, UsageByUser]:
        """Amounts by name of the state."""
        return {
            "running": self.running,
            "waiting": self.waiting,
            "starved": self.starved,
            "waiting_under_quota": self.waiting_under_quota,
            "hungry": self.hungry,
            "satisfied": self.satisfied,
        }


def classify_users(running: UsageByUser, waiting: UsageByUser, limits: UserLimits) -> UserStates:
    """Return the states of users.

    Args:
        running: usage of users with running jobs (`usage_by_state`).
        waiting: requests of users with waiting jobs.
        limits: shares and quotas.
    """
    starved = {}
    waiting_under_quota = {}
    for user, requested in waiting.items():
        usage = running.get(user, NOTHING)
        share, quota = limits.share(user), limits.quota(user)
        if usage.cpus < share.cpus and usage.mem_mb < share.mem_mb:
            starved[user] = _missing(requested, usage, share)
        if _below(usage, quota):
            waiting_under_quota[user] = _fitting(requested, usage, quota)
    return UserStates(
        running=running,
        waiting=waiting,
        starved=starved,
        waiting_under_quota=waiting_under_quota,
        hungry={user: requested for user, requested in waiting.items() if user not in starved},
        satisfied={user: usage for user, usage in running.items() if user not in waiting},
    )


def usage_by_state(index: QueueIndex) -> tuple[UsageByUser, UsageByUser]:
    """Return the usage of running and the requests of waiting jobs by user; takes ms per 100,000 tasks."""
    running = {}
    waiting = {}
    columns = index.columns
    for tasks in index.by_name():
        if tasks.keys:
            running[tasks.name] = index.usage(tasks.name)
        if tasks.waiting_count:
            rows = tasks.waiting()
            waiting[tasks.name] = Usage(
                count=len(rows),
                cpus=float(columns.cpus[rows].sum()),
                mem_mb=float(columns.mem[rows].sum()),
                gpus=float(columns.gpus[rows].sum()),
            )
    return running, waiting


def add_quota_groups(
    by_pool: Mapping[PoolName, UsageByUser], groups: Mapping[PoolName, str]
) -> dict[str, UsageByUser]:
    """Return amounts by pool, and their sums by quota group.

    Args:
        by_pool: pool -> amounts.
        groups: pool -> its quota group, for pools that have one.
    """
    by_name: dict[str, UsageByUser] = dict(by_pool.items())
    for group in dict.fromkeys(groups.values()):
        sums: dict[str, Usage] = {}
        for pool, amounts in by_pool.items():
            if groups.get(pool) == group:
                for user, usage in amounts.items():
                    sums[user] = sums.get(user, NOTHING) + usage
        by_name[group] = sums
    return by_name


def usage_to_report(usage_by_user: UsageByUser, previous_users: Collection[str] = ()) -> dict[str, Usage]:
    """Return what to report of a state: its users, zero for users who have left it, and `ALL`.

    Args:
        usage_by_user: users in the state.
        previous_users: users in the last report of the state.
    """
    total = NOTHING
    for usage in usage_by_user.values():
        total += usage
    departed = {user: NOTHING for user in previous_users if user not in usage_by_user}
    return {**usage_by_user, **departed, ALL: total}


def _missing(requested: Usage, usage: Usage, share: Share) -> Usage:
    return Usage(
        count=min(requested.count, usage.count) if usage.count else requested.count,
        cpus=min(requested.cpus, share.cpus - usage.cpus),
        mem_mb=min(requested.mem_mb, share.mem_mb - usage.mem_mb),
    )


def _below(usage: Usage, quota: Quota) -> bool:
    return (
        usage.count < quota.count
        and usage.cpus < quota.cpus
        and usage.mem_mb < quota.mem_mb
        and usage.gpus < quota.gpus
    )


def _fitting(requested: Usage, usage: Usage, quota: Quota) -> Usage:
    return Usage(
        count=min(requested.count, quota.count - usage.count),
        cpus=min(requested.cpus, quota.cpus - usage.cpus),
        mem_mb=min(requested.mem_mb, quota.mem_mb - usage.mem_mb),
        gpus=min(requested.gpus, quota.gpus - usage.gpus),
    )
