"""Who waits and runs how much, beside their shares, and what there is: the body of /v1/summary.

Lives here: adding it up. Not here: the numbers' homes (`service.scheduler`, `service.queues`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from cook_jupyter.model.limits import Usage
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.monitor import standing
from cook_jupyter.service.queues import Queues
from cook_jupyter.service.running import RunningRow
from cook_jupyter.service.snapshots import Snapshots

STANDINGS = ("starved", "hungry", "satisfied")


def summary_of(
    rows: Iterable[RunningRow], queues: Queues, snapshots: Snapshots, capacity: Sequence[Offer], pool: str
) -> dict[str, Any]:
    """Return the summary: amounts over all pools; shares, DRU and who is starved or not in `pool`."""
    total, used = Resources(), Resources()
    for room in {offer.host: offer.room + offer.running for offer in capacity}.values():
        total += room
    held: dict[str, Resources] = defaultdict(Resources)
    count: dict[str, int] = defaultdict(int)
    for row in rows:
        amount = Resources(cpus=row.cpus, mem_mb=row.mem_mb, gpus=row.gpus)
        held[row.user] += amount
        count[row.user] += 1
        used += amount
    waiting = {user: queues.waiting_count(user) for user in queues.users()}
    index, limits = queues.index(pool), snapshots.of(pool).limits
    there = {user: index.usage(user) for user in index.users()}
    now = standing(
        {user: usage for user, usage in there.items() if usage.count},
        {user: Usage(count=number) for user in there if (number := index.waiting_of(user))},
        limits,
    )
    users = []
    for user in sorted(held.keys() | waiting.keys()):
        share = limits.share(user)
        own = there.get(user, Usage())
        users.append(
            {
                "user": user,
                "waiting": waiting.get(user, 0),
                "running": count[user],
                "cpus": held[user].cpus,
                "mem": held[user].mem_mb,
                "dru": max(own.cpus / share.cpus, own.mem_mb / share.mem_mb),
                "share_cpus": share.cpus,
                "share_mem": share.mem_mb,
                "standing": next((state for state in STANDINGS if user in now.states[state]), "satisfied"),
            }
        )
    return {
        "waiting": queues.waiting_count(None),
        "running": sum(count.values()),
        "users": users,
        "capacity": {
            "cpus": total.cpus,
            "mem": total.mem_mb,
            "gpus": total.gpus,
            "hosts": len({offer.host for offer in capacity}),
        },
        "used": {"cpus": used.cpus, "mem": used.mem_mb, "gpus": used.gpus},
    }
