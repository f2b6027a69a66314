"""Our cluster on a real Mesos: the promises of every cluster."""

from collections.abc import Iterator

import pytest

from tests.clusters.contract import ClusterContract
from tests.mesos.harness import MesosSite
from tests.mesos.local_mesos.cluster import LocalMesos


@pytest.fixture
def site(mesos: LocalMesos) -> Iterator[MesosSite]:
    site = MesosSite(mesos)
    yield site
    site.tear_down()


class TestMesosCluster(ClusterContract):
    """Mesos keeps the promises of every cluster."""
