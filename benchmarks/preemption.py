"""Time of a rebalance cycle, compared with plain Python in the same run.

Each part runs in a separate process, which has its own peak memory. Times are the best of several runs, in
processor time and in wall-clock time, which differ on a busy machine.

The pool is full: 100 users, or a single one, hold all of it, past their shares. 1,000 jobs of 50 newcomers
wait, of 0.5 to 8 cpus and as many sizes of memory as there are jobs. Every cycle starts from scratch:
scores, the table of victims, the queue.

Goal (two cores, nothing else running): 20,000 running tasks, 2,000 hosts, 1,000 candidates 0.3 s. Cook took
110 s.
"""

import argparse
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from uuid import UUID

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.ranking import rank_in_columns
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings, rebalance

HOLDERS = 100
NEWCOMERS = 50
CANDIDATES = 1000
PER_HOST = 10
NOW_MS = 10_000_000
COOK = PreemptionSettings.cook(max_preemption=CANDIDATES)
OURS = PreemptionSettings(max_preemption=CANDIDATES)


def main() -> int:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--running", type=int, nargs="*", default=[1_000, 10_000, 20_000, 100_000])
    asked = parser.parse_args()
    print(f"{'':66}{'processor':>10}{'clock':>12}{'peak memory':>13}")
    tell_best("a million additions in Python (this machine, now)", lambda: sum(range(1_000_000)), runs=20)
    for running in asked.running:
        for part in (columns, plain):
            process = multiprocessing.get_context("spawn").Process(target=part, args=(running,))
            process.start()
            process.join()
            if process.exitcode:
                return 1
    tell_best("a million additions in Python (this machine, now)", lambda: sum(range(1_000_000)), runs=20)
    return 0


class Pool(NamedTuple):
    """The input of a cycle."""

    running: list[tuple[QueuedJob, int, str]]  # job, start, host
    waiting: list[QueuedJob]
    offers: list[Offer]
    limits: UserLimits


def a_pool(running: int, *, one_user: bool = False) -> Pool:
    """Return a full pool."""
    rng = random.Random(running)
    hosts = [f"host-{number:05}" for number in range(max(1, running // PER_HOST))]
    holders = 1 if one_user else HOLDERS
    tasks = [
        (
            _job(rng, seq, f"holder-{seq % holders:03}", (0.5, 1.0, 2.0, 4.0)),
            rng.randrange(NOW_MS),
            hosts[seq % len(hosts)],
        )
        for seq in range(running)
    ]
    waiting = [
        _job(rng, seq, f"newcomer-{rng.randrange(NEWCOMERS):02}", (0.5, 1.0, 2.0, 4.0, 8.0))
        for seq in range(running, running + CANDIDATES)
    ]
    offers = [
        Offer(
            host=host,
            cluster="cluster",
            pool=PoolName("pool"),
            room=Resources(cpus=rng.choice((0.0, 0.0, 0.25)), mem_mb=float(rng.randrange(2000))),
        )
        for host in hosts
    ]
    share = Share(cpus=running / holders / 2, mem_mb=running / holders * 2000)
    return Pool(tasks, waiting, offers, UserLimits(default_share=share))


def _job(rng: random.Random, seq: int, user: str, cpus: tuple[float, ...]) -> QueuedJob:
    mem = float(rng.randrange(100, 8000))
    return QueuedJob(JobId(str(UUID(int=rng.getrandbits(128)))), user, rng.choice(cpus), mem, seq)


def columns(running: int) -> None:
    """Measure the rebalance cycle of the scheduler."""
    for one_user in (False, True):
        pool = a_pool(running, one_user=one_user)
        index = QueueIndex()
        index.add_many([job for job, _, _ in pool.running] + pool.waiting)
        for seq, (job, start_ms, host) in enumerate(pool.running):
            index.mark_running(job.job_id, start_ms, host, task_seq=seq)
        hosts = Hosts(pool.offers)
        around = PlacementContext(now_ms=NOW_MS)
        who = "1 user" if one_user else f"{HOLDERS} users"
        for name, settings in (("Cook's settings", COOK), ("ours", OURS)):
            found = rebalance(index, hosts, pool.limits, settings=settings, placement_context=around)
            tell_best(
                f"{running:,} tasks of {who}, {len(hosts):,} hosts, {CANDIDATES:,} jobs, {name}",
                partial(rebalance, index, hosts, pool.limits, settings=settings, placement_context=around),
                runs=3,
            )
            print(f"    {len(found.preemptions):,} decisions, {len(found.victims):,} victims")


def plain(running: int) -> None:
    """Measure the same rules in plain Python: every candidate is examined for every job."""
    pool = a_pool(running)
    index = QueueIndex()
    index.add_many([job for job, _, _ in pool.running] + pool.waiting)
    for seq, (job, start_ms, host) in enumerate(pool.running):
        index.mark_running(job.job_id, start_ms, host, task_seq=seq)
    first = index.ids(rank_in_columns(index, pool.limits, limit=CANDIDATES).rows.tolist())
    by_id = {job.job_id: job for job in pool.waiting}
    queue = [by_id[job_id] for job_id in first]
    found = rebalance(index, Hosts(pool.offers), pool.limits, settings=COOK)
    measured = max(3, min(len(queue), 200_000 // running))
    began, clock = time.process_time(), time.perf_counter()
    made = _plain_cycle(pool, queue[:measured])
    times = len(queue) / measured
    tell(
        f"plain Python: {running:,} tasks, {CANDIDATES:,} jobs ({measured} measured)",
        (time.process_time() - began) * times,
        (time.perf_counter() - clock) * times,
    )
    same = [(one.beneficiary, one.host, frozenset(one.victims)) for one in found.preemptions[: len(made)]]
    if same != made:
        raise SystemExit("plain Python decides otherwise")


class _Task(NamedTuple):
    key: tuple[float, int, int]
    job: QueuedJob
    host: str


def _plain_cycle(pool: Pool, queue: list[QueuedJob]) -> list[tuple[JobId, str, frozenset[JobId]]]:
    """Return the decisions of a cycle with Cook's settings, for a pool without constraints and quotas."""
    share = pool.limits.default_share
    by_user: dict[str, list[_Task]] = {}
    for seq, (job, start_ms, host) in enumerate(pool.running):
        by_user.setdefault(job.user, []).append(_Task((start_ms, seq, job.seq), job, host))
    spare = {offer.host: (offer.room.cpus, offer.room.mem_mb) for offer in pool.offers}
    drus: dict[str, float] = {}

    def score(user: str) -> None:
        cpus = mem = 0.0
        by_user[user].sort()
        for _, job, _ in by_user[user]:
            cpus, mem = cpus + job.cpus, mem + job.mem_mb
            drus[job.job_id] = max(mem / share.mem_mb, cpus / share.cpus)

    for user in by_user:
        score(user)
    made = []
    for job in queue:
        own = by_user.setdefault(job.user, [])
        pending = drus[own[-1].job.job_id] if own else 0.0
        pending += max(job.mem_mb / share.mem_mb, job.cpus / share.cpus)
        best = _plain_decision(job, pending, by_user, drus, spare)
        if best is None:
            continue
        _, host, chosen, cpus, mem = best
        spare[host] = (cpus - job.cpus, mem - job.mem_mb)
        own.append(_Task((float("inf"), -1, job.seq), job, host))
        for user in {job.user, *(task.job.user for task in chosen)}:
            by_user[user] = [task for task in by_user[user] if task not in chosen]
            score(user)
        made.append((job.job_id, host, frozenset(task.job.job_id for task in chosen)))
    return made


def _plain_decision(
    job: QueuedJob,
    pending: float,
    by_user: dict[str, list[_Task]],
    drus: dict[str, float],
    spare: dict[str, tuple[float, float]],
) -> tuple[float, str, list[_Task], float, float] | None:
    """Return DRU, host, victims and the room that is then free."""
    victims = [
        task
        for tasks in by_user.values()
        for task in tasks
        if drus[task.job.job_id] >= COOK.safe_dru_threshold
        and drus[task.job.job_id] - pending > COOK.min_dru_diff
    ]
    victims.sort(key=lambda task: (-drus[task.job.job_id], task.job.user))
    by_host: dict[str, list[_Task]] = {host: [] for host in spare}
    for task in victims:
        by_host[task.host].append(task)
    best: tuple[float, str, list[_Task], float, float] | None = None
    for host in sorted(by_host):
        cpus, mem = spare[host]
        if cpus >= job.cpus and mem >= job.mem_mb:
            best = (float("inf"), host, [], cpus, mem)
        for number, task in enumerate(by_host[host], 1):
            cpus, mem, dru = cpus + task.job.cpus, mem + task.job.mem_mb, drus[task.job.job_id]
            if cpus >= job.cpus and mem >= job.mem_mb and (best is None or dru >= best[0]):
                best = (dru, host, by_host[host][:number], cpus, mem)
    return best


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


def tell(what: str, cpu_s: float, clock_s: float) -> None:
    """Print one line: description, times, and peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{what:66}{_time(cpu_s):>10}{_time(clock_s):>12}{peak / 2**20:>9.0f} MiB", flush=True)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


if __name__ == "__main__":
    sys.exit(main())
