"""Settings of masters, and the list of masters."""

import pytest

from cook_jupyter.clusters.mesos.transport.leader import MasterAddress, MasterList, leader_detector
from cook_jupyter.clusters.mesos.transport.zookeeper import ZooKeeperDetector, ZooKeeperUrl


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("host", MasterAddress("host", 5050), "host:5050"),
        (" host:1234 ", MasterAddress("host", 1234), "host:1234"),
        ("[::1]:1234", MasterAddress("::1", 1234), "[::1]:1234"),
        ("http://host:1234", MasterAddress("host", 1234), "host:1234"),
        ("//host:1234/api/v1/scheduler", MasterAddress("host", 1234), "host:1234"),
    ],
)
def test_an_address_is_read(text: str, address: MasterAddress, shown: str) -> None:
    assert MasterAddress.parse(text) == address
    assert str(address) == shown


@pytest.mark.parametrize("text", ["", ":5050", "host:port", "host:99999", "[::1", "//", "/api/v1/scheduler"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        MasterAddress.parse(text)


def test_a_setting_is_a_list_or_a_url_of_zookeeper() -> None:
    assert isinstance(leader_detector("a:1, b:2,"), MasterList)
    assert isinstance(leader_detector("zk://a:1,b:2/mesos"), ZooKeeperDetector)
    with pytest.raises(ValueError, match="there is no address"):
        leader_detector(" , ")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("zk://a:1,b:2/mesos", ZooKeeperUrl(hosts="a:1,b:2", path="/mesos")),
        ("zk://a/x/y/", ZooKeeperUrl(hosts="a", path="/x/y")),
        ("zk://u:p%40@a:1/x", ZooKeeperUrl(hosts="a:1", path="/x", credential="u:p@")),
    ],
)
def test_a_url_of_zookeeper_is_read(text: str, url: ZooKeeperUrl) -> None:
    assert ZooKeeperUrl.parse(text) == url
    assert "p@" not in repr(url)


@pytest.mark.parametrize(
    "text", ["zk://a:1", "zk://a:1/", "zk:///mesos", "zk://a,,b/x", "zk://u@a/x", "a:1/x"]
)
def test_what_is_no_url_of_zookeeper_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="zk://host:port"):
        ZooKeeperUrl.parse(text)


async def test_masters_are_tried_in_turn_and_the_last_leader_first() -> None:
    a, b, c = (MasterAddress(host) for host in "abc")
    masters = MasterList([a, b])

    assert await masters.candidate() == a
    masters.failed(a)
    assert await masters.candidate() == b
    masters.found(c)  # b has redirected to it
    assert await masters.candidate() == c
    masters.failed(c)
    assert await masters.candidate() == b
