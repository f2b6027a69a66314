"""Fake masters, and frameworks whose pauses are short."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cook_jupyter.clusters.mesos.http_connection import HttpSchedulerConnection, Timing
from cook_jupyter.clusters.mesos.leader import MasterList
from tests.clusters.mesos.connection_contract import Connect, Start
from tests.clusters.mesos.fake_cluster import FakeCluster
from tests.clusters.mesos.fake_master import FakeMaster
from tests.clusters.mesos.framework import Framework

MakeMaster = Callable[..., Awaitable[FakeMaster]]

QUICK = Timing(shortest_pause_s=0.01, longest_pause_s=0.15, subscribe_s=1.0)
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
def connect(master: FakeMaster) -> Connect:
    return lambda: HttpSchedulerConnection(MasterList([master.address]), timing=QUICK)


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
