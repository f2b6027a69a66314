"""Questions to the operator API of the master: agents, other frameworks, tasks.

Lives here: `AgentQueries`. Not here: what is done with the answers (`clusters.mesos.hosts`,
`clusters.mesos.holding`).

A framework may lack the permission. Then totals of hosts are what was offered, and other frameworks are
assumed to exist.
"""

import asyncio
import logging
from typing import Final

from cook_jupyter.clusters.mesos.holding import OfferHolding
from cook_jupyter.clusters.mesos.hosts import HostTable
from cook_jupyter.clusters.mesos.instances import InstanceTable
from cook_jupyter.clusters.mesos.messages import FrameworkId
from cook_jupyter.clusters.mesos.resources import amounts_of
from cook_jupyter.clusters.mesos.transport.connection import CallFailed, SchedulerConnection
from cook_jupyter.model.instance import InstanceId

log = logging.getLogger(__name__)

_GATHER_S: Final = 0.1  # questions about tasks within that time are one


class AgentQueries:
    """The questions of one framework.

    Args:
        connection: connection to the master.
        hosts: the hosts to update.
        holding: the offer policy to update.
        instances: the open instances to update.
    """

    def __init__(
        self,
        connection: SchedulerConnection,
        hosts: HostTable,
        holding: OfferHolding,
        instances: InstanceTable,
    ) -> None:
        self._connection = connection
        self._hosts = hosts
        self._holding = holding
        self._instances = instances
        self._learning: asyncio.Task[None] | None = None

    async def refresh(self, framework_id: FrameworkId | None) -> None:
        """Ask for all agents, and whether other frameworks use them."""
        try:
            agents = await self._connection.query({"type": "GET_AGENTS"})
            self._hosts.update_agents(agents["get_agents"].get("agents", ()))
        except CallFailed as error:
            log.info("the Mesos master does not tell about its agents: %s", error)
        try:
            answer = await self._connection.query({"type": "GET_FRAMEWORKS"})
        except CallFailed as error:
            self._holding.is_alone = False
            log.info("the Mesos master does not tell about its frameworks: %s", error)
            return
        frameworks = answer["get_frameworks"].get("frameworks", ())
        self._holding.is_alone = not any(
            one.get("active") and one["framework_info"]["id"]["value"] != framework_id for one in frameworks
        )

    def learn_tasks_soon(self) -> None:
        """Ask for the resources of running instances that this scheduler has not launched."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn_tasks())

    async def close(self) -> None:
        """Stop asking."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)

    async def _learn_tasks(self) -> None:
        await asyncio.sleep(_GATHER_S)
        try:
            answer = await self._connection.query({"type": "GET_TASKS"})
        except CallFailed as error:
            log.info("the Mesos master does not tell about its tasks: %s", error)
            return
        for task in answer["get_tasks"].get("tasks", ()):
            instance_id = InstanceId(task["task_id"]["value"])
            instance = self._instances.get(instance_id)
            host = None if instance is None else self._hosts.of_agent(task["agent_id"]["value"])
            if instance is not None and host is not None:
                instance.host = host.name
                host.add_task(instance_id, amounts_of(task.get("resources", ())))
