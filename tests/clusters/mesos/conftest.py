"""A fake master, and connections to it whose pauses are short."""

from collections.abc import AsyncIterator

import pytest

from cook_jupyter.clusters.mesos.http_connection import Timing
from tests.clusters.mesos.fake_master import FakeMaster

QUICK = Timing(shortest_pause_s=0.01, longest_pause_s=0.15)
"""Back-off at a hundredth of its length."""


@pytest.fixture
async def master() -> AsyncIterator[FakeMaster]:
    master = FakeMaster()
    await master.start()
    yield master
    await master.close()
