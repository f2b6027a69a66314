"""The policies that a simulation compares: queue order, quotas and preemption.

Lives here: `Policy`, the named policies (`POLICIES`), and the settings, shares and quotas of the scheduler
that follow from a policy and a configuration. Not here: any scheduling decision (`scheduling`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.limits import SHARE_NAMES, UNLIMITED, LimitEntry, LimitKind, LimitName
from cook_jupyter.model.pool import Pool
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    HeadRoomSettings,
    PlacementSettings,
    RateSettings,
    RebalancerSettings,
)
from cook_jupyter.simulation.checks import is_positive
from cook_jupyter.simulation.config import MINUTE_MS, POOL, SimConfig
from cook_jupyter.simulation.traces import SimHost, TraceJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The policy of a simulated scheduler.

    Attributes:
        name: name of the policy in reports.
        description: description of the policy in one sentence.
        order: `fair` ranks by DRU, `fifo` by priority and then by submission.
        rebalancer: settings of preemption, except the numbers that the configuration sets; None disables
            preemption.
        max_rebalance_ms: longest interval between rebalance cycles; a configuration may set a shorter one.
            None sets no limit.
        head_room: settings of the room that is kept for the head of the queue.
        quota_factor: hard quota of every user, as a multiple of an equal part of all hosts; None sets no such
            quota.
        quotas: hard quotas by user and resource (Cook's names); they override `quota_factor`.
    """

    name: str
    description: str
    order: Literal["fair", "fifo"] = "fair"
    rebalancer: RebalancerSettings | None = None
    max_rebalance_ms: int | None = None
    head_room: HeadRoomSettings = field(default_factory=HeadRoomSettings.cook)
    quota_factor: float | None = None
    quotas: Mapping[str, Mapping[LimitName, float]] = field(default_factory=dict)


POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Policy(
                name="fair",
                description="Fair share with preemption, as Cook decides it.",
                rebalancer=RebalancerSettings.cook(),
            ),
            Policy(
                name="fair-better",
                description="Fair share with preemption of fewer victims than Cook; room for large jobs.",
                rebalancer=RebalancerSettings(),
                max_rebalance_ms=5 * MINUTE_MS,  # what a live Cook takes; its simulator takes 30 minutes
                head_room=HeadRoomSettings(),
            ),
            Policy(
                name="fair-patient",
                description="Fair share with room for large jobs, without preemption.",
                head_room=HeadRoomSettings(),
            ),
            Policy(
                name="quota",
                description="A hard quota for each user, an equal part of all hosts; then as `fifo`.",
                order="fifo",
                quota_factor=1.0,
            ),
            Policy(name="fifo", description="First come, first served, by priority.", order="fifo"),
        )
    }
)


def find_policy(name: str) -> Policy:
    """Return the policy with a name; `quota:1.5` is `quota` with one and a half times the equal part.

    Raises:
        InvalidRequest: the name is unknown, or the factor is invalid.
    """
    base_name, _, factor = name.partition(":")
    policy = POLICIES.get(base_name)
    if policy is None:
        raise InvalidRequest(f"there is no policy {base_name!r}; there are {', '.join(POLICIES)}")
    if not factor:
        return policy
    try:
        quota_factor = float(factor)
    except ValueError:
        quota_factor = 0.0
    if policy.quota_factor is None or not is_positive(quota_factor):
        raise InvalidRequest(f"policy {name!r}: only `quota` takes a factor, which must be a positive number")
    return replace(policy, name=name, quota_factor=quota_factor)


def build_settings(policy: Policy, config: SimConfig) -> Settings:
    """Build the settings of a scheduler with a policy; everything else is as in Cook."""
    rebalancer = replace(
        policy.rebalancer or RebalancerSettings.cook(),
        enabled=policy.rebalancer is not None,
        **asdict(config.rebalancer),
    )
    return Settings(
        pools=(Pool(name=POOL, purpose="simulation"),),
        default_pool=POOL,
        jobs=config.jobs,
        matching=replace(config.matching, order=policy.order),
        rebalancer=rebalancer,
        head_room=policy.head_room,
        placement=PlacementSettings(avoid_failed_hosts="always", leave_out_too_large=False),
        default_shares=dict.fromkeys(SHARE_NAMES, UNLIMITED),  # where the configuration sets none
        rates=RateSettings(enforce_launch_rate=False),
    )


def build_limits(
    policy: Policy, config: SimConfig, trace: Iterable[TraceJob], hosts: Sequence[SimHost]
) -> list[LimitEntry]:
    """Build the shares that a configuration sets and the quotas that a policy sets.

    A quota from `quota_factor` is at least as large as the user's largest job, which could not be submitted
    otherwise.

    Args:
        policy: the policy.
        config: the configuration.
        trace: all jobs of the simulation.
        hosts: all hosts of the simulation.
    """
    entries = [
        _entry(LimitKind.SHARE, user, name, amount)
        for user, share in config.shares.items()
        for name, amount in share.items()
    ]
    if policy.quota_factor is not None:
        largest: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for job in trace:
            cpus, mem = largest[job.user]
            if job.cpus > cpus or job.mem_mb > mem:
                largest[job.user] = (max(cpus, job.cpus), max(mem, job.mem_mb))
        fraction = policy.quota_factor / max(1, len(largest))
        cpus_quota = fraction * sum(host.cpus for host in hosts)
        mem_quota = fraction * sum(host.mem_mb for host in hosts)
        for user, (cpus, mem) in sorted(largest.items()):
            entries.append(_entry(LimitKind.QUOTA, user, "cpus", max(cpus, cpus_quota)))
            entries.append(_entry(LimitKind.QUOTA, user, "mem", max(mem, mem_quota)))
    entries.extend(
        _entry(LimitKind.QUOTA, user, name, amount)
        for user, quota in policy.quotas.items()
        for name, amount in quota.items()
    )
    return entries


def _entry(kind: str, user: str, name: LimitName, amount: float) -> LimitEntry:
    return LimitEntry(kind=kind, user=user, pool=POOL, name=name, amount=float(amount))
