"""A served scheduler for the tests of this floor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.served import Served, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A fresh scheduler behind HTTP."""
    with serving(tmp_path) as running:
        yield running
