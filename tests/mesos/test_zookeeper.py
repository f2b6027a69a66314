"""The leader is found through a real ZooKeeper; the masters are fake ones."""

import json
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from cook_jupyter.clusters.mesos.transport.http_connection import HttpSchedulerConnection
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress, leader_detector
from tests.clusters.mesos.fake_master import FakeMaster
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.implementations import QUICK
from tests.mesos.zookeeper import LocalZooKeeper, install_zookeeper
from tests.waiting import wait_until_async

kazoo_client = pytest.importorskip("kazoo.client", reason="kazoo is not installed")
kazoo_security = pytest.importorskip("kazoo.security")

PATHS = (f"/mesos-{number}" for number in count())


@pytest.fixture(scope="module")
def zookeeper() -> Iterator[LocalZooKeeper]:
    install_zookeeper()
    with LocalZooKeeper() as zookeeper:
        yield zookeeper


class Election:
    """What masters write into ZooKeeper, below a path of its own."""

    def __init__(self, zookeeper: LocalZooKeeper, acl: list[object] | None = None) -> None:
        self.path = next(PATHS)
        self.url = f"zk://{zookeeper.hosts}{self.path}"
        self.client = kazoo_client.KazooClient(
            hosts=zookeeper.hosts, timeout=30, connection_retry={"max_tries": -1, "max_delay": 0.2}
        )
        self.client.start()
        self._acl = acl

    def join(self, address: MasterAddress, hostname: str = "localhost") -> str:
        """Add a master; return its node. The one that joined first leads."""
        data = {
            "address": {"hostname": hostname, "ip": address.host, "port": address.port},
            "hostname": hostname,
            "id": "6a7f",
            "ip": 16777343,
            "pid": f"master@{address}",
            "port": address.port,
            "version": "1.11.0",
        }
        return self.add("json.info_", json.dumps(data).encode())

    def add(self, prefix: str, data: bytes = b"") -> str:
        node: str = self.client.create(
            f"{self.path}/{prefix}", data, acl=self._acl, sequence=True, makepath=True
        )
        return node

    def leave(self, node: str) -> None:
        self.client.delete(node)

    def close(self) -> None:
        self.client.stop()
        self.client.close()


@pytest.fixture
def election(zookeeper: LocalZooKeeper) -> Iterator[Election]:
    election = Election(zookeeper)
    yield election
    election.close()


@pytest.fixture
async def masters() -> AsyncIterator[list[FakeMaster]]:
    masters = [FakeMaster(), FakeMaster()]
    for master in masters:
        await master.start()
    yield masters
    for master in masters:
        await master.close()


@pytest.fixture
async def framework(election: Election) -> AsyncIterator[Framework]:
    """A framework that has begun to look for the leader."""
    framework = framework_at(election.url)
    framework.begin()
    yield framework
    await framework.stop()


def framework_at(url: str) -> Framework:
    return Framework(HttpSchedulerConnection(leader_detector(url), timing=QUICK))


async def test_the_master_that_came_first_leads(election: Election, masters: list[FakeMaster]) -> None:
    election.add("log_replicas")
    election.add("info_", b"\x0a\x10")
    election.join(masters[1].address)
    election.join(masters[0].address)
    framework = await framework_at(election.url).start()

    assert framework.subscriptions[0][1] == str(masters[1].address)
    await framework.stop()


async def test_masters_may_come_later_than_the_scheduler(
    election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    election.join(masters[0].address)

    await framework.until(lambda: framework.subscriptions)


async def test_a_new_leader_ends_the_subscription(
    election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    first = election.join(masters[0].address)
    election.join(masters[1].address)
    await framework.until(lambda: framework.subscriptions)

    election.leave(first)

    await framework.until(lambda: len(framework.subscriptions) == 2)
    assert [master for _, master in framework.subscriptions] == [str(master.address) for master in masters]
    assert "another Mesos master leads" in framework.disconnections[0]


async def test_a_leader_that_is_gone_is_waited_for(
    election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    first = election.join(masters[0].address)
    await framework.until(lambda: framework.subscriptions)
    await masters[0].stop()
    election.leave(first)
    await framework.until(lambda: framework.disconnections)

    election.join(masters[1].address)

    await framework.until(lambda: len(framework.subscriptions) == 2)
    assert framework.subscriptions[1][1] == str(masters[1].address)


async def test_a_follower_of_the_leader_does_not_end_the_subscription(
    election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    election.join(masters[0].address)
    await framework.until(lambda: framework.subscriptions)

    second = election.join(masters[1].address)
    election.leave(second)

    await framework.kill("none")
    await framework.state("none", "TASK_UNKNOWN")
    assert not framework.disconnections


async def test_an_outage_of_zookeeper_alone_ends_nothing(
    zookeeper: LocalZooKeeper, election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    first = election.join(masters[0].address)
    election.join(masters[1].address)
    await framework.until(lambda: framework.subscriptions)

    zookeeper.kill()
    await wait_until_async(lambda: not election.client.connected)
    await framework.kill("none")
    await framework.state("none", "TASK_UNKNOWN")
    assert not framework.disconnections

    masters[0].stream.cut()  # the last leader that was known is subscribed to again
    await framework.until(lambda: len(framework.subscriptions) == 2)
    assert framework.subscriptions[1][1] == str(masters[0].address)

    zookeeper.start()
    await wait_until_async(lambda: election.client.connected)
    election.leave(first)
    await framework.until(lambda: len(framework.subscriptions) == 3)
    assert framework.subscriptions[2][1] == str(masters[1].address)


async def test_a_redirect_of_a_master_that_zookeeper_still_names_is_followed(
    election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    masters[0].leader = masters[1].address
    first = election.join(masters[0].address)
    election.join(masters[1].address)
    await framework.until(lambda: framework.subscriptions)
    election.leave(first)

    await framework.kill("none")
    await framework.state("none", "TASK_UNKNOWN")
    assert framework.subscriptions[0][1] == str(masters[1].address)
    assert not framework.disconnections


async def test_a_node_that_makes_no_sense_is_waited_out(
    election: Election, masters: list[FakeMaster], framework: Framework
) -> None:
    broken = election.add("json.info_", b'{"address": 5}')
    election.join(masters[0].address)

    election.leave(broken)

    await framework.until(lambda: framework.subscriptions)


async def test_zookeeper_may_ask_for_a_password(zookeeper: LocalZooKeeper, masters: list[FakeMaster]) -> None:
    election = Election(zookeeper)
    election.client.add_auth("digest", "cook:se/cr@t")
    election.client.create(
        election.path, b"", acl=[kazoo_security.make_digest_acl("cook", "se/cr@t", all=True)]
    )
    election.join(masters[0].address)
    url = f"zk://cook:se%2Fcr%40t@{zookeeper.hosts}{election.path}"

    framework = await framework_at(url).start()

    await framework.stop()
    election.close()


async def test_masters_are_addressed_by_host_name_where_tls_needs_it(
    election: Election, masters: list[FakeMaster]
) -> None:
    election.join(masters[0].address)
    detector = leader_detector(election.url, by_hostname=True)
    await detector.start()

    assert await detector.candidate() == MasterAddress("localhost", masters[0].address.port)

    await detector.close()
