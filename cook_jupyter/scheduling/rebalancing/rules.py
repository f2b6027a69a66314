"""The rules of preemption that an operator may change.

Lives here: `PreemptionThresholds`, which may even be changed while the scheduler runs, and `PreemptionRules`,
in which this scheduler differs from Cook. Each is stated here only; the settings of the service and of the
simulation contain it.
Not here: what a decision reads besides (`scheduling.rebalancing.preemption.PreemptionSettings`), when to
rebalance (`service.settings.tables.RebalancerSettings`).

Source: Cook's `rebalancer.clj`, as described in the fair-share specification, sections 6 and 15.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionThresholds:
    """Cook's three parameters of preemption, with Cook's defaults.

    Attributes:
        safe_dru_threshold: tasks whose DRU is below are never preempted.
        min_dru_diff: amount by which the DRU of a victim must exceed that of the beneficiary.
        max_preemption: number of waiting jobs for which one rebalance cycle tries to find victims, and of
            preemptions that it decides, at most.
    """

    safe_dru_threshold: float = 1.0
    min_dru_diff: float = 0.5
    max_preemption: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionRules(PreemptionThresholds):
    """The rules in which this scheduler differs from Cook. `COOK_RULES` has Cook's values.

    Attributes:
        shortest_prefix: of the victims with equal DRU take as few as suffice; Cook takes all of them.
        drop_unneeded: spare each victim without which the room still suffices; Cook does not.
        least_work_lost: among equal choices preempt the tasks that lose least work; Cook goes by the names of
            user and host.
        gpu_pools: preempt in pools with gpu mode, too; Cook never does.
        freed_gpus_count: count the gpus of victims as room for the beneficiary; Cook counts free gpus only.
        spare_hosts_known: know the attributes of hosts on which nothing runs; Cook does not.
        groups_apart: for the placement of a group, count its own preempted tasks as still running; Cook does
            so for all groups.
        quota_counts: stop tasks of the beneficiary's user where the user's quota would be exceeded, even if
            the host has room; Cook finds that room sufficient, and the job goes on waiting.
        launch_order: between users, score a running task in the order in which its user's tasks were
            launched, and a waiting job exactly, behind everything its user holds, so that preemption comes to
            an end. Cook scores in the order of priority, and a waiting job by an upper bound.
        max_preemptions_per_hour: spare tasks of jobs that were preempted this often (at least 1) within the
            last hour; None spares none, as in Cook.
        max_lost_ms_beyond_share: work that a job may destroy if its DRU would exceed `safe_dru_threshold`, in
            milliseconds of its own size: run time times cpus of the other users' victims, divided by the cpus
            of the job (gpus in gpu mode). None sets no limit, as in Cook. Requires `launch_order`.
        reserve_from: smallest number of victims for which the host is reserved for the beneficiary; 2 in
            Cook.
    """

    shortest_prefix: bool = True
    drop_unneeded: bool = True
    least_work_lost: bool = True
    gpu_pools: bool = True
    freed_gpus_count: bool = True
    spare_hosts_known: bool = True
    groups_apart: bool = True
    quota_counts: bool = True
    launch_order: bool = True
    max_preemptions_per_hour: int | None = 2
    max_lost_ms_beyond_share: int | None = 600_000
    reserve_from: int = 1


COOK_RULES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "shortest_prefix": False,
        "drop_unneeded": False,
        "least_work_lost": False,
        "gpu_pools": False,
        "freed_gpus_count": False,
        "spare_hosts_known": False,
        "groups_apart": False,
        "quota_counts": False,
        "launch_order": False,
        "max_preemptions_per_hour": None,
        "max_lost_ms_beyond_share": None,
        "reserve_from": 2,
    }
)
