"""Our connection keeps its promises on a fake master, also when calls and streams fail."""

import pytest

from cook_jupyter.clusters.mesos.http_connection import HttpSchedulerConnection
from cook_jupyter.clusters.mesos.leader import MasterList
from tests.clusters.mesos.conftest import QUICK
from tests.clusters.mesos.connection_contract import Connect, ConnectionContract
from tests.clusters.mesos.fake_master import FakeMaster


class TestHttpConnection(ConnectionContract):
    @pytest.fixture
    def connect(self, master: FakeMaster) -> Connect:
        return lambda: HttpSchedulerConnection(MasterList([master.address]), timing=QUICK)
