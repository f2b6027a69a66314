"""Golden cases: what Cook decides, one JSON file per topic."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

Case = dict[str, Any]


def cases(topic: str, *, ops: Iterable[str] = ()) -> list[Any]:
    """The cases of a topic (of these `op`s, if any are named), each under its id and title."""
    found: list[Case] = json.loads((Path(__file__).parent / f"{topic}.json").read_text())["cases"]
    wanted = frozenset(ops)
    chosen = [case for case in found if not wanted or case["input"].get("op") in wanted]
    assert chosen, f"no golden cases for {topic} {sorted(wanted)}"
    return [
        pytest.param(case["input"], case["expect"], id=f"{case['id']} {case['title']}") for case in chosen
    ]
