"""The configuration of a simulation is Cook's, with the settings of Fenzo in either of its two places."""

from pathlib import Path

import pytest

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.scheduling.rebalancing.rules import PreemptionThresholds
from cook_jupyter.service.settings.tables import JobSettings, MatchingSettings
from cook_jupyter.simulation.config import (
    SimConfig,
    parse_config,
    read_config,
)

FULL_CONFIG = """
{:shares [{:user "default" :mem 4000.0 :cpus 4.0 :gpus 1.0} {:user "ada" :mem 10000.0}]
 :cycle-step-ms 60000 ; a minute
 :time-ms-between-incremental-output 1200000
 :time-ms-between-optimizer-calls 240000
 :time-ms-between-rebalancing 3600000
 :scheduler-config {:rebalancer-config {:safe-dru-threshold 2.0 :min-dru-diff 0.25 :max-preemption 64.0}
                    :fenzo-config {:fenzo-max-jobs-considered 200
                                   :fenzo-scaleback 0.9
                                   :fenzo-floor-iterations-before-warn 5
                                   :fenzo-floor-iterations-before-reset 500
                                   :good-enough-fitness 0.8}
                    :task-constraints {:memory-gb 48 :cpus 16 :retry-limit 7 :timeout-hours 3}
                    :mea-culpa-failure-limit 3}}
"""


def test_every_key_is_read() -> None:
    assert parse_config(FULL_CONFIG) == SimConfig(
        shares={"default": {"mem": 4000.0, "cpus": 4.0, "gpus": 1.0}, "ada": {"mem": 10000.0}},
        cycle_step_ms=60_000,
        incremental_output_ms=1_200_000,
        optimizer_ms=240_000,
        rebalance_ms=3_600_000,
        rebalancer=PreemptionThresholds(safe_dru_threshold=2.0, min_dru_diff=0.25, max_preemption=64),
        timeout_hours=3,
        matching=MatchingSettings(max_considered=200, scaleback=0.9, good_enough=0.8),
        jobs=JobSettings(
            max_mem_mb=48 * 1024, max_cpus=16, retry_limit=7, mea_culpa_limit=3, mea_culpa_limits={}
        ),
    )


def test_missing_keys_have_the_defaults_of_cooks_simulator() -> None:
    config = parse_config("{}")

    assert config == SimConfig()
    assert config.shares == {"default": {"mem": 4000.0, "cpus": 4.0, "gpus": 1.0}}
    assert (config.rebalance_ms, config.optimizer_ms) == (30 * 60_000, 3 * 60_000)
    assert (config.matching.max_considered, config.matching.good_enough, config.matching.scaleback) == (
        2000,
        1.0,
        0.95,
    )
    assert (config.jobs.max_mem_mb, config.jobs.max_cpus) == (140 * 1024, 40)


SCHEDULERS = """
:settings {:pools {:schedulers [{:pool-regex "gpu" :scheduler-config {:fenzo-max-jobs-considered 1}}
                                {:pool-regex "o-p" :scheduler-config {:fenzo-max-jobs-considered 2}}
                                {:pool-regex ".*" :scheduler-config {:fenzo-max-jobs-considered 3}}]}}
"""
OLDER = ":fenzo-config {:fenzo-max-jobs-considered 9}"


@pytest.mark.parametrize(
    "text",
    [
        f"{{{SCHEDULERS} :scheduler-config {{{OLDER}}}}}",
        f"{{:scheduler-config {{{OLDER} {SCHEDULERS}}}}}",
    ],
)
def test_the_first_scheduler_that_matches_the_pool_overrides_the_older_key(text: str) -> None:
    assert parse_config(text).matching.max_considered == 2


def test_failure_limits_may_be_set_by_reason() -> None:
    config = parse_config(
        "{:scheduler-config {:mea-culpa-failure-limit {:default 2 :preempted-by-rebalancer -1 :nonsense 1}}}"
    )

    assert (config.jobs.mea_culpa_limit, config.jobs.mea_culpa_limits) == (2, {"preempted-by-rebalancer": -1})
    assert config.ignored == (":scheduler-config :mea-culpa-failure-limit :nonsense",)


def test_unknown_keys_are_listed() -> None:
    config = parse_config("{:port 1 :scheduler-config {:fenzo-config {:speed 3}}}")

    assert config.ignored == (":port", ":scheduler-config :fenzo-config :speed")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "the configuration must be a map"),
        ('{"port" 1}', "not a keyword"),
        ("{:cycle-step-ms 0}", ":cycle-step-ms must be above 0"),
        ("{:cycle-step-ms true}", ":cycle-step-ms must be a number, not True"),
        ("{:shares {}}", ":shares must be a vector of maps"),
        ("{:shares [{:user ada :mem 1.0}]}", r":shares \[0\] :user must be a string, not ada"),
        ("{:shares [{:mem 1.0}]}", r":shares \[0\] :user must be a string"),
        ('{:shares [{:user "ada" :mem 0}]}', r":shares \[0\] :mem must be above 0"),
        ("{:scheduler-config {:task-constraints 4}}", ":scheduler-config :task-constraints must be a map"),
        ('{:settings {:pools {:schedulers [{:pool-regex "("}]}}}', "not a regular expression"),
        ("{:a", "line 1, column 1"),
        ("{:cycle-step-ms -5}", ":cycle-step-ms must be above 0, not -5"),
        ("{:cycle-step-ms 0.5}", ":cycle-step-ms must be a whole number, not 0.5"),
        ("{:cycle-step-ms 99999999999999999999}", ":cycle-step-ms must be .* or less"),
        ("{:time-ms-between-rebalancing 0}", ":time-ms-between-rebalancing must be above 0"),
        ("{:time-ms-between-rebalancing -1}", ":time-ms-between-rebalancing must be above 0"),
        ("{:time-ms-between-optimizer-calls 0}", "must be above 0"),
        ("{:time-ms-between-incremental-output -2.0}", "must be above 0"),
        ('{:shares [{:user "ada" :mem -1.0}]}', r":shares \[0\] :mem must be above 0"),
        ('{:shares [{:user "ada" :cpus 1e999}]}', r":shares \[0\] :cpus must be a finite number"),
        ('{:shares [{:user "" :mem 1.0}]}', r":shares \[0\] :user '' is empty"),
        ('{:shares [{:user " " :mem 1.0}]}', r":shares \[0\] :user ' ' is empty"),
        ('{:shares [{:user "a" :mem 1.0} {:user "a" :mem 2.0}]}', r":shares \[1\] :user 'a' appears twice"),
        ('{:shares [{:user "ada" :cpu 1.0}]}', r":shares \[0\] :cpu is not a key of a share"),
        ('{:shares [{:user "ada" :disk 1.0}]}', r":disk is not a key of a share; valid keys are :user"),
        ("{:cycle-step 5}", ":cycle-step is not a known key; did you mean :cycle-step-ms"),
        ("{:time-ms-between-rebalancings 5}", "did you mean :time-ms-between-rebalancing"),
        (
            "{:scheduler-config {:rebalancer-config {:min-dru-dif 0.1}}}",
            ":min-dru-dif is not a known key; did you mean :min-dru-diff",
        ),
        (
            "{:scheduler-config {:mea-culpa-failure-limit {:preempted-by-rebalance 1}}}",
            "did you mean :preempted-by-rebalancer",
        ),
        ("{:scheduler-config {:mea-culpa-failure-limit -2}}", "must be -1 or more"),
        ("{:scheduler-config {:mea-culpa-failure-limit 1.5}}", "must be a whole number"),
        ("{:scheduler-config {:rebalancer-config {:min-dru-diff -0.1}}}", ":min-dru-diff must be 0 or more"),
        ("{:scheduler-config {:rebalancer-config {:safe-dru-threshold -1}}}", "must be 0 or more"),
        ("{:scheduler-config {:rebalancer-config {:max-preemption -1}}}", "must be 0 or more"),
        ("{:scheduler-config {:rebalancer-config {:max-preemption 0.5}}}", "must be a whole number"),
        ("{:scheduler-config {:task-constraints {:memory-gb 0}}}", ":memory-gb must be above 0"),
        ("{:scheduler-config {:task-constraints {:cpus -4}}}", ":cpus must be above 0"),
        ("{:scheduler-config {:task-constraints {:retry-limit 0}}}", ":retry-limit must be 1 or more"),
        ("{:scheduler-config {:task-constraints {:timeout-hours 0}}}", ":timeout-hours must be above 0"),
        ("{:scheduler-config {:fenzo-config {:fenzo-max-jobs-considered 0}}}", "must be 1 or more"),
        ("{:scheduler-config {:fenzo-config {:fenzo-scaleback 1.5}}}", ":fenzo-scaleback must be 1 or less"),
        ("{:scheduler-config {:fenzo-config {:good-enough-fitness 2}}}", "must be 1 or less"),
    ],
)
def test_an_invalid_value_is_refused_with_its_path(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "config.edn"
    file.write_text(text)

    with pytest.raises(InvalidRequest, match=complaint) as caught:
        read_config(file)

    assert str(file) in str(caught.value)
