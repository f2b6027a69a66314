"""Golden cases: what Cook decides, one JSON file per topic; and neighbours of them of our own, under `ours/`.

Every case that a test takes is counted; the run tells at its end how many passed (`tests/conftest.py`).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

Case = dict[str, Any]
HOME = Path(__file__).parent
ID = re.compile(r"\b(our-)?[a-z]+-\d+\b")
taken: set[str] = set()  # ids of the cases that some test takes


class Count(NamedTuple):
    """How many cases passed, and how many were run."""

    passed: int = 0
    run: int = 0


def cases(topic: str, *, ops: Iterable[str] = ()) -> list[Any]:
    """The cases of a topic (of these `op`s, if any are named), each under its id and title."""
    found = in_files(topic)
    wanted = frozenset(ops)
    chosen = [case for case in found if not wanted or case["input"].get("op") in wanted]
    assert chosen, f"no golden cases for {topic} {sorted(wanted)}"
    taken.update(case["id"] for case in chosen)
    return [
        pytest.param(
            case["input"], case["expect"], id=f"{case['id']} {case['title']}", marks=pytest.mark.golden_case
        )
        for case in chosen
    ]


def in_files(topic: str) -> list[Case]:
    """All cases of a topic, first Cook's, then our own."""
    found: list[Case] = []
    for path in (HOME / f"{topic}.json", HOME / "ours" / f"{topic}.json"):
        if path.exists():
            found += json.loads(path.read_text())["cases"]
    return found


def counted(nodes: Iterable[tuple[str, bool]]) -> tuple[Count, Count]:
    """Count Cook's cases and our own, of tests given by name and whether they passed.

    A case that several tests take has passed if it passed in each of them.
    """
    passed: tuple[dict[str, bool], dict[str, bool]] = {}, {}
    for name, well in nodes:
        found = ID.search(name, name.index("["))
        assert found is not None, f"{name} is marked a golden case and names no case"
        mine = passed[found[1] is not None]
        mine[found[0]] = mine.get(found[0], True) and well
    cooks, ours = (Count(passed=sum(each.values()), run=len(each)) for each in passed)
    return cooks, ours
