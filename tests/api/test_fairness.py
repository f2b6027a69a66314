"""Fairness by HTTP: parameters of the rebalancer, preemption as Cook tests it, the monitor, rates."""

from pathlib import Path

import pytest

from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import Bucket, MaintenanceSettings, RateSettings, RebalancerSettings
from tests.api.served import POOLS, ApiServer, a_request, serving
from tests.waiting import wait_until

QUICK = RebalancerSettings(interval_ms=50)


def test_the_parameters_of_the_rebalancer_can_be_read_and_set(served: ApiServer) -> None:
    told = served.ask("GET", "/v1/rebalancer").json
    assert told == {
        "enabled": True,
        "interval_ms": 10_000,
        "pool_regex": ".*",
        "safe_dru_threshold": 1.0,
        "min_dru_diff": 0.1,
        "max_preemption": 100,
    }
    changed = served.ask("PUT", "/v1/rebalancer", {"min_dru_diff": 0.25})
    assert (changed.status, changed.json["min_dru_diff"]) == (200, 0.25)
    assert served.ask("GET", "/settings").json["rebalancer"] == {
        "interval-seconds": 10,
        "max-preemption": 100,
        "min-dru-diff": 0.25,
        "pool-regex": ".*",
        "safe-dru-threshold": 1.0,
    }


def test_a_disabled_rebalancer_has_no_maximum_in_the_settings(served: ApiServer) -> None:
    assert served.ask("PUT", "/v1/rebalancer", {"max_preemption": None}).status == 200
    assert served.ask("GET", "/settings").json["rebalancer"] == {"interval-seconds": 10}


@pytest.mark.parametrize(
    "body", [{"speed": 1}, {"min_dru_diff": "much"}, {"min_dru_diff": -1}, [1], "x", {"max_preemption": True}]
)
def test_an_unknown_parameter_is_refused(served: ApiServer, body: object) -> None:
    reply = served.ask("PUT", "/v1/rebalancer", body)
    assert reply.status == 400
    assert served.ask("GET", "/v1/rebalancer").json["min_dru_diff"] == 0.1


def test_only_administrators_set_parameters(served: ApiServer) -> None:
    assert served.ask("PUT", "/v1/rebalancer", {"max_preemption": 1}, by="ada").status == 403
    assert served.ask("GET", "/v1/rebalancer", by="ada").status == 200


def test_a_job_is_preempted_for_one_of_higher_priority_of_the_same_user(tmp_path: Path) -> None:
    """As Cook's integration test has it: at quota, far above share, by priority."""
    with serving(tmp_path, settings=Settings(pools=POOLS, rebalancer=QUICK)) as served:
        limits = {"user": "ada", "reason": "test"}
        served.ask("POST", "/share", {**limits, "share": {"cpus": 0.1, "mem": 32}})
        served.ask("POST", "/quota", {**limits, "quota": {"cpus": 1.0}})
        large = served.submit("ada", cpus=1.0, priority=1)
        task = served.started(large)
        small = served.submit("ada", cpus=0.1, priority=100)

        wait_until(lambda: served.ask("GET", f"/instances/{task}").json["status"] == "failed")
        ended = served.ask("GET", f"/instances/{task}").json
        assert (ended["preempted"], ended["reason_code"]) == (True, 1002)
        assert ended["reason_string"] == "Preempted by rebalancer"
        assert ended["end_time"] > 0
        served.started(small)
        assert served.job(large)["state"] == "waiting"


def test_a_preempted_users_usage_falls_and_the_other_ones_rises(tmp_path: Path) -> None:
    with serving(tmp_path, settings=Settings(pools=POOLS, rebalancer=QUICK)) as served:
        hogs = [served.submit("hog", cpus=1.0) for _ in range(4)]
        for uuid in hogs:
            served.started(uuid)
        late = served.submit("late", cpus=1.0)
        served.started(late)

        assert served.ask("GET", "/usage?user=hog").json["total_usage"]["cpus"] == 3.0
        assert served.ask("GET", "/usage?user=late").json["total_usage"]["cpus"] == 1.0
        (victim,) = [uuid for uuid in hogs if served.job(uuid)["state"] == "waiting"]
        assert served.job(victim)["retries_remaining"] == 1


def test_the_monitor_reports_starved_users(tmp_path: Path) -> None:
    often = MaintenanceSettings(monitor_interval_ms=20)
    off = RebalancerSettings(enabled=False)
    settings = Settings(pools=POOLS, maintenance=often, rebalancer=off)
    with serving(tmp_path, settings=settings) as served:
        for uuid in [served.submit("hog", cpus=2.0) for _ in range(2)]:
            served.started(uuid)
        served.submit("late", cpus=1.0)

        def told() -> dict[str, int]:
            pools = served.ask("GET", "/v1/monitor", by="ada").json["pools"]
            return dict(pools.get("default", {}).get("users", {}))

        wait_until(lambda: told().get("starved") == 1)
        default = served.ask("GET", "/v1/monitor").json["pools"]["default"]
        assert default["users"] == {
            "total": 2,
            "starved": 1,
            "hungry": 0,
            "satisfied": 1,
            "waiting_under_quota": 1,
        }
        assert default["starved"]["late"] == {"jobs": 1, "cpus": 1.0, "mem": 32.0}
        assert served.ask("GET", "/v1/summary").json["monitor"]["default"]["starved"] == 1
        assert served.ask("GET", "/v1/monitor").json["cycles"]["default"]["matched"] >= 1
        assert 'cook_users{pool="default",state="starved"} 1.0' in served.ask("GET", "/metrics").text


def test_too_many_requests_are_answered_429(tmp_path: Path) -> None:
    rates = RateSettings(requests=Bucket(bucket_size=3, tokens_per_minute=1))
    with serving(tmp_path, settings=Settings(pools=POOLS, rates=rates)) as served:
        replies = [served.ask("GET", "/pools", by="ada") for _ in range(6)]

        assert [reply.status for reply in replies] == [200] * 4 + [429] * 2
        assert int(replies[-1].headers["Retry-After"]) <= 60
        assert served.ask("GET", "/pools", by="bob").status == 200
        assert served.ask("GET", "/debug").status == 200


def test_a_user_who_submits_too_fast_gets_the_time_to_wait(tmp_path: Path) -> None:
    rates = RateSettings(job_submission=Bucket(bucket_size=1, tokens_per_minute=1))
    with serving(tmp_path, settings=Settings(pools=POOLS, rates=rates)) as served:
        served.ask("POST", "/jobs", {"jobs": [a_request() for _ in range(3)]})
        reply = served.ask("POST", "/jobs", {"jobs": [a_request()]})

        assert reply.status == 400
        assert reply.json["error"].startswith(
            "User owner is inserting too quickly. Not allowed to insert for 1"
        )
        assert served.ask("GET", "/settings").json["rate-limit"]["job-submission"] == {
            "bucket-size": 1,
            "tokens-replenished-per-minute": 1,
            "enforce?": True,
        }
