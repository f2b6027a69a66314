"""Time of decisions: ranking, the next jobs, matching; compared with plain Python in the same run.

Each part runs in a separate process, which has its own peak memory. Times are the best of several runs, in
processor time and in wall-clock time, which differ on a busy machine.

Goals (two cores, nothing else running): rank 1,000,000 tasks of 1,000 users 1 s; next 1,000 of them after 1 %
changed 20 ms; match 1,000 jobs on 10,000 hosts 50 ms for mixed shapes, 5 ms for one shape. Cook took 36 s
(100 users) and 4-9 s.
"""

import argparse
import heapq
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from uuid import UUID

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches
from cook_jupyter.scheduling.matching.matching import MatchSettings, match
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.ranking import rank_in_columns

LIMITS = UserLimits(default_share=Share(cpus=100, mem_mb=200_000))
USERS = 1000
RUNNING = 20_000
HOSTS = 10_000
MATCHED = 1000


def main() -> int:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many jobs wait")
    asked = parser.parse_args()
    print(f"{'':62}{'best, processor':>16}{'clock':>12}{'peak memory':>13}")
    tell_best("a million additions in Python (this machine, now)", lambda: sum(range(1_000_000)), runs=20)
    for part in (ranking, plain_ranking, placing_used, placing_empty, plain_placing, laptop):
        process = multiprocessing.get_context("spawn").Process(target=part, args=(asked.jobs,))
        process.start()
        process.join()
        if process.exitcode:
            return 1
    tell_best("a million additions in Python (this machine, now)", lambda: sum(range(1_000_000)), runs=20)
    return 0


# --- ranking


def ranking(count: int) -> None:
    """Measure the index: filling it, ranking all of it, the next jobs after changes."""
    index = QueueIndex()
    rng = random.Random(1)
    loaded = 0.0
    for begin in range(0, count, 10_000):
        batch = _jobs(rng, begin, min(begin + 10_000, count))
        began = time.process_time()
        index.add_many(batch)
        loaded += time.process_time() - began
    tell(f"take in {count:,} waiting jobs of {USERS:,} users, in batches", loaded)
    tell_best(f"rank {count:,} tasks from nothing", lambda: rank_in_columns(index, LIMITS), runs=3)
    alike = QueueIndex()
    alike.add_many(
        [
            QueuedJob(JobId(str(UUID(int=seq))), f"user-{seq % USERS:04}", 1.0, 1000.0, seq)
            for seq in range(min(count, 300_000))
        ]
    )
    tell_best(f"rank {len(alike):,} tasks that all tie", lambda: rank_in_columns(alike, LIMITS), runs=3)

    first = index.ids(rank_in_columns(index, LIMITS, limit=RUNNING).rows.tolist())
    for number, job_id in enumerate(first):
        index.mark_running(job_id, number, f"host-{number % HOSTS:05}")
    best_cpu = best_clock = changes = float("inf")
    for run in range(5):
        began = time.process_time()
        _change(index, rng, count // 100, count * (run + 1))
        changes = min(changes, time.process_time() - began)
        began, began_clock = time.process_time(), time.perf_counter()
        rank_in_columns(index, LIMITS, limit=MATCHED)
        best_cpu = min(best_cpu, time.process_time() - began)
        best_clock = min(best_clock, time.perf_counter() - began_clock)
    tell(f"follow 1 % changed ({count // 100:,} starts, ends, new jobs)", changes)
    tell(f"next {MATCHED:,} of them after that", best_cpu, best_clock)
    hosts = Hosts(_hosts(rng, used=True))
    settings = CycleSettings(max_considered=MATCHED)
    tell_best(
        "a whole match cycle of it on 10,000 hosts",
        lambda: decide_matches(index, hosts, LIMITS, settings=settings),
    )


def _change(index: QueueIndex, rng: random.Random, count: int, begin: int) -> None:
    """Make changes: tasks that end, jobs that start, new jobs, a third each."""
    third = count // 3
    running = [job for tasks in index.by_name() for job in index.ids(tasks.started[: third // USERS + 1])]
    for job_id in running[:third]:
        index.remove(job_id)
    starting = index.ids(rank_in_columns(index, LIMITS, limit=third).rows.tolist())
    for number, job_id in enumerate(starting):
        index.mark_running(job_id, begin + number, f"host-{number % HOSTS:05}")
    for job in _jobs(rng, begin, begin + third):
        index.add(job)


def _jobs(rng: random.Random, begin: int, end: int) -> list[QueuedJob]:
    return [
        QueuedJob(
            JobId(str(UUID(int=rng.getrandbits(128)))),
            f"user-{rng.randrange(USERS):04}",
            rng.choice((0.5, 1.0, 2.0, 4.0)),
            float(rng.randrange(100, 8000)),
            seq,
        )
        for seq in range(begin, end)
    ]


def plain_ranking(count: int) -> None:
    """Measure the same in plain Python: lists, sums, one sort."""
    rng = random.Random(1)
    by_user: dict[str, list[tuple[int, float, float, str]]] = {}
    for job in _jobs(rng, 0, count):
        by_user.setdefault(job.user, []).append((job.seq, job.cpus, job.mem_mb, job.job_id))

    def rank() -> list[tuple[float, str]]:
        scored: list[tuple[float, str]] = []
        for jobs in by_user.values():
            jobs.sort()
            cpus = mem = 0.0
            for _, job_cpus, job_mem, job_id in jobs:
                cpus += job_cpus
                mem += job_mem
                scored.append((max(mem / 200_000, cpus / 100), job_id))
        scored.sort()
        return scored

    tell_best(f"plain Python: rank {count:,} tasks", rank, runs=1)

    def first_by_heap() -> list[str]:
        """Return only the first 1,000, from sorted lists of each user, as a good plain program would."""

        def scored(jobs: list[tuple[int, float, float, str]]) -> Iterator[tuple[float, str]]:
            cpus = mem = 0.0
            for _, job_cpus, job_mem, job_id in jobs:
                cpus += job_cpus
                mem += job_mem
                yield max(mem / 200_000, cpus / 100), job_id

        merged = heapq.merge(*map(scored, by_user.values()))
        return [job_id for _, job_id in islice(merged, RUNNING + MATCHED)][RUNNING:]

    tell_best(
        f"plain Python with a heap: next {MATCHED:,} behind {RUNNING:,} that run", first_by_heap, runs=3
    )


# --- placing


def placing_used(_: int) -> None:
    """Return hosts that are all in different use."""
    _placing("hosts in use, each differently", _hosts(random.Random(2), used=True))


def placing_empty(_: int) -> None:
    """Return empty hosts of three sizes."""
    _placing("empty hosts of 3 sizes", _hosts(random.Random(2), used=False))


def _placing(which: str, offers: list[Offer]) -> None:
    rng = random.Random(3)
    tell_best(f"{HOSTS:,} {which}: columns from offers", lambda: Hosts(offers).columns.rough)
    hosts = Hosts(offers)
    for what, asks in (
        ("one shape", _asks(rng, [1.0], [4000.0])),
        ("ten shapes", _asks(rng, [1.0, 2.0], [1000.0, 2000.0, 4000.0, 8000.0, 16000.0])),
        ("mixed shapes", _asks(rng, [0.5, 1.0, 2.0, 4.0, 8.0], [float(mem) for mem in range(100, 30_000)])),
        (
            "no two alike",
            [
                TaskRequest(JobId(str(n)), rng.uniform(0.1, 8), rng.uniform(100, 30_000))
                for n in range(MATCHED)
            ],
        ),
    ):
        for good_enough in (0.8, 1.0):
            settings = MatchSettings(good_enough=good_enough)
            tell_best(
                f"  match {MATCHED:,} jobs, {what}, good enough {good_enough}",
                partial(match, asks, hosts, settings=settings),
            )


def plain_placing(_: int) -> None:
    """Measure the same in plain Python: every host is examined for every job."""
    rng = random.Random(2)
    hosts = Hosts(_hosts(rng, used=True))
    asks = _asks(rng, [0.5, 1.0, 2.0, 4.0, 8.0], [float(mem) for mem in range(100, 30_000)])[:20]
    settings = MatchSettings(good_enough=1.0, columnar_from=10**9)
    began, clock = time.process_time(), time.perf_counter()
    match(asks, hosts, settings=settings)
    times = MATCHED / len(asks)
    tell(
        f"plain Python: match {MATCHED:,} jobs, mixed (20 measured)",
        (time.process_time() - began) * times,
        (time.perf_counter() - clock) * times,
    )


def _hosts(rng: random.Random, *, used: bool) -> list[Offer]:
    offers = []
    for number in range(HOSTS):
        cpus = rng.choice((16, 32, 64))
        mem = cpus * 4000
        taken = Resources(cpus=rng.randrange(cpus), mem_mb=rng.randrange(mem)) if used else Resources()
        offers.append(
            Offer(
                host=f"host-{number:05}",
                cluster="cluster",
                pool=PoolName("pool"),
                room=Resources(cpus=cpus, mem_mb=mem) - taken,
                running=taken,
            )
        )
    return offers


def _asks(rng: random.Random, cpus: list[float], mem_mb: list[float]) -> list[TaskRequest]:
    return [
        TaskRequest(JobId(str(UUID(int=number))), rng.choice(cpus), rng.choice(mem_mb))
        for number in range(MATCHED)
    ]


def laptop(_: int) -> None:
    """Measure one host, one user, a long queue: the time per submitted or ended job on a laptop."""
    index = QueueIndex()
    index.add_many([QueuedJob(JobId(str(UUID(int=seq))), "ada", 1.0, 100.0, seq) for seq in range(50_000)])
    offers = [
        Offer(host="laptop", cluster="local", pool=PoolName("pool"), room=Resources(cpus=1, mem_mb=8000))
    ]
    limits = UserLimits()
    runs = 2000
    best = best_all = float("inf")
    for start in range(0, 5 * runs, runs):
        began = time.process_time()
        for _ in range(runs):
            decide_matches(index, offers, limits)
        best = min(best, (time.process_time() - began) / runs)
        began = time.process_time()
        for number in range(start, start + runs):
            matched = decide_matches(index, offers, limits).matches[0]
            index.mark_running(matched.job_id, number, matched.host)
            index.remove(matched.job_id)
        best_all = min(best_all, (time.process_time() - began) / runs)
    tell("laptop: a match cycle, one free slot, 50,000 jobs wait", best)
    tell("laptop: the same with the job's start and end", best_all)


# --- measuring


def tell_best(what: str, work: Callable[[], object], runs: int = 5) -> None:
    """Run a function several times, and print the best time."""
    best_cpu = best_clock = float("inf")
    for _ in range(runs):
        began, clock = time.process_time(), time.perf_counter()
        work()
        best_cpu = min(best_cpu, time.process_time() - began)
        best_clock = min(best_clock, time.perf_counter() - clock)
    tell(what, best_cpu, best_clock)


def tell(what: str, cpu_s: float, clock_s: float | None = None) -> None:
    """Print one line: description, times, and peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    clock = "" if clock_s is None else _time(clock_s)
    print(f"{what:62}{_time(cpu_s):>16}{clock:>12}{peak / 2**20:>9.0f} MiB", flush=True)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


if __name__ == "__main__":
    sys.exit(main())
