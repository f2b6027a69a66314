"""The policies that a simulation compares: who goes first, who may hold how much, who gives way.

Lives here: `Policy`, the ones that have a name (`POLICIES`), and what each makes of a configuration: settings
for the real scheduler, and shares and quotas for its store. Not here: any decision (`scheduling`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.limits import SHARE_NAMES, UNLIMITED, LimitEntry, LimitKind, LimitName
from cook_jupyter.model.pool import Pool
from cook_jupyter.service.config import Settings
from cook_jupyter.service.policies import (
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
    """How a simulated scheduler decides.

    Attributes:
        name: what it is called in reports.
        about: what it does, in a sentence.
        order: `fair` ranks by DRU, `fifo` by priority and then as jobs came.
        rebalancer: how tasks are preempted, but for the numbers that a configuration gives; None: never.
        max_rebalance_ms: longest interval between two rebalance cycles; a configuration may say less.
            None sets no limit.
        head_room: room that is kept for the head of the queue.
        quota_factor: every user's hard quota, in equal parts of all hosts; None: no quotas of this kind.
        quotas: hard quotas of single users, by Cook's names of resources; they go before `quota_factor`.
    """

    name: str
    about: str
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
                about="Fair share with preemption, as Cook decides it.",
                rebalancer=RebalancerSettings.cook(),
            ),
            Policy(
                name="fair-better",
                about="Fair share with preemption, sparing victims where Cook does not; room for large jobs.",
                rebalancer=RebalancerSettings(),
                max_rebalance_ms=5 * MINUTE_MS,  # what a live Cook takes; its simulator takes 30 minutes
                head_room=HeadRoomSettings(),
            ),
            Policy(
                name="fair-patient",
                about="Fair share with room for large jobs, and nobody is ever preempted.",
                head_room=HeadRoomSettings(),
            ),
            Policy(
                name="quota",
                about="Everybody has a hard quota, an equal part of all hosts; first come, first served.",
                order="fifo",
                quota_factor=1.0,
            ),
            Policy(name="fifo", about="First come, first served, by priority.", order="fifo"),
        )
    }
)


def policy_named(name: str) -> Policy:
    """Return the policy of a name; `quota:1.5` is `quota` with one and a half times the equal part.

    Raises:
        InvalidRequest: there is none of that name.
    """
    plain, _, factor = name.partition(":")
    policy = POLICIES.get(plain)
    if policy is None:
        raise InvalidRequest(f"there is no policy {plain!r}; there are {', '.join(POLICIES)}")
    if not factor:
        return policy
    try:
        times = float(factor)
    except ValueError:
        times = 0.0
    if policy.quota_factor is None or not is_positive(times):
        raise InvalidRequest(f"policy {name!r}: only `quota` takes a factor, and it is a number above zero")
    return replace(policy, name=name, quota_factor=times)


def settings_of(policy: Policy, config: SimConfig) -> Settings:
    """Return the settings of a scheduler that decides by a policy; all else is as in Cook."""
    rebalancer = replace(
        policy.rebalancer or RebalancerSettings.cook(),
        enabled=policy.rebalancer is not None,
        safe_dru_threshold=config.rebalancer.safe_dru_threshold,
        min_dru_diff=config.rebalancer.min_dru_diff,
        max_preemption=int(config.rebalancer.max_preemption),
    )
    return Settings(
        pools=(Pool(name=POOL, purpose="simulation"),),
        default_pool=POOL,
        order=policy.order,
        rebalancer=rebalancer,
        head_room=policy.head_room,
        placement=PlacementSettings(avoid_failed_hosts="always", leave_out_too_large=False),
        max_cpus=config.constraints.cpus,
        max_mem_mb=1024.0 * config.constraints.memory_gb,
        retry_limit=config.constraints.retry_limit,
        mea_culpa_limit=config.mea_culpa_limit,
        mea_culpa_limits=config.mea_culpa_limits,
        max_considered=config.match.max_considered,
        scaleback=config.match.scaleback,
        good_enough=config.match.good_enough,
        default_shares=dict.fromkeys(SHARE_NAMES, UNLIMITED),  # of whom the configuration says nothing
        rates=RateSettings(enforce_launch_rate=False),
    )


def limits_of(
    policy: Policy, config: SimConfig, trace: Iterable[TraceJob], hosts: Sequence[SimHost]
) -> list[LimitEntry]:
    """Return the shares that a configuration sets, and the quotas that a policy adds to them.

    A computed quota lets at least the user's largest job run: else that job could not even be submitted.
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
        part = policy.quota_factor / max(1, len(largest))
        cpus_each = part * sum(host.cpus for host in hosts)
        mem_each = part * sum(host.mem_mb for host in hosts)
        for user, (cpus, mem) in sorted(largest.items()):
            entries.append(_entry(LimitKind.QUOTA, user, "cpus", max(cpus, cpus_each)))
            entries.append(_entry(LimitKind.QUOTA, user, "mem", max(mem, mem_each)))
    entries.extend(
        _entry(LimitKind.QUOTA, user, name, amount)
        for user, quota in policy.quotas.items()
        for name, amount in quota.items()
    )
    return entries


def _entry(kind: str, user: str, name: LimitName, amount: float) -> LimitEntry:
    return LimitEntry(kind=kind, user=user, pool=POOL, name=name, amount=float(amount))
