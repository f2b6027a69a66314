"""The rebalancer's parameters: from the settings, changed while the scheduler runs, and kept.

Lives here: `RebalancerParameters`. Not here: whose tasks give way (`scheduling.rebalancing.preemption`), the
cycle (`service.cycles.match_cycle`).

As in Cook the parameters live in the database: what an operator sets there goes before the settings file.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings
from cook_jupyter.service.settings.tables import RebalancerSettings
from cook_jupyter.store.base import Store

PARAMETERS: Final = ("safe_dru_threshold", "min_dru_diff", "max_preemption")
_KEY: Final = "rebalancer"


class RebalancerParameters:
    """How tasks give way at this moment.

    Attributes:
        settings: what is in force.
    """

    def __init__(self, settings: RebalancerSettings) -> None:
        self.settings = settings
        self._by_pool: dict[PoolName, tuple[RebalancerSettings, PreemptionSettings | None]] = {}

    async def load(self, store: Store) -> None:
        """Take the parameters that were set while an earlier scheduler ran."""
        kept = await store.get_text(_KEY)
        if kept is not None:
            self.settings = replace(self.settings, **json.loads(kept))

    async def change(self, store: Store, parameters: Mapping[str, float | None]) -> None:
        """Set some parameters for now and for later; None switches preemption off.

        Raises:
            InvalidRequest: there is no such parameter, or it cannot have that value.
        """
        unknown = sorted(set(parameters) - set(PARAMETERS))
        if unknown:
            raise InvalidRequest(
                f"the rebalancer has no parameter {', '.join(unknown)}; it has {', '.join(PARAMETERS)}"
            )
        for name, value in parameters.items():
            if value is not None and not value >= 0:
                raise InvalidRequest(f"{name} is a number from 0 on, or null, not {value}")
        kept: dict[str, Any] = {name: getattr(self.settings, name) for name in PARAMETERS}
        kept |= parameters
        if kept["max_preemption"] is not None:
            kept["max_preemption"] = int(kept["max_preemption"])
        await store.set_text(_KEY, json.dumps(kept))
        self.settings = replace(self.settings, **kept)

    def preempts_in(self, pool: PoolName) -> bool:
        """Tell whether tasks of a pool may be preempted at all."""
        settings = self.settings
        known = None not in (settings.safe_dru_threshold, settings.min_dru_diff, settings.max_preemption)
        return settings.enabled and known and re.search(settings.pool_regex, pool) is not None

    def preemption(self, pool: Pool, defaults: PoolDefaults) -> PreemptionSettings | None:
        """Return how tasks of a pool give way; None if they never do.

        Args:
            pool: the pool.
            defaults: what the pool demands of the hosts of all its jobs.
        """
        known = self._by_pool.get(pool.name)
        if known is None or known[0] is not self.settings:
            found = self._preemption(pool, defaults) if self.preempts_in(pool.name) else None
            known = self._by_pool[pool.name] = self.settings, found
        return known[1]

    def _preemption(self, pool: Pool, defaults: PoolDefaults) -> PreemptionSettings:
        settings = self.settings
        return PreemptionSettings(
            mode=pool.dru_mode,
            defaults=defaults,
            safe_dru_threshold=settings.safe_dru_threshold or 0.0,
            min_dru_diff=settings.min_dru_diff or 0.0,
            max_preemption=settings.max_preemption or 0,
            shortest_prefix=settings.shortest_prefix,
            drop_unneeded=settings.drop_unneeded,
            least_work_lost=settings.least_work_lost,
            gpu_pools=settings.gpu_pools,
            freed_gpus_count=settings.freed_gpus_count,
            spare_hosts_known=settings.spare_hosts_known,
            groups_apart=settings.groups_apart,
            quota_counts=settings.quota_counts,
            launch_order=settings.launch_order,
            max_preemptions_per_hour=settings.max_preemptions_per_hour,
            max_lost_ms_beyond_share=settings.max_lost_ms_beyond_share,
            reserve_from=settings.reserve_from,
        )
