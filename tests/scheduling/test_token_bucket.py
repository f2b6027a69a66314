from collections.abc import Iterable
from math import inf
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from cook_jupyter.model.limits import Quota
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.limits.token_bucket import (
    Rate,
    RateLimiter,
    TokenBucket,
    UserPool,
    flush_launch_rate,
    launch_rate,
    launch_tokens,
)
from tests.golden.cases import cases

Input = dict[str, Any]
Expect = dict[str, Any]
TOLERANCE = 1e-2  # as in the source of the golden cases


@pytest.mark.parametrize(("given", "expect"), cases("token_bucket"))
def test_buckets_earn_and_spend_as_cooks(given: Input, expect: Expect) -> None:
    assert given.get("op") in (None, "limiter", "limiter_per_key")
    steps = zip(given["steps"], expect["after_each"], strict=True)
    if "tokens_per_minute" in given:
        _follow_limiter(given, steps)
    else:
        _follow_bucket(given, steps)


def _follow_bucket(given: Input, steps: Iterable[tuple[Input, Expect]]) -> None:
    bucket = TokenBucket(
        rate=Rate(given["rate"], given["bucket_size"]),
        tokens=given["start_tokens"] if "start_tokens" in given else given["bucket_size"],
        last_ms=given.get("start_time", 0),
    )
    for step, result in steps:
        if step["op"] == "spend":
            bucket = bucket.spent(step["tokens"], step["time"])
        elif step["op"] == "earn":
            bucket = bucket.earned(step["time"])
        else:
            assert step["op"] == "read"  # what the bucket has at a time, without changing it
            shown = _shown(bucket.earned(step["time"]) if "time" in step else bucket)
            for name, value in result.items():
                assert shown[name] == pytest.approx(value, rel=TOLERANCE), name
            continue
        for name, value in result.items():
            assert _shown(bucket)[name] == pytest.approx(value, rel=TOLERANCE), name


def _follow_limiter(given: Input, steps: Iterable[tuple[Input, Expect]]) -> None:
    def rate_of(key: str) -> Rate:
        return Rate.per_minute(
            _of_key(given["tokens_per_minute"], key),
            _of_key(given["bucket_sizes"] if "bucket_sizes" in given else given["bucket_size"], key),
        )

    limiter: RateLimiter[str] = RateLimiter(
        rate_of,
        enforce=given.get("enforce", True),
        expire_ms=given.get("expire_minutes", 60) * 60_000,
    )
    for step, result in steps:
        assert step.keys() <= {"time", "spend", "flush", "read"}
        for key, tokens in (step.get("spend") or {}).items():
            limiter.spend(key, tokens, step["time"])
        if "flush" in step:
            limiter.flush(step["flush"])
        read = step.get("read") or []
        for key in [read] if isinstance(read, str) else read:  # a lookup earns first, and spends nothing
            limiter.tokens(key, step["time"])
        for name, by_key in result.items():
            for key, value in by_key.items():
                shown = _shown(limiter.bucket(key, step["time"]))
                shown["held_back"] = limiter.holds_back(key, step["time"])
                assert shown[name] == pytest.approx(value, rel=TOLERANCE), (name, key)


def _of_key(result: Any, key: str) -> float:
    """What is told of all keys alike, or of each."""
    amount: float = dict(result)[key] if isinstance(result, dict) else result
    return amount


def _shown(bucket: TokenBucket) -> dict[str, Any]:
    return {
        "tokens": bucket.tokens,
        "in_debt": bucket.in_debt,
        "time_until": bucket.wait_ms,
        "last_update": bucket.last_ms,
    }


times = st.integers(0, 10_000)


@for_all(
    rate=st.floats(0, 20),
    size=st.integers(1, 200),
    steps=st.lists(st.tuples(times, st.integers(0, 300))),
)
def test_a_bucket_never_holds_more_than_its_size_nor_goes_back_in_time(
    rate: float, size: int, steps: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket.full(Rate(rate, size), 0)
    for now_ms, tokens in steps:
        earned = bucket.earned(now_ms)
        assert bucket.tokens <= earned.tokens <= size
        assert earned.last_ms >= bucket.last_ms
        bucket = earned.spent(tokens, now_ms)
        assert bucket.tokens == earned.tokens - tokens


@for_all(debt=st.integers(1, 10_000), rate=st.floats(0.001, 20))
def test_after_the_wait_a_bucket_is_out_of_debt_but_for_the_token_under_way(debt: int, rate: float) -> None:
    bucket = TokenBucket(rate=Rate(rate, 100), tokens=-debt, last_ms=0)
    assert bucket.earned(bucket.wait_ms).tokens >= -1
    assert bucket.earned(bucket.wait_ms + 1 / rate + 1).tokens >= 0


def test_a_bucket_that_earns_nothing_is_in_debt_for_ever() -> None:
    bucket = TokenBucket.full(Rate(0, 5), 0).spent(6, 0)
    assert bucket.in_debt
    assert bucket.wait_ms == inf
    assert bucket.earned(10**12) == bucket


def test_a_bucket_without_tokens_is_not_in_debt_even_if_it_earns_nothing() -> None:
    bucket = TokenBucket.full(Rate(0, 5), 0).spent(5, 0)
    assert not bucket.in_debt
    assert bucket.wait_ms == 0


def test_a_limit_that_is_not_enforced_only_counts() -> None:
    limiter: RateLimiter[str] = RateLimiter(lambda _: Rate(1, 10), enforce=False)
    limiter.spend("ada", 15, 0)
    assert limiter.tokens("ada", 0) == -5
    assert limiter.wait_ms("ada", 0) == 5
    assert not limiter.holds_back("ada", 0)
    assert (
        launch_tokens(RateLimiter(lambda _: Rate(1, 10), enforce=False), ["ada"], PoolName("lab"), 0) is None
    )


def test_a_key_in_debt_is_held_back_until_it_has_earned_enough() -> None:
    limiter: RateLimiter[str] = RateLimiter(lambda _: Rate(1, 10))
    limiter.spend("ada", 15, 0)
    assert limiter.holds_back("ada", 4)
    assert not limiter.holds_back("ada", 5)
    assert not limiter.holds_back("bob", 0)


def test_an_idle_bucket_is_forgotten_and_comes_back_full() -> None:
    limiter: RateLimiter[str] = RateLimiter(lambda _: Rate(0.0, 10), expire_ms=100)
    limiter.spend("ada", 10, 0)
    limiter.spend("bob", 10, 60)
    assert limiter.tokens("bob", 101) == 0
    assert len(limiter) == 1
    assert limiter.tokens("ada", 101) == 10


def test_launch_rates_come_from_quotas_and_a_changed_quota_makes_full_buckets() -> None:
    quotas = {"ada": Quota(launch_rate_saved=5, launch_rate_per_minute=60)}
    limiter: RateLimiter[UserPool] = RateLimiter(lambda key: launch_rate(quotas.get(key[0], Quota())))
    for user in ("ada", "bob"):
        limiter.spend((user, PoolName("lab")), 7, 0)
    assert launch_tokens(limiter, ["ada", "bob"], PoolName("lab"), 2000) == {"ada": 0, "bob": 10000097}

    limiter.spend(("bob", PoolName("lab")), 7, 2000)
    flush_launch_rate(limiter, "ada", PoolName("lab"))
    assert launch_tokens(limiter, ["ada", "bob"], PoolName("lab"), 2000) == {"ada": 5, "bob": 10000090}
    flush_launch_rate(limiter, "default", PoolName("lab"))
    assert launch_tokens(limiter, ["bob"], PoolName("lab"), 2000) == {"bob": 10000097}
