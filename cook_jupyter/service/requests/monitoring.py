"""User satisfaction: how many users of each pool are starved, hungry or satisfied, counted at an interval.

Lives here: `Monitoring`, which keeps the last count. Not here: the definition of the states
(`scheduling.explaining.user_states`), the timer (`service.cycles.loops`), the routes that show the counts
(`/v1/monitor`, `/v1/summary` and `/metrics`, all in `api`).

Source: the fair-share specification, section 11.
"""

from collections.abc import Collection, Mapping
from typing import Any

from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.scheduling.explaining.user_states import (
    UserStates,
    add_quota_groups,
    classify_users,
    usage_by_state,
    usage_to_report,
)
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.snapshots import Snapshots
from cook_jupyter.service.state.queues import Queues

UsageByState = Mapping[str, Mapping[str, Usage]]  # state -> user -> amounts


class Monitoring:
    """The last count of the users of each pool and of each quota group.

    Args:
        settings: settings of the scheduler.
        queues: queues of all pools.
        snapshots: source of the limits in force.
        clock: clock of the scheduler.

    Attributes:
        counted_ms: time of the last count; None before the first one.
        user_states: pool or quota group -> which of its users are in which state.
        reported: pool or quota group -> the amounts to report: those of the users in each state, their sum,
            and zero once for each user who has left the state since the last count.
        cycles: pool -> figures of the last match cycle that considered any job.
    """

    def __init__(self, *, settings: Settings, queues: Queues, snapshots: Snapshots, clock: Clock) -> None:
        self._settings = settings
        self._queues = queues
        self._snapshots = snapshots
        self._clock = clock
        self.counted_ms: int | None = None
        self.user_states: dict[str, UserStates] = {}
        self.reported: dict[str, UsageByState] = {}
        self.cycles: dict[str, dict[str, Any]] = {}

    def refresh(self) -> None:
        """Count the users of all pools again."""
        running, waiting = {}, {}
        limits: dict[str, UserLimits] = {}  # of pools and of quota groups
        for pool in self._settings.pools:
            running[pool.name], waiting[pool.name] = usage_by_state(self._queues.index(pool.name))
            limits[pool.name] = self._snapshots.limits(pool.name)
            matching = self._queues.last_matching(pool.name)
            if matching is not None:
                self.cycles[pool.name] = {
                    "considered": matching.considered,
                    "matched": len(matching.matches),
                    "unmatched": matching.unmatched,
                    "head_matched": matching.head_matched,
                    "considers_next": matching.scaleback.considerable,
                }
        groups = self._settings.quota_groups
        for group in dict.fromkeys(groups.values()):
            limits[group] = _sum_limits([limits[pool] for pool in running if groups.get(pool) == group])
        running_by_name, waiting_by_name = (
            add_quota_groups(running, groups),
            add_quota_groups(waiting, groups),
        )
        for name, usages in running_by_name.items():
            current = classify_users(usages, waiting_by_name[name], limits[name])
            previous = self.reported.get(name, {})
            self.reported[name] = {
                state: usage_to_report(amounts, _users_in_state(previous.get(state, {})))
                for state, amounts in current.states.items()
            }
            self.user_states[name] = current
        self.counted_ms = self._clock.now_ms()

    def body(self) -> dict[str, Any]:
        """Return the number of users in each state, by pool and quota group."""
        return {name: states.users for name, states in self.user_states.items()}

    def details(self) -> dict[str, Any]:
        """Return the numbers of users with the amounts of each user: the body of /v1/monitor."""
        return {
            "time": self.counted_ms,
            "pools": {
                name: {
                    "users": self.user_states[name].users,
                    **{
                        state: {user: _encode_usage(usage) for user, usage in users.items()}
                        for state, users in usage_by_state.items()
                    },
                }
                for name, usage_by_state in self.reported.items()
            },
            "cycles": self.cycles,
        }


def _users_in_state(reported_usages: Mapping[str, Usage]) -> Collection[str]:
    """Return the users who were in a state, without those reported as zero because they had left it."""
    return [user for user, usage in reported_usages.items() if usage != Usage()]


def _encode_usage(usage: Usage) -> dict[str, float]:
    return {"jobs": usage.count, "cpus": usage.cpus, "mem": usage.mem_mb}


def _sum_limits(pools: Collection[UserLimits]) -> UserLimits:
    """Return the limits of a quota group: for each user the sum of the limits in its pools."""
    users = sorted({user for pool in pools for user in (*pool.shares, *pool.quotas)})
    return UserLimits(
        shares={user: _sum_shares([pool.share(user) for pool in pools]) for user in users},
        quotas={user: _sum_quotas([pool.quota(user) for pool in pools]) for user in users},
        default_share=_sum_shares([pool.default_share for pool in pools]),
        default_quota=_sum_quotas([pool.default_quota for pool in pools]),
    )


def _sum_shares(shares: Collection[Share]) -> Share:
    return Share(
        cpus=sum(share.cpus for share in shares),
        mem_mb=sum(share.mem_mb for share in shares),
        gpus=sum(share.gpus for share in shares),
    )


def _sum_quotas(quotas: Collection[Quota]) -> Quota:
    return Quota(
        count=sum(quota.count for quota in quotas),
        cpus=sum(quota.cpus for quota in quotas),
        mem_mb=sum(quota.mem_mb for quota in quotas),
        gpus=sum(quota.gpus for quota in quotas),
    )
