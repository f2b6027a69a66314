"""The background loops of a scheduler. Each only calls a step when it is due.

Lives here: which step runs when. Not here: the steps themselves (`service.cycles`), which a simulation calls
directly, without any loop.

Match cycles are started by events (a job was submitted, an instance ended, room appeared), with a timer as a
fallback. So a job on an idle machine starts at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cook_jupyter.errors import CookError, OutOfStep
from cook_jupyter.service.cycles.maintenance import (
    check_store,
    publish_progress,
    refresh_monitoring,
    repeat_kills,
    run_maintenance,
)
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)

RETRY_DELAY_S = 1.0  # after a failed match cycle
RESTART_DELAY_S = 1.0  # after a loop has failed
STORE_CHECK_MS = 500
DEFAULT_PROGRESS_INTERVAL_MS = 1000


async def match_loop(scheduler: Scheduler) -> None:
    """Run a match cycle of every active pool after each event, until cancelled."""
    while True:
        await scheduler.wake.wait()
        scheduler.wake.clear()
        try:
            await match_all(scheduler)
        except OutOfStep:
            raise
        except CookError as error:
            # Only committed instances were launched, and the next cycle considers the waiting jobs again.
            log.warning("a match cycle failed: %s", error)
            await asyncio.sleep(RETRY_DELAY_S)
            scheduler.wake.set()


async def tick_loop(scheduler: Scheduler) -> None:
    """Start a match cycle at each interval, even without an event, until cancelled."""
    while True:
        await asyncio.sleep(scheduler.settings.matching.rank_interval_ms / 1000)
        scheduler.wake.set()


async def rebalance_loop(scheduler: Scheduler) -> None:
    """Run rebalance cycles until cancelled."""
    await _repeat(rebalance_all, scheduler, scheduler.settings.rebalancer.interval_ms)


async def kill_loop(scheduler: Scheduler) -> None:
    """Repeat kills whose effect was not reported, until cancelled."""
    await _repeat(repeat_kills, scheduler, scheduler.settings.maintenance.kill_interval_ms)


async def maintenance_loop(scheduler: Scheduler) -> None:
    """Stop lingering instances and stragglers, and complete offensive jobs, until cancelled."""
    await _repeat(run_maintenance, scheduler, scheduler.settings.maintenance.interval_ms)


async def monitor_loop(scheduler: Scheduler) -> None:
    """Count starved, hungry and satisfied users, until cancelled."""
    await _repeat(refresh_monitoring, scheduler, scheduler.settings.maintenance.monitor_interval_ms)


async def progress_loop(scheduler: Scheduler) -> None:
    """Commit collected progress, until cancelled."""
    interval_ms = scheduler.settings.maintenance.progress_interval_ms or DEFAULT_PROGRESS_INTERVAL_MS
    await _repeat(publish_progress, scheduler, interval_ms)


async def store_loop(scheduler: Scheduler) -> None:
    """Check that the store still exists, until cancelled."""
    await _repeat(check_store, scheduler, STORE_CHECK_MS)


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


async def supervise(loop: Callable[[Scheduler], Awaitable[None]], scheduler: Scheduler) -> None:
    """Run a loop until cancelled. If it fails, log the error and restart it.

    Raises:
        OutOfStep: a view of the scheduler has missed a commit; a new scheduler must be built from the store.
    """
    while True:
        try:
            await loop(scheduler)
        except OutOfStep:
            raise
        except Exception:
            log.exception("%s failed; restarting in %s s", loop.__name__, RESTART_DELAY_S)
            await asyncio.sleep(RESTART_DELAY_S)


async def _repeat(
    step: Callable[[Scheduler], Awaitable[object]], scheduler: Scheduler, interval_ms: int
) -> None:
    """Run a step at an interval; log its errors and continue."""
    while True:
        await asyncio.sleep(interval_ms / 1000)
        try:
            await step(scheduler)
        except OutOfStep:
            raise
        except CookError as error:
            log.warning("%s failed, and will be tried again when it is due: %s", step.__name__, error)
