"""Shares and quotas are resolved as Cook resolves them: the golden cases `share` and `quota`."""

from typing import Any

import pytest

from cook_jupyter.model.limits import OLD_COUNT, LimitEntry, LimitKind
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.state.limits import Limits, PoolDivision
from tests.builders import a_job_spec
from tests.golden.cases import cases
from tests.service.conftest import ManualSchedulerFactory


def entries(kind: str, user: str, pool: str | None, values: dict[str, float]) -> list[LimitEntry]:
    return [
        LimitEntry(kind=kind, user=user, pool=PoolName(pool or ""), name=_ours(name), amount=amount)
        for name, amount in values.items()
    ]


def _ours(name: str) -> str:
    return name.replace("_", "-")


@pytest.mark.parametrize(("given", "expect"), cases("share"))
def test_shares_resolve_as_cooks_do(given: dict[str, Any], expect: dict[str, Any]) -> None:
    _resolves(LimitKind.SHARE, given, expect)


@pytest.mark.parametrize(("given", "expect"), cases("quota"))
def test_quotas_resolve_as_cooks_do(given: dict[str, Any], expect: dict[str, Any]) -> None:
    _resolves(LimitKind.QUOTA, given, expect)


def _resolves(kind: str, given: dict[str, Any], expect: dict[str, Any]) -> None:
    limits = Limits(default_pool=PoolName(given.get("default_pool") or ""), default_shares={})
    for entry in given["entries"]:
        limits.update(entries(kind, entry["user"], entry.get("pool"), entry["values"]))
    for user, count in (given.get("legacy_count_field") or {}).items():
        limits.update(entries(kind, user, None, {OLD_COUNT: count}))
    for then in given.get("then", []):
        if then["op"] == "retract":
            limits.remove(kind, then["user"], PoolName(then.get("pool") or ""))
        elif then["op"] == "read":  # a question in between changes nothing, and its answer must be right
            _same(limits, kind, then, then.get("expect") or {})
        else:
            assert then["op"] == "set"
            limits.update(entries(kind, then["user"], then.get("pool"), then["values"]))

    assert expect
    _same(limits, kind, given["query"], expect)


AMOUNTS = {"cpus", "mem", "gpus", "count", "launch_rate_saved", "launch_rate_per_minute"}


def _same(limits: Limits, kind: str, query: dict[str, Any], expect: dict[str, Any]) -> None:
    found = limits.values(kind, query["user"], PoolName(query.get("pool") or ""))
    wanted: dict[str, float] = {}
    for word, value in expect.items():
        assert word in AMOUNTS | {"limits", "launch_rate"}, f"{word!r} is no word of a limit"
        wanted |= dict(value) if isinstance(value, dict) else {word: value}
    assert {name: found[_ours(name)] for name in wanted} == pytest.approx(wanted, rel=1e-9)


def test_a_share_of_zero_counts_as_unset() -> None:
    limits = Limits(default_pool=PoolName("p"), default_shares={"cpus": 8.0})
    limits.update(entries(LimitKind.SHARE, "ada", "p", {"cpus": 0.0}))

    assert limits.for_pool(PoolName("p")).share("ada").cpus == pytest.approx(1.7976931348623157e308)


def test_a_changed_limit_is_seen_at_once() -> None:
    limits = Limits(default_pool=PoolName("p"), default_shares={})
    before = limits.quota("ada", PoolName("p")).cpus
    limits.update(entries(LimitKind.QUOTA, "ada", "p", {"cpus": 3.0}))

    assert (before, limits.quota("ada", PoolName("p")).cpus) == (1.7976931348623157e308, 3.0)


def test_a_question_about_shares_changes_no_answer_to_another() -> None:
    limits = Limits(default_pool=PoolName("p"), default_shares={})
    whole = Resources(cpus=8, mem_mb=800)
    alone, together = PoolDivision(total=whole), PoolDivision(total=whole, parts=4)

    cpus = [
        limits.for_pool(PoolName("p"), division).share("ada").cpus for division in (alone, together, alone)
    ]

    assert cpus == [8, 2, 8]
    assert limits.values(LimitKind.SHARE, "ada", PoolName("p"), together)["mem"] == 200
    assert limits.for_pool(PoolName("p"), alone) is limits.for_pool(PoolName("p"), alone)


async def test_a_share_that_nobody_set_is_told_as_it_is_now_whoever_asked_last(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await manual.submit(a_job_spec(user="ada"))
        alone = await manual.scheduler.limits_of(LimitKind.SHARE, "ada", PoolName(""))
        await manual.submit(a_job_spec(user="bob"))
        together = await manual.scheduler.limits_of(LimitKind.SHARE, "ada", PoolName(""))

        assert (alone["cpus"], together["cpus"]) == (2.0, 1.0)
