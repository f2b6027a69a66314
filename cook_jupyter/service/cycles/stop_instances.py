"""Stop instances."""

from collections.abc import Sequence

from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure


async def stop(scheduler: Scheduler, failures: Sequence[Failure]) -> int:
    """Fail open instances by our own decision and kill them; returns how many were open still.

    The reason is committed before the kill, so whatever the cluster says of the end comes second.
    """
    if not failures:
        return 0
    with scheduler.kills.collecting_ends(settled=True) as ended:
        done = await scheduler.store.fail(failures)
    stopped = [failure.instance_id for failure, was_open in zip(failures, done, strict=True) if was_open]
    await scheduler.kills.send((each for each in stopped if each not in ended), settled=True)
    return len(stopped)
