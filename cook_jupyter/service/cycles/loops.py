"""The timers of a living scheduler. Each does nothing but call a step when it is due.

Lives here: which step runs when. Not here: the steps (`service.cycles.match_cycle`,
`service.cycles.maintenance`), which a simulator calls by hand, without any of this.

The match cycle is driven by events (a job came, one ended, room appeared) with a timer behind it, so that a
job on an idle machine starts at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cook_jupyter.errors import CookError, OutOfStep
from cook_jupyter.service.cycles.maintenance import (
    check_store,
    maintain,
    publish_progress,
    repeat_kills,
    watch,
)
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR_S = 1.0
STORE_CHECK_MS = 500
RESTART_PAUSE_S = 1.0


async def match_loop(scheduler: Scheduler) -> None:
    """Run match cycles of every active pool for ever, one after each event."""
    while True:
        await scheduler.wake.wait()
        scheduler.wake.clear()
        try:
            await match_all(scheduler)
        except OutOfStep:
            raise
        except CookError as error:
            # Nothing was launched that is not committed; what waits is looked at again.
            log.warning("a match cycle failed: %s", error)
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)
            scheduler.wake.set()


async def tick_loop(scheduler: Scheduler) -> None:
    """Be the timer behind the events, for ever: a match cycle at each interval, come what may."""
    while True:
        await asyncio.sleep(scheduler.settings.matching.rank_interval_ms / 1000)
        scheduler.wake.set()


async def rebalance_loop(scheduler: Scheduler) -> None:
    """Rebalance for ever."""
    await _every(scheduler.settings.rebalancer.interval_ms, rebalance_all, scheduler)


async def kill_loop(scheduler: Scheduler) -> None:
    """Repeat kills whose ends were not heard, for ever."""
    await _every(scheduler.settings.maintenance.kill_interval_ms, repeat_kills, scheduler)


async def maintenance_loop(scheduler: Scheduler) -> None:
    """End what runs too long, lags behind its group or is too large, for ever."""
    await _every(scheduler.settings.maintenance.interval_ms, maintain, scheduler)


async def monitor_loop(scheduler: Scheduler) -> None:
    """Count how happy users are, for ever."""
    await _every(scheduler.settings.maintenance.monitor_interval_ms, watch, scheduler)


async def progress_loop(scheduler: Scheduler) -> None:
    """Commit gathered progress for ever."""
    await _every(scheduler.settings.maintenance.progress_interval_ms or 1000, publish_progress, scheduler)


async def store_loop(scheduler: Scheduler) -> None:
    """See to it that the store is still there, until cancelled."""
    await _every(STORE_CHECK_MS, check_store, scheduler)


LOOPS: tuple[Callable[[Scheduler], Awaitable[None]], ...] = (
    match_loop,
    tick_loop,
    rebalance_loop,
    kill_loop,
    maintenance_loop,
    monitor_loop,
    progress_loop,
    store_loop,
)


async def supervised(loop: Callable[[Scheduler], Awaitable[None]], scheduler: Scheduler) -> None:
    """Run a loop until cancelled; log what it fails of and start it again.

    Raises:
        OutOfStep: the scheduler's memory has missed a commit; only one built from the store may go on.
    """
    while True:
        try:
            await loop(scheduler)
        except OutOfStep:
            raise
        except Exception:
            log.exception("%s died; it begins again in %s s", loop.__name__, RESTART_PAUSE_S)
            await asyncio.sleep(RESTART_PAUSE_S)


async def _every(
    interval_ms: int, step: Callable[[Scheduler], Awaitable[object]], scheduler: Scheduler
) -> None:
    while True:
        await asyncio.sleep(interval_ms / 1000)
        try:
            await step(scheduler)
        except OutOfStep:
            raise
        except CookError as error:
            log.warning("%s failed, and is tried again when it is due: %s", step.__name__, error)
