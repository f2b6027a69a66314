"""What one simulation is made of, drawn from its seed: settings, hosts, users, and how often what goes wrong.

Lives here: `Scenario` and `draw_scenario`. Not here: what users do (`users`), how faults happen (`faults`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    Bucket,
    HeadRoomSettings,
    JobSettings,
    MaintenanceSettings,
    MatchingSettings,
    PlacementSettings,
    PoolMove,
    PoolQuota,
    RateSettings,
    RebalancerSettings,
)

CHAOS_S = 20.0  # of virtual time, during which users act and faults happen
FAULT_KINDS = (
    "crash",
    "stop",
    "clock",
    "host_lost",
    "partition",
    "store_slow",
    "store_refuses",
    "duplicate",
    "delay",
    "update_lost",
    "kill_lost",
    "launch_refused",
    "start_refused",
    "haste",
)
ZONES = ("a", "b")
OTHER_POOL = PoolName("other")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """One host: its cluster, its name, what it has."""

    cluster: str
    name: str
    whole: Resources
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One simulation before it runs.

    Attributes:
        seed: the seed it was drawn from.
        settings: settings of the scheduler.
        hosts: all hosts.
        users: names of the users.
        think_s: mean time between two actions of a user.
        repeats_reports: whether reconciliation tells of all tasks or only what is news.
        rates: fault -> mean seconds between two of its kind, or the probability that a message, a start or a
            callback has it. A fault that is not named does not happen.
    """

    seed: int
    settings: Settings
    hosts: tuple[HostPlan, ...]
    users: tuple[str, ...]
    think_s: float
    repeats_reports: bool
    rates: Mapping[str, float]

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters."""
        return tuple(dict.fromkeys(host.cluster for host in self.hosts))

    def without(self, faults: Collection[str]) -> "Scenario":
        """Return the same scenario without some kinds of faults."""
        return replace(self, rates={kind: rate for kind, rate in self.rates.items() if kind not in faults})


def draw_scenario(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    rng = Random(f"{seed} scenario")
    clusters = rng.choice([("north",), ("north",), ("north", "south")])
    hosts = tuple(
        HostPlan(
            cluster=cluster,
            name=f"{cluster}-{number}",
            whole=Resources(cpus=rng.choice([2.0, 3.0, 4.0, 8.0]), mem_mb=rng.choice([1024.0, 4096.0])),
            zone=ZONES[number % 2],
        )
        for cluster in clusters
        for number in range(rng.choice([1, 2, 2, 3]))
    )
    return Scenario(
        seed=seed,
        settings=_draw_settings(rng),
        hosts=hosts,
        users=("ada", "bob", "eve", "mo")[: rng.randint(2, 4)],
        think_s=rng.choice([0.5, 1.5, 3.0]),
        repeats_reports=rng.random() < 0.5,
        rates=_draw_rates(rng),
    )


def _draw_settings(rng: Random) -> Settings:
    pools = rng.choice([(DEFAULT_POOL,), (DEFAULT_POOL,), (DEFAULT_POOL, OTHER_POOL)])
    moves = (
        (PoolMove(pool=DEFAULT_POOL, destination=OTHER_POOL, users={"ada": 1.0, "bob": 0.5}),)
        if len(pools) > 1 and rng.random() < 0.5
        else ()
    )
    orders: Sequence[Literal["fair", "fifo"]] = ("fair", "fair", "fair", "fifo")
    order = rng.choice(orders)
    equal_shares = rng.random() < 0.8
    jobs = JobSettings(
        max_runtime_ms=rng.choice([None, None, 30_000]), mea_culpa_limit=rng.choice([5, 5, 0, 1])
    )
    return Settings(
        pools=tuple(Pool(name=pool) for pool in pools),
        pool_moves=moves,
        equal_shares=equal_shares,
        jobs=jobs,
        matching=MatchingSettings(order=order, max_considered=rng.choice([1000, 1000, 3])),
        rebalancer=RebalancerSettings(
            interval_ms=rng.choice([3000, 10_000]),
            min_dru_diff=rng.choice([0.0, 0.1, 0.5]),
            max_preemptions_per_hour=rng.choice([2, 2, None]),
            max_lost_ms_beyond_share=rng.choice([600_000, 10_000, None]),
            reserve=rng.choice(["room", "room", "host"]),
        ),
        head_room=HeadRoomSettings(max_kept=rng.choice([0.25, 0.25, 1.0, 0.0]), backfill=rng.random() < 0.7),
        pool_quotas=rng.choice([(), (), (PoolQuota(pool_regex=".*", count=4),)]),
        placement=PlacementSettings(
            avoid_failed_hosts=rng.choice(["while_others", "while_others", "never"]),
            max_tasks_per_host=rng.choice([None, None, 3]),
        ),
        rates=RateSettings(
            cluster_launch=rng.choice([None, None, Bucket(bucket_size=5, tokens_per_minute=60)])
        ),
        maintenance=MaintenanceSettings(
            interval_ms=rng.choice([3000, 10_000]),
            progress_interval_ms=rng.choice([0, 500, 2000]),
        ),
    )


def _draw_rates(rng: Random) -> dict[str, float]:
    """Draw which faults happen and how often: a seed in which everything goes wrong hides single causes."""
    choices: dict[str, list[float]] = {
        "crash": [3.0, 10.0, 20.0],
        "stop": [15.0],
        "clock": [5.0, 15.0],
        "host_lost": [8.0, 20.0],
        "partition": [6.0, 15.0],
        "store_slow": [6.0, 15.0],
        "store_refuses": [6.0, 15.0],
        "duplicate": [0.1, 0.3],
        "delay": [0.1, 0.5],
        "update_lost": [0.05, 0.3],
        "kill_lost": [0.1, 0.5],
        "launch_refused": [0.05, 0.2],
        "start_refused": [0.2],
        "haste": [0.01, 0.1],
    }
    assert tuple(choices) == FAULT_KINDS
    return {kind: rng.choice(rates) for kind, rates in choices.items() if rng.random() < 0.55}
