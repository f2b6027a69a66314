"""A running API server for the tests of this layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.served import ApiServer, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ApiServer]:
    """A fresh scheduler behind HTTP."""
    with serving(tmp_path) as running:
        yield running
