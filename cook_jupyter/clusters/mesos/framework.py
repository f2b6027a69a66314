"""What a framework tells Mesos about itself, and what it has to remember.

Lives here: `Framework`, and the protocol of the text that it stores.
Not here: where the text is stored (`service`), the subscription (`clusters.mesos.transport.connection`).

The id of a framework is worth as much as all its tasks: whoever subscribes without it is a new framework, and
the tasks of the old one are killed after the failover timeout. So it is stored before anything is launched.
"""

import json
from typing import Protocol

from cook_jupyter.clusters.mesos.messages import AgentId, FrameworkId, JsonObject
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.transport.connection import Subscription


class StoredText(Protocol):
    """A text that outlives the scheduler."""

    async def load(self) -> str | None:
        """Return the text; None if there is none."""

    async def save(self, text: str) -> None:
        """Store the text durably."""


class Framework:
    """The identity of a framework.

    Args:
        options: options of the cluster.
        state: where the id is stored.
        user: user of the hosts as whom executors run that name none.

    Attributes:
        framework_id: its id; None before its first subscription.
        agents: ids of agents by host, as they were stored last.
    """

    def __init__(self, options: MesosOptions, state: StoredText, user: str) -> None:
        self._options = options
        self._state = state
        self._user = user
        self.framework_id: FrameworkId | None = None
        self.agents: dict[str, AgentId] = {}

    async def load(self) -> None:
        """Read what an earlier scheduler has stored."""
        text = await self._state.load()
        if text is not None:
            state = json.loads(text)
            self.framework_id = FrameworkId(state["framework_id"])
            self.agents = {host: AgentId(agent_id) for host, agent_id in state["agents"].items()}

    async def save_id(self, framework_id: FrameworkId) -> None:
        """Store the id that a master has given, if it is new."""
        if framework_id != self.framework_id:
            self.framework_id = framework_id
            await self._save()

    async def save_agents(self, agents: dict[str, AgentId]) -> None:
        """Store the ids of agents, if they have changed: instances are asked about by them."""
        if agents != self.agents:
            self.agents = agents
            await self._save()

    def subscription(self) -> Subscription:
        """Return what to subscribe with."""
        options = self._options
        capabilities = ["PARTITION_AWARE", "MULTI_ROLE", "RESERVATION_REFINEMENT"]
        if options.gpus:
            capabilities.append("GPU_RESOURCES")
        framework: JsonObject = {
            "user": self._user,
            "name": options.framework_name,
            "roles": [options.role],
            "failover_timeout": options.failover_timeout_s,
            "checkpoint": True,
            "capabilities": [{"type": name} for name in capabilities],
        }
        if options.principal:
            framework["principal"] = options.principal
        if self.framework_id is not None:
            framework["id"] = {"value": self.framework_id}
        return Subscription(framework=framework)

    async def _save(self) -> None:
        await self._state.save(json.dumps({"framework_id": self.framework_id, "agents": self.agents}))
