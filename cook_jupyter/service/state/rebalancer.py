"""The parameters of preemption that are in force.

Lives here: `RebalancerParameters`: the settings of the operator, and the parameters that were changed while
the scheduler ran.
Not here: the choice of victims (`scheduling.rebalancing.preemption`), the rebalance cycle
(`service.cycles.rebalance_cycle`).

As in Cook, changed parameters are kept in the database and override the settings file.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings
from cook_jupyter.scheduling.rebalancing.rules import PreemptionThresholds
from cook_jupyter.service.settings.tables import RebalancerSettings
from cook_jupyter.store.base import Store

PARAMETERS: Final = tuple(parameter.name for parameter in fields(PreemptionThresholds))
_KEY: Final = "rebalancer"


class RebalancerParameters:
    """The parameters of preemption of one scheduler.

    Args:
        settings: the settings of the operator.

    Attributes:
        settings: the settings in force.
        parameters: name -> value of each of `PARAMETERS`; None disables preemption.
    """

    def __init__(self, settings: RebalancerSettings) -> None:
        self.settings = settings
        self.parameters: dict[str, float | None] = {name: getattr(settings, name) for name in PARAMETERS}
        self._by_pool: dict[PoolName, tuple[Mapping[str, float | None], PreemptionSettings | None]] = {}

    async def load(self, store: Store) -> None:
        """Load the parameters that were changed while an earlier scheduler ran."""
        text = await store.get_text(_KEY)
        if text is not None:
            self._apply(json.loads(text))

    async def change(self, store: Store, parameters: Mapping[str, float | None]) -> None:
        """Change some parameters, and store them for later schedulers.

        Args:
            store: the store that keeps them.
            parameters: name -> new value; None disables preemption.

        Raises:
            InvalidRequest: there is no such parameter, or its value is invalid.
        """
        unknown = sorted(set(parameters) - set(PARAMETERS))
        if unknown:
            raise InvalidRequest(
                f"the rebalancer has no parameter {', '.join(unknown)}; it has {', '.join(PARAMETERS)}"
            )
        for name, value in parameters.items():
            if value is not None and not value >= 0:
                raise InvalidRequest(f"{name} must be a number of at least 0, or null, not {value}")
        changed = {**self.parameters, **parameters}
        if changed["max_preemption"] is not None:
            changed["max_preemption"] = int(changed["max_preemption"])
        await store.set_text(_KEY, json.dumps(changed))
        self._apply(changed)

    def preempts_in(self, pool: PoolName) -> bool:
        """Return whether tasks of a pool may be preempted."""
        return (
            self.settings.enabled
            and None not in self.parameters.values()
            and re.search(self.settings.pool_regex, pool) is not None
        )

    def for_pool(self, pool: Pool, defaults: PoolDefaults) -> PreemptionSettings | None:
        """Return how tasks of a pool are preempted; None if they never are.

        Args:
            pool: the pool.
            defaults: host constraints that the pool adds to those of its jobs.
        """
        cached = self._by_pool.get(pool.name)
        if cached is None or cached[0] is not self.parameters:
            settings = None
            if self.preempts_in(pool.name):
                settings = PreemptionSettings.from_rules(self.settings, mode=pool.dru_mode, defaults=defaults)
            cached = self._by_pool[pool.name] = self.parameters, settings
        return cached[1]

    def _apply(self, parameters: Mapping[str, float | None]) -> None:
        self.parameters = {**self.parameters, **parameters}
        numbers: dict[str, Any] = {
            name: value for name, value in self.parameters.items() if value is not None
        }
        self.settings = replace(self.settings, **numbers)
