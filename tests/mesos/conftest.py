"""Fixtures with a real Mesos on this machine: a shared one, and private ones for faults."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing_part
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.local_mesos.install import InstallFailed, install


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("mesos")


@pytest.fixture(scope="session")
def installed_mesos() -> None:
    """Install Mesos, or skip the test if that is not possible."""
    try:
        install()
    except InstallFailed as error:
        missing_part(f"no Mesos: {error}")


@pytest.fixture(scope="session")
def mesos(installed_mesos: None) -> Iterator[LocalMesos]:
    """Mesos with two agents of 4 CPUs and 4 GiB, in the racks a and b; for tests that leave it as it was."""
    with LocalMesos(attributes=["rack:a", "rack:b"]) as mesos:
        yield mesos


@pytest.fixture
def private_mesos(installed_mesos: None) -> Iterator[Callable[..., LocalMesos]]:
    """A function that starts a Mesos for one test; its arguments are those of `LocalMesos`."""
    with ExitStack() as stack:

        def start(**options: Any) -> LocalMesos:
            return stack.enter_context(LocalMesos(**options))

        yield start
