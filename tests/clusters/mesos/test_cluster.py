"""The cluster with a master that the test plays: losses and repetitions that a real one seldom shows."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.mesos.cluster import MesosCluster
from cook_jupyter.clusters.mesos.executor_watch import FAILED_STARTS, MISSING_ANSWERS
from cook_jupyter.clusters.mesos.messages import Call, Event, Failure, TaskStatus, Value
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.result_files import ResultFiles
from cook_jupyter.clusters.mesos.sandboxes import AgentAway
from cook_jupyter.clusters.mesos.transport.connection import CallFailed, CallRejected, CallUncertain
from cook_jupyter.clusters.sandboxes import MemorySandboxes
from cook_jupyter.errors import ClusterUnusable, NotFound
from cook_jupyter.model.instance import InstanceStatus, TaskState
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import (
    AGENT_RESTARTED,
    EXECUTOR_TERMINATED,
    HEARTBEAT_LOST,
    KILLED_EXTERNALLY,
    LAUNCH_FAILED,
    SCHEDULING_FAILED_ON_HOST,
)
from cook_jupyter.model.resources import Resources
from cook_jupyter.worker.mesos.messages import RESULT_FILE, TO_EXECUTOR, ResultFile, read_data
from cook_jupyter.worker.task import Cause
from tests.clusters.mesos.builders import a_status, an_offer, end_of, running, scalar
from tests.clusters.mesos.fake_connection import FakeConnection
from tests.clusters.reports import Reports, a_launch
from tests.mesos.harness import StateInMemory
from tests.waiting import wait_until_async

OPTIONS = MesosOptions(run_as="nobody", partition_wait_s=0.2)


class SlowFiles:
    """Result files that take a while."""

    def __init__(self) -> None:
        self.requests = 0
        self.may_answer = asyncio.Event()

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        self.requests += 1
        await self.may_answer.wait()
        return b"x" * size


class NoFiles:
    """Result files that cannot be read."""

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        raise NotFound(path)


class AwayFiles:
    """Result files of a host that cannot be reached, until it comes back."""

    def __init__(self, *, back_after: int | None) -> None:
        self._left = back_after

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        if self._left is None or self._left > 0:
            self._left = None if self._left is None else self._left - 1
            raise AgentAway(host)
        return b"signed"


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def state() -> StateInMemory:
    return StateInMemory()


@pytest.fixture
def reports() -> Reports:
    return Reports()


def make(
    connection: FakeConnection,
    state: StateInMemory,
    options: MesosOptions = OPTIONS,
    results: ResultFiles | None = None,
) -> MesosCluster:
    return MesosCluster(
        options,
        connection,
        state=state,
        sandboxes=lambda _: MemorySandboxes(),
        results=lambda _: results or NoFiles(),
        pools=(PoolName("default"),),
        version="1",
        user="nobody",
        tick_s=0.02,
    )


@pytest.fixture
async def cluster(
    connection: FakeConnection, state: StateInMemory, reports: Reports
) -> AsyncIterator[MesosCluster]:
    cluster = make(connection, state)
    await cluster.start(reports, [])
    yield cluster
    await cluster.close()


def launch_on(host: str = "h1") -> Launch:
    launch = a_launch("true")
    return replace(launch, instance=replace(launch.instance, host=host))


async def launched(cluster: MesosCluster, connection: FakeConnection) -> Launch:
    """Launch an instance on the only host, which offers 4 cpus."""
    await connection.offer(an_offer("o1"))
    launch = launch_on()
    await cluster.launch([launch])
    return launch


def status_of(launch: Launch, state: str, *, uuid: str = "dXVpZA==", **fields: object) -> TaskStatus:
    named = {"agent_id": Value("a1"), "uuid": uuid, **fields}
    return a_status(state, launch.instance.instance_id, **named)


async def made_executor(connection: FakeConnection, index: int) -> str:
    """The executor of a launch, by its number."""
    accept = (await connection.until("ACCEPT", index + 1))[index]
    [info] = accept["operations"][0]["launch"]["task_infos"]
    return str(info["executor"]["executor_id"]["value"])


def id_of(launch: Launch) -> str:
    return launch.instance.instance_id


# --- the framework ----------------------------------------------------------------------------------------


async def test_the_id_is_stored_before_anything_else_happens(
    cluster: MesosCluster, connection: FakeConnection, state: StateInMemory
) -> None:
    assert state.text is not None
    assert json.loads(state.text)["framework_id"] == "f1"
    assert cluster.subscription().framework["id"] == {"value": "f1"}


async def test_the_next_scheduler_subscribes_with_the_same_id(
    cluster: MesosCluster, state: StateInMemory, reports: Reports
) -> None:
    other = make(FakeConnection(), state)
    await other.start(reports, [])

    assert other.subscription().framework["id"] == {"value": "f1"}
    await other.close()


async def test_a_master_that_refuses_for_good_stops_the_scheduler(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    waiting = asyncio.create_task(cluster.wait_unusable())
    await asyncio.sleep(0)

    connection.refuse("another scheduler")

    with pytest.raises(ClusterUnusable, match="another scheduler"):
        await waiting
    assert cluster.offers() == []


# --- launches ---------------------------------------------------------------------------------------------


async def test_all_launches_of_a_host_are_one_accept_and_the_rest_is_requested_at_once(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"), an_offer("o2", scalar("cpus", 1.0)))
    launches = [launch_on(), launch_on()]

    await cluster.launch(launches)

    [accept] = await connection.until("ACCEPT")
    assert [one["value"] for one in accept["offer_ids"]] == ["o1", "o2"]
    assert accept["filters"] == {"refuse_seconds": 0.0}
    assert connection.launched() == [id_of(launch) for launch in launches]
    await connection.until("REVIVE")
    assert cluster.offers()[0].room == Resources(cpus=3.0, mem_mb=4096.0 - 256.0)


async def test_a_launch_waits_for_resources_that_come_back(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))
    await cluster.launch([launch_on()])
    second = launch_on()

    await cluster.launch([second])
    await asyncio.sleep(0.05)
    assert id_of(second) not in connection.launched()
    await connection.offer(an_offer("o2", scalar("cpus", 3.0), scalar("mem", 3000.0)))

    await connection.until("ACCEPT", 2)
    assert connection.launched()[1:] == [id_of(second)]


async def test_a_launch_on_a_host_that_is_gone_is_nobodys_fault(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = launch_on("elsewhere")

    await cluster.launch([launch])

    assert (await reports.end_of(launch)).reason == SCHEDULING_FAILED_ON_HOST


async def test_what_does_not_come_back_ends_the_launches_that_wait_for_it(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cook_jupyter.clusters.mesos.launching.PATIENCE_S", 0.05)
    await connection.offer(an_offer("o1"))
    await connection.rescind("o1")
    launch = launch_on()

    await cluster.launch([launch])

    assert (await reports.end_of(launch)).reason == SCHEDULING_FAILED_ON_HOST
    assert cluster.offers()[0].running == Resources()


async def test_an_accept_that_was_not_sent_is_sent_after_the_next_subscription(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))
    connection.is_connected = False  # not noticed yet
    launch = launch_on()
    await cluster.launch([launch])
    await asyncio.sleep(0.02)

    connection.disconnect()
    await connection.subscribe()
    await connection.offer(an_offer("o2"))

    await connection.until("ACCEPT")
    assert connection.launched() == [id_of(launch)]


async def test_an_accept_that_may_have_been_sent_is_not_sent_again_but_asked_about(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))
    connection.failure = lambda call: CallUncertain("no answer") if call["type"] == "ACCEPT" else None
    launch = launch_on()

    await cluster.launch([launch])

    await wait_until_async(
        lambda: any(
            task["task_id"]["value"] == id_of(launch)
            for body in connection.of("RECONCILE")
            for task in body["tasks"]
        )
    )
    assert connection.launched() == []


async def test_an_accept_that_is_refused_ends_its_instances(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    await connection.offer(an_offer("o1"))
    connection.failure = lambda call: CallRejected("400") if call["type"] == "ACCEPT" else None
    launch = launch_on()

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.LOST, LAUNCH_FAILED)
    assert cluster.offers()[0].running == Resources()


# --- statuses ---------------------------------------------------------------------------------------------


async def test_a_status_is_acknowledged_after_its_commit(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)
    reports.full = True

    await connection.update(status_of(launch, "TASK_FINISHED", data=end_of(Cause.DONE, id_of(launch))))
    await reports.until(lambda: reports.refusals)
    assert connection.of("ACKNOWLEDGE") == []
    reports.full = False

    [acknowledgement] = await connection.until("ACKNOWLEDGE")
    assert acknowledgement["task_id"] == {"value": id_of(launch)}
    assert (await reports.end_of(launch)).state is TaskState.FINISHED


async def test_a_status_that_a_master_made_is_not_acknowledged(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)

    await connection.update(status_of(launch, "TASK_GONE", uuid=""))

    await reports.end_of(launch)
    await asyncio.sleep(0.02)
    assert connection.of("ACKNOWLEDGE") == []


@pytest.mark.parametrize("name", ["TASK_KILLING", "TASK_UNREACHABLE", "TASK_OF_A_LATER_MESOS"])
async def test_a_status_without_an_update_is_acknowledged(
    cluster: MesosCluster, connection: FakeConnection, name: str
) -> None:
    launch = launch_on()

    await connection.update(status_of(launch, name))

    await connection.until("ACKNOWLEDGE")


async def test_an_error_about_a_running_instance_is_about_another_launch(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)
    await connection.update(status_of(launch, "TASK_RUNNING", data=running(id_of(launch))))

    await connection.update(status_of(launch, "TASK_ERROR", uuid="", reason="REASON_TASK_INVALID"))

    await reports.running(launch)
    assert not reports.ends


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_result_whose_host_is_away_is_waited_for(
    connection: FakeConnection,
    state: StateInMemory,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
    comes_back: bool,
) -> None:
    monkeypatch.setattr("cook_jupyter.clusters.mesos.result_files._FIRST_PAUSE_S", 0.001)
    files = AwayFiles(back_after=5 if comes_back else None)
    cluster = MesosCluster(
        OPTIONS,
        connection,
        state=state,
        sandboxes=lambda _: MemorySandboxes(),
        results=lambda _: files,
        pools=(PoolName("default"),),
        version="1",
        user="nobody",
        tick_s=0.02,
    )
    await cluster.start(reports, [])
    launch = await launched(cluster, connection)
    result_file = ResultFile(RESULT_FILE, 5000, "0" * 64)

    data = end_of(Cause.DONE, id_of(launch), result_file=result_file)
    await connection.update(status_of(launch, "TASK_FINISHED", data=data))

    end = await reports.end_of(launch)
    if comes_back:
        assert end.result is not None
        assert end.result.inline == b"signed"
    else:
        assert (end.state, end.reason) == (TaskState.LOST, AGENT_RESTARTED)
    await connection.until("ACKNOWLEDGE")
    await cluster.close()


async def test_an_end_that_a_master_tells_without_the_result_waits_for_the_executors_word(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)

    await connection.update(status_of(launch, "TASK_FINISHED", uuid="", reason="REASON_RECONCILIATION"))
    await asyncio.sleep(0.05)
    assert not reports.ends
    data = end_of(Cause.DONE, id_of(launch), result=b"signed")
    await connection.update(status_of(launch, "TASK_FINISHED", data=data))

    end = await reports.end_of(launch)
    assert end.result is not None
    assert end.result.inline == b"signed"


@pytest.mark.parametrize("name", ["TASK_FINISHED", "TASK_FAILED", "TASK_KILLED"])
async def test_an_end_after_which_nothing_follows_is_believed(
    cluster: MesosCluster,
    connection: FakeConnection,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr("cook_jupyter.clusters.mesos.provisional.WAIT_S", 0.05)
    launch = await launched(cluster, connection)

    await connection.update(status_of(launch, name, uuid="", reason="REASON_RECONCILIATION"))

    assert (await reports.end_of(launch)).state.name == name.removeprefix("TASK_")


async def test_the_end_of_an_instance_frees_its_room_before_mesos_offers_it(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)

    await connection.update(status_of(launch, "TASK_FINISHED", data=end_of(Cause.DONE, id_of(launch))))

    await reports.end_of(launch)
    [offer] = cluster.offers()
    assert (offer.room, offer.running) == (Resources(cpus=4.0, mem_mb=4096.0), Resources())


async def test_a_result_is_fetched_once_and_not_lost_if_its_end_is_told_again_meanwhile(
    connection: FakeConnection, state: StateInMemory, reports: Reports
) -> None:
    files = SlowFiles()
    cluster = make(connection, state, results=files)
    await cluster.start(reports, [])
    launch = await launched(cluster, connection)
    data = end_of(Cause.DONE, id_of(launch), result_file=ResultFile(RESULT_FILE, 5000, "0" * 64))
    end = status_of(launch, "TASK_FINISHED", data=data)

    await connection.update(end)
    await connection.update(end)  # by the agent, as it is not acknowledged
    await connection.update(status_of(launch, "TASK_FINISHED", uuid="", reason="REASON_RECONCILIATION"))
    await wait_until_async(lambda: files.requests)
    assert not reports.ends
    files.may_answer.set()

    result = (await reports.end_of(launch)).result
    assert result is not None
    assert result.size == 5000
    assert len(await connection.until("ACKNOWLEDGE")) == files.requests == 1
    await cluster.close()


async def test_a_result_that_cannot_be_fetched_does_not_fail_its_job(
    cluster: MesosCluster,
    connection: FakeConnection,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cook_jupyter.clusters.mesos.result_files._FIRST_PAUSE_S", 0.001)
    launch = await launched(cluster, connection)
    result_file = ResultFile(RESULT_FILE, 5000, "0" * 64)

    data = end_of(Cause.DONE, id_of(launch), result_file=result_file)
    await connection.update(status_of(launch, "TASK_FINISHED", data=data))

    end = await reports.end_of(launch)
    assert (end.state, end.result) == (TaskState.FINISHED, None)
    await connection.until("ACKNOWLEDGE")


# --- kills ------------------------------------------------------------------------------------------------


async def test_a_kill_is_repeated_until_the_instance_has_ended(
    cluster: MesosCluster, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cook_jupyter.clusters.mesos.instances.LAST_KILL_PAUSE_S", 0.05)
    launch = await launched(cluster, connection)

    await cluster.kill([launch.instance.instance_id])
    [kill] = await connection.until("KILL")
    assert kill["agent_id"] == {"value": "a1"}
    await cluster.kill([launch.instance.instance_id])  # the service repeats it, too
    assert len(connection.of("KILL")) == 1
    await connection.update(status_of(launch, "TASK_RUNNING", data=running(id_of(launch))))
    await connection.until("KILL", 4)

    await connection.update(status_of(launch, "TASK_KILLED", data=end_of(Cause.KILLED, id_of(launch))))
    await asyncio.sleep(0.02)
    count = len(connection.of("KILL"))
    await asyncio.sleep(0.2)
    assert len(connection.of("KILL")) == count


async def test_a_launch_that_waits_is_killed_without_mesos(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    await connection.offer(an_offer("o1", scalar("cpus", 0.1)))
    launch = launch_on()
    await cluster.launch([launch])

    await cluster.kill([launch.instance.instance_id])

    assert (await reports.end_of(launch)).state is TaskState.KILLED
    assert connection.of("KILL") == connection.of("ACCEPT") == []


async def test_a_kill_that_could_not_be_sent_is_sent_after_the_next_subscription(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    launch = await launched(cluster, connection)
    await connection.until("ACCEPT")
    connection.disconnect()
    await cluster.kill([launch.instance.instance_id])
    await connection.subscribe()

    await connection.update(status_of(launch, "TASK_RUNNING", uuid="", reason="REASON_RECONCILIATION"))

    await connection.until("KILL")


# --- losses -----------------------------------------------------------------------------------------------


async def test_an_unreachable_instance_is_given_up_after_a_while(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)

    await connection.update(status_of(launch, "TASK_UNREACHABLE", uuid=""))

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.LOST, HEARTBEAT_LOST)


async def test_an_unreachable_instance_that_comes_back_goes_on(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)
    await connection.update(status_of(launch, "TASK_UNREACHABLE", uuid=""))

    await connection.update(status_of(launch, "TASK_RUNNING", uuid="", reason="REASON_AGENT_REREGISTERED"))
    await asyncio.sleep(0.3)

    assert not reports.ends


async def test_an_instance_that_its_executor_does_not_list_is_lost(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    await connection.offer(an_offer("o1"))
    lost, kept = launch_on(), launch_on()
    await cluster.launch([lost, kept])
    for launch in (lost, kept):
        status = status_of(
            launch, "TASK_RUNNING", data=running(id_of(launch)), executor_id=Value("cook-nobody-1")
        )
        await connection.update(status)
    answer = {"t": "pong", "sequence": 1, "open": [], "ended": [id_of(kept)]}

    for _ in range(MISSING_ANSWERS - 1):
        await connection.message(answer, executor_id="cook-nobody-1")
    await connection.message({**answer, "open": [id_of(lost)]}, executor_id="cook-nobody-1")
    for _ in range(MISSING_ANSWERS - 1):
        await connection.message(answer, executor_id="cook-nobody-1")
        await connection.message(answer, executor_id="cook-nobody-2")
    assert not reports.ends
    await connection.message(answer, executor_id="cook-nobody-1")

    assert (await reports.end_of(lost)).reason == AGENT_RESTARTED
    assert id_of(kept) not in reports.ends


async def test_an_executor_is_pinged_several_times_per_lease(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))
    await cluster.launch([launch_on()])
    await connection.message({"t": "hello", "version": 1, "python": "3", "host": "h1", "packages": {}})

    sent = await connection.until("MESSAGE", 3)

    pings = [read_data(body["data"], TO_EXECUTOR).header for body in sent]
    assert all((ping["t"], ping["lease_s"]) == ("ping", OPTIONS.partition_wait_s) for ping in pings)
    assert [ping["sequence"] for ping in pings] == [1, 2, 3]


async def test_a_host_on_which_executors_do_not_start_gets_no_tasks_for_a_while(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"), an_offer("o2", host="h2", agent="a2"))

    for number in range(FAILED_STARTS):
        assert {offer.host for offer in cluster.offers()} == {"h1", "h2"}
        await cluster.launch([launch_on()])
        for _ in range(2):  # Mesos may tell it twice
            await connection.executor_ended(await made_executor(connection, number))
        await connection.offer(an_offer(f"next{number}"))
    assert {offer.host for offer in cluster.offers()} == {"h2"}

    await connection.message({"t": "hello", "version": 1, "python": "3", "host": "h1", "packages": {}})
    assert {offer.host for offer in cluster.offers()} == {"h1", "h2"}


@pytest.mark.parametrize("by", ["an earlier scheduler", "hello", "a status"])
async def test_a_host_whose_executors_have_started_is_not_avoided_when_they_exit(
    cluster: MesosCluster, connection: FakeConnection, by: str
) -> None:
    await connection.offer(an_offer("o1", executors=("cook-nobody-1", "cook-nobody-2", "cook-nobody-3")))

    for number in range(FAILED_STARTS + 1):
        executor_id = f"cook-nobody-{number}"
        if by != "an earlier scheduler":
            launch = launch_on()
            await cluster.launch([launch])
            executor_id = await made_executor(connection, number)
            if by == "a status":
                data = running(id_of(launch))
                await connection.update(
                    status_of(launch, "TASK_RUNNING", data=data, executor_id=Value(executor_id))
                )
            else:
                hello = {"t": "hello", "version": 1, "python": "3", "host": "h1", "packages": {}}
                await connection.message(hello, executor_id=executor_id)
        await connection.executor_ended(executor_id)
        await connection.offer(an_offer(f"next{number}"))

    assert [offer.host for offer in cluster.offers()] == ["h1"]


async def test_an_executor_of_an_earlier_scheduler_with_other_options_is_pinged_while_it_has_tasks(
    connection: FakeConnection, state: StateInMemory, reports: Reports
) -> None:
    launch = launch_on()
    cluster = make(connection, state)
    starting = asyncio.create_task(cluster.start(reports, [launch]))
    await connection.until("RECONCILE", 2)
    status = status_of(launch, "TASK_RUNNING", uuid="", executor_id=Value("cook-nobody-0123456789-abcdef"))
    await connection.update(status)

    sent = await connection.until("MESSAGE")

    assert sent[0]["executor_id"] == {"value": "cook-nobody-0123456789-abcdef"}
    assert sent[0]["agent_id"] == {"value": "a1"}
    await connection.update(status_of(launch, "TASK_FAILED", uuid="dXVpZA==", data=end_of(Cause.FAILED)))
    await starting
    await cluster.close()


async def test_an_executor_with_the_same_id_on_a_replaced_agent_is_another_one(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    launch = await launched(cluster, connection)
    status = status_of(launch, "TASK_RUNNING", executor_id=Value("cook-nobody-1"))
    await connection.update(status)

    await connection.offer(an_offer("o2", agent="a2"))
    for _ in range(MISSING_ANSWERS):
        answer = {"t": "pong", "sequence": 1, "open": [], "ended": []}
        await connection.message(answer, executor_id="cook-nobody-1", agent_id="a2")
    await asyncio.sleep(0.1)

    assert id_of(launch) not in reports.ends


async def test_the_end_of_an_executor_that_an_earlier_scheduler_started_is_not_a_failed_start(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))
    pong = {"t": "pong", "sequence": 1, "open": [], "ended": []}

    for number in range(FAILED_STARTS):
        await connection.message(pong, executor_id=f"cook-nobody-{number}")
        await connection.executor_ended(f"cook-nobody-{number}")

    assert [offer.host for offer in cluster.offers()] == ["h1"]


async def test_an_executor_that_exits_with_0_is_not_a_failed_start(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))

    for number in range(FAILED_STARTS):
        await connection.executor_ended(f"cook-nobody-{number}", status=0)

    assert [offer.host for offer in cluster.offers()] == ["h1"]


async def test_what_mesos_says_about_an_end_is_logged_once_per_host_and_reason(
    cluster: MesosCluster, connection: FakeConnection, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.offer(an_offer("o1"))
    launches = [launch_on(), launch_on()]
    await cluster.launch(launches)
    await connection.until("ACCEPT")

    for launch in launches:
        status = status_of(launch, "TASK_FAILED", reason="REASON_CONTAINER_LAUNCH_FAILED")
        message = "None of the enabled containerizers could create a container"
        await connection.update(msgspec.structs.replace(status, message=message))

    [line] = [record.getMessage() for record in caplog.records if "containerizers" in record.getMessage()]
    assert f"Mesos has ended the instance {id_of(launches[0])} on h1" in line


async def test_closing_is_not_logged_as_the_loss_of_the_master(
    cluster: MesosCluster, connection: FakeConnection, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.close()
    connection.disconnect()

    assert "lost" not in caplog.text


@pytest.mark.parametrize("is_told_first", [False, True])
@pytest.mark.parametrize(("says_hello", "reason"), [(False, LAUNCH_FAILED), (True, EXECUTOR_TERMINATED)])
async def test_an_executor_that_never_started_is_a_failed_launch(
    cluster: MesosCluster,
    connection: FakeConnection,
    reports: Reports,
    says_hello: bool,
    reason: str,
    is_told_first: bool,
) -> None:
    launch = await launched(cluster, connection)
    executor_id = await made_executor(connection, 0)
    if says_hello:
        hello = {"t": "hello", "version": 1, "python": "3", "host": "h1", "packages": {}}
        await connection.message(hello, executor_id=executor_id)

    if is_told_first:
        await connection.executor_ended(executor_id)
    await connection.update(status_of(launch, "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED"))

    assert (await reports.end_of(launch)).reason == reason


async def test_tasks_are_stopped_before_the_maintenance_of_their_agent_through_no_fault_of_their_own(
    cluster: MesosCluster, connection: FakeConnection, reports: Reports
) -> None:
    await connection.offer(an_offer("o1"), an_offer("o2", host="h2", agent="a2"))
    launches = [launch_on("h1"), launch_on("h2")]
    await cluster.launch(launches)
    await connection.until("ACCEPT", 2)

    await connection.maintenance("a1", time.time() + 1.0)

    [kill] = await connection.until("KILL")
    assert kill["task_id"] == {"value": id_of(launches[0])}
    assert len(connection.of("ACCEPT_INVERSE_OFFERS")) == 1
    data = end_of(Cause.KILLED, id_of(launches[0]))
    await connection.update(status_of(launches[0], "TASK_KILLED", data=data))
    assert (await reports.end_of(launches[0])).reason == KILLED_EXTERNALLY


async def test_the_loss_of_an_agent_takes_its_offers(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"), an_offer("o2", host="h2", agent="a2"))

    await connection.listener.on_event(Event(type="FAILURE", failure=Failure(agent_id=Value("a1"))))

    assert [offer.host for offer in cluster.offers()] == ["h2"]


async def test_without_a_subscription_there_are_no_offers(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    await connection.offer(an_offer("o1"))

    connection.disconnect()
    assert cluster.offers() == []
    await connection.subscribe()
    assert cluster.offers() == []


async def test_open_instances_are_asked_about_with_the_agents_that_were_stored(
    connection: FakeConnection, state: StateInMemory, reports: Reports
) -> None:
    state.text = json.dumps({"framework_id": "f1", "agents": {"h1": "a7"}})
    launch = launch_on()
    launch = replace(launch, instance=replace(launch.instance, status=InstanceStatus.RUNNING))
    cluster = make(connection, state)
    starting = asyncio.create_task(cluster.start(reports, [launch]))

    await connection.until("RECONCILE", 2)

    assert {"task_id": {"value": id_of(launch)}, "agent_id": {"value": "a7"}} in [
        task for body in connection.of("RECONCILE") for task in body["tasks"]
    ]
    await connection.update(status_of(launch, "TASK_RUNNING", uuid=""))
    await starting
    await cluster.close()


@pytest.mark.parametrize("name", ["TASK_GONE", "TASK_UNKNOWN"])
async def test_an_instance_that_the_last_scheduler_committed_and_did_not_send_is_launched(
    connection: FakeConnection, state: StateInMemory, reports: Reports, name: str
) -> None:
    state.text = json.dumps({"framework_id": "f1", "agents": {"h1": "a1"}})
    agent = {
        "agent_info": {"hostname": "h1", "id": {"value": "a1"}},
        "active": True,
        "total_resources": [scalar("cpus", 4.0)],
    }
    connection.answers["GET_AGENTS"] = {"get_agents": {"agents": [agent]}}
    launch = launch_on()
    cluster = make(connection, state)
    starting = asyncio.create_task(cluster.start(reports, [launch]))
    await connection.until("RECONCILE", 2)

    await connection.update(status_of(launch, name, uuid="", reason="REASON_RECONCILIATION"))
    await connection.offer(an_offer("o1"))

    await connection.until("ACCEPT")
    assert connection.launched() == [id_of(launch)]
    await connection.update(status_of(launch, name, uuid="", reason="REASON_RECONCILIATION"))
    await connection.update(status_of(launch, "TASK_GONE", uuid="", reason="REASON_RECONCILIATION"))
    assert (await reports.end_of(launch)).state is TaskState.LOST  # the second time it is what it says
    await starting
    await cluster.close()


async def test_offers_are_given_back_beside_other_frameworks_and_requested_for_jobs_that_wait(
    connection: FakeConnection, state: StateInMemory, reports: Reports
) -> None:
    other = {"framework_info": {"id": {"value": "f2"}}, "active": True}
    connection.answers["GET_FRAMEWORKS"] = {"get_frameworks": {"frameworks": [other]}}
    cluster = make(connection, state, replace(OPTIONS, hold_s=0.0))
    await cluster.start(reports, [])
    assert not cluster.can_grow(PoolName("default"))

    await connection.offer(*(an_offer(f"o{n}", host=f"h{n}", agent=f"a{n}") for n in range(4)))

    [decline] = await connection.until("DECLINE")
    assert len(decline["offer_ids"]) == 2
    assert decline["filters"] == {"refuse_seconds": OPTIONS.decline_s}
    assert cluster.can_grow(PoolName("default"))
    await cluster.grow_for(PoolName("default"), [])
    await connection.until("REVIVE")
    await cluster.close()


async def test_a_failing_call_of_no_weight_is_only_logged(
    cluster: MesosCluster, connection: FakeConnection
) -> None:
    def failing(call: Call) -> CallFailed | None:
        return CallUncertain("503") if call["type"] == "REVIVE" else None

    connection.failure = failing
    await connection.offer(an_offer("o1"))
    await cluster.launch([launch_on()])
    await asyncio.sleep(0.05)

    await cluster.launch([launch_on()])
    await connection.offer(an_offer("o2", scalar("cpus", 3.0), scalar("mem", 3000.0)))
    await connection.until("ACCEPT", 2)
