"""A Mesos master with its agents in memory, without I/O: calls in, events out.

Lives here: `FakeCluster`, which does what a real 1.11.0 was seen to do: offers and filters, tasks, one
outstanding update per task, reconciliation, kills, unreachable agents, failover and removal of frameworks.
Not here: HTTP and its faults (`fake_master`).

Commands are played: `true`, `exit N` and `sleep N`. A test that plays another executor sets `on_launch`.
"""

import asyncio
import base64
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

JsonObject = dict[str, Any]
Sink = Callable[[JsonObject], None]

TERMINAL = frozenset(
    {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_DROPPED", "TASK_GONE", "TASK_LOST"}
)


class FakeTask:
    """A task on an agent."""

    def __init__(
        self, cluster: "FakeCluster", framework: "FakeFramework", info: JsonObject, role: str
    ) -> None:
        self.cluster = cluster
        self.framework = framework
        self.info = info
        self.role = role
        self.id: str = info["task_id"]["value"]
        self.agent = cluster.agents[info["agent_id"]["value"]]
        self.amounts = amounts(info.get("resources", []))
        self.state = "TASK_STAGING"
        self.unacknowledged: deque[JsonObject] = deque()
        self.timers: list[asyncio.TimerHandle] = []
        self._resend: asyncio.TimerHandle | None = None

    def report(self, state: str, *, message: str = "", reason: str = "", data: bytes = b"") -> None:
        """Send an update of the executor, once those before it are acknowledged."""
        if self.state in TERMINAL:
            return
        self.state = state
        status: JsonObject = {
            "task_id": {"value": self.id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "agent_id": {"value": self.agent.id},
            "executor_id": {
                "value": self.info.get("executor", {}).get("executor_id", {}).get("value", self.id)
            },
            "timestamp": time.time(),
            "uuid": base64.b64encode(os.urandom(16)).decode(),
        }
        if message:
            status["message"] = message
        if reason:
            status["reason"] = reason
        if data:
            status["data"] = base64.b64encode(data).decode()
        self.unacknowledged.append(status)
        if state in TERMINAL:
            self.stop_timers()
            self.cluster.allocate_soon()
        if len(self.unacknowledged) == 1:
            self.send_update(self.cluster.resend_s)

    def send_update(self, resend_s: float) -> None:
        """Send the oldest update that is not acknowledged, and again after a while."""
        if self._resend is not None:
            self._resend.cancel()
        if not self.unacknowledged:
            return
        if self.agent.is_reachable:
            self.framework.send({"type": "UPDATE", "update": {"status": self.unacknowledged[0]}})
        self._resend = self.cluster.loop.call_later(resend_s, self.send_update, 2 * resend_s)

    def acknowledge(self, uuid: str) -> None:
        """Drop an update, and send the next."""
        if self.unacknowledged and self.unacknowledged[0]["uuid"] == uuid:
            self.unacknowledged.popleft()
            self.send_update(self.cluster.resend_s)

    @property
    def reported_state(self) -> str:
        """The state that the master tells when it is asked."""
        if not self.agent.is_reachable and self.state not in TERMINAL:
            return "TASK_UNREACHABLE"
        return self.unacknowledged[0]["state"] if self.unacknowledged else self.state

    def stop_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()


class FakeAgent:
    """An agent."""

    def __init__(
        self, agent_id: str, hostname: str, total: dict[str, float], attributes: list[JsonObject]
    ) -> None:
        self.id = agent_id
        self.hostname = hostname
        self.total = total
        self.attributes = attributes
        self.is_reachable = True


class FakeFramework:
    """A framework."""

    def __init__(self, framework_id: str, info: JsonObject) -> None:
        self.id = framework_id
        self.info = info
        self.sink: Sink | None = None
        self.stream_id = ""
        self.tasks: dict[str, FakeTask] = {}
        self.offers: dict[str, tuple[FakeAgent, dict[str, float]]] = {}
        self.refused_until: dict[str, float] = {}
        self.is_suppressed = False
        self.is_removed = False
        self.end_timer: asyncio.TimerHandle | None = None

    @property
    def is_partition_aware(self) -> bool:
        return {"type": "PARTITION_AWARE"} in self.info.get("capabilities", [])

    @property
    def role(self) -> str:
        return (self.info.get("roles") or ["*"])[0]

    def send(self, event: JsonObject) -> None:
        """Send an event if the framework is connected; it is lost otherwise."""
        if self.sink is not None:
            self.sink(event)

    def update(self, task_id: str, state: str, reason: str, message: str, agent_id: str | None) -> None:
        """Send an update that the master has made: it has no uuid and is not sent again."""
        if (
            state in ("TASK_DROPPED", "TASK_GONE", "TASK_UNKNOWN", "TASK_UNREACHABLE")
            and not self.is_partition_aware
        ):
            state = "TASK_LOST"
        status: JsonObject = {
            "task_id": {"value": task_id},
            "state": state,
            "source": "SOURCE_MASTER",
            "reason": reason,
            "message": message,
            "timestamp": time.time(),
        }
        if agent_id is not None:
            status["agent_id"] = {"value": agent_id}
        self.send({"type": "UPDATE", "update": {"status": status}})


class Refused(Exception):
    """A call that is answered with a status other than 202."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class FakeCluster:
    """A master and its agents.

    Args:
        agents: number of agents; their host names are 127.0.1.1 and so on.
        cpus, mem: resources of each.
        attributes: attributes of the agents, in turn.
        resend_s: seconds after which an update is first sent again; 10 in Mesos.
        heartbeat_s: interval of heartbeats; 15 in Mesos.
    """

    def __init__(
        self,
        *,
        agents: int = 2,
        cpus: float = 4.0,
        mem: float = 4096.0,
        attributes: Sequence[list[JsonObject]] = (),
        resend_s: float = 10.0,
        heartbeat_s: float = 15.0,
        allocation_s: float = 0.01,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.resend_s = resend_s
        self.heartbeat_s = heartbeat_s
        self.allocation_s = allocation_s
        self.id = "fake-" + os.urandom(4).hex()
        self.agents: dict[str, FakeAgent] = {}
        for number in range(agents):
            agent = FakeAgent(
                f"{self.id}-S{number}",
                f"127.0.1.{number + 1}",
                {"cpus": cpus, "mem": mem, "disk": 10240.0},
                attributes[number % len(attributes)] if attributes else [],
            )
            self.agents[agent.id] = agent
        self.frameworks: dict[str, FakeFramework] = {}
        self.on_launch: Callable[[FakeTask], None] = play_command
        self.on_kill: Callable[[FakeTask], None] = play_kill
        self.messages: list[JsonObject] = []
        self._numbers = itertools.count()
        self._allocation: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Stop everything."""
        for framework in self.frameworks.values():
            framework.sink = None
            if framework.end_timer is not None:
                framework.end_timer.cancel()
            for task in framework.tasks.values():
                task.stop_timers()
                task.unacknowledged.clear()
                task.send_update(0)
        if self._allocation is not None:
            self._allocation.cancel()

    # Subscriptions

    def subscribe(self, call: JsonObject, stream_id: str, sink: Sink) -> FakeFramework | None:
        """Subscribe a framework; return None after an ERROR, which ends the stream.

        Raises:
            Refused: the call is not as it must be.
        """
        body = call.get("subscribe")
        if body is None:
            raise Refused(400, "Failed to validate scheduler::Call: Expecting 'subscribe' to be present")
        info = body["framework_info"]
        if "name" not in info or "user" not in info:
            raise Refused(400, "Failed to convert JSON into Call protobuf: Missing required fields")
        if any(role.startswith("-") for role in info.get("roles", ())):
            sink({"type": "ERROR", "error": {"message": "'FrameworkInfo.roles' contains invalid role"}})
            return None
        framework_id = info.get("id", {}).get("value") or f"{self.id}-{next(self._numbers):04}"
        framework = self.frameworks.get(framework_id)
        if framework is not None and framework.is_removed:
            sink({"type": "ERROR", "error": {"message": "Framework has been removed"}})
            return None
        if framework is None:
            framework = self.frameworks[framework_id] = FakeFramework(framework_id, info)
        elif framework.sink is not None:
            framework.send({"type": "ERROR", "error": {"message": "Framework failed over"}})
        if framework.end_timer is not None:
            framework.end_timer.cancel()
        framework.info = info
        framework.sink = sink
        framework.stream_id = stream_id
        framework.offers.clear()
        framework.refused_until.clear()
        framework.is_suppressed = framework.role in body.get("suppressed_roles", ())
        framework.send(
            {
                "type": "SUBSCRIBED",
                "subscribed": {
                    "framework_id": {"value": framework_id},
                    "heartbeat_interval_seconds": self.heartbeat_s,
                    "master_info": {"id": self.id, "hostname": "127.0.0.1", "port": 0, "version": "1.11.0"},
                },
            }
        )
        for task in list(framework.tasks.values()):
            task.send_update(self.resend_s)
        self.allocate_soon()
        return framework

    def disconnect(self, framework: FakeFramework, sink: Sink) -> None:
        """Note that the stream of a framework has ended."""
        if framework.sink is not sink:
            return
        framework.sink = None
        framework.offers.clear()
        if not framework.is_removed:
            timeout_s = framework.info.get("failover_timeout", 0.0)
            framework.end_timer = self.loop.call_later(timeout_s, self.remove, framework)
        self.allocate_soon()

    def remove(self, framework: FakeFramework) -> None:
        """Remove a framework for good, with all its tasks."""
        framework.is_removed = True
        framework.sink = None
        framework.offers.clear()
        for task in framework.tasks.values():
            task.stop_timers()
            task.unacknowledged.clear()
            task.send_update(0)
        framework.tasks.clear()
        self.allocate_soon()

    # Calls

    def call(self, call: JsonObject, stream_id: str | None) -> None:
        """Carry out a call other than SUBSCRIBE.

        Raises:
            Refused: it is answered with another status than 202.
        """
        kind = call.get("type", "")
        handler = getattr(self, f"_on_{kind.lower()}", None)
        if handler is None:
            raise Refused(400, "Failed to validate scheduler::Call: Expecting 'type' to be present")
        if kind not in ("REVIVE", "SUPPRESS", "TEARDOWN") and kind.lower() not in call:
            raise Refused(
                400, f"Failed to validate scheduler::Call: Expecting '{kind.lower()}' to be present"
            )
        framework = self.frameworks.get(call.get("framework_id", {}).get("value", ""))
        if framework is None or framework.is_removed:
            raise Refused(400, "Framework cannot be found")
        if framework.sink is None:
            raise Refused(403, "Framework is not subscribed")
        if stream_id is None:
            raise Refused(400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header")
        if stream_id != framework.stream_id:
            raise Refused(
                400,
                f"The stream ID '{stream_id}' included in this request didn't match the stream ID currently "
                f"associated with framework ID {framework.id}",
            )
        handler(framework, call.get(kind.lower(), {}))

    def _on_teardown(self, framework: FakeFramework, _: JsonObject) -> None:
        sink = framework.sink
        self.remove(framework)
        if sink is not None:
            sink({"type": "END"})

    def _on_accept(self, framework: FakeFramework, body: JsonObject) -> None:
        offers = [(one["value"], framework.offers.pop(one["value"], None)) for one in body["offer_ids"]]
        tasks = [
            info
            for operation in body.get("operations", ())
            if operation["type"] == "LAUNCH"
            for info in operation["launch"]["task_infos"]
        ]
        dead = [offer_id for offer_id, offer in offers if offer is None]
        free: dict[str, float] = {}
        for _, offer in offers:
            if offer is not None:
                for name, amount in offer[1].items():
                    free[name] = free.get(name, 0.0) + amount
        for info in tasks:
            task_id, agent_id = info["task_id"]["value"], info["agent_id"]["value"]
            if dead:
                message = f"Task launched with invalid offers: Offer {dead[0]} is no longer valid"
                framework.update(task_id, "TASK_DROPPED", "REASON_INVALID_OFFERS", message, agent_id)
                continue
            if task_id in framework.tasks and framework.tasks[task_id].state not in TERMINAL:
                message = f"Task has duplicate ID: {task_id}"
                framework.update(task_id, "TASK_ERROR", "REASON_TASK_INVALID", message, agent_id)
                continue
            task = FakeTask(self, framework, info, framework.role)
            if any(amount > free.get(name, 0.0) + 1e-9 for name, amount in task.amounts.items()):
                message = "Task uses more resources than available"
                framework.update(task_id, "TASK_ERROR", "REASON_TASK_INVALID", message, agent_id)
                continue
            for name, amount in task.amounts.items():
                free[name] -= amount
            framework.tasks[task_id] = task
            self.on_launch(task)
        self._refuse(framework, [offer for _, offer in offers if offer is not None], body)

    def _on_decline(self, framework: FakeFramework, body: JsonObject) -> None:
        offers = [framework.offers.pop(one["value"], None) for one in body["offer_ids"]]
        self._refuse(framework, [offer for offer in offers if offer is not None], body)

    def _refuse(
        self, framework: FakeFramework, offers: Sequence[tuple[FakeAgent, dict[str, float]]], body: JsonObject
    ) -> None:
        refuse_s = float(body.get("filters", {}).get("refuse_seconds", 5.0))
        for agent, _ in offers:
            framework.refused_until[agent.id] = self.loop.time() + refuse_s
        self.allocate_soon()
        if refuse_s:
            self.loop.call_later(refuse_s, self.allocate_soon)

    def _on_revive(self, framework: FakeFramework, _: JsonObject) -> None:
        framework.is_suppressed = False
        framework.refused_until.clear()
        self.allocate_soon()

    def _on_suppress(self, framework: FakeFramework, _: JsonObject) -> None:
        framework.is_suppressed = True

    def _on_accept_inverse_offers(self, framework: FakeFramework, body: JsonObject) -> None:
        pass

    def _on_kill(self, framework: FakeFramework, body: JsonObject) -> None:
        task_id = body["task_id"]["value"]
        task = framework.tasks.get(task_id)
        if task is None or (task.state in TERMINAL and not task.unacknowledged):
            self._reconcile(framework, task_id, body.get("agent_id", {}).get("value"))
        elif not task.agent.is_reachable:
            message = "Reconciliation: Task is unreachable"
            framework.update(task_id, "TASK_UNREACHABLE", "REASON_RECONCILIATION", message, task.agent.id)
        else:
            self.on_kill(task)

    def _on_acknowledge(self, framework: FakeFramework, body: JsonObject) -> None:
        task = framework.tasks.get(body["task_id"]["value"])
        if task is not None:
            task.acknowledge(body["uuid"])
            if task.state in TERMINAL and not task.unacknowledged:
                del framework.tasks[task.id]

    def _on_reconcile(self, framework: FakeFramework, body: JsonObject) -> None:
        for entry in body.get("tasks", ()):
            self._reconcile(framework, entry["task_id"]["value"], entry.get("agent_id", {}).get("value"))
        if not body.get("tasks"):
            for task_id, task in list(framework.tasks.items()):
                self._reconcile(framework, task_id, task.agent.id)

    def _reconcile(self, framework: FakeFramework, task_id: str, agent_id: str | None) -> None:
        task = framework.tasks.get(task_id)
        reason = "REASON_RECONCILIATION"
        if task is not None:
            message = "Reconciliation: Latest task state"
            framework.update(task_id, task.reported_state, reason, message, task.agent.id)
        elif agent_id in self.agents:
            message = "Reconciliation: Task is unknown to the agent"
            framework.update(task_id, "TASK_GONE", reason, message, agent_id)
        else:
            framework.update(task_id, "TASK_UNKNOWN", reason, "Reconciliation: Task is unknown", agent_id)

    def _on_message(self, framework: FakeFramework, body: JsonObject) -> None:
        self.messages.append({"framework_id": framework.id, **body})

    def _on_shutdown(self, framework: FakeFramework, body: JsonObject) -> None:
        executor_id = body["executor_id"]["value"]
        for task in list(framework.tasks.values()):
            if task.info.get("executor", {}).get("executor_id", {}).get("value", task.id) == executor_id:
                task.report("TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED", message="Executor terminated")

    # What tests do

    def lose_agent(self, agent_id: str) -> None:
        """Make an agent unreachable; its tasks go on."""
        agent = self.agents[agent_id]
        agent.is_reachable = False
        for framework in self.frameworks.values():
            for task in list(framework.tasks.values()):
                if task.agent is agent and task.state not in TERMINAL:
                    message = f"Agent {agent.hostname} is unreachable"
                    framework.update(task.id, "TASK_UNREACHABLE", "REASON_SLAVE_REMOVED", message, agent_id)
            for offer_id, (offered, _) in list(framework.offers.items()):
                if offered is agent:
                    del framework.offers[offer_id]
                    framework.send({"type": "RESCIND", "rescind": {"offer_id": {"value": offer_id}}})
            framework.send({"type": "FAILURE", "failure": {"agent_id": {"value": agent_id}}})

    def return_agent(self, agent_id: str) -> None:
        """Make an agent reachable again."""
        agent = self.agents[agent_id]
        agent.is_reachable = True
        for framework in self.frameworks.values():
            for task in list(framework.tasks.values()):
                if task.agent is agent:
                    if task.state not in TERMINAL:
                        message = "Agent re-registered"
                        framework.update(task.id, task.state, "REASON_AGENT_REREGISTERED", message, agent_id)
                    task.send_update(self.resend_s)
        self.allocate_soon()

    def rescind_offers(self) -> None:
        """Take all offers back."""
        for framework in self.frameworks.values():
            for offer_id in list(framework.offers):
                del framework.offers[offer_id]
                framework.send({"type": "RESCIND", "rescind": {"offer_id": {"value": offer_id}}})

    def get_agents(self) -> JsonObject:
        """Return the answer to GET_AGENTS."""
        return {
            "type": "GET_AGENTS",
            "get_agents": {
                "agents": [
                    {
                        "agent_info": {
                            "id": {"value": agent.id},
                            "hostname": agent.hostname,
                            "port": 5051,
                            "attributes": agent.attributes,
                        },
                        "active": True,
                        "deactivated": False,
                        "version": "1.11.0",
                        "pid": f"slave(1)@{agent.hostname}:5051",
                        "total_resources": resources(agent.total),
                    }
                    for agent in self.agents.values()
                    if agent.is_reachable
                ]
            },
        }

    # Offers

    def allocate_soon(self) -> None:
        """Offer what is free, in a moment."""
        if self._allocation is None:
            self._allocation = self.loop.call_later(self.allocation_s, self._allocate)

    def free(self, agent: FakeAgent) -> dict[str, float]:
        """Return what nobody holds of an agent."""
        left = dict(agent.total)
        for framework in self.frameworks.values():
            held = [
                task.amounts
                for task in framework.tasks.values()
                if task.agent is agent and task.state not in TERMINAL
            ]
            held += [amount for offered, amount in framework.offers.values() if offered is agent]
            for amounts_held in held:
                for name, amount in amounts_held.items():
                    left[name] = round(left.get(name, 0.0) - amount, 3)
        return {name: amount for name, amount in left.items() if amount > 0}

    def _allocate(self) -> None:
        self._allocation = None
        now = self.loop.time()
        offers: dict[str, list[JsonObject]] = {}
        for agent in self.agents.values():
            free = self.free(agent)
            if not agent.is_reachable or not free:
                continue
            for framework in sorted(self.frameworks.values(), key=lambda one: len(one.offers)):
                if (
                    framework.sink is None
                    or framework.is_suppressed
                    or framework.refused_until.get(agent.id, 0.0) > now
                ):
                    continue
                offer_id = f"{self.id}-O{next(self._numbers)}"
                framework.offers[offer_id] = (agent, free)
                offers.setdefault(framework.id, []).append(offer(offer_id, agent, free, framework.role))
                break
        for framework_id, batch in offers.items():
            self.frameworks[framework_id].send({"type": "OFFERS", "offers": {"offers": batch}})


def amounts(resource_objects: Sequence[JsonObject]) -> dict[str, float]:
    """Return the sums of scalar resources."""
    total: dict[str, float] = {}
    for one in resource_objects:
        if one["type"] == "SCALAR":
            total[one["name"]] = total.get(one["name"], 0.0) + one["scalar"]["value"]
    return total


def resources(scalars: dict[str, float], role: str | None = None) -> list[JsonObject]:
    """Return resource objects."""
    allocated = {} if role is None else {"allocation_info": {"role": role}}
    return [
        {"name": name, "type": "SCALAR", "scalar": {"value": amount}, "role": "*", **allocated}
        for name, amount in scalars.items()
    ]


def offer(offer_id: str, agent: FakeAgent, free: dict[str, float], role: str) -> JsonObject:
    """Return an offer as JSON."""
    return {
        "id": {"value": offer_id},
        "framework_id": {"value": "f"},
        "agent_id": {"value": agent.id},
        "hostname": agent.hostname,
        "url": {
            "scheme": "http",
            "address": {"hostname": agent.hostname, "ip": agent.hostname, "port": 5051},
            "path": "/slave(1)",
        },
        "allocation_info": {"role": role},
        "attributes": agent.attributes,
        "resources": resources(free, role),
    }


def play_command(task: FakeTask) -> None:
    """Run the command of a task, if it is one of few."""
    task.report("TASK_STARTING")
    task.report("TASK_RUNNING")
    match task.info.get("command", {}).get("value", "").split():
        case ["true"]:
            task.report("TASK_FINISHED", message="Command exited with status 0")
        case ["exit", code]:
            task.report("TASK_FAILED", message=f"Command exited with status {code}")
        case ["sleep", seconds]:
            end = task.cluster.loop.call_later(float(seconds), task.report, "TASK_FINISHED")
            task.timers.append(end)
        case other:
            raise AssertionError(f"the fake cluster does not know the command {other}")


def play_kill(task: FakeTask) -> None:
    """End a task that is killed."""
    task.report("TASK_KILLED", message="Command terminated with signal Terminated")
