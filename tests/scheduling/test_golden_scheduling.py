from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import pytest

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import GroupPlacement, PlacementKind, PoolDefaults
from cook_jupyter.scheduling.growth.autoscaling import jobs_to_grow_for
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.limits.offensive import excess_of
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import (
    QueueFilters,
    considerable,
    group_usages,
    ranked_within,
    rate_limited,
)
from cook_jupyter.scheduling.ranking.ranking import (
    RankedJob,
    RankSettings,
    iter_ranked_in_columns,
    iter_tasks,
    rank_lazily,
)
from tests.golden.cases import cases
from tests.scheduling.queues import a_queued_job, an_index, job_id, limits, quota_of, seq_of, usage_of

Input = dict[str, Any]
RANKED = pytest.mark.parametrize(
    "way", [rank_lazily, partial(iter_ranked_in_columns, number=2)], ids=["one by one", "in columns"]
)


@RANKED
@pytest.mark.parametrize(("given", "expect"), cases("dru"))
def test_scores_and_their_merge_are_cooks(given: Input, expect: Input, way: Any) -> None:
    mode = DruMode(given["mode"])
    shares = limits(given["divisors"])
    users = sorted({task["user"] for task in given["tasks"]})
    index = an_index(given["tasks"])
    # A ranking shows waiting jobs; to see every task's place, let all of them wait in the order they have.
    order = {tasks.name: index.ids(row for row, _ in iter_tasks(index, tasks)) for tasks in index.by_name()}
    tasks = {task["seq"]: task for task in given["tasks"]}
    waiting = [
        {**tasks[seq_of(job)], "start_ms": None, "seq": place * 1000 + seq_of(job)}
        for user in users
        for place, job in enumerate(order[user])
    ]
    for task in waiting:
        del task["start_ms"]
    everything = list(way(an_index(waiting), shares, RankSettings(mode=mode)))

    assert [ranked.dru for ranked in everything] == pytest.approx(expect["drus"], rel=1e-9)
    if "order" in expect:
        assert [seq_of(job) % 1000 for job in an_index(waiting).ids(r.row for r in everything)] == expect[
            "order"
        ]
    if "users" in expect:
        assert [ranked.tasks.name for ranked in everything] == expect["users"]


def _resources(task: Input) -> Resources:
    return Resources(cpus=task["cpus"], mem_mb=task["mem"], gpus=task.get("gpus", 0.0))


@RANKED
@pytest.mark.parametrize(("given", "expect"), cases("ranking"))
def test_the_queue_is_cooks(given: Input, expect: Input, way: Any) -> None:
    if "limits" in given:
        parted = _parted(given, way)
        assert expect == {name: parted[name] for name in expect}
        return
    groups = group_usages(
        dict(given.get("quota_groups", {})), {p: usage_of(u) for p, u in given.get("pool_usage", {}).items()}
    )
    if "group_usage" in expect:
        assert groups == {group: usage_of(amounts) for group, amounts in expect["group_usage"].items()}
    if "tasks" in given:
        queue = _queue(given, groups, way)
        if "queue" in expect:
            assert queue == expect["queue"]
        if "not_in" in expect:
            assert not set(queue) & set(expect["not_in"])


def _parted(given: Input, way: Any) -> Input:
    """The jobs that stay in the queue and those that ask for too much, both as they were given."""
    most = given["limits"]
    jobs = [{"user": "u", **job, "seq": place} for place, job in enumerate(given["jobs"])]
    names = [result.get("seq", result.get("id")) for result in given["jobs"]]
    largest_mb = most["mem"] if "mem" in most else 1024 * most["memory_gb"]
    filters = QueueFilters(max_cpus=most.get("cpus", most.get("max_cpus")), max_mem_mb=largest_mb)
    index = an_index(jobs)
    left = {
        seq_of(job)
        for job in index.ids(r.row for r in ranked_within(way(index, UserLimits()), index, filters))
    }
    too_large = {
        place
        for place, job in enumerate(jobs)
        if excess_of(_resources(job), max_cpus=filters.max_cpus, max_mem_mb=filters.max_mem_mb)
    }
    assert not left & too_large
    return {
        "kept": [names[place] for place in sorted(left)],
        "offensive": [names[place] for place in sorted(too_large)],
    }


def _queue(given: Input, groups: Mapping[str, Usage], way: Any) -> list[int]:
    index = an_index(given["tasks"])
    quotas = {name: quota_of(amounts) for name, amounts in (given.get("pool_quotas") or {}).items()}
    pool = given.get("pool")
    group: Any = dict(given.get("quota_groups") or {}).get(pool)
    filters = QueueFilters(
        pool_quota=quotas.get(pool, Quota()),
        group_quota=quotas.get(group, Quota()),
        group_usage=groups.get(group, Usage()),
    )
    settings = RankSettings(
        mode=DruMode(given.get("mode", "default")), max_over_quota_jobs=given.get("max_over_quota_jobs", 100)
    )
    allowed = limits(given.get("shares", {}), given.get("user_quotas"))
    queue = ranked_within(way(index, allowed, settings), index, filters)
    return [seq_of(job) for job in index.ids(ranked.row for ranked in queue)]


@pytest.mark.parametrize(("given", "expect"), cases("quota_filter", ops=["below_quota"]))
def test_below_quota_is_cooks(given: Input, expect: Input) -> None:
    assert quota_of(given["quota"]).allows(usage_of(given["usage"])) is expect["below"]


QUOTA_FILTERS = ["user_quota_filter", "pool_quota_filter", "pending_filter"]


@pytest.mark.parametrize(("given", "expect"), cases("quota_filter", ops=QUOTA_FILTERS))
def test_quotas_filter_as_in_cook(given: Input, expect: Input) -> None:
    """Users' quotas first, then that of the pool, as far as they are given."""
    used = {user: usage_of(amounts) for user, amounts in (given.get("user_usage") or {}).items()}
    result = given.get("pool_usage", given.get("usage"))
    if result is not None:
        assert not used
        used["others"] = usage_of(result)
    index = an_index([{"ports": 0, **job} for job in given["queue"]])
    for number, (user, usage) in enumerate(used.items(), 1):
        _run(index, user, usage, 1000 * number)
    quotas = {user: quota_of(amounts) for user, amounts in (given.get("user_quotas") or {}).items()}
    allowed = UserLimits(quotas=quotas, default_quota=quotas.pop("default", Quota()))
    pool_quota = given.get("pool_quota", given.get("quota"))
    filters = QueueFilters() if pool_quota is None else QueueFilters(pool_quota=quota_of(pool_quota))
    rows = [index.row_of(job_id(job["seq"])) for job in given["queue"]]
    queue = [RankedJob(row, 0.0, index.owner(row)) for row in rows]

    seqs = [seq_of(index.job_id(job.row)) for job in considerable(queue, index, allowed, filters)]

    if "kept" in expect:
        assert seqs == expect["kept"]
    if "not_in" in expect:
        assert not set(seqs) & set(expect["not_in"])


def _run(index: QueueIndex, user: str, usage: Usage, first_seq: int) -> None:
    """Run as many tasks of a user as it has, which hold its amounts together."""
    for number in range(usage.count):
        seq, part = first_seq + number, 1 if number == 0 else 0
        amounts = {"cpus": part * usage.cpus, "mem": part * usage.mem_mb, "gpus": part * usage.gpus}
        index.add(a_queued_job({"seq": seq, "user": user, **amounts}))
        index.mark_running(job_id(seq), seq)


@pytest.mark.parametrize(("given", "expect"), cases("quota_filter", ops=["considerable"]))
def test_considerable_jobs_are_cooks(given: Input, expect: Input) -> None:
    index, allowed, filters = _cycle(given)
    filters = QueueFilters(
        tokens=filters.tokens,
        pool_quota=Quota() if given.get("pool_quota") is None else quota_of(given["pool_quota"]),
        accepts=(lambda _: False) if given.get("launch_filter_defers_all") else None,
    )
    actual = islice(
        considerable(rank_lazily(index, allowed), index, allowed, filters), given["num_considerable"]
    )
    seqs = [seq_of(job) for job in index.ids(ranked.row for ranked in actual)]
    if "considerable" in expect:
        assert seqs == expect["considerable"]
    if "not_in" in expect:
        assert not set(seqs) & set(expect["not_in"])
    _same_rate_limited(rate_limited(index, allowed, filters=filters), expect)


def _same_rate_limited(actual: Mapping[str, int], expect: Input) -> None:
    """The jobs of each user that the launch rate held back, or of all users together."""
    for word in ("rate_limited", "launch_rate_limited"):
        if word in expect:
            result = expect[word]
            assert (actual if isinstance(result, dict) else sum(actual.values())) == result


def _cycle(given: Input) -> tuple[QueueIndex, UserLimits, QueueFilters]:
    """The index, limits and filters of a cycle. Usage is told as sums: of a user's tasks one holds it all."""
    running: list[Input] = []
    for user, usage in (given.get("user_usage") or {}).items():
        for number in range(usage["count"]):
            held = {name: usage.get(name, 0) if number == 0 else 0 for name in ("cpus", "mem", "gpus")}
            seq = 10_000 + len(running)
            running.append({"seq": seq, "user": user, **held, "start_ms": 1, "host": "elsewhere"})
    tokens = dict(given.get("launch_tokens") or {})
    return (
        an_index([*running, *given["queue"]]),
        limits({}, given.get("user_quotas")),
        QueueFilters(tokens=tokens if given.get("enforce_launch_rate") else None),
    )


WAYS = pytest.mark.parametrize("columnar_from", [1, 1000], ids=["in columns", "one by one"])


@WAYS
@pytest.mark.parametrize(("given", "expect"), cases("matching", ops=["match"]))
def test_jobs_are_placed_as_in_cook(given: Input, expect: Input, columnar_from: int) -> None:
    # The case gives the queue as it is, so the jobs are one user's, in that order.
    iter_tasks = {"user": "u", "priority": 50}
    index = an_index([{**job, **iter_tasks, "seq": seq} for seq, job in enumerate(given["jobs"], 1)])
    placements: dict[GroupId, GroupPlacement] = {}
    attributes: dict[str, Mapping[str, str]] = {}
    group = given.get("group")
    running = given.get("running", [])  # cohosts of the group: without one they mean nothing
    if group is not None:
        placements[group["name"]] = GroupPlacement(
            kind=PlacementKind(group["placement"]),
            attribute=group.get("attribute", "HOSTNAME"),
            minimum=group.get("minimum", 0),
        )
        for seq, result in enumerate(running, 5000):
            cohost: Input = {"host": result} if isinstance(result, str) else result
            attributes[cohost["host"]] = dict(cohost.get("attributes", {}))
            index.add(a_queued_job({"seq": seq, "user": "u", "cpus": 0, "mem": 0, "group": group["name"]}))
            index.mark_running(job_id(seq), 1, cohost["host"])
    matching = decide_matches(
        index,
        [_offer(host) for host in given["hosts"]],
        UserLimits(),
        settings=CycleSettings(match=MatchSettings(columnar_from=columnar_from)),
        placement_context=PlacementContext(
            groups=placements,
            attributes={
                **attributes,
                **{
                    host: dict(job_constraints)
                    for host, job_constraints in given.get("host_attributes", {}).items()
                },
            },
        ),
    )
    hosts = Counter(match.host for match in matching.matches)
    if "matched_count" in expect:
        assert len(matching.matches) == expect["matched_count"]
    if "failed_count" in expect:
        assert len(given["jobs"]) - len(matching.matches) == expect["failed_count"]
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
    if "hosts_used" in expect:
        assert len(hosts) == expect["hosts_used"]
    if "host_in" in expect:
        assert hosts.keys() <= set(expect["host_in"])
    if "not_in" in expect:  # hosts on which no job may be
        assert not hosts.keys() & set(expect["not_in"])


def _offer(host: Input) -> Offer:
    gpus: Any = host.get("gpus") or {}
    by_model = isinstance(gpus, dict)
    return Offer(
        host=host["host"],
        cluster="cluster",
        pool=PoolName("pool"),
        room=Resources(cpus=host["cpus"], mem_mb=host["mem"], gpus=0.0 if by_model else gpus),
        attributes={"HOSTNAME": host["host"], **host.get("attributes", {})},
        kind=HostKind(host.get("kind", "plain")),
        gpu_models=dict(gpus) if by_model else {},
        disk_mb=dict(host.get("disk") or {}),
    )


@WAYS
@pytest.mark.parametrize(("given", "expect"), cases("matching", ops=["cycle"]))
def test_a_match_cycle_is_cooks(given: Input, expect: Input, columnar_from: int) -> None:
    index, allowed, filters = _cycle(given)
    seqs = {job["name"]: job["seq"] for job in given["queue"]}
    names = {job_id(seq): name for name, seq in seqs.items()}
    pool = given.get("pool", {})
    tokens = given.get("cluster_launch_tokens")
    reservations = given.get("reservations") or {}

    matching = decide_matches(
        index,
        [_offer(host) for host in given["hosts"]],
        allowed,
        settings=CycleSettings(
            max_considered=given["num_considerable"],
            match=MatchSettings(
                columnar_from=columnar_from,
                defaults=PoolDefaults(
                    gpu_model=pool.get("default_gpu_model"),
                    disk=True,
                    disk_type=pool.get("default_disk_type"),
                    disk_mb=pool.get("default_disk_request", 10240.0),
                    disk_types=dict(pool.get("disk_type_map") or {}),
                ),
            ),
        ),
        filters=filters,
        placement_context=PlacementContext(
            reservations={
                job_id(seqs[name]) if name in seqs else JobId(name): host
                for name, host in reservations.items()
            }
        ),
        indebted=frozenset({"cluster"}) if tokens is not None and tokens < 0 else frozenset(),
    )

    launched = [names[match.job_id] for match in matching.matches]
    for result in ("launched", "launched_since"):
        if result in expect:
            assert launched == expect[result]
    if "launched_count" in expect:
        assert len(launched) == expect["launched_count"]
    if "matched_head_or_nothing" in expect:
        assert matching.head_matched is expect["matched_head_or_nothing"]
    if "not_in" in expect:  # jobs that must not start
        assert not set(launched) & set(expect["not_in"])
    _same_rate_limited(matching.rate_limited, expect)
    if "hosts_used" in expect:
        assert len({match.host for match in matching.matches}) == expect["hosts_used"]
    if "autoscale" in expect:
        to_grow_for = jobs_to_grow_for(index, allowed, matching, filters=filters)
        assert [names[job] for job in to_grow_for] == expect["autoscale"]
    if "reservations_after" in expect:
        left = {names.get(job, job): host for job, host in matching.reservations.items()}
        assert left == expect["reservations_after"]
