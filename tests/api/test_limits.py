"""/share, /quota and /usage."""

from typing import Any
from uuid import uuid4

import pytest

from tests.api.served import ApiServer, a_request

UNLIMITED = 1.7976931348623157e308


@pytest.mark.parametrize("kind", ["share", "quota"])
class TestLimits:
    def test_without_a_pool_the_limits_of_every_pool_are_returned(self, served: ApiServer, kind: str) -> None:
        told = served.ask("GET", f"/{kind}?user=ada").json
        assert set(told["pools"]) == {"default", "other", "closed"}
        assert {key: told[key] for key in told if key != "pools"} == told["pools"]["default"]

    def test_with_a_pool_only_its_amounts(self, served: ApiServer, kind: str) -> None:
        for reply in (
            served.ask("GET", f"/{kind}?user=ada&pool=other"),
            served.ask("GET", f"/{kind}?user=ada", headers={"X-Cook-Pool": "other"}),
        ):
            assert "pools" not in reply.json

    def test_what_is_set_holds_for_its_pool_and_the_rest_stays(self, served: ApiServer, kind: str) -> None:
        before = served.ask("GET", f"/{kind}?user=ada").json
        body = {"user": "ada", "reason": "r", "pool": "other", kind: {"cpus": 3}}
        reply = served.ask("POST", f"/{kind}", body)
        assert reply.status == 201
        assert reply.json == before["pools"]["other"] | {"cpus": 3.0}
        after = served.ask("GET", f"/{kind}?user=ada").json
        assert after["pools"]["default"] == before["pools"]["default"]
        assert served.ask("DELETE", f"/{kind}?user=ada&pool=other&reason=r").status == 204
        assert served.ask("GET", f"/{kind}?user=ada").json == before

    def test_the_user_default_counts_for_all(self, served: ApiServer, kind: str) -> None:
        served.ask("POST", f"/{kind}", {"user": "default", "reason": "r", kind: {"cpus": 2}})
        assert served.ask("GET", f"/{kind}?user=ada").json["cpus"] == 2.0

    def test_an_amount_may_be_unlimited(self, served: ApiServer, kind: str) -> None:
        body = {"user": "ada", "reason": "r", kind: {"cpus": UNLIMITED}}
        assert served.ask("POST", f"/{kind}", body).json["cpus"] == UNLIMITED

    @pytest.mark.parametrize("amounts", [{"cpus": -1}, {"cpus": "1"}, {"disk": 1}, {"cpus": None}])
    def test_wrong_amounts_are_refused(self, served: ApiServer, kind: str, amounts: dict[str, Any]) -> None:
        reply = served.ask("POST", f"/{kind}", {"user": "ada", "reason": "r", kind: amounts})
        assert reply.status == 400
        assert set(reply.json["errors"]) == {kind}

    def test_a_reason_is_needed(self, served: ApiServer, kind: str) -> None:
        assert served.ask("POST", f"/{kind}", {"user": "ada", kind: {}}).status == 400
        assert served.ask("DELETE", f"/{kind}?user=ada").status == 400
        assert served.ask("GET", f"/{kind}").json == {"errors": {"user": "missing-required-key"}}

    def test_only_administrators_change_them(self, served: ApiServer, kind: str) -> None:
        body = {"user": "ada", "reason": "r", kind: {"cpus": 100}}
        assert served.ask("POST", f"/{kind}", body, by="ada").status == 403
        assert served.ask("DELETE", f"/{kind}?user=ada&reason=r", by="ada").status == 403

    def test_an_unknown_pool_is_refused(self, served: ApiServer, kind: str) -> None:
        body = {"user": "ada", "reason": "r", "pool": "nope", kind: {"cpus": 1}}
        assert served.ask("POST", f"/{kind}", body).status == 400


def test_an_unset_quota_is_what_cs_calls_unlimited(served: ApiServer) -> None:
    assert served.ask("GET", "/quota?user=ada&pool=default").json == {
        "cpus": UNLIMITED,
        "mem": UNLIMITED,
        "gpus": UNLIMITED,
        "count": 2147483647,
        "launch-rate-saved": 10000097.0,
        "launch-rate-per-minute": 600013.0,
    }


class TestUsage:
    def test_running_jobs_are_summed_and_pools_come_last(self, served: ApiServer) -> None:
        for _ in range(3):
            served.started(served.submit(cpus=0.1, mem=10))
        reply = served.ask("GET", "/usage?user=owner")
        assert list(reply.json) == ["total_usage", "pools"]
        assert reply.json["total_usage"] == {"cpus": 0.1 + 0.1 + 0.1, "mem": 30.0, "gpus": 0.0, "jobs": 3}
        assert set(reply.json["pools"]) == {"default", "other", "closed"}

    def test_a_breakdown_has_groups_and_the_rest(self, served: ApiServer) -> None:
        group = str(uuid4())
        grouped = a_request(group=group)
        served.ask("POST", "/jobs", {"jobs": [grouped], "groups": [{"uuid": group, "name": "g"}]})
        alone = served.submit()
        served.started(grouped["uuid"])
        served.started(alone)
        told = served.ask("GET", "/usage?user=owner&group_breakdown=true&pool=default").json
        assert list(told) == ["total_usage", "grouped", "ungrouped"]
        assert told["grouped"][0]["group"] == {"uuid": group, "name": "g", "running_jobs": [grouped["uuid"]]}
        assert told["ungrouped"]["running_jobs"] == [alone]

    def test_without_a_user_the_usage_of_all_users_is_returned(self, served: ApiServer) -> None:
        served.started(served.submit(user="ada"))
        assert list(served.ask("GET", "/usage").json["users"]) == ["ada"]
