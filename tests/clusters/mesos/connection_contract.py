"""What every connection to a Mesos master promises: one suite, over each implementation and each master.

A test class derives from `ConnectionContract` and says in the fixture `connect` how to make connections to
one master, which has two agents of 4 cpus. The same tests run against the fake master and a real one, so they
also hold the fake one to the facts.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.messages import AgentId, OfferId
from cook_jupyter.clusters.mesos.transport.connection import CallRejected, NotConnected, SchedulerConnection
from cook_jupyter.errors import ClusterUnusable
from tests.clusters.mesos.framework import Framework

Connect = Callable[[], SchedulerConnection]
Start = Callable[..., Awaitable[Framework]]

FOREVER = "sleep 600"


class ConnectionContract:
    """The promises of `cook_jupyter.clusters.mesos.transport.connection.SchedulerConnection`."""

    @pytest.fixture
    async def start(self, connect: Connect) -> AsyncIterator[Start]:
        """A function that starts a framework, which is torn down after the test."""
        started: list[Framework] = []

        async def start(**options: Any) -> Framework:
            framework = Framework(connect(), **options)
            started.append(framework)
            return await framework.start()

        yield start
        for framework in started:
            if framework.is_running:
                await tear_down(framework)
            await framework.stop()

    @pytest.fixture
    async def framework(self, start: Start) -> Framework:
        return await start()

    # Subscriptions

    async def test_a_new_framework_gets_an_id_and_then_offers(self, framework: Framework) -> None:
        offer = await framework.offer(1)

        [(framework_id, master)] = framework.subscriptions
        assert framework_id
        assert master
        assert offer.hostname.startswith("127.0.1.")
        assert {one["name"] for one in offer.resources} >= {"cpus", "mem", "disk"}
        assert offer.allocation_info == {"role": "*"}

    async def test_no_offers_come_for_suppressed_roles_until_they_are_revived(self, start: Start) -> None:
        framework = await start(suppressed=True)
        await framework.connection.send(messages.reconcile([("none", None)]))
        await framework.state("none", "TASK_UNKNOWN")
        assert not framework.offers()

        await framework.connection.send(messages.revive(["*"]))

        await framework.offer()

    async def test_a_framework_that_returns_in_time_keeps_its_id_and_its_tasks(self, start: Start) -> None:
        first = await start()
        [task] = await first.launch(await first.offer(), FOREVER)
        await first.state(task, "TASK_RUNNING")
        await first.stop()
        assert first.disconnections

        second = await start(framework_id=first.framework_id)
        await second.connection.send(messages.reconcile([]))

        await second.state(task, "TASK_RUNNING")
        assert second.subscriptions[0][0] == first.framework_id

    async def test_a_second_scheduler_ends_the_first_one_which_does_not_come_back(self, start: Start) -> None:
        first = await start()

        second = await start(framework_id=first.framework_id)
        with pytest.raises(ClusterUnusable, match=r"failed over.*Another scheduler"):
            await first.end()

        assert (first.asked, len(first.disconnections)) == (1, 1)
        with pytest.raises(NotConnected):
            await first.connection.send(messages.revive([]))
        await second.connection.send(messages.reconcile([("none", None)]))
        await second.state("none", "TASK_UNKNOWN")
        assert not second.disconnections

    async def test_a_framework_that_was_torn_down_never_returns(self, framework: Framework) -> None:
        await framework.connection.send(messages.teardown())

        with pytest.raises(ClusterUnusable, match=r"has been removed.*reset-framework"):
            await framework.end()
        assert len(framework.disconnections) == 1

    async def test_a_framework_without_failover_timeout_is_removed_when_it_leaves(self, start: Start) -> None:
        first = await start(failover_timeout=0.0)
        await first.stop()

        with pytest.raises(ClusterUnusable, match="has been removed"):
            await start_until_removed(start, first)

    async def test_a_framework_that_the_master_refuses_is_told_why(self, connect: Connect) -> None:
        framework = Framework(connect(), roles=["-wrong"])
        framework.begin()

        with pytest.raises(ClusterUnusable, match=r"invalid role.*Correct"):
            await framework.end()
        assert (framework.subscriptions, framework.disconnections) == ([], [])

    async def test_calls_before_a_subscription_are_not_sent(self, connect: Connect) -> None:
        with pytest.raises(NotConnected):
            await connect().send(messages.revive([]))

    async def test_calls_after_the_connection_was_closed_are_not_sent(self, framework: Framework) -> None:
        await framework.connection.send(messages.reconcile([]))
        await tear_down(framework)
        await framework.stop()

        with pytest.raises(NotConnected):
            await framework.connection.send(messages.revive([]))

    # Tasks

    async def test_a_task_goes_through_its_states(self, framework: Framework) -> None:
        [task] = await framework.launch(await framework.offer(), "true")

        await framework.state(task, "TASK_FINISHED")

        assert framework.states(task) == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
        assert all(status.uuid and status.agent_id for status in framework.updates(task))

    async def test_several_tasks_start_with_one_call(self, framework: Framework) -> None:
        good, bad = await framework.launch(await framework.offer(), "true", "exit 3")

        await framework.state(good, "TASK_FINISHED")
        failed = await framework.state(bad, "TASK_FAILED")

        assert failed.message == "Command exited with status 3"

    async def test_the_next_update_of_a_task_waits_for_an_acknowledgement(self, framework: Framework) -> None:
        framework.acknowledges = False
        slow, fast = await framework.launch(await framework.offer(), "true", "true")
        await framework.until(lambda: len(framework.updates()) == 2)
        for status in framework.updates(fast):
            framework.acknowledges = True
            await framework.connection.send(messages.acknowledge(status))

        await framework.state(fast, "TASK_FINISHED")

        assert framework.states(slow) == ["TASK_STARTING"]

    async def test_a_running_task_is_killed(self, framework: Framework) -> None:
        offer = await framework.offer()
        [task] = await framework.launch(offer, FOREVER)
        await framework.state(task, "TASK_RUNNING")

        await framework.connection.send(messages.kill(task, AgentId(offer.agent_id.value), grace_s=0.5))

        await framework.state(task, "TASK_KILLED")

    async def test_the_id_of_a_running_task_cannot_be_used_again(self, framework: Framework) -> None:
        [task] = await framework.launch(await framework.offer(), FOREVER)
        await framework.state(task, "TASK_RUNNING")

        await framework.launch(await framework.offer(1), "true", task_ids=(task,))

        status = await framework.state(task, "TASK_ERROR")
        assert (status.uuid, status.reason) == ("", "REASON_TASK_INVALID")

    async def test_a_task_on_an_offer_that_is_gone_is_dropped(self, framework: Framework) -> None:
        offer = await framework.offer()
        await framework.connection.send(messages.decline([OfferId(offer.id.value)], refuse_s=60))

        [task] = await framework.launch(offer, "true")

        status = await framework.state(task, "TASK_DROPPED")
        assert (status.uuid, status.reason) == ("", "REASON_INVALID_OFFERS")

    # Reconciliation

    async def test_unknown_tasks_are_gone_if_their_agent_is_known(self, framework: Framework) -> None:
        agent_id = AgentId((await framework.offer()).agent_id.value)

        await framework.connection.send(messages.reconcile([("a", agent_id), ("b", None)]))

        gone = await framework.state("a", "TASK_GONE")
        unknown = await framework.state("b", "TASK_UNKNOWN")
        assert {gone.reason, unknown.reason} == {"REASON_RECONCILIATION"}
        assert {gone.uuid, unknown.uuid} == {""}

    async def test_a_kill_of_an_unknown_task_is_answered(self, framework: Framework) -> None:
        agent_id = (await framework.offer()).agent_id.value

        await framework.kill("a", agent_id)
        await framework.kill("b")

        await framework.state("a", "TASK_GONE")
        await framework.state("b", "TASK_UNKNOWN")

    async def test_all_tasks_are_told_when_none_is_named(self, framework: Framework) -> None:
        tasks = await framework.launch(await framework.offer(), FOREVER, FOREVER)
        for task in tasks:
            await framework.state(task, "TASK_RUNNING")

        await framework.connection.send(messages.reconcile([]))

        await framework.until(
            lambda: all(framework.states(task)[-2:] == ["TASK_RUNNING"] * 2 for task in tasks)
        )

    # Calls

    async def test_calls_arrive_in_their_order(self, framework: Framework) -> None:
        ids = [f"task-{number}" for number in range(200)]

        await asyncio.gather(*(framework.kill(task_id) for task_id in ids))

        await framework.state(ids[-1], "TASK_UNKNOWN")
        assert [status.task_id.value for status in framework.updates()] == ids

    async def test_a_call_that_is_wrong_is_rejected_and_the_subscription_goes_on(
        self, framework: Framework
    ) -> None:
        with pytest.raises(CallRejected, match=r"KILL with 400: .*Expecting 'kill' to be present"):
            await framework.connection.send({"type": "KILL"})

        await framework.kill("none")
        await framework.state("none", "TASK_UNKNOWN")
        assert not framework.disconnections

    async def test_the_operator_api_is_asked(self, framework: Framework) -> None:
        answer = await framework.connection.query({"type": "GET_AGENTS"})

        hostnames = {agent["agent_info"]["hostname"] for agent in answer["get_agents"]["agents"]}
        assert hostnames == {"127.0.1.1", "127.0.1.2"}

    async def test_a_wrong_question_is_rejected(self, framework: Framework) -> None:
        with pytest.raises(CallRejected, match="400"):
            await framework.connection.query({"type": "GET_NOTHING"})


async def start_until_removed(start: Start, first: Framework) -> None:
    """Return to a master until it has noticed that the framework had left."""
    while True:
        framework = await start(framework_id=first.framework_id, failover_timeout=0.0)
        await framework.stop()
        await asyncio.sleep(0.05)


async def tear_down(framework: Framework) -> None:
    """End a framework for good, if it is still subscribed."""
    try:
        await framework.connection.send(messages.teardown())
    except NotConnected:
        return
    await asyncio.wait({asyncio.ensure_future(_ended(framework))})


async def _ended(framework: Framework) -> None:
    with contextlib.suppress(ClusterUnusable):
        await framework.end()
