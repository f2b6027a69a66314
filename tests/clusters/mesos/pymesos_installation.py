"""pymesos for tests."""

from cook_jupyter.clusters.mesos.pymesos_connection import driver_class
from cook_jupyter.errors import ClusterUnusable
from tests.conftest import missing_part


def install_pymesos() -> None:
    """Import pymesos; the test is skipped if it is not installed."""
    try:
        driver_class()
    except ClusterUnusable as error:
        missing_part(str(error))
