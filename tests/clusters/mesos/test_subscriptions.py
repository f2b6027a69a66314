"""Connections keep their promises on a fake master, also when subscriptions and their streams fail."""

import asyncio
import json
from typing import Any

import pytest

from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.transport.connection import NotConnected
from cook_jupyter.clusters.mesos.transport.http_connection import Credential
from cook_jupyter.clusters.mesos.transport.leader import LeaderDetector, MasterAddress, MasterList
from cook_jupyter.errors import ClusterUnusable
from tests.clusters.mesos.conftest import MakeMaster
from tests.clusters.mesos.connection_contract import Connect, ConnectionContract, Start
from tests.clusters.mesos.fake_cluster import FakeCluster
from tests.clusters.mesos.fake_master import HANG, FakeMaster, Fault
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.implementations import MakeConnection
from tests.waiting import wait_until_async


class TestConnection(ConnectionContract):
    @pytest.fixture
    def connect(self, master: FakeMaster, make_connection: MakeConnection) -> Connect:
        return lambda: make_connection(MasterList([master.address]))


# Streams


async def test_a_stream_may_be_cut_at_each_byte(master: FakeMaster, start: Start) -> None:
    master.is_bytewise = True
    framework = await start()

    [task] = await framework.launch(await framework.offer(), "true")

    await framework.state(task, "TASK_FINISHED")


async def test_an_event_may_have_64_megabytes(master: FakeMaster, framework: Framework) -> None:
    data = "x" * (64 << 20)

    master.stream.send(an_update("huge", data=data))

    await framework.until(lambda: framework.updates("huge"))
    assert framework.updates("huge")[0].data == data


async def test_a_stream_that_ends_inside_an_event_is_replaced(
    master: FakeMaster, framework: Framework
) -> None:
    master.stream.send_raw(b'500\n{"type": "UPD')
    master.stream.end()

    await framework.until(lambda: len(framework.subscriptions) == 2)

    [cause] = framework.disconnections
    assert "ended the stream of events inside a record" in cause
    assert framework.subscriptions[0][0] == framework.subscriptions[1][0]


async def test_a_body_that_is_cut_is_replaced(master: FakeMaster, framework: Framework) -> None:
    master.stream.cut()

    await framework.until(lambda: len(framework.subscriptions) == 2)


@pytest.mark.parametrize("garbage", [b"<html>no</html>", b"-1\n{}"])
async def test_a_stream_without_lengths_is_replaced(
    master: FakeMaster, framework: Framework, garbage: bytes
) -> None:
    master.stream.send_raw(garbage)

    await framework.until(lambda: len(framework.subscriptions) == 2)


async def test_a_stream_with_a_record_that_is_not_json_is_replaced(
    master: FakeMaster, framework: Framework
) -> None:
    master.stream.send_record(b"nope")

    await framework.until(lambda: len(framework.subscriptions) == 2)


async def test_an_event_that_is_not_as_it_should_be_does_not_end_the_others(
    master: FakeMaster, framework: Framework
) -> None:
    master.stream.send({"type": "UPDATE", "update": {"status": {"task_id": 5}}})
    master.stream.send({"type": "A_LATER_EVENT", "a_later_event": {"x": 1}})
    master.stream.send(an_update("next"))

    await framework.until(lambda: framework.updates("next"))
    assert not framework.disconnections


async def test_a_silent_stream_is_given_up_after_five_intervals(
    make_master: MakeMaster, make_connection: MakeConnection
) -> None:
    master = await make_master(FakeCluster(heartbeat_s=0.02))
    framework = await Framework(make_connection(MasterList([master.address]))).start()
    master.stream.beats = False

    await framework.until(lambda: len(framework.subscriptions) == 2)

    assert "silent for 0.1 s" in framework.disconnections[0]
    await framework.stop()


async def test_a_reader_that_waits_for_the_handler_is_not_silence(
    make_master: MakeMaster, make_connection: MakeConnection
) -> None:
    master = await make_master(FakeCluster(heartbeat_s=0.1))
    framework = Framework(make_connection(MasterList([master.address])))
    gate = asyncio.Event()
    framework.on_event_wait = gate.wait  # type: ignore[assignment]
    await framework.start()
    for number in range(15_000):
        master.stream.send(an_update(f"task-{number}", data="x" * 2000))
    await asyncio.sleep(1.5)  # three times the silence that would end the subscription
    assert master.stream.writer.transport.get_write_buffer_size() > 0  # TCP slows the master down

    gate.set()

    await framework.until(lambda: len(framework.updates()) >= 15_000)
    assert [status.task_id.value for status in framework.updates()] == [
        f"task-{number}" for number in range(15_000)
    ]
    await framework.stop()


async def test_a_handler_is_not_interrupted_by_the_end_of_the_subscription(
    master: FakeMaster, connect: Connect
) -> None:
    framework = Framework(connect())
    handled: list[str] = []
    began = asyncio.Event()

    async def wait() -> None:
        began.set()
        await wait_until_async(lambda: not master.cluster.frameworks[str(framework.framework_id)].sink)
        handled.append("whole")

    framework.on_event_wait = wait
    await framework.start()
    await began.wait()
    master.stream.cut()

    await framework.until(lambda: framework.disconnections)
    assert handled == ["whole"]
    await framework.stop()


async def test_an_error_of_the_handler_ends_the_connection_and_is_raised(
    master: FakeMaster, connect: Connect
) -> None:
    framework = Framework(connect())

    async def fail() -> None:
        raise ZeroDivisionError

    framework.on_event_wait = fail
    framework.begin()

    with pytest.raises(ZeroDivisionError):
        await framework.end()
    assert len(framework.disconnections) == 1
    await wait_until_async(lambda: not master.connections)


async def test_closing_the_connection_leaves_nothing_open(master: FakeMaster, framework: Framework) -> None:
    await framework.connection.send(messages.reconcile([]))

    await framework.stop()

    await wait_until_async(lambda: not master.connections)
    assert len(framework.disconnections) == 1


# Errors that are final


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Framework failed over", "Run one scheduler per framework"),
        ("Framework has been removed", "reset-framework"),
        ("Not authorized to use role 'x'", "Correct what it names"),
    ],
)
async def test_an_error_ends_the_connection_for_good(
    master: FakeMaster, framework: Framework, text: str, advice: str
) -> None:
    master.stream.send({"type": "ERROR", "error": {"message": text}})

    with pytest.raises(ClusterUnusable, match=advice) as raised:
        await framework.end()

    assert text in str(raised.value)
    assert str(master.address) in str(raised.value)
    assert framework.asked == 1
    assert len(framework.disconnections) == 1


@pytest.mark.parametrize("status", [400, 403])
async def test_a_master_that_refuses_the_subscription_ends_it_for_good(
    master: FakeMaster, connect: Connect, status: int
) -> None:
    master.fail("SUBSCRIBE", Fault(status=status, text="no such thing"))
    framework = Framework(connect())
    framework.begin()

    with pytest.raises(ClusterUnusable, match="no such thing"):
        await framework.end()


# Errors that pass


async def test_a_storm_of_503_is_met_with_few_subscriptions(master: FakeMaster, connect: Connect) -> None:
    master.is_recovering = True
    framework = Framework(connect())
    framework.begin()
    await master.arrival("SUBSCRIBE", 12)
    first, *_, last = master.of_type("SUBSCRIBE")[1:]
    # Pauses are a hundredth of what they are: 10 subscriptions take at least 0.6 s.
    assert last.at_s - first.at_s >= 0.6

    master.is_recovering = False

    await framework.until(lambda: framework.subscriptions)
    await framework.stop()


async def test_masters_that_redirect_to_each_other_are_met_with_pauses(
    master: FakeMaster, make_master: MakeMaster, make_connection: MakeConnection
) -> None:
    other = await make_master()
    master.leader, other.leader = other.address, master.address
    framework = Framework(make_connection(MasterList([master.address])))
    framework.begin()
    await master.arrival("SUBSCRIBE", 6)
    assert len(master.received) + len(other.received) <= 4 * framework.asked

    master.leader = None

    await framework.until(lambda: framework.subscriptions)
    await framework.stop()


async def test_a_redirect_leads_to_the_leader(
    master: FakeMaster, make_master: MakeMaster, make_connection: MakeConnection
) -> None:
    leader = await make_master()
    master.leader = leader.address
    framework = await Framework(make_connection(MasterList([master.address]))).start()

    await framework.kill("none")

    assert framework.subscriptions[0][1] == str(leader.address)
    assert [one.type for one in leader.received] == ["SUBSCRIBE", "KILL"]
    await framework.stop()


@pytest.mark.parametrize("location", ["", "//", "http://[::1/x", "/api/v1/scheduler"])
async def test_a_redirect_to_nowhere_is_tried_again(
    master: FakeMaster, connect: Connect, location: str
) -> None:
    master.fail("SUBSCRIBE", Fault(status=307, location=location))
    framework = await Framework(connect()).start()

    await framework.stop()


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(status=500), Fault(status=404), Fault(drops=True), HANG]
)
async def test_a_subscription_that_fails_is_tried_again(
    master: FakeMaster, connect: Connect, fault: Fault
) -> None:
    master.fail("SUBSCRIBE", fault, fault)
    framework = await Framework(connect()).start()

    assert framework.asked == 3
    await framework.stop()


async def test_streams_that_end_at_once_are_met_with_pauses(master: FakeMaster, connect: Connect) -> None:
    master.closes_after_head = True
    framework = Framework(connect())
    framework.begin()
    await master.arrival("SUBSCRIBE", 12)
    first, *_, last = master.of_type("SUBSCRIBE")[1:]

    assert last.at_s - first.at_s >= 0.6
    await framework.stop()


async def test_a_master_that_returns_is_subscribed_to_again(master: FakeMaster, framework: Framework) -> None:
    await master.stop()
    await framework.until(lambda: framework.disconnections)
    with pytest.raises(NotConnected, match=r"not subscribed.*(cannot connect|ended the|closed the)"):
        await framework.kill("none")
    old_stream = master.stream

    await master.start()

    await framework.until(lambda: len(framework.subscriptions) == 2)
    await framework.kill("none")
    assert master.of_type("SUBSCRIBE")[1].call["framework_id"] == {"value": framework.framework_id}
    assert master.stream is not old_stream
    assert [one.headers["mesos-stream-id"] for one in master.of_type("KILL")] == ["stream-1"]


async def test_the_next_master_of_a_list_is_asked_when_one_does_not_answer(
    master: FakeMaster, make_master: MakeMaster, make_connection: MakeConnection
) -> None:
    gone = await make_master()
    await gone.stop()
    nowhere = MasterAddress("no-such-host.invalid")
    masters = MasterList([nowhere, MasterAddress("a..b"), gone.address, master.address])

    framework = await Framework(make_connection(masters)).start()

    assert framework.asked == 4
    await framework.stop()


async def test_another_leader_ends_the_subscription(
    master: FakeMaster, make_master: MakeMaster, make_connection: MakeConnection
) -> None:
    other = await make_master()
    detector = ToldLeader(master.address)
    framework = await Framework(make_connection(detector)).start()

    detector.lead(other.address)

    await framework.until(lambda: len(framework.subscriptions) == 2)
    assert framework.subscriptions[1][1] == str(other.address)
    assert "another Mesos master leads" in framework.disconnections[0]
    await framework.stop()
    assert detector.is_closed


# Authentication


async def test_each_request_proves_who_the_framework_is(
    master: FakeMaster, make_connection: MakeConnection
) -> None:
    master.credential = ("cook", "ab:ç")
    credential = Credential(principal="cook", secret="ab:ç")
    connection = make_connection(MasterList([master.address]), credential=credential)
    framework = await Framework(connection).start()

    await framework.kill("none")
    await connection.query({"type": "GET_AGENTS"})

    assert len(master.received) == 3
    assert "ab:ç" not in repr(credential)
    await framework.stop()


@pytest.mark.parametrize("credential", [None, Credential(principal="cook", secret="wrong")])
async def test_a_framework_without_the_right_secret_is_told_so(
    master: FakeMaster, credential: Credential | None, make_connection: MakeConnection
) -> None:
    master.credential = ("cook", "right")
    framework = Framework(make_connection(MasterList([master.address]), credential=credential))
    framework.begin()

    with pytest.raises(ClusterUnusable, match="set the principal and secret"):
        await framework.end()


class ToldLeader(LeaderDetector):
    """A detector that a test tells the leader."""

    def __init__(self, leader: MasterAddress) -> None:
        self._leader = leader
        self._changed = asyncio.Event()
        self.is_closed = False

    def lead(self, leader: MasterAddress) -> None:
        self._leader = leader
        self._changed.set()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.is_closed = True

    async def candidate(self) -> MasterAddress:
        return self._leader

    def found(self, master: MasterAddress) -> None:
        pass

    def failed(self, master: MasterAddress) -> None:
        pass

    async def replaced(self, master: MasterAddress) -> None:
        while self._leader == master:
            await self._changed.wait()
            self._changed.clear()


def an_update(task_id: str, **fields: Any) -> dict[str, Any]:
    """Return an update that is not to be acknowledged."""
    status = {"task_id": {"value": task_id}, "state": "TASK_RUNNING", **fields}
    return json.loads(json.dumps({"type": "UPDATE", "update": {"status": status}}))
