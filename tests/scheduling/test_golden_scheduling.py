from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cook_jupyter.model.limits import UNLIMITED, UNLIMITED_COUNT, Quota, Usage, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.autoscaling import jobs_to_grow_for
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.considerable import (
    Held,
    QueueFilters,
    considerable,
    group_usages,
    quota_of,
    ranked_within,
    usage_of,
    within_quota,
)
from cook_jupyter.scheduling.constraints import GroupPlacement, PlacementKind, PoolDefaults
from cook_jupyter.scheduling.cycle import CycleSettings, match_cycle
from cook_jupyter.scheduling.dru import cumulative_dru
from cook_jupyter.scheduling.matching import MatchSettings
from cook_jupyter.scheduling.offensive import offence
from cook_jupyter.scheduling.ranking import RankSettings, columnar, lazily
from cook_jupyter.scheduling.rules import Surroundings
from tests.golden.cases import cases
from tests.scheduling.queues import a_queued_job, a_share, an_index, job_id, limits, seq_of

Input = dict[str, Any]
NO_POOL = QueueFilters()


@pytest.mark.parametrize(("given", "expect"), cases("dru"))
def test_scores_and_their_merge_are_cooks(given: Input, expect: Input) -> None:
    mode = DruMode(given["mode"])
    shares = UserLimits(shares={user: a_share(own) for user, own in given["divisors"].items()})
    users = sorted(given["divisors"])
    index = an_index(given["tasks"])
    # A ranking shows waiting jobs; to see every task's place, let all of them wait in the order they have.
    order = {user: [*index.running_jobs(user), *index.waiting_jobs(user)] for user in users}
    tasks = {task["seq"]: task for task in given["tasks"]}
    waiting = [
        {**tasks[seq_of(job)], "start_ms": None, "seq": place * 1000 + seq_of(job)}
        for user in users
        for place, job in enumerate(order[user])
    ]
    for task in waiting:
        del task["start_ms"]
    everything = list(lazily(an_index(waiting), shares, RankSettings(mode=mode)))

    scored = [
        dru
        for user in users
        for dru in cumulative_dru(
            [_resources(tasks[seq_of(job)]) for job in order[user]], shares.share(user), mode
        )
    ]
    assert sorted(scored) == pytest.approx(expect["drus"], rel=1e-9)
    assert [ranked.dru for ranked in everything] == pytest.approx(expect["drus"], rel=1e-9)
    if "order" in expect:
        assert [seq_of(job) % 1000 for job in an_index(waiting).ids(r.row for r in everything)] == expect[
            "order"
        ]
    if "users" in expect:
        assert [ranked.tasks.name for ranked in everything] == expect["users"]


def _resources(task: Input) -> Resources:
    return Resources(cpus=task["cpus"], mem_mb=task["mem"], gpus=task.get("gpus", 0.0))


@pytest.mark.parametrize("way", [lazily, columnar])
@pytest.mark.parametrize(("given", "expect"), cases("ranking"))
def test_the_queue_is_cooks(given: Input, expect: Input, way: Any) -> None:
    if "limits" in given:
        parted = _parted(given, way)
        assert {name: parted[name] for name in expect} == expect
        return
    groups = group_usages(
        given.get("quota_groups", {}), {p: usage_of(u) for p, u in given.get("pool_usage", {}).items()}
    )
    if "group_usage" in expect:
        assert groups == {group: usage_of(amounts) for group, amounts in expect["group_usage"].items()}
        return
    assert _queue(given, groups) == expect["queue"]


def _parted(given: Input, way: Any) -> Input:
    """The jobs that stay in the queue and those that ask for too much, both as they were given."""
    most, jobs = given["limits"], [{"user": "u", **job} for job in given["jobs"]]
    filters = QueueFilters(
        max_cpus=most["cpus"] if "cpus" in most else most["max_cpus"], max_mem_mb=1024 * most["memory_gb"]
    )
    index = an_index(jobs)
    left = {
        seq_of(job)
        for job in index.ids(r.row for r in ranked_within(way(index, UserLimits()), index, filters))
    }
    too_large = {
        job["seq"]
        for job in jobs
        if offence(_resources(job), max_cpus=filters.max_cpus, max_mem_mb=filters.max_mem_mb)
    }
    assert not left & too_large
    return {
        "kept": [job["seq"] for job in jobs if job["seq"] in left],
        "offensive": [job["seq"] for job in jobs if job["seq"] in too_large],
    }


def _queue(given: Input, groups: Mapping[str, Usage]) -> list[int]:
    index = an_index(given["tasks"])
    pool_quotas = given.get("pool_quotas", {})
    group = given.get("quota_groups", {}).get(given.get("pool"))
    filters = QueueFilters(
        pool_quota=quota_of(pool_quotas[given["pool"]]) if "pool" in given else Quota(),
        group_quota=quota_of(pool_quotas[group]) if group is not None else Quota(),
        group_usage=groups.get(group, Usage()),
    )
    settings = RankSettings(
        mode=DruMode(given["mode"]), max_over_quota_jobs=given.get("max_over_quota_jobs", 100)
    )
    allowed = limits(given["shares"], given.get("user_quotas"))
    queue = ranked_within(lazily(index, allowed, settings), index, filters)
    return [seq_of(job) for job in index.ids(ranked.row for ranked in queue)]


@pytest.mark.parametrize(("given", "expect"), cases("quota_filter", ops=["below_quota"]))
def test_below_quota_is_cooks(given: Input, expect: Input) -> None:
    assert quota_of(given["quota"]).allows(usage_of(given["usage"])) is expect["below"]


QUOTA_FILTERS = ["user_quota_filter", "pool_quota_filter", "pending_filter"]


@pytest.mark.parametrize(("given", "expect"), cases("quota_filter", ops=QUOTA_FILTERS))
def test_quotas_filter_as_in_cook(given: Input, expect: Input) -> None:
    """Users' quotas first, then that of the pool, as far as they are given."""
    queue, used = given["queue"], given.get("user_usage", {})
    if "user_quotas" in given:
        quotas = given["user_quotas"]
        kept = {
            own[at]["seq"]
            for user in {job["user"] for job in queue}
            for own in [[job for job in queue if job["user"] == user]]
            for at in within_quota(
                _alone(own),
                usage_of(used.get(user, {})),
                quota_of(quotas.get(user, quotas.get("default", UNSET))),
            )
        }
        queue = [job for job in queue if job["seq"] in kept]
    if given.get("pool_quota") is not None:
        told = given.get("pool_usage", given.get("usage"))
        total = sum(map(usage_of, used.values()), Usage()) if told is None else usage_of(told)
        queue = [queue[at] for at in within_quota(_alone(queue), total, quota_of(given["pool_quota"]))]
    assert [job["seq"] for job in queue] == expect["kept"]


UNSET = {"count": UNLIMITED_COUNT, "cpus": UNLIMITED, "mem": UNLIMITED, "gpus": UNLIMITED}


def _alone(jobs: Sequence[Input]) -> list[Usage]:
    """What each job asks for."""
    return [usage_of({"count": 1, **{k: v for k, v in job.items() if k in UNSET}}) for job in jobs]


@pytest.mark.parametrize(("given", "expect"), cases("quota_filter", ops=["considerable"]))
def test_considerable_jobs_are_cooks(given: Input, expect: Input) -> None:
    index, allowed, filters = _cycle(given)
    filters = QueueFilters(
        tokens=filters.tokens,
        pool_quota=Quota() if given["pool_quota"] is None else quota_of(given["pool_quota"]),
        accepts=(lambda _: False) if given.get("launch_filter_defers_all") else None,
    )
    held = Held()
    found = list(considerable(lazily(index, allowed), index, allowed, filters, held))
    assert [seq_of(job) for job in index.ids(r.row for r in found)][: given["num_considerable"]] == expect[
        "considerable"
    ]
    if "rate_limited" in expect:
        assert held.jobs == expect["rate_limited"]


def _cycle(given: Input) -> tuple[QueueIndex, UserLimits, QueueFilters]:
    """The index, limits and filters of a cycle. Usage is told as sums: users run tasks that come to that."""
    running: list[Input] = []
    for user, usage in given["user_usage"].items():
        count = usage["count"]
        running += [
            {
                "seq": 10_000 + len(running) + number,
                "user": user,
                "cpus": usage["cpus"] / count,
                "mem": usage["mem"] / count,
                "gpus": usage.get("gpus", 0) / count,
                "start_ms": 1,
                "host": "elsewhere",
            }
            for number in range(count)
        ]
    return (
        an_index([*running, *given["queue"]]),
        limits({}, given["user_quotas"]),
        QueueFilters(tokens=given["launch_tokens"] if given["enforce_launch_rate"] else None),
    )


WAYS = pytest.mark.parametrize("columnar_from", [1, 1000], ids=["in columns", "one by one"])


@WAYS
@pytest.mark.parametrize(("given", "expect"), cases("matching", ops=["match"]))
def test_jobs_are_placed_as_in_cook(given: Input, expect: Input, columnar_from: int) -> None:
    index = an_index([{**job, "priority": 50, "seq": seq} for seq, job in enumerate(given["jobs"], 1)])
    placements: dict[str, GroupPlacement] = {}
    group = given.get("group")
    if group is not None:
        placements[group["name"]] = GroupPlacement(
            kind=PlacementKind(group["placement"]),
            attribute=group.get("attribute", "HOSTNAME"),
            minimum=group.get("minimum", 0),
        )
        for seq, host in enumerate(given.get("running", []), 5000):
            index.add(a_queued_job({"seq": seq, "user": "u", "cpus": 0, "mem": 0, "group": group["name"]}))
            index.start(job_id(seq), 1, host if isinstance(host, str) else host["host"])
    matching = match_cycle(
        index,
        [_offer(host) for host in given["hosts"]],
        UserLimits(),
        settings=CycleSettings(match=MatchSettings(columnar_from=columnar_from)),
        surroundings=Surroundings(groups=placements),
    )
    hosts = Counter(match.host for match in matching.matches)
    if "matched_count" in expect:
        assert len(matching.matches) == expect["matched_count"]
    if "failed_count" in expect:
        assert matching.unmatched == expect["failed_count"]
    if "assignment" in expect:
        names = {job_id(seq): job.get("name") for seq, job in enumerate(given["jobs"], 1)}
        assigned: dict[str, list[str]] = {}
        for match in matching.matches:
            assigned.setdefault(match.host, []).append(names[match.job_id])
        assert assigned == expect["assignment"]
    if "tasks_per_host" in expect:
        assert hosts == expect["tasks_per_host"]
    if "not_tasks_per_host" in expect:
        assert hosts != expect["not_tasks_per_host"]


def _offer(host: Input) -> Offer:
    kind = HostKind(host.get("kind", "plain"))
    return Offer(
        host=host["host"],
        cluster="cluster",
        pool="pool",
        room=Resources(cpus=host["cpus"], mem_mb=host["mem"]),
        attributes={"HOSTNAME": host["host"], **host.get("attributes", {})},
        kind=kind,
        gpu_models=host.get("gpus", {}),
        disk_mb=host.get("disk", {}),
    )


@WAYS
@pytest.mark.parametrize(("given", "expect"), cases("matching", ops=["cycle"]))
def test_a_match_cycle_is_cooks(given: Input, expect: Input, columnar_from: int) -> None:
    index, allowed, filters = _cycle(given)
    seqs = {job["name"]: job["seq"] for job in given["queue"]}
    names = {job_id(seq): name for name, seq in seqs.items()}
    pool = given["pool"]
    tokens = given["cluster_launch_tokens"]

    matching = match_cycle(
        index,
        [_offer(host) for host in given["hosts"]],
        allowed,
        settings=CycleSettings(
            max_considered=given["num_considerable"],
            match=MatchSettings(
                columnar_from=columnar_from,
                defaults=PoolDefaults(
                    gpu_model=pool["default_gpu_model"],
                    disk=True,
                    disk_type=pool["default_disk_type"],
                    disk_mb=pool["default_disk_request"],
                    disk_types=pool["disk_type_map"],
                ),
            ),
        ),
        filters=filters,
        surroundings=Surroundings(
            reservations={
                job_id(seqs[name]) if name in seqs else name: host
                for name, host in given["reservations"].items()
            }
        ),
        indebted=frozenset({"cluster"}) if tokens is not None and tokens < 0 else frozenset(),
    )

    assert [names[match.job_id] for match in matching.matches] == expect["launched"]
    assert matching.head_matched is expect["matched_head_or_nothing"]
    if "hosts_used" in expect:
        assert len({match.host for match in matching.matches}) == expect["hosts_used"]
    if "autoscale" in expect:
        to_grow_for = jobs_to_grow_for(index, allowed, matching, filters=filters)
        assert [names[job] for job in to_grow_for] == expect["autoscale"]
    if "reservations_after" in expect:
        left = {names.get(job, job): host for job, host in matching.reservations.items()}
        assert left == expect["reservations_after"]
