"""Fake masters, and frameworks whose pauses are short."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cook_jupyter.clusters.mesos.transport.leader import MasterList
from tests.clusters.mesos.connection_contract import Connect, Start
from tests.clusters.mesos.fake_cluster import FakeCluster
from tests.clusters.mesos.fake_master import FakeMaster
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.implementations import (
    IMPLEMENTATIONS,
    PYMESOS_GAPS,
    MakeConnection,
    connection_maker,
)

MakeMaster = Callable[..., Awaitable[FakeMaster]]


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
    return connection_maker(implementation)


@pytest.fixture
def connect(master: FakeMaster, make_connection: MakeConnection) -> Connect:
    return lambda: make_connection(MasterList([master.address]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of connections with each implementation that can pass it."""
    if "implementation" in metafunc.fixturenames:
        name = metafunc.definition.originalname
        passing = ["http"] if name in PYMESOS_GAPS else IMPLEMENTATIONS
        metafunc.parametrize("implementation", passing)


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
