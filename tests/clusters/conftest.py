"""A home for a node agent, and the certainty that nothing of it is left behind."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cook_jupyter.clusters.local.cluster import LocalCluster
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports


@pytest.fixture
def site() -> Iterator[LocalSite]:
    folder = Path(tempfile.mkdtemp(prefix="cook-"))
    site = LocalSite(folder)
    yield site
    left = site.end_everything()
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
async def cluster(site: LocalSite, reports: Reports) -> AsyncIterator[LocalCluster]:
    """A local cluster that runs, and whose agent is stopped afterwards."""
    cluster = site.cluster()
    await cluster.start(reports, [])
    yield cluster
    await cluster.stop_agent()
    await cluster.close()
