"""Every example of README, tutorials and how-tos runs, each page against a scheduler of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
ON_MESOS = ROOT / "docs" / "how-to" / "mesos.md"  # run by tests/mesos
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
    *sorted(page for page in (ROOT / "docs" / "how-to").glob("*.md") if page != ON_MESOS),
]
LIMIT_S = 3 * HANG_S


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_examples_of_a_page_run(page: Path, cook_home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("page.py"), page],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, f"{name_of(page)}\n{done.stdout}\n{done.stderr}"


def test_there_is_a_tutorial_whose_examples_run() -> None:
    tutorials = [page for page in PAGES if page.parent.name == "tutorial"]

    assert any("```python" in page.read_text(encoding="utf-8") for page in tutorials)
