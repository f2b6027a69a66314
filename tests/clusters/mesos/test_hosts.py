"""Hosts: what they offer, and what is about to come back."""

import pytest

from cook_jupyter.clusters.mesos.hosts import RETURN_S, Claim, HostTable, attributes_of
from cook_jupyter.clusters.mesos.messages import AgentId, OfferId, TimeInfo, Unavailability
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from tests.clusters.mesos.builders import an_offer, ports, scalar

WHOLE = Resources(cpus=4.0, mem_mb=4096.0)


class Clock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts(clock: Clock) -> HostTable:
    pools = (PoolName("default"), PoolName("other"))
    return HostTable("mesos", pools=pools, pool_attribute="cook-pool", now_s=clock)


def test_offers_of_one_host_add_up_and_serve_each_of_its_pools(hosts: HostTable) -> None:
    hosts.add_offer(an_offer("o1"))
    hosts.add_offer(an_offer("o2", scalar("cpus", 0.5)))

    assert [(offer.pool, offer.room) for offer in hosts.offers()] == [
        ("default", Resources(cpus=4.5, mem_mb=4096.0)),
        ("other", Resources(cpus=4.5, mem_mb=4096.0)),
    ]


@pytest.mark.parametrize(("running", "returning"), [(0.0, 1.0), (0.4, 0.6), (3.0, 0.0)])
def test_what_is_offered_already_is_not_expected_again(
    hosts: HostTable, running: float, returning: float
) -> None:
    host = hosts.add_offer(an_offer("o1", scalar("cpus", 3.0), scalar("mem", 4096.0)))
    host.total = WHOLE
    host.add_task(InstanceId("i1"), Resources(cpus=running))

    host.expect_return(Resources(cpus=1.5, mem_mb=100.0))

    assert host.returning == Resources(cpus=returning)
    assert host.room == Resources(cpus=3.0 + returning, mem_mb=4096.0)


def test_a_host_with_a_pool_serves_that_pool_only(hosts: HostTable) -> None:
    pool = {"name": "cook-pool", "type": "TEXT", "text": {"value": "gpu"}}

    hosts.add_offer(an_offer(attributes=(pool,)))

    assert [offer.pool for offer in hosts.offers()] == ["gpu"]
    assert hosts.offers()[0].attributes == {"HOSTNAME": "h1", "cook-pool": "gpu"}


def test_attributes_are_texts() -> None:
    attributes = [
        {"name": "rack", "type": "TEXT", "text": {"value": "a"}},
        {"name": "level", "type": "SCALAR", "scalar": {"value": 2.0}},
        {"name": "share", "type": "SCALAR", "scalar": {"value": 0.25}},
        {"name": "slots", "type": "RANGES", "ranges": {"range": [{"begin": 1, "end": 5}]}},
    ]

    assert attributes_of(attributes) == {"rack": "a", "level": "2", "share": "0.25", "slots": "1-5"}


def test_a_rescinded_offer_is_gone(hosts: HostTable) -> None:
    host = hosts.add_offer(an_offer("o1"))

    assert hosts.of_offer(OfferId("o1")) is host
    assert host.remove_offer(OfferId("o1"))
    assert not host.remove_offer(OfferId("o1"))
    assert host.room == Resources()


def test_the_rest_of_a_used_offer_counts_as_room_until_it_is_offered_again(hosts: HostTable) -> None:
    host = hosts.add_offer(an_offer("o1"))
    rest = Resources(cpus=3.0, mem_mb=4096.0)
    assert host.take_offers() == ["o1"]
    host.expect_return(rest)
    assert host.room == rest

    host.add_offer(an_offer("o2", scalar("cpus", 3.0), scalar("mem", 4096.0)))

    assert host.room == rest


def test_what_does_not_come_back_is_given_up(hosts: HostTable, clock: Clock) -> None:
    host = hosts.add_offer(an_offer("o1"))
    host.take_offers()
    host.expect_return(WHOLE)

    clock.now_s += RETURN_S

    assert host.room == Resources()


def test_waiting_launches_hold_room_and_ports(hosts: HostTable) -> None:
    host = hosts.add_offer(an_offer("o1", scalar("cpus", 4.0), ports((31000, 31002))))

    host.waiting[InstanceId("i1")] = Claim(Resources(cpus=1.0), (31001,))
    host.add_task(InstanceId("i0"), Resources(cpus=2.0))

    [offer, _] = hosts.offers()
    assert offer.room == Resources(cpus=3.0)
    assert offer.running == Resources(cpus=3.0)
    assert offer.ports == ((31000, 31000), (31002, 31002))
    assert offer.task_count == 2


def test_maintenance_limits_the_time_of_an_offer(hosts: HostTable) -> None:
    hosts.add_offer(an_offer(unavailability=Unavailability(start=TimeInfo(nanoseconds=5_000_000_000))))
    assert hosts.offers()[0].until_ms == 5000

    hosts.add_offer(an_offer("o2"))
    assert hosts.offers()[0].until_ms is None


def agent(host: str, agent_id: str, cpus: float, *, active: bool = True) -> dict[str, object]:
    info = {"hostname": host, "id": {"value": agent_id}}
    return {
        "agent_info": info,
        "active": active,
        "pid": f"slave(1)@{host}:5051",
        "total_resources": [scalar("cpus", cpus)],
    }


def test_the_master_tells_totals_addresses_and_which_agents_are_gone(hosts: HostTable) -> None:
    hosts.update_agents([agent("h1", "a1", 8.0), agent("h2", "a2", 4.0, active=False)])

    assert {(offer.host, offer.room.cpus) for offer in hosts.capacity()} == {("h1", 8.0)}
    host = hosts.get("h1")
    assert host is not None
    assert host.url == "http://h1:5051"

    hosts.update_agents([agent("h1", "a1", 8.0)])
    assert hosts.get("h2") is None


def test_a_host_that_is_gone_is_kept_while_something_of_ours_is_there(hosts: HostTable) -> None:
    host = hosts.add_offer(an_offer())
    host.forget_offers()
    host.add_task(InstanceId("i1"), Resources(cpus=1.0))

    hosts.update_agents([])

    assert hosts.get("h1") is host
    assert hosts.offers() == []


def test_a_machine_that_was_set_up_anew_is_the_same_host(hosts: HostTable) -> None:
    host = hosts.add_offer(an_offer("o1", agent="a1"))
    hosts.add_offer(an_offer("o2", agent="a2"))

    assert len(hosts) == 1
    assert host.agent_id == "a2"
    assert hosts.of_agent("a1") is hosts.of_agent("a2") is host
    assert hosts.agent_ids() == {"h1": AgentId("a2")}
