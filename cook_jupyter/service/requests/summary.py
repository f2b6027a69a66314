"""Who waits and runs how much, beside their shares, and what there is: the body of /v1/summary.

Lives here: adding it up. Not here: the numbers' homes (`service.snapshots`, `service.state.queues`).
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

STANDINGS: Final = ("starved", "hungry", "satisfied")  # the worst first


class _Position(NamedTuple):
    """Where a user is along the share of a pool."""

    dru: float
    share: Share


def summary_of(
    rows: Iterable[RunningJob], pools: Sequence[tuple[PoolSnapshot, QueueIndex]]
) -> dict[str, Any]:
    """Return the summary: amounts over all pools.

    Shares and DRU of a user are those of the pool where the user is furthest along the share; the standing is
    the worst of all pools.

    Args:
        rows: what runs.
        pools: all pools with their queues, the default pool first: it counts among equals.
    """
    whole_of = {
        offer.host: offer.room + offer.running for snapshot, _ in pools for offer in snapshot.capacity.offers
    }
    total, used = sum(whole_of.values(), Resources()), Resources()
    held: dict[str, Resources] = defaultdict(Resources)
    count: dict[str, int] = defaultdict(int)
    for row in rows:
        held[row.user] += row.held
        count[row.user] += 1
        used += row.held
    waiting: dict[str, int] = defaultdict(int)
    standings: dict[str, str] = {}
    for snapshot, index in pools:
        for user in index.users():
            waiting[user] += index.waiting_of(user)
        for user, here in _standings(snapshot, index).items():
            standings[user] = min(here, standings.get(user, here), key=STANDINGS.index)
    users = []
    for user in sorted(held.keys() | waiting.keys()):
        position = max((_position(user, *pool) for pool in pools), key=lambda position: position.dru)
        users.append(
            {
                "user": user,
                "waiting": waiting[user],
                "running": count[user],
                "cpus": held[user].cpus,
                "mem": held[user].mem_mb,
                "dru": position.dru,
                "share_cpus": position.share.cpus,
                "share_mem": position.share.mem_mb,
                "standing": standings.get(user, "satisfied"),
            }
        )
    return {
        "waiting": sum(waiting.values()),
        "running": sum(count.values()),
        "users": users,
        "capacity": {
            "cpus": total.cpus,
            "mem": total.mem_mb,
            "gpus": total.gpus,
            "hosts": len(whole_of),
        },
        "used": {"cpus": used.cpus, "mem": used.mem_mb, "gpus": used.gpus},
    }


def _position(user: str, snapshot: PoolSnapshot, index: QueueIndex) -> _Position:
    limits = snapshot.limits
    return _Position(held_dru(user, index, limits, snapshot.pool.dru_mode), limits.share(user))


def _standings(snapshot: PoolSnapshot, index: QueueIndex) -> Mapping[str, str]:
    """Return how the users with tasks in a pool stand there."""
    usages = {user: index.usage(user) for user in index.users()}
    now = classify_users(
        {user: usage for user, usage in usages.items() if usage.count},
        {user: Usage(count=number) for user in usages if (number := index.waiting_of(user))},
        snapshot.limits,
    )
    return {
        user: next((state for state in STANDINGS if user in now.states[state]), "satisfied")
        for user in usages
    }
