"""Stragglers: running instances of a group that take much longer than others of the group.

Lives here: their selection. Not here: the loop that kills them (`service.cycles.maintenance`). Their reason
is `model.reason.STRAGGLER`, which costs no retry.

Source: Cook's `group.clj`, as described in the fair-share specification, section 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cook_jupyter.model.instance import InstanceId, InstanceStatus
from cook_jupyter.model.job import Group, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerPolicy:
    """Kill instances that run longer than `multiplier` times the run time at `quantile` of the group."""

    quantile: float
    multiplier: float


def straggler_policy_of(group: Group) -> StragglerPolicy | None:
    """Return the straggler policy that the user has specified for a group; None if there is none."""
    specification = group.straggler_handling
    if specification.get("type") != "quantile-deviation":
        return None
    parameters = specification["parameters"]
    return StragglerPolicy(quantile=parameters["quantile"], multiplier=parameters["multiplier"])


def stragglers(policy: StragglerPolicy | None, jobs: Sequence[Job], now_ms: int) -> list[InstanceId]:
    """Return the running instances that are stragglers.

    There are none until enough jobs of the group have succeeded to determine the quantile.

    Args:
        policy: straggler policy of the group; None if it has none.
        jobs: all jobs of the group.
        now_ms: the time.
    """
    if policy is None or not jobs:
        return []
    instances = [instance for job in jobs for instance in job.instances]
    run_times_s = sorted(
        ((instance.ended_ms or instance.started_ms) - instance.started_ms) // 1000
        for instance in instances
        if instance.status is InstanceStatus.SUCCESS
    )
    index = int(policy.quantile * (len(jobs) - 1))
    if len(run_times_s) <= index:
        return []
    longest_ms = policy.multiplier * run_times_s[index] * 1000
    return [
        instance.instance_id
        for instance in instances
        if instance.status is InstanceStatus.RUNNING and now_ms - instance.started_ms > longest_ms
    ]
