"""Settings files: typed tables, old names, where values come from, and errors."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from cook_jupyter.cli import cook_jupyter
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.scheduling.constraints.constraints import ConstraintRewrite
from cook_jupyter.service.process.clusters import build_clusters
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.loading import OLD_NAMES, load_settings, load_with_sources
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    Bucket,
    CompletionSettings,
    HeadRoomSettings,
    JobSettings,
    LocalClusterSettings,
    MaintenanceSettings,
    MatchingSettings,
    PlacementSettings,
    PoolConstraints,
    PoolMove,
    PoolQuota,
    QueueLimit,
    RateSettings,
    RebalancerSettings,
    ServerSettings,
    StoreSettings,
)
from cook_jupyter.store.memory import MemoryStore

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

    assert (settings.server.port, settings.default_pool, settings.equal_shares) == (7, "main", False)
    assert settings.server.admins == frozenset({"root"})
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
    assert settings.pool_moves == (
        PoolMove(pool=PoolName("main"), destination=PoolName("gpus"), users={"ada": 0.5}),
    )


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings(None) == Settings()


MESOS = "[[clusters]]\ntype = 'mesos'\nmaster = 'm'\n"

OLD = """
host = "localhost"
port = 1
allowed_hosts = ["a"]
cors_origins = ["b"]
impersonators = ["c"]
admins = ["d"]
body_bytes = 2
jobs_per_submission = 3
inline_result_bytes = 4
socket = "s"
synchronous = "FULL"
cpus = 5
mem_mb = 6
agent_idle_exit_s = 7
kill_grace_s = 8
max_cpus = 9
max_mem_mb = 10
max_ports = 11
retry_limit = 12
command_length_limit = 13
max_runtime_ms = 14
default_runtime_ms = 15
mea_culpa_limit = 16
mea_culpa_limits = { host-lost = 17 }
order = "fifo"
max_considered = 18
scaleback = 0.5
good_enough = 0.6
max_over_quota_jobs = 19
rank_interval_ms = 20
"""
PRESENT = """
[server]
host = "localhost"
port = 1
socket = "s"
allowed_hosts = ["a"]
cors_origins = ["b"]
impersonators = ["c"]
admins = ["d"]
body_bytes = 2
jobs_per_submission = 3
inline_result_bytes = 4

[store]
synchronous = "FULL"

[[clusters]]
type = "local"
cpus = 5
mem_mb = 6
agent_idle_exit_s = 7
kill_grace_s = 8

[jobs]
max_cpus = 9
max_mem_mb = 10
max_ports = 11
retry_limit = 12
command_length_limit = 13
max_runtime_ms = 14
default_runtime_ms = 15
mea_culpa_limit = 16
mea_culpa_limits = { host-lost = 17 }

[matching]
order = "fifo"
max_considered = 18
scaleback = 0.5
good_enough = 0.6
max_over_quota_jobs = 19
rank_interval_ms = 20
"""


def test_every_old_name_at_the_top_level_still_works(tmp_path: Path) -> None:
    assert tomllib.loads(OLD).keys() == OLD_NAMES.keys()
    assert load_settings(written(tmp_path, OLD)) == load_settings(written(tmp_path, PRESENT)) != Settings()


def test_an_old_name_goes_into_a_table_that_is_there(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "cpus = 2\norder = 'fifo'\n[[clusters]]\nmem_mb = 3"))

    assert settings.clusters == (LocalClusterSettings(cpus=2.0, mem_mb=3.0),)
    assert settings.matching.order == "fifo"


def test_a_setting_under_its_old_and_its_present_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"sets jobs\.max_cpus and also its old name max_cpus"):
        load_settings(written(tmp_path, "max_cpus = 2\n[jobs]\nmax_cpus = 3"))


def test_each_value_has_its_source(tmp_path: Path) -> None:
    text = """cpus = 2
admins = [
  "ada",
]
rates.enforce_launch_rate = false

[quota_groups]
default = "both"

# a comment with = and [brackets]
[[pools]]
name = "default"
[[pools]]
name = "gpus"
dru_mode = "gpu"

[[placement.default_constraints]]
constraints = [
  ["rack", "a=b"],
]
[placement.rewritings.zone]
attribute = "rack"
[rates.requests]
bucket_size = 1
"tokens_per_minute" = 60
"""
    path = written(tmp_path, text)
    loaded = load_with_sources(path, port=7, mem_mb=8.0, host=None)

    sources = {origin.name: origin.source for origin in loaded.origins() if origin.source != "default"}
    assert sources == {
        "server.port": "command line: --port",
        "server.admins": f"{path}:2, as admins",
        "clusters[0].cpus": f"{path}:1, as cpus",
        "clusters[0].mem_mb": "command line: --mem-mb",
        "pools[0].name": f"{path}:12",
        "pools[1].name": f"{path}:14",
        "pools[1].dru_mode": f"{path}:15",
        "quota_groups": f"{path}:8",
        "placement.default_constraints[0].constraints": f"{path}:18",
        "placement.rewritings": f"{path}:22",
        "rates.enforce_launch_rate": f"{path}:5",
        "rates.requests.bucket_size": f"{path}:24",
        "rates.requests.tokens_per_minute": f"{path}:25",
    }
    values = {origin.name: origin.value for origin in loaded.origins()}
    assert (values["clusters[0].cpus"], values["clusters[0].mem_mb"], values["server.port"]) == (2.0, 8.0, 7)


def test_the_settings_of_cook_differ_in_nothing_but_what_we_do_better() -> None:
    ours, cooks = RebalancerSettings(), RebalancerSettings.cook()

    assert (cooks.min_dru_diff, ours.min_dru_diff) == (0.5, 0.1)
    assert (cooks.safe_dru_threshold, cooks.max_preemption) == (
        ours.safe_dru_threshold,
        ours.max_preemption,
    )
    assert (cooks.interval_ms, cooks.reserve_from, cooks.reservations) == (300_000, 2, "shared")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed = 1", r"unknown setting speed \(line 1\); valid settings: clusters, default_pool"),
        (
            "[rebalancer]\nspeed = 1",
            r"unknown setting rebalancer.speed \(line 2\); valid settings: .*min_dru_diff",
        ),
        ("[rebalancer]\nmin_dru_dif = 1", r"did you mean rebalancer\.min_dru_diff\?"),
        (
            "min_dru_diff = 1",
            r"unknown setting min_dru_diff \(line 1\); did you mean rebalancer\.min_dru_diff\?",
        ),
        ("max_consider = 1", r"did you mean matching\.max_considered\?"),
        (
            "[[pool_quotas]]\npool_regex = 'a'\nram = 1",
            r"pool_quotas\[0\]\.ram \(line 3\); valid settings: count, cpus",
        ),
        (
            "[placement.completion]\nlife = 1",
            r"placement\.completion\.life \(line 2\); valid",
        ),
        (
            "[placement.rewritings.zone]\nto = 1",
            r"placement\.rewritings\.zone\.to \(line 2\); valid settings: attribute",
        ),
        (
            '[placement.rewritings.zone]\npatterns = [["(", ""]]',
            "rewritings.zone.patterns '\\(' is not a regular",
        ),
        (
            "[rates.job_submission]\nsize = 1",
            r"rates\.job_submission\.size \(line 2\); valid",
        ),
        ("[[pools]]\nname = 'default'\ndru = 'gpu'", r"unknown setting pools\[0\]\.dru \(line 3\)"),
        (
            "[[clusters]]\ntype = 'moon'",
            r"clusters\[0\]\.type \(line 2\): 'moon' is not valid; the valid values are 'local', 'mesos'",
        ),
        ("[[clusters]]\ntype = 'mesos'", "the cluster 'mesos' needs the address of its master"),
        (
            "[[clusters]]\ntype = 'mesos'\nmaster = 'm'\nca_file = '/ca.pem'\nconnection = 'pymesos'",
            "the cluster 'mesos' has a ca_file, but connection = \"pymesos\" has no TLS",
        ),
        (
            "[[clusters]]\ntype = 'mesos'\nmaster = 'm'\ncertificate_file = '/us.pem'",
            "the cluster 'mesos' has a certificate_file without a ca_file",
        ),
        (f"{MESOS}role = 3", r"clusters\[0\]\.role \(line 4\): expected text, got a whole number"),
        (
            f"{MESOS}connection = 'grpc'",
            r"clusters\[0\]\.connection \(line 4\): 'grpc' is not valid; the valid values are 'http'",
        ),
        (f"{MESOS}principal = 'cook'", "the cluster 'mesos' has a principal without a secret"),
        (f"{MESOS}secret_file = '/s'", "the cluster 'mesos' has a secret_file without a principal"),
        (f"{MESOS}executor_package = 'x.pyz'", "'x.pyz', must be an absolute path or a URL"),
        (f"{MESOS}hold_s = -1", "hold_s of the cluster 'mesos' must be at least 0, not -1"),
        (
            f"{MESOS}max_tasks_per_executor = 0",
            "max_tasks_per_executor of the cluster 'mesos' must be at least 1",
        ),
        (f"{MESOS}max_held = 2", "max_held of the cluster 'mesos' must be from 0 to 1, not 2"),
        ("[[clusters]]\n[[clusters]]", "clusters.. has 2 clusters of the name 'local'"),
        ("cpus = 'all'", r"clusters.*cpus: expected a number, got text \(`cpus` is clusters.cpus\)"),
        (
            "[rebalancer]\ninterval_ms = 'soon'",
            r"rebalancer\.interval_ms \(line 2\): expected a whole number, got text",
        ),
        ("order = 'random'", "matching.order: 'random' is not valid; the valid values are 'fair', 'fifo'"),
        (
            "[rebalancer]\nreservations = 'none'",
            r"reservations \(line 2\): 'none' is not valid; the valid values are '",
        ),
        ("[[pool_quotas]]\ncpus = 3", "missing required field `pool_regex`"),
        ("pools = 3", r"pools \(line 1\): expected a list, got a whole number"),
        ("[rebalancer]\ninterval_ms = 0", "rebalancer.interval_ms must be at least 1, not 0"),
        ("[rebalancer]\nmin_dru_diff = -0.5", "rebalancer.min_dru_diff must be at least 0"),
        ("[head_room]\nmax_kept = 1.5", "head_room.max_kept must be from 0 to 1, not 1.5"),
        ("[head_room]\nmax_kept = nan", "head_room.max_kept must be from 0 to 1, not nan"),
        ("[rebalancer]\nmin_dru_diff = nan", "rebalancer.min_dru_diff must be at least 0"),
        ("[rebalancer]\npool_regex = '('", "rebalancer.pool_regex .* is not a regular expression"),
        ("default_pool = 'x'", r"the default pool 'x' is not one of the pools \['default'\]"),
        ("[quota_groups]\nx = 'g'", "quota_groups names the pool 'x'"),
        ("[[pool_moves]]\npool = 'default'\ndestination = 'x'", "pool_moves names 'default' and 'x'"),
        (
            "[[pool_moves]]\npool = 'default'\ndestination = 'default'\nusers = { ada = 2.0 }",
            "the fraction of user ada must be from 0 to 1, not 2.0",
        ),
        (
            "[rates.requests]\nbucket_size = -1\ntokens_per_minute = 1",
            "rates.requests.bucket_size must be at least 0",
        ),
        ("[default_shares]\ncpus = 0", "default_shares must be above 0"),
        ("this is not TOML", "cannot be read"),
    ],
)
def test_what_is_wrong_in_a_settings_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        load_settings(written(tmp_path, text))


@pytest.mark.parametrize(
    "table",
    [
        Settings,
        ServerSettings,
        StoreSettings,
        LocalClusterSettings,
        JobSettings,
        MatchingSettings,
        RebalancerSettings,
        HeadRoomSettings,
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
    text = REFERENCE.read_text(encoding="utf-8")
    assert [
        field.name
        for field in fields(table)
        if f"`{field.name}`" not in text and f"[{field.name}]" not in text and f".{field.name}]" not in text
    ] == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.toml cannot be read"):
        load_settings(tmp_path / "nowhere.toml")


def test_the_command_line_shows_where_values_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text("[rebalancer]\nmin_dru_diff = 0.25\n")
    monkeypatch.setenv("COOK_JUPYTER_HOME", str(tmp_path))

    shown = CliRunner().invoke(cook_jupyter, ["config", "--show-origin", "--port", "7"])
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.output.splitlines()}

    assert rows["home"] == [f'"{tmp_path}"', "environment: COOK_JUPYTER_HOME"]
    assert rows["server.port"] == ["7", "command line: --port"]
    assert rows["rebalancer.min_dru_diff"] == ["0.25", f"{tmp_path / 'settings.toml'}:2"]
    assert rows["matching.scaleback"] == ["0.95", "default"]
    assert [path.name for path in tmp_path.iterdir()] == ["settings.toml"], "it only reads"


def test_the_command_line_shows_settings_as_json(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cook_jupyter, ["config", "--json", "--home", str(tmp_path)])
    rows = {row["name"]: row for row in json.loads(shown.output)}

    assert rows["home"] == {"name": "home", "value": str(tmp_path), "origin": "command line: --home"}
    assert rows["server.admins"] == {"name": "server.admins", "value": [], "origin": "default"}
    assert rows["pools[0].dru_mode"]["value"] == "default"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("principal = 'cook'\nsecret_file = '/nowhere/secret'", "its secret_file, /nowhere/secret: No such"),
        ("ca_file = '/nowhere/ca.pem'", "its ca_file, /nowhere/ca.pem: No such file"),
    ],
)
def test_a_file_of_a_mesos_cluster_that_cannot_be_used_is_named_with_its_setting(
    tmp_path: Path, lines: str, message: str
) -> None:
    (tmp_path / "settings.toml").write_text(MESOS + lines)
    settings = load_settings(tmp_path / "settings.toml")

    with pytest.raises(InvalidRequest, match=f"the cluster 'mesos' cannot be used: {message}"):
        build_clusters(settings, Home(root=tmp_path), MemoryStore())
