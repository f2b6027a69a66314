"""Time of a match cycle for growing pools, and with many users, quotas, groups and constraints.

`--plot FILE` draws the growth (matplotlib). Each part runs in a separate process. Times are the best of
several runs, in processor time.

Nothing may take disproportionately long. A cycle that considers 1,000 jobs should take 70 ms, for ranking
(20) and matching (50), with 1,000,000 waiting jobs and 10,000 hosts; constraints of all kinds may take a few
times that.
"""

import argparse
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from uuid import UUID

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
)
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.considerable import NO_FILTERS, QueueFilters

LIMITS = UserLimits(default_share=Share(cpus=100, mem_mb=200_000))
CONSIDERED = 1000
ONE_GROUP = GroupId("group")
NO_DEFAULTS = PoolDefaults()
WAITING = (1_000, 10_000, 100_000, 1_000_000)
HOSTS = (100, 1_000, 10_000)
Growth = list[tuple[int, int, float]]  # waiting jobs, hosts, seconds


def main() -> int:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="draw how the cost grows into this file")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results: Queue[Growth] = context.Queue()
    grown: Growth = []
    print(f"{'':70}{'best, processor':>16}{'peak memory':>13}")
    tell_best("a million additions in Python (this machine, now)", lambda: sum(range(1_000_000)), runs=20)
    for count in WAITING:
        process = context.Process(target=growing, args=(count, results))
        process.start()
        grown += results.get()
        process.join()
        if process.exitcode:
            return 1
    for part in (demanding, too_large, following):
        process = context.Process(target=part)
        process.start()
        process.join()
        if process.exitcode:
            return 1
    if asked.plot:
        draw(grown, asked.plot)
    return 0


def growing(count: int, results: "Queue[Growth]") -> None:
    """Measure a cycle after 1 % of the queue changed, by number of waiting jobs and of hosts."""
    rng = random.Random(1)
    index = queue(rng, count)
    created = count
    measured: Growth = []
    for hosts in HOSTS:
        offered = Hosts(offers(rng, hosts))
        best = float("inf")
        for _ in range(9):
            created = change(index, rng, max(3, count // 100), created)
            began = time.process_time()
            decide_matches(index, offered, LIMITS)
            best = min(best, time.process_time() - began)
        tell(f"a cycle: {count:,} jobs wait, {hosts:,} hosts", best)
        measured.append((count, hosts, best))
    results.put(measured)


def demanding() -> None:
    """Measure quotas, groups and constraints: 100,000 waiting jobs of 1,000 users, 10,000 hosts."""
    rng = random.Random(2)
    hosts = Hosts(offers(rng, 10_000))
    plain = queue(rng, 100_000)
    users = plain.users()
    quotas = {user: Quota(cpus=rng.choice((20.0, 1000.0)), count=rng.choice((5, 500))) for user in users}
    for what, limits, filters in (
        ("no quotas", LIMITS, NO_FILTERS),
        ("a quota for each user", replace(LIMITS, quotas=quotas), NO_FILTERS),
        ("a quota for the pool", LIMITS, QueueFilters(pool_quota=Quota(count=900))),
        ("a launch rate for each user", LIMITS, QueueFilters(tokens=dict.fromkeys(users, 1.0))),
    ):
        tell_cycle(what, plain, hosts, limits=limits, filters=filters)
    for what, placement in (
        ("one unique group", GroupPlacement(kind=PlacementKind.UNIQUE)),
        ("one group balanced over 500 racks", GroupPlacement(kind=PlacementKind.BALANCED, attribute="rack")),
        (
            "one group balanced over all hosts",
            GroupPlacement(kind=PlacementKind.BALANCED, attribute="HOSTNAME", minimum=20_000),
        ),
        (
            "one group in one zone",
            GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
        ),
    ):
        grouped = queue(rng, CONSIDERED, job_constraints=lambda _: JobConstraints(group=ONE_GROUP))
        tell_cycle(what, grouped, hosts, placement_context=PlacementContext(groups={ONE_GROUP: placement}))
    for what, names in (("1,000 constraint classes", "label"), ("1,000 that no host satisfies", "nothing")):
        classes = queue(rng, CONSIDERED, wanted=partial(labelled, names))
        tell_cycle(what, classes, hosts)
    failed = queue(rng, CONSIDERED, job_constraints=lambda _: JobConstraints(avoid=frozenset({"host-00001"})))
    tell_cycle("each has failed on some host", failed, hosts)
    nodes = [
        replace(offer, kind=HostKind.KUBERNETES, disk_mb={"ssd": 1e6}, task_count=3) for offer in hosts.offers
    ]
    disks = PoolDefaults(disk=True, disk_type="ssd", max_tasks_per_host=8)
    tell_cycle("Kubernetes nodes with disks and a limit of tasks", plain, Hosts(nodes), defaults=disks)


def too_large() -> None:
    """Measure 100,000 waiting jobs that no host can run, before some that fit."""
    most = QueueFilters(max_cpus=64.0)
    hosts = Hosts(offers(random.Random(3), 1000))
    for users in (1, 10, 1000):
        index = QueueIndex()
        jobs = [
            QueuedJob(
                JobId(str(UUID(int=seq))),
                f"user-{seq % users:04}",
                100.0 if seq < 100_000 else 1.0,
                500.0,
                seq,
            )
            for seq in range(100_100)
        ]
        index.add_many(jobs)
        tell_cycle(f"100,000 too large jobs of {users:,} users before 100", index, hosts, filters=most)


def following() -> None:
    """Measure an update of 10,000 hosts, of which 300 change."""
    rng = random.Random(4)
    now = offers(rng, 10_000)
    tell_best("10,000 hosts from offers, with columns", lambda: Hosts(now).columns.rough)
    hosts = Hosts(now)
    follow(hosts, now)
    best = gone_best = float("inf")
    for _ in range(5):
        then = list(hosts.offers)
        for at in rng.sample(range(10_000), 300):
            then[at] = replace(then[at], task_count=then[at].task_count + 1)
        best = min(best, timed(partial(follow, hosts, then)))
        fewer = [offer for at, offer in enumerate(hosts.offers) if at % 33]
        gone_best = min(gone_best, timed(partial(follow, hosts, fewer)))
        hosts.update_from_offers(then)
    tell("they follow offers of which 300 changed", best)
    tell("they follow offers of which 304 are gone", gone_best)


def follow(hosts: Hosts, then: Sequence[Offer]) -> None:
    """Update hosts from offers, including what a cycle reads."""
    hosts.update_from_offers(then)
    _ = hosts.columns.rough


# --- measured operations


def queue(
    rng: random.Random,
    count: int,
    *,
    job_constraints: Callable[[int], JobConstraints] | None = None,
    wanted: Callable[[int], ConstraintClass] | None = None,
) -> QueueIndex:
    """Return waiting jobs of up to 1,000 users, with mixed requests."""
    index = QueueIndex()
    for begin in range(0, count, 10_000):
        index.add_many(jobs(rng, begin, min(begin + 10_000, count), job_constraints, wanted))
    return index


def labelled(names: str, seq: int) -> ConstraintClass:
    """Return a constraint on the label with a number."""
    return ConstraintClass(attributes=(("label", f"{names}-{seq}"),))


def jobs(
    rng: random.Random,
    begin: int,
    end: int,
    job_constraints: Callable[[int], JobConstraints] | None = None,
    wanted: Callable[[int], ConstraintClass] | None = None,
) -> list[QueuedJob]:
    """Return some of the waiting jobs."""
    found = []
    for seq in range(begin, end):
        more: dict[str, Any] = {}
        if job_constraints is not None:
            more["job_constraints"] = job_constraints(seq)
        if wanted is not None:
            more["constraints"] = wanted(seq)
        user = f"user-{rng.randrange(1000):04}"
        cpus, mem_mb = rng.choice((0.5, 1.0, 2.0, 4.0)), float(rng.randrange(100, 8000))
        found.append(QueuedJob(JobId(str(UUID(int=rng.getrandbits(128)))), user, cpus, mem_mb, seq, **more))
    return found


def change(index: QueueIndex, rng: random.Random, count: int, created: int) -> int:
    """Let jobs start, as many end, and as many arrive; return the number of jobs ever created."""
    third = max(1, count // 3)
    ending = [job for tasks in index.by_name() for job in index.ids(tasks.started[: third // 500 + 1])][
        :third
    ]
    starting = [job for tasks in index.by_name() for job in index.ids(tasks.first_waiting(third // 500 + 1))][
        :third
    ]
    for job_id in ending:
        index.remove(job_id)
    for number, job_id in enumerate(starting):
        index.mark_running(job_id, created + number, f"host-{number % 10_000:05}")
    for job in jobs(rng, created, created + third):
        index.add(job)
    return created + third


def offers(rng: random.Random, count: int) -> list[Offer]:
    """Return hosts of three sizes, all in different use."""
    found = []
    for number in range(count):
        name = f"host-{number:05}"
        cpus = rng.choice((16, 32, 64))
        mem_mb = cpus * 4000
        taken = Resources(cpus=rng.randrange(cpus), mem_mb=rng.randrange(mem_mb))
        attributes = {
            "HOSTNAME": name,
            "zone": rng.choice("abcdef"),
            "rack": f"rack-{rng.randrange(500)}",
            "label": f"label-{number % 1000}",
        }
        whole = Resources(cpus=cpus, mem_mb=mem_mb)
        found.append(
            Offer(
                host=name,
                cluster="cluster",
                pool=PoolName("pool"),
                room=whole - taken,
                running=taken,
                attributes=attributes,
            )
        )
    return found


# --- reporting


def tell_cycle(
    what: str,
    index: QueueIndex,
    hosts: Hosts,
    *,
    limits: UserLimits = LIMITS,
    filters: QueueFilters = NO_FILTERS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
    defaults: PoolDefaults = NO_DEFAULTS,
) -> None:
    """Measure a cycle that considers 1,000 jobs."""
    settings = CycleSettings(max_considered=CONSIDERED, match=MatchSettings(defaults=defaults))

    def decide() -> int:
        matching = decide_matches(
            index, hosts, limits, settings=settings, filters=filters, placement_context=placement_context
        )
        return len(matching.matches)

    matched = decide()
    tell(f"a cycle: {what}; matched {matched:,}", min(timed(decide) for _ in range(3)))


def tell_best(what: str, work: Callable[[], object], runs: int = 5) -> None:
    """Run a function several times, and print the best time."""
    tell(what, min(timed(work) for _ in range(runs)))


def timed(work: Callable[[], object]) -> float:
    """Return the processor time of a function, in seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def tell(what: str, seconds: float) -> None:
    """Print one line: description, time, and peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{what:70}{seconds * 1e3:>13.2f} ms{peak / 2**20:>9.0f} MiB", flush=True)


def draw(grown: Growth, path: Path) -> None:
    """Draw the growth of the time of a cycle."""
    import matplotlib.pyplot as plt  # only needed for the picture

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for hosts, colour in zip(HOSTS, ("#4c9f70", "#e0a030", "#b5483a"), strict=True):
        points = [(count, seconds * 1e3) for count, some, seconds in grown if some == hosts]
        axes.loglog(*zip(*points, strict=True), marker="o", color=colour, label=f"{hosts:,} hosts")
    axes.set_xlabel("waiting jobs of 1,000 users")
    axes.set_ylabel("one match cycle, ms of processor time")
    axes.set_title("A cycle after 1 % of the queue changed, 1,000 jobs considered", fontsize=11)
    axes.set_ylim(1, 1000)
    axes.grid(visible=True, which="major", color="#dddddd")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    sys.exit(main())
