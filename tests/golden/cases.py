"""Golden cases: what Cook decides, one JSON file per topic; and our own cases beside them in `ours/`.

Every case that a test takes is counted; the run tells at its end how many passed (`tests/conftest.py`). A
test that does not read every word of its case fails: see `words`. A word without meaning to a driver is named
there, with `ignore`.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.golden.words import Words, watched

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
    actual = in_files(topic)
    required = frozenset(ops)
    chosen = [case for case in actual if not required or case["input"].get("op") in required]
    assert chosen, f"no golden cases for {topic} {sorted(required)}"
    taken.update(case["id"] for case in chosen)
    chosen_by = ("op",) if required else ()
    return [
        pytest.param(
            watched(case["input"], chosen_by),
            watched(case["expect"]),
            id=f"{case['id']} {case['title']}",
            marks=pytest.mark.golden_case,
        )
        for case in chosen
    ]


def unknown_words(values: Iterable[object]) -> list[str]:
    """Return the words of a case that its driver did not read.

    Args:
        values: parameters of the test; those that are not of a golden case do not count.
    """
    return sorted({path for value in values if isinstance(value, Words) for path in value.unread()})


def ignore(value: dict[str, Any], *keys: str) -> None:
    """Note keys of a case that mean nothing to a driver, on purpose."""
    assert isinstance(value, Words)
    value.ignore(*keys)


def forget_reading(values: Iterable[object]) -> None:
    """Note of the values of a case that nothing of them was read yet."""
    for value in values:
        if isinstance(value, Words):
            value.forget()


def in_files(topic: str) -> list[Case]:
    """All cases of a topic, first Cook's, then our own."""
    actual: list[Case] = []
    for path in (HOME / f"{topic}.json", HOME / "ours" / f"{topic}.json"):
        if path.exists():
            actual += json.loads(path.read_text())["cases"]
    return actual


def counted(nodes: Iterable[tuple[str, bool]]) -> tuple[Count, Count]:
    """Count Cook's cases and our own, of tests given by name and whether they passed.

    A case that several tests take has passed if it passed in each of them.
    """
    passed: tuple[dict[str, bool], dict[str, bool]] = {}, {}
    for name, well in nodes:
        actual = ID.search(name, name.index("["))
        assert actual is not None, f"{name} is marked a golden case and names no case"
        mine = passed[actual[1] is not None]
        mine[actual[0]] = mine.get(actual[0], True) and well
    cooks, ours = (Count(passed=sum(item.values()), run=len(item)) for item in passed)
    return cooks, ours
