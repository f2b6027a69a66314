"""Connections keep their promises on a real Mesos master."""

import pytest

from cook_jupyter.clusters.mesos.transport.leader import MasterAddress, MasterList
from tests.clusters.mesos.connection_contract import Connect, ConnectionContract
from tests.clusters.mesos.implementations import IMPLEMENTATIONS, connection_maker
from tests.mesos.local_mesos.cluster import LocalMesos


class TestConnection(ConnectionContract):
    @pytest.fixture(params=IMPLEMENTATIONS)
    def connect(self, request: pytest.FixtureRequest, mesos: LocalMesos) -> Connect:
        make = connection_maker(request.param)
        return lambda: make(MasterList([MasterAddress.parse(mesos.master)]))
