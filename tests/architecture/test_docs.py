"""The documentation against the code: what is drawn exists, what exists is drawn, links lead somewhere."""

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


def test_the_drawing_of_an_instances_life_is_the_table() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", ARCHITECTURE, re.MULTILINE))

    assert drawn == {(now.value, then.value) for now, thens in STEPS.items() for then in thens}


def test_every_floor_is_drawn_and_told() -> None:
    floors = {path.parent.name for path in (ROOT / "cook_jupyter").glob("*/__init__.py")}
    house = ARCHITECTURE.split("```")[1]

    assert floors - set(re.findall(r"\w+", house)) == set()
    assert {floor for floor in floors - {"model"} if f"| `{floor}` |" not in ARCHITECTURE} == set()


def test_every_box_of_the_drawing_exists() -> None:
    house = ARCHITECTURE.split("```")[1]
    boxes = {
        word
        for line in house.splitlines()
        if line.startswith("│")
        for word in re.findall(r"\w+", line[: line.rindex("│", 0, 82)])
    }
    rooms = {path.stem for path in (ROOT / "cook_jupyter").iterdir()}

    assert boxes <= rooms


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not (page.parent / target).exists()] == []
