"""The monitor: who of a pool's users is starved, hungry or satisfied, and of how much.

Lives here: `standing`, which tells it of one pool or quota group; what users of an index run and wait for;
and how the numbers are reported over time.
Not here: how often, and to whom (`service`).

Source: Cook's `monitor.clj`, as told in the fair-share specification, section 11. One of its quirks is kept,
for whoever compares dashboards: a starved user with running tasks is counted with no more starved jobs than
that, since shares say nothing of numbers of jobs. Unlike Cook's, running gpus count against a quota.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.queue.queue_index import QueueIndex

ALL: Final = "all"  # stands for all users together
NOTHING: Final = Usage()

UsageByUser = Mapping[str, Usage]  # of users


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStates:
    """How the users of a pool stand. A user may be in several of the states.

    Attributes:
        running: what users' running jobs hold.
        waiting: what users' waiting jobs ask for.
        starved: users who wait and hold less than their share of everything -> what is missing of it.
        waiting_under_quota: users who wait and are below their quota of everything -> what would still fit.
        hungry: users who wait and are not starved -> what they wait for.
        satisfied: users who run something and wait for nothing -> what they hold.
    """

    running: UsageByUser = field(default_factory=dict)
    waiting: UsageByUser = field(default_factory=dict)
    starved: UsageByUser = field(default_factory=dict)
    waiting_under_quota: UsageByUser = field(default_factory=dict)
    hungry: UsageByUser = field(default_factory=dict)
    satisfied: UsageByUser = field(default_factory=dict)

    @property
    def users(self) -> dict[str, int]:
        """How many users are in which state, and in all; each is either starved, hungry or satisfied."""
        return {
            "total": len(self.running.keys() | self.waiting.keys()),
            "starved": len(self.starved),
            "waiting_under_quota": len(self.waiting_under_quota),
            "hungry": len(self.hungry),
            "satisfied": len(self.satisfied),
        }

    @property
    def states(self) -> dict[str, UsageByUser]:
        """The amounts by name of the state."""
        return {
            "running": self.running,
            "waiting": self.waiting,
            "starved": self.starved,
            "waiting_under_quota": self.waiting_under_quota,
            "hungry": self.hungry,
            "satisfied": self.satisfied,
        }


def standing(running: UsageByUser, waiting: UsageByUser, limits: UserLimits) -> UserStates:
    """Tell how users stand.

    Args:
        running: what users' running jobs hold; of those who have any (`amounts_of`).
        waiting: what users' waiting jobs ask for; of those who have any.
        limits: their shares and quotas.
    """
    starved = {}
    under_quota = {}
    for user, wanted in waiting.items():
        held = running.get(user, NOTHING)
        share, quota = limits.share(user), limits.quota(user)
        if held.cpus < share.cpus and held.mem_mb < share.mem_mb:
            starved[user] = _missing(wanted, held, share)
        if _below(held, quota):
            under_quota[user] = _fitting(wanted, held, quota)
    return UserStates(
        running=running,
        waiting=waiting,
        starved=starved,
        waiting_under_quota=under_quota,
        hungry={user: wanted for user, wanted in waiting.items() if user not in starved},
        satisfied={user: held for user, held in running.items() if user not in waiting},
    )


def amounts_of(index: QueueIndex) -> tuple[UsageByUser, UsageByUser]:
    """Return what users run and what they wait for, of those who do. Costs milliseconds per 100,000 tasks."""
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


def with_groups(
    by_pool: Mapping[PoolName, UsageByUser], groups: Mapping[PoolName, str]
) -> dict[str, UsageByUser]:
    """Return the amounts by pool and, added up, by quota group.

    Args:
        by_pool: pool -> amounts.
        groups: pool -> its quota group; pools without one are left out.
    """
    found: dict[str, UsageByUser] = dict(by_pool)
    for group in dict.fromkeys(groups.values()):
        sums: dict[str, Usage] = {}
        for pool, amounts in by_pool.items():
            if groups.get(pool) == group:
                for user, usage in amounts.items():
                    sums[user] = sums.get(user, NOTHING) + usage
        found[group] = sums
    return found


def reported(now: UsageByUser, before: Collection[str] = ()) -> dict[str, Usage]:
    """Return what to report of one state: its users, zero once for those who left it, and `ALL`.

    Args:
        now: the users that are in the state.
        before: those that were reported as being in it last time.
    """
    total = NOTHING
    for usage in now.values():
        total += usage
    gone = {user: NOTHING for user in before if user not in now}
    return {**now, **gone, ALL: total}


def _missing(wanted: Usage, held: Usage, share: Share) -> Usage:
    return Usage(
        count=min(wanted.count, held.count) if held.count else wanted.count,
        cpus=min(wanted.cpus, share.cpus - held.cpus),
        mem_mb=min(wanted.mem_mb, share.mem_mb - held.mem_mb),
    )


def _below(held: Usage, quota: Quota) -> bool:
    return (
        held.count < quota.count
        and held.cpus < quota.cpus
        and held.mem_mb < quota.mem_mb
        and held.gpus < quota.gpus
    )


def _fitting(wanted: Usage, held: Usage, quota: Quota) -> Usage:
    return Usage(
        count=min(wanted.count, quota.count - held.count),
        cpus=min(wanted.cpus, quota.cpus - held.cpus),
        mem_mb=min(wanted.mem_mb, quota.mem_mb - held.mem_mb),
        gpus=min(wanted.gpus, quota.gpus - held.gpus),
    )
