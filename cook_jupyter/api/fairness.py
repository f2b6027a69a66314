"""Fairness by HTTP: how tasks give way, and how happy users are.

Lives here: /v1/rebalancer and /v1/monitor. Not here: shares and quotas (`api.limits`).
"""

from typing import Any

import msgspec

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.service.rebalancer import PARAMETERS, Rebalancer


class RebalancerHandler(CookHandler):
    """GET and PUT /v1/rebalancer."""

    async def get(self) -> None:
        """Return the parameters in force."""
        self.answer(rebalancer_body(self.scheduler.rebalancer))

    async def put(self) -> None:
        """Set some parameters, for now and after a restart."""
        body = self.json_body()
        self.require_admin("set the parameters of the rebalancer")
        try:
            sent = msgspec.json.decode(body, type=dict[str, float | None])
        except msgspec.MsgspecError as error:
            raise InvalidRequest(
                f"an object of {', '.join(PARAMETERS)} is needed, each a number or null: {error}"
            ) from error
        await self.scheduler.rebalancer.change(self.scheduler.store, sent)
        self.answer(rebalancer_body(self.scheduler.rebalancer))


class MonitorHandler(CookHandler):
    """GET /v1/monitor."""

    async def get(self) -> None:
        """Return who was starved, hungry, satisfied at the last look, by pool and quota group."""
        self.answer(self.scheduler.monitoring.details())


def rebalancer_body(rebalancer: Rebalancer) -> dict[str, Any]:
    """Return what is in force, under our names."""
    settings = rebalancer.settings
    return {
        "enabled": settings.enabled,
        "interval_ms": settings.interval_ms,
        "pool_regex": settings.pool_regex,
        **{name: getattr(settings, name) for name in PARAMETERS},
    }
