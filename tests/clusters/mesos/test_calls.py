"""Calls: what each kind of fault means for each kind of call."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.messages import AgentId, Call, ExecutorId, OfferId, TaskStatus, Value
from cook_jupyter.clusters.mesos.transport.answers import REPEATABLE
from cook_jupyter.clusters.mesos.transport.connection import (
    CallFailed,
    CallRejected,
    CallUncertain,
    NotConnected,
)
from cook_jupyter.clusters.mesos.transport.leader import MasterList
from tests.clusters.mesos.fake_master import HANG, LOST_ANSWER, LOST_CALL, FakeMaster, Fault
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.implementations import IMPATIENT, MakeConnection
from tests.waiting import wait_until_async

A_STATUS = TaskStatus(task_id=Value("t"), state="TASK_RUNNING", agent_id=Value("a"), uuid="dQ==")
CALLS: list[Callable[[], Call]] = [
    lambda: messages.accept([OfferId("o")], [], refuse_s=1),
    lambda: messages.decline([OfferId("o")], refuse_s=1),
    lambda: messages.accept_inverse_offers(["i"]),
    lambda: messages.kill("t", AgentId("a")),
    lambda: messages.revive(["*"]),
    lambda: messages.suppress(["*"]),
    lambda: messages.acknowledge(A_STATUS),
    lambda: messages.reconcile([]),
    lambda: messages.send_message(AgentId("a"), ExecutorId("e"), b"hello"),
    lambda: messages.shut_down(AgentId("a"), ExecutorId("e")),
]
ALL_CALLS = pytest.mark.parametrize("call", [pytest.param(make(), id=make()["type"]) for make in CALLS])

STALE = "The stream ID 'x' included in this request didn't match the stream ID currently associated"


@ALL_CALLS
async def test_a_call_is_taken(master: FakeMaster, framework: Framework, call: Call) -> None:
    await framework.connection.send(call)

    [received] = master.of_type(call["type"])
    assert received.call == {**call, "framework_id": {"value": framework.framework_id}}
    assert received.headers["mesos-stream-id"] == "stream-0"


@ALL_CALLS
@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_CALL], ids=["lost-answer", "lost-call"])
async def test_a_call_without_an_answer_is_repeated_once_if_that_does_no_harm(
    master: FakeMaster, framework: Framework, call: Call, fault: Fault
) -> None:
    kind = call["type"]
    master.fail(kind, fault)

    if kind in REPEATABLE:
        await framework.connection.send(call)
    else:
        with pytest.raises(CallUncertain, match="closed the connection"):
            await framework.connection.send(call)

    assert len(master.of_type(kind)) == (2 if kind in REPEATABLE else 1)
    assert not framework.disconnections


async def test_a_call_is_repeated_once_only(master: FakeMaster, framework: Framework) -> None:
    master.fail("KILL", LOST_CALL, LOST_CALL, LOST_CALL)

    with pytest.raises(CallUncertain):
        await framework.kill("t")

    assert len(master.of_type("KILL")) == 2


@ALL_CALLS
@pytest.mark.parametrize("status", [500, 502])
async def test_a_call_that_the_master_fails_at_is_uncertain(
    master: FakeMaster, framework: Framework, call: Call, status: int
) -> None:
    master.fail(call["type"], Fault(status=status, text="oops"))

    with pytest.raises(CallUncertain, match=f"{call['type']} with {status}: oops"):
        await framework.connection.send(call)

    await framework.connection.send(call)
    assert not framework.disconnections


@ALL_CALLS
@pytest.mark.parametrize("status", [400, 413, 415])
async def test_a_call_that_is_wrong_is_rejected(
    master: FakeMaster, framework: Framework, call: Call, status: int
) -> None:
    master.fail(call["type"], Fault(status=status, text="Failed to validate"))

    with pytest.raises(CallRejected, match="Failed to validate"):
        await framework.connection.send(call)

    await framework.connection.send(call)
    assert not framework.disconnections


@ALL_CALLS
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, text=STALE),
        Fault(status=400, text="Framework cannot be found"),
        Fault(status=403, text="Framework is not subscribed"),
        Fault(status=401),
        Fault(status=503, text="Master has not finished recovery"),
        Fault(status=307, location="//127.0.0.1:1/api/v1/scheduler"),
    ],
    ids=["stale", "unknown", "403", "401", "503", "307"],
)
async def test_a_subscription_that_the_master_does_not_accept_any_more_is_replaced(
    master: FakeMaster, framework: Framework, call: Call, fault: Fault
) -> None:
    master.fail(call["type"], fault)

    with pytest.raises(NotConnected, match=str(fault.status)):
        await framework.connection.send(call)

    await framework.until(lambda: len(framework.subscriptions) == 2)
    assert str(fault.status) in framework.disconnections[0]
    await framework.connection.send(call)
    assert master.received[-1].headers["mesos-stream-id"] == "stream-1"


@ALL_CALLS
async def test_a_call_that_hangs_is_given_up(master: FakeMaster, impatient: Framework, call: Call) -> None:
    master.fail(call["type"], HANG)

    with pytest.raises(CallUncertain, match="did not answer"):
        await impatient.connection.send(call)

    await impatient.connection.send(call)
    assert len(master.of_type(call["type"])) == 2  # it was not repeated by itself
    assert not impatient.disconnections


@ALL_CALLS
async def test_a_slow_answer_is_waited_for(master: FakeMaster, framework: Framework, call: Call) -> None:
    master.fail(call["type"], Fault(after_s=0.05))

    await framework.connection.send(call)


@ALL_CALLS
async def test_a_master_may_close_after_each_answer(
    master: FakeMaster, framework: Framework, call: Call
) -> None:
    master.fail(call["type"], *[Fault(closes=True)] * 20)

    await asyncio.gather(*(framework.connection.send(call) for _ in range(20)))

    assert len(master.of_type(call["type"])) == 20


async def test_calls_behind_one_that_is_lost_go_on_in_their_order(
    master: FakeMaster, framework: Framework
) -> None:
    master.fail("ACCEPT", LOST_CALL)

    results = await asyncio.gather(
        framework.connection.send(messages.accept([OfferId("o")], [], refuse_s=1)),
        *(framework.kill(f"task-{number}") for number in range(40)),
        return_exceptions=True,
    )

    assert isinstance(results[0], CallUncertain)
    assert results[1:] == [None] * 40
    await framework.state("task-39", "TASK_UNKNOWN")
    assert framework.updates()[-40:] == sorted(
        framework.updates()[-40:], key=lambda status: int(status.task_id.value.split("-")[1])
    )


async def test_an_idle_connection_that_the_master_has_closed_is_not_used(
    master: FakeMaster, framework: Framework
) -> None:
    await framework.kill("none")
    master.close_call_connections()
    await wait_until_async(lambda: len(master.connections) == 1)

    await framework.connection.send(messages.accept([OfferId("o")], [], refuse_s=1))

    assert len(master.of_type("ACCEPT")) == 1


async def test_acknowledgements_do_not_wait_behind_other_calls(
    master: FakeMaster, framework: Framework
) -> None:
    master.fail("KILL", HANG)
    hanging = asyncio.create_task(framework.kill("t"))
    await master.arrival("KILL")

    await framework.connection.send(messages.acknowledge(A_STATUS))
    await framework.connection.query({"type": "GET_AGENTS"})

    assert not hanging.done()
    hanging.cancel()


async def test_a_call_that_nobody_waits_for_any_more_is_not_sent(
    master: FakeMaster, framework: Framework
) -> None:
    given_up = asyncio.create_task(framework.kill("given-up"))
    await asyncio.sleep(0)
    given_up.cancel()

    await framework.kill("wanted")

    assert [one.call["kill"]["task_id"]["value"] for one in master.of_type("KILL")] == ["wanted"]


async def test_a_busy_master_that_answers_late_loses_no_connection(
    master: FakeMaster, impatient: Framework
) -> None:
    master.fail("ACCEPT", *[Fault(after_s=0.04)] * 16)
    call = messages.accept([OfferId("o")], [], refuse_s=1)

    results = await asyncio.gather(
        *(impatient.connection.send(call) for _ in range(16)), return_exceptions=True
    )

    assert {type(result) for result in results} <= {type(None), CallUncertain, NotConnected}
    await master.arrival("ACCEPT", 16 - [type(result) for result in results].count(NotConnected))
    assert len({one.connection for one in master.of_type("ACCEPT")}) == 1


async def test_calls_sent_before_the_connection_is_closed_arrive(
    master: FakeMaster, framework: Framework
) -> None:
    master.fail("ACCEPT", Fault(after_s=0.05))
    call = asyncio.create_task(framework.connection.send(messages.accept([OfferId("o")], [], refuse_s=1)))
    await asyncio.sleep(0)
    await framework.stop()

    await call
    assert len(master.of_type("ACCEPT")) == 1


async def test_calls_fail_when_their_subscription_ends(master: FakeMaster, framework: Framework) -> None:
    master.fail("KILL", HANG)
    calls = [asyncio.create_task(framework.kill(f"task-{number}")) for number in range(100)]
    await master.arrival("KILL")

    master.stream.cut()

    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {CallUncertain, NotConnected}


async def test_a_master_that_takes_no_connections_gets_no_call(
    master: FakeMaster, framework: Framework
) -> None:
    assert master.server is not None
    master.server.close()  # the stream goes on

    with pytest.raises(NotConnected, match="cannot connect"):
        await framework.connection.send(messages.accept([OfferId("o")], [], refuse_s=1))

    assert not framework.disconnections


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=403, text="no"), CallRejected),
        (Fault(status=400, text="no"), CallRejected),
        (Fault(status=500), CallUncertain),
        (Fault(status=503), NotConnected),
        (Fault(status=307, location="//127.0.0.1:1/"), NotConnected),
        (HANG, CallUncertain),
    ],
)
async def test_a_question_that_fails_does_not_end_the_subscription(
    master: FakeMaster, impatient: Framework, fault: Fault, error: type[CallFailed]
) -> None:
    master.fail("GET_AGENTS", fault)

    with pytest.raises(error):
        await impatient.connection.query({"type": "GET_AGENTS"})

    assert await impatient.connection.query({"type": "GET_AGENTS"})
    assert not impatient.disconnections


async def test_a_question_whose_answer_is_not_json_is_uncertain(
    master: FakeMaster, framework: Framework
) -> None:
    master.fail("GET_AGENTS", Fault(status=200, text="no JSON"))

    with pytest.raises(CallUncertain, match="no JSON object"):
        await framework.connection.query({"type": "GET_AGENTS"})


async def test_a_question_is_repeated_when_its_connection_was_closed(
    master: FakeMaster, framework: Framework
) -> None:
    master.fail("GET_AGENTS", LOST_ANSWER)

    assert await framework.connection.query({"type": "GET_AGENTS"})


@pytest.fixture
async def impatient(master: FakeMaster, make_connection: MakeConnection) -> AsyncIterator[Framework]:
    framework = Framework(make_connection(MasterList([master.address]), timing=IMPATIENT))
    yield await framework.start()
    await framework.stop()
