"""Stragglers: running instances of a group that take much longer than the group's others took.

Lives here: which they are. Not here: the loop that asks and kills (`service`); the reason they end with is
`model.reason.STRAGGLER`, which costs no retry.

Source: Cook's `group.clj`, as told in the fair-share specification, section 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cook_jupyter.model.instance import InstanceId, InstanceStatus
from cook_jupyter.model.job import Group, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerPolicy:
    """Kill what runs `multiplier` times as long as the job at `quantile` of the group took."""

    quantile: float
    multiplier: float


def straggler_policy_of(group: Group) -> StragglerPolicy | None:
    """Return how a group wants stragglers handled, out of what its user sent; None: not at all."""
    said = group.straggler_handling
    if said.get("type") != "quantile-deviation":
        return None
    parameters = said["parameters"]
    return StragglerPolicy(quantile=parameters["quantile"], multiplier=parameters["multiplier"])


def stragglers(policy: StragglerPolicy | None, jobs: Sequence[Job], now_ms: int) -> list[InstanceId]:
    """Return the running instances that are stragglers.

    The yardstick is a run time that enough jobs of the group have to reach first: as long as too few have
    succeeded there are no stragglers.

    Args:
        policy: of the group.
        jobs: all jobs of the group.
        now_ms: the time.
    """
    if policy is None or not jobs:
        return []
    instances = [instance for job in jobs for instance in job.instances]
    took_s = sorted(
        ((instance.ended_ms or instance.started_ms) - instance.started_ms) // 1000
        for instance in instances
        if instance.status is InstanceStatus.SUCCESS
    )
    place = int(policy.quantile * (len(jobs) - 1))
    if len(took_s) <= place:
        return []
    longest_ms = policy.multiplier * took_s[place] * 1000
    return [
        instance.instance_id
        for instance in instances
        if instance.status is InstanceStatus.RUNNING and now_ms - instance.started_ms > longest_ms
    ]
