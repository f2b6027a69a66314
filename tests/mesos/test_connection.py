"""Our connection keeps its promises on a real Mesos master."""

import pytest

from cook_jupyter.clusters.mesos.http_connection import HttpSchedulerConnection
from cook_jupyter.clusters.mesos.leader import MasterAddress, MasterList
from tests.clusters.mesos.conftest import QUICK
from tests.clusters.mesos.connection_contract import Connect, ConnectionContract
from tests.mesos.local_fixture import mesos_address  # noqa: F401


class TestHttpConnection(ConnectionContract):
    @pytest.fixture
    def connect(self, mesos_address: str) -> Connect:  # noqa: F811
        return lambda: HttpSchedulerConnection(MasterList([MasterAddress.parse(mesos_address)]), timing=QUICK)
