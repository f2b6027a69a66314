"""Settings as operators write them: typed tables, and a clear word where something is wrong."""

from dataclasses import fields
from pathlib import Path

import pytest

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.constraints.constraints import ConstraintRewrite
from cook_jupyter.service.settings.schema import Settings, load_settings
from cook_jupyter.service.settings.tables import (
    Bucket,
    CompletionSettings,
    HeadRoomSettings,
    MaintenanceSettings,
    PlacementSettings,
    PoolConstraints,
    PoolMove,
    PoolQuota,
    QueueLimit,
    RateSettings,
    RebalancerSettings,
)

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"

ALL = """
default_pool = "main"
order = "fair"
equal_shares = false
max_runtime_ms = 3600000
admins = ["root"]

[[pools]]
name = "main"

[[pools]]
name = "gpus"
dru_mode = "gpu"

[rebalancer]
interval_ms = 30000
safe_dru_threshold = 2
pool_regex = "^main$"

[[pool_quotas]]
pool_regex = "main"
cpus = 100.5
count = 7

[quota_groups]
main = "both"
gpus = "both"

[[queue_limits]]
user_limit_normal = 100

[rates.job_submission]
bucket_size = 1000
tokens_per_minute = 600

[placement]
avoid_failed_hosts = "always"

[placement.completion]
host_lifetime_ms = 86400000

[[placement.default_constraints]]
constraints = [["rack", "a"]]

[placement.rewritings.zone]
attribute = "rack"
patterns = [["^old-(.*)", "$1"]]

[[pool_moves]]
pool = "main"
destination = "gpus"
users = { ada = 0.5 }

[head_room]
max_kept = 0.5
backfill = false

[maintenance]
interval_ms = 1000
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cook.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_table_of_a_settings_file_becomes_a_typed_value(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, ALL), port=7)

    assert (settings.port, settings.default_pool, settings.equal_shares) == (7, "main", False)
    assert settings.admins == frozenset({"root"})
    assert [pool.dru_mode for pool in settings.pools] == [DruMode.DEFAULT, DruMode.GPU]
    assert settings.rebalancer == RebalancerSettings(
        interval_ms=30_000, safe_dru_threshold=2.0, pool_regex="^main$"
    )
    assert settings.head_room == HeadRoomSettings(max_kept=0.5, backfill=False)
    assert settings.pool_quotas == (PoolQuota(pool_regex="main", cpus=100.5, count=7),)
    assert settings.quota_groups == {"main": "both", "gpus": "both"}
    assert settings.queue_limits == (QueueLimit(user_limit_normal=100),)
    assert settings.rates.job_submission == Bucket(bucket_size=1000, tokens_per_minute=600)
    assert settings.placement.completion is not None
    assert settings.placement.completion.host_lifetime_ms == 86_400_000
    assert settings.placement.default_constraints == (PoolConstraints(constraints=(("rack", "a"),)),)
    assert settings.placement.rewritings == {
        "zone": ConstraintRewrite(attribute="rack", patterns=(("^old-(.*)", "$1"),))
    }
    assert settings.pool_moves == (PoolMove(pool="main", destination="gpus", users={"ada": 0.5}),)


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings(None) == Settings()


def test_the_settings_of_cook_differ_in_nothing_but_what_we_do_better() -> None:
    ours, cooks = RebalancerSettings(), RebalancerSettings.cook()

    assert (cooks.min_dru_diff, ours.min_dru_diff) == (0.5, 0.1)
    assert (cooks.safe_dru_threshold, cooks.max_preemption) == (
        ours.safe_dru_threshold,
        ours.max_preemption,
    )
    assert (cooks.interval_ms, cooks.reserve_from, cooks.reservations) == (300_000, 2, "shared")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed = 1", "names unknown settings: speed; known are: admins, agent_idle_exit_s"),
        ("[rebalancer]\nspeed = 1", r"unknown settings in \[rebalancer\]: speed; known are: .*min_dru_diff"),
        ("[[pool_quotas]]\npool_regex = 'a'\nram = 1", r"in \[pool_quotas\]: ram; known are: count, cpus"),
        ("[placement.completion]\nlife = 1", r"in \[placement.completion\]: life; known are"),
        (
            "[placement.rewritings.zone]\nto = 1",
            r"in \[placement.rewritings.zone\]: to; known are: attribute",
        ),
        (
            '[placement.rewritings.zone]\npatterns = [["(", ""]]',
            "rewritings.zone.patterns '\\(' is no regular",
        ),
        ("[rates.job_submission]\nsize = 1", r"in \[rates.job_submission\]: size; known are: bucket_size"),
        ("[[pools]]\nname = 'default'\ndru = 'gpu'", r"in \[pools\]: dru; known are"),
        ("[rebalancer]\ninterval_ms = 'soon'", "rebalancer: Expected `int`, got `str`.*interval_ms"),
        ("order = 'random'", "order: Invalid enum value 'random'"),
        ("[rebalancer]\nreservations = 'none'", "Invalid enum value 'none'"),
        ("[[pool_quotas]]\ncpus = 3", "missing required field `pool_regex`"),
        ("pools = 3", "pools: Expected `array`"),
        ("[rebalancer]\ninterval_ms = 0", "rebalancer.interval_ms is at least 1, not 0"),
        ("[rebalancer]\nmin_dru_diff = -0.5", "rebalancer.min_dru_diff is at least 0"),
        ("[head_room]\nmax_kept = 1.5", "head_room.max_kept is 0 to 1, not 1.5"),
        ("[head_room]\nmax_kept = nan", "head_room.max_kept is 0 to 1, not nan"),
        ("[rebalancer]\nmin_dru_diff = nan", "rebalancer.min_dru_diff is at least 0"),
        ("[rebalancer]\npool_regex = '('", "rebalancer.pool_regex .* is no regular expression"),
        ("default_pool = 'x'", r"the default pool 'x' is not one of the pools \['default'\]"),
        ("[quota_groups]\nx = 'g'", "quota_groups names the pool 'x'"),
        ("[[pool_moves]]\npool = 'default'\ndestination = 'x'", "pool_moves names 'default' and 'x'"),
        (
            "[[pool_moves]]\npool = 'default'\ndestination = 'default'\nusers = { ada = 2.0 }",
            "the portion of user ada is 0 to 1, not 2.0",
        ),
        (
            "[rates.requests]\nbucket_size = -1\ntokens_per_minute = 1",
            "rates.requests.bucket_size is at least 0",
        ),
        ("[default_shares]\ncpus = 0", "default_shares are above 0"),
        ("this is not TOML", "cannot be read"),
    ],
)
def test_what_is_wrong_in_a_settings_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load_settings(written(tmp_path, text))


@pytest.mark.parametrize(
    "table",
    [
        RebalancerSettings,
        PoolQuota,
        QueueLimit,
        PoolMove,
        Bucket,
        RateSettings,
        MaintenanceSettings,
        PlacementSettings,
        PoolConstraints,
        ConstraintRewrite,
        CompletionSettings,
    ],
)
def test_the_reference_names_every_setting(table: type) -> None:
    told = REFERENCE.read_text(encoding="utf-8")
    assert [
        field.name
        for field in fields(table)
        if f"`{field.name}`" not in told and f".{field.name}]" not in told
    ] == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.toml cannot be read"):
        load_settings(tmp_path / "nowhere.toml")
