"""Fake masters, and frameworks whose pauses are short."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cook_jupyter.clusters.mesos.connection import SchedulerConnection
from cook_jupyter.clusters.mesos.http_connection import HttpSchedulerConnection, Timing
from cook_jupyter.clusters.mesos.leader import MasterList
from cook_jupyter.clusters.mesos.pymesos_connection import PymesosSchedulerConnection
from tests.clusters.mesos.connection_contract import Connect, Start
from tests.clusters.mesos.fake_cluster import FakeCluster
from tests.clusters.mesos.fake_master import FakeMaster
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.pymesos_installation import install_pymesos

PYMESOS_GAPS = {
    "test_acknowledgements_do_not_wait_behind_other_calls": "it has one connection for all calls",
    "test_a_call_that_nobody_waits_for_any_more_is_not_sent": "its thread has taken the call already",
    "test_a_question_whose_answer_is_not_json_is_uncertain": "it returns an empty answer",
    "test_an_event_may_have_64_megabytes": "its cost grows with the square of the size",
    "test_a_stream_that_ends_inside_an_event_is_replaced": "it does not say where the stream ended",
    "test_a_stream_without_lengths_is_replaced": "it reads on, until the watchdog ends the silence",
}
"""Tests that pymesos cannot pass, and why: docs/reference/mesos-connections.md."""

MakeConnection = Callable[..., SchedulerConnection]
MakeMaster = Callable[..., Awaitable[FakeMaster]]

QUICK = Timing(shortest_pause_s=0.01, longest_pause_s=0.15, connect_s=1.0, subscribe_s=1.0)
"""Back-off at a hundredth of its length."""

IMPATIENT = Timing(shortest_pause_s=0.01, longest_pause_s=0.15, call_s=0.3)
"""For calls that hang."""


@pytest.fixture
async def make_master() -> AsyncIterator[MakeMaster]:
    """A function that starts a master, which is stopped after the test."""
    masters: list[FakeMaster] = []

    async def make(cluster: FakeCluster | None = None, **options: Any) -> FakeMaster:
        master = FakeMaster(cluster, **options)
        await master.start()
        masters.append(master)
        return master

    yield make
    for master in masters:
        await master.close()


@pytest.fixture
async def master(make_master: MakeMaster) -> FakeMaster:
    return await make_master()


@pytest.fixture
def make_connection(implementation: str) -> MakeConnection:
    """A function that makes a connection, by each implementation in turn."""
    if implementation == "http":
        return partial(HttpSchedulerConnection, timing=QUICK)
    install_pymesos()
    return partial(PymesosSchedulerConnection, timing=QUICK)


@pytest.fixture
def connect(master: FakeMaster, make_connection: MakeConnection) -> Connect:
    return lambda: make_connection(MasterList([master.address]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of connections with each implementation that can pass it."""
    if "implementation" in metafunc.fixturenames:
        name = metafunc.definition.originalname
        metafunc.parametrize("implementation", ["http"] if name in PYMESOS_GAPS else ["http", "pymesos"])


@pytest.fixture
async def start(connect: Connect) -> AsyncIterator[Start]:
    """A function that starts a framework, which is stopped after the test."""
    started: list[Framework] = []

    async def start(**options: Any) -> Framework:
        framework = Framework(connect(), **options)
        started.append(framework)
        return await framework.start()

    yield start
    for framework in started:
        await framework.stop()


@pytest.fixture
async def framework(start: Start) -> Framework:
    return await start()
