"""The agents of a Mesos cluster by host name: what each has, offers, runs, and is about to offer again.

Lives here: `MesosHost` and `HostTable`.
Not here: launches (`clusters.mesos.launching`), when offers are given back (`clusters.mesos.holding`).

The id of an agent changes when its machine is set up anew, so a host is known by its name.

After an ACCEPT, Mesos takes the rest of the offers back and offers it again a moment later; the same happens
to the resources of a task that has ended. Such *returning* resources count as room: launches on them wait
for the offer. They are given up after a while, as another framework may have got them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cook_jupyter.clusters.mesos.messages import AgentId, JsonObject, Offer, OfferId, Unavailability
from cook_jupyter.clusters.mesos.resources import HeldResources, amounts_of, without_port
from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.model import offer as model
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources

RETURN_S: Final = 2.0  # then resources that have not been offered again are given up
_MILLISECOND_NS: Final = 1_000_000


class Claim(NamedTuple):
    """What a launch will take that waits for resources."""

    resources: Resources
    ports: tuple[int, ...] = ()


class MesosHost:
    """One agent.

    Args:
        name: name of the host.
        agent_id: present id of its agent.
        now_s: returns monotonic time.
    """

    def __init__(self, name: str, agent_id: AgentId, now_s: Callable[[], float]) -> None:
        self.name = name
        self.agent_id = agent_id
        self.url = ""
        self.attributes: dict[str, str] = {"HOSTNAME": name}
        self.total: Resources | None = None  # as the master states it; None if it was not asked
        self.is_connected = True
        self.until_ms: int | None = None  # start of its next maintenance
        self.cool_until_s = 0.0  # monotonic time until which it gets no tasks
        self.waiting: dict[InstanceId, Claim] = {}  # launches that wait for resources to return
        self.offers: dict[OfferId, Offer] = {}  # held
        self.offered_s = 0.0  # monotonic time of the oldest held offer
        self.executor_ids: set[str] = set()  # as the latest offer names them
        self._held = HeldResources()
        self._returning = Resources()
        self._return_deadline_s = 0.0
        self._now_s = now_s
        self._tasks: dict[InstanceId, Resources] = {}
        self._running: Resources | None = Resources()  # their sum; None if it has changed

    # --- tasks --------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> Mapping[InstanceId, Resources]:
        """Our tasks, from their ACCEPT on, with their resources."""
        return self._tasks

    def add_task(self, instance_id: InstanceId, resources: Resources) -> None:
        """Add a task, or change the resources of one."""
        self._tasks[instance_id] = resources
        self._running = None

    def remove_task(self, instance_id: InstanceId) -> Resources | None:
        """Remove a task; return its resources, or None if there is no such task."""
        self._running = None
        return self._tasks.pop(instance_id, None)

    # --- offers -------------------------------------------------------------------------------------------

    def add_offer(self, offer: Offer) -> None:
        """Hold a new offer."""
        if not self.offers:
            self.offered_s = self._now_s()
        self.offers[OfferId(offer.id.value)] = offer
        self.is_connected = True
        self.agent_id = AgentId(offer.agent_id.value)
        self.url = _url_of(offer) or self.url
        self.attributes = {**attributes_of(offer.attributes), "HOSTNAME": self.name}
        self.executor_ids = {one.value for one in offer.executor_ids}
        self.until_ms = None if offer.unavailability is None else start_ms(offer.unavailability)
        self._returning = remaining(self._returning, amounts_of(offer.resources))
        self._sum_up()

    def remove_offer(self, offer_id: OfferId) -> bool:
        """Forget an offer that was rescinded; return whether it was held."""
        if self.offers.pop(offer_id, None) is None:
            return False
        self._sum_up()
        return True

    def peek(self) -> HeldResources:
        """Return the resources of the held offers; what is taken from them is still held here."""
        return HeldResources(one for offer in self.offers.values() for one in offer.resources)

    def take_offers(self) -> list[OfferId]:
        """Return all held offers, and hold none any more."""
        taken = list(self.offers)
        self.offers = {}
        self._held = HeldResources()
        return taken

    def expect_return(self, resources: Resources) -> None:
        """Count on resources that Mesos will offer again in a moment, as far as they are not offered already.

        An end may be told long after it, as to the next scheduler: then the offers have its resources.
        """
        expected = sum_resources((self.returning, resources))
        if self.total is not None:
            accounted_for = sum_resources((self.held, *self.tasks.values()))
            missing = remaining(self.total, accounted_for)
            expected = remaining(expected, remaining(expected, missing))
        self._returning = expected
        self._return_deadline_s = self._now_s() + RETURN_S

    def forget_offers(self) -> None:
        """Forget all offers, as after the end of a subscription."""
        self.take_offers()
        self._returning = Resources()

    def _sum_up(self) -> None:
        self._held = self.peek()

    # --- amounts ------------------------------------------------------------------------------------------

    @property
    def held(self) -> Resources:
        """The resources of the held offers."""
        return self._held.amounts()

    @property
    def returning(self) -> Resources:
        """The resources that Mesos should offer again in a moment."""
        if self._returning != Resources() and self._now_s() >= self._return_deadline_s:
            self._returning = Resources()
        return self._returning

    @property
    def room(self) -> Resources:
        """What can be launched here now: held or returning, and not taken by waiting launches."""
        return remaining(sum_resources((self.held, self.returning)), self._claimed)

    @property
    def running(self) -> Resources:
        """The resources of our tasks, and of launches that wait."""
        if self._running is None:
            self._running = sum_resources(self._tasks.values())
        return sum_resources((self._running, self._claimed)) if self.waiting else self._running

    @property
    def _claimed(self) -> Resources:
        return sum_resources(claim.resources for claim in self.waiting.values())

    @property
    def task_count(self) -> int:
        """The number of our tasks, and of launches that wait."""
        return len(self.tasks) + len(self.waiting)

    def ports(self) -> tuple[tuple[int, int], ...]:
        """Return the free ports of the held offers as closed ranges."""
        spans = self._held.ports()
        for claim in self.waiting.values():
            for port in claim.ports:
                spans = tuple(without_port(spans, port))
        return spans

    @property
    def is_unused(self) -> bool:
        """Whether nothing of ours is here."""
        return not (self.tasks or self.waiting or self.offers)


class HostTable:
    """All known hosts of a cluster.

    Args:
        cluster: name of the cluster in offers.
        pools: pools of hosts without the attribute.
        pool_attribute: name of the attribute with the pool of a host; "" if all hosts serve all pools.
        now_s: returns monotonic time.
    """

    def __init__(
        self,
        cluster: str,
        *,
        pools: Sequence[PoolName],
        pool_attribute: str = "",
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._pools = tuple(pools)
        self._pool_attribute = pool_attribute
        self._now_s = now_s
        self._hosts: dict[str, MesosHost] = {}
        self._names: dict[AgentId, str] = {}  # also of earlier agents of a host

    def __iter__(self) -> Iterator[MesosHost]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    def get(self, name: str) -> MesosHost | None:
        """Return a host by its name."""
        return self._hosts.get(name)

    def of_agent(self, agent_id: str) -> MesosHost | None:
        """Return the host of an agent, also of one whose machine has another id now."""
        return self._hosts.get(self._names.get(AgentId(agent_id), ""))

    def of_offer(self, offer_id: OfferId) -> MesosHost | None:
        """Return the host whose offer is held."""
        return next((host for host in self if offer_id in host.offers), None)

    def see(self, name: str, agent_id: AgentId) -> MesosHost:
        """Return a host, which is added if it is new."""
        self._names[agent_id] = name
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = MesosHost(name, agent_id, self._now_s)
        return host

    def add_offer(self, offer: Offer) -> MesosHost:
        """Hold an offer; return its host."""
        host = self.see(offer.hostname, AgentId(offer.agent_id.value))
        host.add_offer(offer)
        return host

    def agent_ids(self) -> dict[str, AgentId]:
        """Return the ids of agents by host."""
        return {host.name: host.agent_id for host in self}

    def forget_offers(self) -> None:
        """Forget all offers, as after the end of a subscription."""
        for host in self:
            host.forget_offers()

    def update_agents(self, agents: Iterable[JsonObject]) -> None:
        """Take in the answer to GET_AGENTS: totals, attributes and addresses of all agents."""
        seen = set()
        for agent in agents:
            info = agent["agent_info"]
            host = self.see(info["hostname"], AgentId(info["id"]["value"]))
            seen.add(host.name)
            host.is_connected = agent.get("active", True)
            host.total = amounts_of(agent.get("total_resources", info.get("resources", ())))
            host.attributes = {**attributes_of(info.get("attributes", ())), "HOSTNAME": host.name}
            address = str(agent.get("pid", "")).partition("@")[2]
            if address and not host.url:
                host.url = f"http://{address}"
        for host in list(self):
            if host.name not in seen:
                host.is_connected = False
                if host.is_unused:
                    del self._hosts[host.name]

    # --- as the scheduler sees them -----------------------------------------------------------------------

    def offers(self) -> list[model.Offer]:
        """Return the room of each connected host, once for each of its pools."""
        return [
            self._offer(
                host, pool, host.room, host.running, host.ports(), len(host.tasks) + len(host.waiting)
            )
            for host in self
            if host.is_connected and self._now_s() >= host.cool_until_s
            for pool in self.pools_of(host)
        ]

    def capacity(self) -> list[model.Offer]:
        """Return an offer of each host as if it were empty."""
        return [
            self._offer(host, pool, self._total_of(host), Resources(), host.ports(), 0)
            for host in self
            if host.is_connected
            for pool in self.pools_of(host)
        ]

    def pools_of(self, host: MesosHost) -> tuple[PoolName, ...]:
        """Return the pools that a host serves."""
        if self._pool_attribute and (pool := host.attributes.get(self._pool_attribute)) is not None:
            return (PoolName(pool),)
        return self._pools

    @staticmethod
    def _total_of(host: MesosHost) -> Resources:
        if host.total is not None:
            return host.total
        return sum_resources((host.held, host.returning, *host.tasks.values()))

    def _offer(
        self,
        host: MesosHost,
        pool: PoolName,
        room: Resources,
        running: Resources,
        ports: tuple[tuple[int, int], ...],
        task_count: int,
    ) -> model.Offer:
        return model.Offer(
            host=host.name,
            cluster=self._cluster,
            pool=pool,
            room=room,
            running=running,
            attributes=host.attributes,
            ports=ports,
            task_count=task_count,
            until_ms=host.until_ms,
        )


def attributes_of(attributes: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return attributes of Mesos as texts: numbers without a needless fraction, ranges as `1-5,7-9`."""
    return {str(one["name"]): _text_of(one) for one in attributes}


def _text_of(attribute: Mapping[str, object]) -> str:
    match attribute:
        case {"text": {"value": str(text)}}:
            return text
        case {"scalar": {"value": int(number) | float(number)}}:
            return f"{number:g}"
        case {"ranges": {"range": list(spans)}}:
            return ",".join(f"{span['begin']}-{span['end']}" for span in spans)
        case {"set": {"item": list(items)}}:
            return ",".join(items)
    return ""


def start_ms(unavailability: Unavailability) -> int:
    """Return when a maintenance begins, in epoch milliseconds."""
    return unavailability.start.nanoseconds // _MILLISECOND_NS


def _url_of(offer: Offer) -> str:
    address = offer.url.address
    name = address.hostname or address.ip
    return f"{offer.url.scheme}://{name}:{address.port}" if name and address.port else ""
