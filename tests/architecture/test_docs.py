"""The documentation agrees with the code: diagrams, tables and links."""

import re
from pathlib import Path

import pytest

from cook_jupyter.model.lifecycle import STEPS

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "changelog.d" / "README.md",
]


def test_the_diagram_of_the_life_cycle_agrees_with_the_table() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", ARCHITECTURE, re.MULTILINE))

    assert drawn == {(now.value, then.value) for now, thens in STEPS.items() for then in thens}


def test_every_package_is_in_the_diagram_and_in_the_table() -> None:
    packages = {path.parent.name for path in (ROOT / "cook_jupyter").glob("*/__init__.py")}
    diagram = ARCHITECTURE.split("```")[1]

    assert packages - set(re.findall(r"\w+", diagram)) == set()
    assert {package for package in packages - {"model"} if f"| `{package}` |" not in ARCHITECTURE} == set()


def test_every_box_of_the_diagram_exists() -> None:
    diagram = ARCHITECTURE.split("```")[1]
    boxes = {
        word
        for line in diagram.splitlines()
        if line.startswith("│")
        for word in re.findall(r"\w+", line[: line.rindex("│", 0, 82)])
    }
    modules = {path.stem for path in (ROOT / "cook_jupyter").iterdir()}

    assert boxes <= modules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not (page.parent / target).exists()] == []
