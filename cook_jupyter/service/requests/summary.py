"""The summary of a scheduler: the body of /v1/summary.

Lives here: adding up running jobs, waiting jobs, shares and hosts. Not here: the sources of the numbers
(`service.snapshots`, `service.state.queues`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cook_jupyter.model.limits import Share, Usage
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.explaining.user_states import classify_users
from cook_jupyter.scheduling.matching.head_room import held_dru
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.snapshot import PoolSnapshot
from cook_jupyter.service.state.running_jobs import RunningJob

USER_STATES: Final = ("starved", "hungry", "satisfied")  # the worst first


class _Position(NamedTuple):
    """The position of a user along the share in a pool."""

    dru: float
    share: Share


def build_summary(
    running_jobs: Iterable[RunningJob], pools: Sequence[tuple[PoolSnapshot, QueueIndex]]
) -> dict[str, Any]:
    """Return the summary of all pools.

    The share and the DRU of a user are those of the pool in which the user's DRU is highest; the state of a
    user is the worst of all pools.

    Args:
        running_jobs: all running jobs.
        pools: all pools with their queues. The default pool is first: it takes precedence among equal DRUs.
    """
    total_of_host = {
        offer.host: offer.room + offer.running for snapshot, _ in pools for offer in snapshot.capacity.offers
    }
    total, used = sum(total_of_host.values(), Resources()), Resources()
    usage: dict[str, Resources] = defaultdict(Resources)
    running: dict[str, int] = defaultdict(int)
    for job in running_jobs:
        usage[job.user] += job.resources
        running[job.user] += 1
        used += job.resources
    waiting: dict[str, int] = defaultdict(int)
    worst_states: dict[str, str] = {}
    for snapshot, index in pools:
        for user in index.users():
            waiting[user] += index.waiting_of(user)
        for user, state in _user_states(snapshot, index).items():
            worst_states[user] = min(state, worst_states.get(user, state), key=USER_STATES.index)
    users = []
    for user in sorted(usage.keys() | waiting.keys()):
        position = max((_position(user, *pool) for pool in pools), key=lambda position: position.dru)
        users.append(
            {
                "user": user,
                "waiting": waiting[user],
                "running": running[user],
                "cpus": usage[user].cpus,
                "mem": usage[user].mem_mb,
                "dru": position.dru,
                "share_cpus": position.share.cpus,
                "share_mem": position.share.mem_mb,
                "standing": worst_states.get(user, "satisfied"),
            }
        )
    return {
        "waiting": sum(waiting.values()),
        "running": sum(running.values()),
        "users": users,
        "capacity": {
            "cpus": total.cpus,
            "mem": total.mem_mb,
            "gpus": total.gpus,
            "hosts": len(total_of_host),
        },
        "used": {"cpus": used.cpus, "mem": used.mem_mb, "gpus": used.gpus},
    }


def _position(user: str, snapshot: PoolSnapshot, index: QueueIndex) -> _Position:
    limits = snapshot.limits
    return _Position(held_dru(user, index, limits, snapshot.pool.dru_mode), limits.share(user))


def _user_states(snapshot: PoolSnapshot, index: QueueIndex) -> Mapping[str, str]:
    """Return the state of each user with tasks in a pool."""
    usages = {user: index.usage(user) for user in index.users()}
    current = classify_users(
        {user: usage for user, usage in usages.items() if usage.count},
        {user: Usage(count=count) for user in usages if (count := index.waiting_of(user))},
        snapshot.limits,
    )
    return {
        user: next((state for state in USER_STATES if user in current.states[state]), "satisfied")
        for user in usages
    }
