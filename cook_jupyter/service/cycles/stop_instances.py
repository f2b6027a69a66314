"""Stopping instances by a decision of the scheduler.

Lives here: `stop_instances`. Not here: the decisions (`service.cycles.rebalance_cycle`,
`service.cycles.maintenance`), the repetition of kills (`service.actions.kills`).
"""

from collections.abc import Sequence

from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.store.base import Failure


async def stop_instances(scheduler: Scheduler, failures: Sequence[Failure]) -> int:
    """Commit failures of open instances, and kill these; return how many of them were still open.

    The reason is committed before the kill, so that it takes precedence over any report of the cluster on the
    end of the instance.

    Args:
        scheduler: the scheduler of the instances.
        failures: instances to stop, with the reason of each.
    """
    if not failures:
        return 0
    with scheduler.kills.collecting_ends(settled=True) as ended:
        were_open = await scheduler.store.fail(failures)
    stopped = [failure.instance_id for failure, was_open in zip(failures, were_open, strict=True) if was_open]
    await scheduler.kills.send(
        (instance_id for instance_id in stopped if instance_id not in ended), settled=True
    )
    return len(stopped)
