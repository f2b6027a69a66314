"""The cycles of a scheduler. Each is: look, decide, commit, act.

Lives here: the match cycle and the loops that drive it. Not here: any decision (`scheduling`),
the views that are looked at (`service.scheduler`, `service.queues`).

The loop is driven by events (a job came, one ended, room appeared) with a timer behind it, so
that a job on an idle machine starts at once.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from cook_jupyter.clusters.base import Launch
from cook_jupyter.errors import CookError
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.offer import Offer
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR_S = 1.0


async def match_cycle(scheduler: Scheduler, pool: str, offers: Sequence[Offer]) -> int:
    """Give waiting jobs of a pool a host; returns how many were launched.

    A decision is a proposal. The store commits the matches that still hold, and the cluster is
    asked for those alone. A crash in between leaves instances to reconcile, never a launch that
    nobody remembers.
    """
    decision = scheduler.queues.match(pool, offers, scheduler.capacity())
    if not decision.matches:
        return 0
    now_ms = scheduler.clock.now_ms()
    instances = [
        Instance(
            instance_id=scheduler.new_instance_id(),
            job_id=match.job_id,
            status=InstanceStatus.UNKNOWN,
            host=match.host,
            cluster=match.cluster,
            started_ms=now_ms,
            ports=match.ports,
        )
        for match in decision.matches
    ]
    ids = [instance.instance_id for instance in instances]
    scheduler.launching(ids)
    try:
        committed = await scheduler.store.launch(instances)
        by_cluster: dict[str, list[Launch]] = defaultdict(list)
        for spec, instance in committed:
            by_cluster[instance.cluster].append(scheduler.launch_of(spec, instance))
        for name, launches in by_cluster.items():
            await scheduler.clusters[name].launch(launches)
    finally:
        await scheduler.launched(ids)
    return len(committed)


async def match_loop(scheduler: Scheduler) -> None:
    """Run match cycles of every active pool for ever, one after each event."""
    while True:
        await scheduler.wake.wait()
        scheduler.wake.clear()
        try:
            await match_all(scheduler)
        except CookError as error:
            # Nothing was launched that is not committed; what waits is looked at again.
            log.warning("a match cycle failed: %s", error)
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)
            scheduler.wake.set()


async def tick_loop(scheduler: Scheduler) -> None:
    """Be the timer behind the events, for ever: a match cycle at each interval, come what may."""
    while True:
        await asyncio.sleep(scheduler.settings.rank_interval_ms / 1000)
        scheduler.wake.set()


async def match_all(scheduler: Scheduler) -> int:
    """Run one match cycle of each active pool; returns how many jobs were launched."""
    launched = 0
    for pool in scheduler.settings.pools:
        if not pool.active or not scheduler.queues.pool_waiting(pool.name):
            continue
        offers = [offer for offer in scheduler.offers() if offer.pool == pool.name]
        if scheduler.queues.might_start(pool.name, offers):
            launched += await match_cycle(scheduler, pool.name, offers)
    return launched


async def kill_loop(scheduler: Scheduler) -> None:
    """Repeat kills whose ends were not heard, for ever."""
    while True:
        await asyncio.sleep(scheduler.settings.kill_grace_s + 5.0)
        await scheduler.repeat_kills()
