"""To be deleted when the fixture `mesos` is here."""

import os

import pytest


@pytest.fixture(scope="session")
def mesos_address() -> str:
    if "MNET_MESOS" not in os.environ:
        pytest.skip("set MNET_MESOS=host:port")
    return os.environ["MNET_MESOS"]
