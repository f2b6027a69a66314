"""Shares and quotas are resolved as Cook resolves them: the golden cases `share` and `quota`."""

import json
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.model.limits import LimitEntry, LimitKind
from cook_jupyter.service.limits import Limits

GOLDEN = Path(__file__).parent.parent / "golden"


def cases(kind: str) -> list[Any]:
    """The golden cases of a kind. Cook's older count field left no trace in our store."""
    text = json.loads((GOLDEN / f"{kind}.json").read_text())
    return [
        pytest.param(kind, case["input"], case["expect"], id=case["id"])
        for case in text["cases"]
        if "limits" in case["expect"] or "count" in case["expect"]
    ]


def entries(kind: str, user: str, pool: str | None, values: dict[str, float]) -> list[LimitEntry]:
    return [
        LimitEntry(kind=kind, user=user, pool=pool or "", name=name, amount=amount)
        for name, amount in values.items()
    ]


@pytest.mark.parametrize(("kind", "given", "expect"), [*cases(LimitKind.SHARE), *cases(LimitKind.QUOTA)])
def test_limits_resolve_as_cooks_do(kind: str, given: dict[str, Any], expect: dict[str, Any]) -> None:
    limits = Limits(default_pool=given["default_pool"] or "", default_shares={})
    for entry in given["entries"]:
        limits.put(entries(kind, entry["user"], entry["pool"], entry["values"]))
    for then in given.get("then", []):
        if then["op"] == "retract":
            limits.retract(kind, then["user"], then["pool"] or "")
        else:
            limits.put(entries(kind, then["user"], then["pool"], then["values"]))

    found = limits.values(kind, given["query"]["user"], given["query"]["pool"] or "")

    if "limits" in expect:
        assert {name: found[name] for name in expect["limits"]} == expect["limits"]
    if "count" in expect:
        assert found["count"] == expect["count"]


def test_a_share_of_zero_counts_as_unset() -> None:
    limits = Limits(default_pool="p", default_shares={"cpus": 8.0})
    limits.put(entries(LimitKind.SHARE, "ada", "p", {"cpus": 0.0}))

    assert limits.share("ada", "p").cpus == pytest.approx(1.7976931348623157e308)


def test_a_changed_limit_is_seen_at_once() -> None:
    limits = Limits(default_pool="p", default_shares={})
    before = limits.quota("ada", "p").cpus
    limits.put(entries(LimitKind.QUOTA, "ada", "p", {"cpus": 3.0}))

    assert (before, limits.quota("ada", "p").cpus) == (1.7976931348623157e308, 3.0)
