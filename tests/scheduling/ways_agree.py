"""All ways to one decision agree, with each other and with the specification.

Lives here: the comparison for one world, the search through many, and the command that runs it:

    python -m tests.scheduling.ways_agree 200000 --from-seed 0

Not here: the worlds (`tests.scheduling.worlds`), the specification (`tests.scheduling.reference`).
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from math import inf
from typing import NamedTuple

from cook_jupyter.model.decisions import Matching
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import QueueFilters, ranked_within
from cook_jupyter.scheduling.ranking.ranking import (
    Order,
    RankedJob,
    iter_ranked_in_columns,
    rank_in_columns,
    rank_lazily,
)
from tests.scheduling import reference
from tests.scheduling.queues import a_queued_job, an_index, job_id
from tests.scheduling.worlds import World, random_world

NEVER = 10**9


class Way(NamedTuple):
    """A way to decide a match cycle; None leaves the product's default."""

    name: str
    lazy_up_to: int | None  # running tasks up to which jobs are ranked one by one
    columnar_from: int | None  # hosts from which on they are looked at in columns
    is_kept: bool  # whether index and hosts have a history


ONE_BY_ONE = Way("one by one, hosts one by one", NEVER, NEVER, False)
IN_COLUMNS = Way("in columns, hosts in columns, kept", 0, 0, True)
OTHERS: Sequence[Way] = (
    Way("one by one, hosts in columns", NEVER, 0, False),
    Way("in columns, hosts one by one, kept", 0, NEVER, True),
    Way("by default", None, None, False),
)


class Disagreement(AssertionError):
    """Two ways to one decision differ."""


def check(world: World) -> None:
    """Require that all ways decide this world as the specification says.

    Raises:
        Disagreement: two of them differ.
    """
    fresh, kept = an_index(world.tasks), kept_index(world)
    check_ranking(world, fresh, kept)
    check_candidates(world, kept)
    expected = expected_matching(world)
    hosts, hosts_kept = Hosts(world.offers), kept_hosts(world)
    for way in (ONE_BY_ONE, IN_COLUMNS, OTHERS[world.seed % len(OTHERS)]):
        matching = decide_matches(
            kept if way.is_kept else fresh,
            hosts_kept if way.is_kept else hosts,
            world.limits,
            settings=cycle_settings(world, way),
            scaleback=world.scaleback,
            filters=filters_of(world),
            placement_context=placement_context_of(world),
            indebted=world.indebted,
        )
        require_same(f"match cycle, {way.name}", expected, matching)


# --- ranking


def check_ranking(world: World, fresh: QueueIndex, kept: QueueIndex) -> None:
    """Require that the queue and its heads are the specification's."""
    settings, limits = world.rank, world.limits
    if settings.order is Order.FAIR:
        ranked = reference.rank(world.tasks, limits, settings.mode, settings.max_over_quota_jobs)
    else:
        ranked = [(0.0, task) for task in reference.rank_fifo(world.tasks)]
    expected = [(dru, job_id(task["seq"])) for dru, task in ranked]
    ids = [job for _, job in expected]

    require_same("ranked one by one", expected, drus_and_ids(rank_lazily(fresh, limits, settings), fresh))
    require_same("ranked one by one, kept", expected, drus_and_ids(rank_lazily(kept, limits, settings), kept))
    for limit in (None, 1 + world.seed % (len(ids) + 1), 100):
        head = rank_in_columns(kept, limits, settings, limit)
        actual = list(zip(head.drus.tolist(), kept.ids(head.rows.tolist()), strict=True))
        require_same(f"first {limit} ranked in columns", expected[:limit], actual)
    in_parts = iter_ranked_in_columns(fresh, limits, settings, number=1 + world.seed % 9)
    require_same("ranked in columns, part by part", expected, drus_and_ids(in_parts, fresh))


def drus_and_ids(jobs: Iterable[RankedJob], index: QueueIndex) -> list[tuple[float, str]]:
    """Return score and id of ranked jobs."""
    return [(job.dru, index.job_id(job.row)) for job in jobs]


def check_candidates(world: World, index: QueueIndex) -> None:
    """Require that the first jobs of Cook's queue, the rebalancer's candidates, are the specification's."""
    settings, filters = world.rank, filters_of(world)
    queue = reference.queue_of(
        world.tasks,
        world.limits,
        reference_filters(world),
        settings.mode,
        settings.max_over_quota_jobs,
        fair=settings.order is Order.FAIR,
    )
    number = (1, 10, 100)[world.seed % 3]
    ranked = iter_ranked_in_columns(index, world.limits, settings, number=number)
    actual = index.ids(job.row for job in islice(ranked_within(ranked, index, filters), number))
    require_same(f"first {number} candidates", [job_id(job["seq"]) for job in queue[:number]], actual)


# --- the match cycle


def expected_matching(world: World) -> Matching:
    """What the specification decides."""
    running = [
        (task["group"], task["host"])
        for task in world.tasks
        if task.get("start_ms") is not None and task.get("group") is not None
    ]
    facts = reference.Facts(
        good_enough=world.good_enough,
        defaults=world.defaults,
        reservations=world.reservations,
        groups=world.groups,
        running=running,
        attributes=world.attributes,
        now_ms=world.now_ms,
    )
    return reference.match_cycle(
        world.tasks,
        world.offers,
        world.limits,
        reference_filters(world),
        facts,
        world.scaleback,
        mode=world.rank.mode,
        over_quota=world.rank.max_over_quota_jobs,
        fair=world.rank.order is Order.FAIR,
        max_considered=world.max_considered,
        indebted=world.indebted,
    )


def reference_filters(world: World) -> reference.Filters:
    """The filters as the reference takes them."""
    filters = world.filters
    return reference.Filters(
        pool_quota=filters.pool_quota,
        group_quota=filters.group_quota,
        group_usage=filters.group_usage,
        tokens=filters.tokens,
        accepts=lambda task: job_id(task["seq"]) not in world.refused,
        largest=(
            inf if filters.max_cpus is None else filters.max_cpus,
            inf if filters.max_mem_mb is None else filters.max_mem_mb,
        ),
    )


def filters_of(world: World) -> QueueFilters:
    """The filters as the product takes them."""
    if not world.refused:
        return world.filters
    return replace(world.filters, accepts=lambda job: job not in world.refused)


def cycle_settings(world: World, way: Way) -> CycleSettings:
    """The settings of a cycle that decides in a given way."""
    match = MatchSettings(good_enough=world.good_enough, defaults=world.defaults)
    if way.columnar_from is not None:
        match = replace(match, columnar_from=way.columnar_from)
    settings = CycleSettings(rank=world.rank, match=match, max_considered=world.max_considered)
    return settings if way.lazy_up_to is None else replace(settings, lazy_up_to=way.lazy_up_to)


def placement_context_of(world: World) -> PlacementContext:
    """The facts about groups, reservations and hosts."""
    return PlacementContext(
        reservations=world.reservations,
        groups=world.groups,
        attributes=world.attributes,
        now_ms=world.now_ms,
    )


# --- what is kept from one cycle to the next


def kept_index(world: World) -> QueueIndex:
    """An index with a history: jobs came in another order, others have come and gone, some ran before."""
    rng = random.Random(world.seed)
    tasks = list(world.tasks)
    rng.shuffle(tasks)
    users = sorted({task["user"] for task in tasks}) or ["user-000"]
    gone = [
        {
            "seq": 100_000 + number,
            "user": rng.choice([*users, "zoe"]),
            "cpus": 1.0,
            "mem": 1.0,
            "priority": 60,
        }
        for number in range(rng.randrange(40))
    ]
    index = QueueIndex()
    half = len(tasks) // 2
    index.add_many([a_queued_job(task) for task in [*gone, *tasks[:half]]])
    for task in gone[::2]:
        index.mark_running(job_id(task["seq"]), 1, "gone-1")
    for task in tasks[half:]:
        index.add(a_queued_job(task))
    for task in rng.sample(tasks, len(tasks)):
        if task.get("start_ms") is not None:
            index.mark_running(job_id(task["seq"]), task["start_ms"], task["host"], task_seq=task["task_seq"])
        elif not rng.randrange(4):
            index.mark_running(job_id(task["seq"]), 9, "gone-1")
            index.requeue(job_id(task["seq"]))
    for task in gone:
        index.remove(job_id(task["seq"]))
    return index


def kept_hosts(world: World) -> Hosts:
    """Hosts that have matched before and followed what changed since."""
    hosts = Hosts(world.offers_before)
    decide_matches(
        an_index(world.tasks[:8]),
        hosts,
        world.limits,
        settings=cycle_settings(world, IN_COLUMNS),
        placement_context=placement_context_of(world),
    )
    hosts.update_from_offers(world.offers)
    return hosts


# --- comparing and searching


def require_same(what: str, expected: object, actual: object) -> None:
    """Require that two ways give the same."""
    if expected == actual:
        return
    if isinstance(expected, Matching) and isinstance(actual, Matching):
        for name in Matching.__slots__:
            one, other = getattr(expected, name), getattr(actual, name)
            if one != other:
                raise Disagreement(f"{what}: {name}\n  specification: {one}\n  actual: {other}")
    raise Disagreement(f"{what}\n  specification: {expected}\n  actual: {actual}")


def disagreement_of(world: World) -> str | None:
    """Return how the ways disagree about a world; None if they agree."""
    try:
        check(world)
    except Disagreement as disagreement:
        return str(disagreement)
    return None


def shrunk(world: World, fails: Callable[[World], bool]) -> World:
    """Return a small world that still fails: leave out tasks and offers for as long as that works."""
    for name in ("tasks", "offers", "offers_before"):
        size = len(getattr(world, name))
        while size:
            begin = 0
            while begin < len(getattr(world, name)):
                items = getattr(world, name)
                smaller = replace(world, **{name: items[:begin] + items[begin + size :]})
                if fails(smaller):
                    world = smaller
                else:
                    begin += size
            size //= 2
    return world


def report(seed: int) -> str | None:
    """Return what is wrong with the decisions in the world of a seed, with a small such world; else None."""
    world = random_world(seed)
    if disagreement_of(world) is None:
        return None
    small = shrunk(world, lambda smaller: disagreement_of(smaller) is not None)
    return f"seed {seed}: {disagreement_of(small)}\n\nshrunk to\n{small}"


def main() -> int:
    """Look for a world about which the ways disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, help="how many worlds")
    parser.add_argument("--from-seed", type=int, default=0, help="seed of the first")
    parser.add_argument("--stop-after", type=int, default=3, help="failures after which to stop")
    arguments = parser.parse_args()
    began, failures, done = time.monotonic(), 0, 0
    for seed in range(arguments.from_seed, arguments.from_seed + arguments.count):
        failure = report(seed)
        done += 1
        if failure is not None:
            failures += 1
            print(failure, flush=True)
        if failures >= arguments.stop_after:
            break
        if done % 1000 == 0:
            print(f"{done:,} worlds, {failures} failures, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{done:,} worlds, {failures} failures, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
