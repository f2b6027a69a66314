"""Parameters of preemption and user satisfaction.

Lives here: /v1/rebalancer and /v1/monitor. Not here: shares and quotas (`api.limits`).
"""

from typing import Any

import msgspec

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.service.state.rebalancer import PARAMETERS, RebalancerParameters


class RebalancerHandler(CookHandler):
    """GET and PUT /v1/rebalancer."""

    async def get(self) -> None:
        """Return the current parameters of the rebalancer."""
        self.send_json(rebalancer_body(self.scheduler.rebalancer))

    async def put(self) -> None:
        """Set some parameters of the rebalancer; they persist over restarts."""
        body = self.json_body()
        self.require_admin("set the parameters of the rebalancer")
        try:
            parameters = msgspec.json.decode(body, type=dict[str, float | None])
        except msgspec.MsgspecError as error:
            raise InvalidRequest(
                f"the body must be an object with {', '.join(PARAMETERS)}, each a number or null: {error}"
            ) from error
        await self.scheduler.rebalancer.change(self.scheduler.store, parameters)
        self.send_json(rebalancer_body(self.scheduler.rebalancer))


class MonitorHandler(CookHandler):
    """GET /v1/monitor."""

    async def get(self) -> None:
        """Return the starved, hungry and satisfied users of each pool and quota group."""
        self.send_json(self.scheduler.monitoring.details())


def rebalancer_body(rebalancer: RebalancerParameters) -> dict[str, Any]:
    """Encode the current settings of the rebalancer under the names of `/v1`."""
    settings = rebalancer.settings
    return {
        "enabled": settings.enabled,
        "interval_ms": settings.interval_ms,
        "pool_regex": settings.pool_regex,
        **rebalancer.parameters,
    }
