"""How happy users are, counted now and then, and told to whoever asks.

Lives here: `Monitoring`, the numbers of the last look. Not here: what they mean
(`scheduling.explaining.user_states`), the timer (`service.loops`), their way out (`api.monitor`,
`/v1/summary`, `/metrics`).

Source: the fair-share specification, section 11.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.scheduling.explaining.user_states import (
    UserStates,
    add_quota_groups,
    classify_users,
    usage_by_state,
    usage_to_report,
)

if TYPE_CHECKING:
    from cook_jupyter.service.scheduler import Scheduler

Reported = Mapping[str, Mapping[str, Usage]]  # state -> user -> amounts


class Monitoring:
    """The numbers of the last look, by pool and quota group.

    Attributes:
        looked_ms: when that was; None: never.
        standings: who is starved, hungry, satisfied, waits under quota.
        cycles: by pool, what the last match cycle had to look at and what it found.
        told: the same amounts with the sum over all users, and with zeros once for who left a state.
    """

    def __init__(self) -> None:
        self.looked_ms: int | None = None
        self.standings: dict[str, UserStates] = {}
        self.told: dict[str, Reported] = {}
        self.cycles: dict[str, dict[str, Any]] = {}

    def look(self, scheduler: "Scheduler") -> None:
        """Count anew."""
        queues, settings = scheduler.queues, scheduler.settings
        running, waiting, limits = {}, {}, {}
        for pool in settings.pools:
            running[pool.name], waiting[pool.name] = usage_by_state(queues.index(pool.name))
            limits[pool.name] = scheduler.snapshots.of(pool.name).limits
            matching = queues.last_matching(pool.name)
            if matching is not None:
                self.cycles[pool.name] = {
                    "considered": matching.considered,
                    "matched": len(matching.matches),
                    "unmatched": matching.unmatched,
                    "head_matched": matching.head_matched,
                    "considers_next": matching.scaleback.considerable,
                }
        groups = settings.quota_groups
        for group in dict.fromkeys(groups.values()):
            limits[group] = _together([limits[pool] for pool in limits if groups.get(pool) == group])
        by_name = add_quota_groups(running, groups), add_quota_groups(waiting, groups)
        for name, held in by_name[0].items():
            now = classify_users(held, by_name[1][name], limits[name])
            before = self.told.get(name, {})
            self.told[name] = {
                state: usage_to_report(amounts, _present(before.get(state, {})))
                for state, amounts in now.states.items()
            }
            self.standings[name] = now
        self.looked_ms = scheduler.clock.now_ms()

    def body(self) -> dict[str, Any]:
        """Return how many users are in which state, by pool and quota group."""
        return {name: now.users for name, now in self.standings.items()}

    def details(self) -> dict[str, Any]:
        """Return the same with the amounts of each user: the body of /v1/monitor."""
        return {
            "time": self.looked_ms,
            "pools": {
                name: {
                    "users": self.standings[name].users,
                    **{
                        state: {user: _amounts(usage) for user, usage in users.items()}
                        for state, users in told.items()
                    },
                }
                for name, told in self.told.items()
            },
            "cycles": self.cycles,
        }


def _present(told: Mapping[str, Usage]) -> Collection[str]:
    """The users that were in a state, rather than just having left it."""
    return [user for user, usage in told.items() if usage != Usage()]


def _amounts(usage: Usage) -> dict[str, float]:
    return {"jobs": usage.count, "cpus": usage.cpus, "mem": usage.mem_mb}


def _together(pools: Collection[UserLimits]) -> UserLimits:
    """What users are entitled to in several pools together."""
    named = sorted({user for pool in pools for user in (*pool.shares, *pool.quotas)})
    return UserLimits(
        shares={user: _shares([pool.share(user) for pool in pools]) for user in named},
        quotas={user: _quotas([pool.quota(user) for pool in pools]) for user in named},
        default_share=_shares([pool.default_share for pool in pools]),
        default_quota=_quotas([pool.default_quota for pool in pools]),
    )


def _shares(shares: Collection[Share]) -> Share:
    return Share(
        cpus=sum(share.cpus for share in shares),
        mem_mb=sum(share.mem_mb for share in shares),
        gpus=sum(share.gpus for share in shares),
    )


def _quotas(quotas: Collection[Quota]) -> Quota:
    return Quota(
        count=sum(quota.count for quota in quotas),
        cpus=sum(quota.cpus for quota in quotas),
        mem_mb=sum(quota.mem_mb for quota in quotas),
        gpus=sum(quota.gpus for quota in quotas),
    )
