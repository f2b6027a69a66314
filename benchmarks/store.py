"""Time of persistence: one command for one job, batches, restart with many waiting jobs.

Compared with the store in memory, and Python's own sqlite3 with one plain row and one commit per job.
`python benchmarks/store.py --waiting 1000000` measures the restart with a million jobs.
Ranges and the machine they come from: docs/decisions/0002-store.md.
"""

import argparse
import asyncio
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cook_jupyter.model.instance import (
    Instance,
    InstanceId,
    InstanceStatus,
    ResultPayload,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.store import sqlite as sqlite_store
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from cook_jupyter.store.sqlite import SqliteStore

SINGLES = 3_000
BATCHES = 20
BATCH = 1_000
INLINE = sqlite_store.INLINE_WRITE_JOBS


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--waiting", type=int, default=200_000, help="jobs that wait at the restart")
    waiting = arguments.parse_args().waiting
    print(f"one million additions in Python: {calibrated():.0f} ms (the speed of this machine, now)")
    with tempfile.TemporaryDirectory(prefix="cook-bench-") as folder:
        plain(Path(folder) / "plain.db")
        stores: Sequence[tuple[str, Callable[[], Store], int]] = (
            ("memory", MemoryStore, INLINE),
            ("NORMAL", lambda: SqliteStore(Path(folder) / "normal.db"), INLINE),
            ("NORMAL, all by the thread", lambda: SqliteStore(Path(folder) / "thread.db"), -1),
            ("FULL", lambda: SqliteStore(Path(folder) / "full.db", synchronous="FULL"), INLINE),
        )
        for name, make, small in stores:
            sqlite_store.INLINE_WRITE_JOBS = small
            asyncio.run(commands(name, make()))
        sqlite_store.INLINE_WRITE_JOBS = INLINE
        path = Path(folder) / "waiting.db"
        asyncio.run(fill(path, waiting))
        print(f"  {path.stat().st_size / waiting:.0f} bytes each in the file")
        asyncio.run(restart(path))


async def commands(name: str, store: Store) -> None:
    """Measure single commands, batches, and concurrent single commands."""
    await store.open()
    specs = [a_spec("a", number) for number in range(SINGLES)]
    print(f"{name}: one command for one job, p50 (p99) and CPU")
    await timed("submit", specs, lambda spec: store.submit([spec], now_ms=1))
    await timed("launch", specs, lambda spec: store.launch([placed(spec)]))
    await timed("report running", specs, lambda spec: store.report([running(spec)]))
    await timed("report end, 200 bytes", specs, lambda spec: store.report([ended(spec)]))
    await timed("read a job", specs, lambda spec: store.jobs([spec.job_id]))

    batches = [[a_spec(f"b{batch}", n) for n in range(BATCH)] for batch in range(BATCHES)]
    rates = [
        await rate([store.submit(batch, now_ms=1) for batch in batches], BATCH * BATCHES),
        await rate([store.launch([placed(s) for s in batch]) for batch in batches], BATCH * BATCHES),
        await rate([store.report([ended(s) for s in batch]) for batch in batches], BATCH * BATCHES),
    ]
    print("  batches of 1,000, jobs/s: submit {:,.0f}, launch {:,.0f}, report {:,.0f}".format(*rates))
    alone = [a_spec("c", number) for number in range(BATCH)]
    start = time.perf_counter()
    await asyncio.gather(*(store.submit([spec], now_ms=1) for spec in alone))
    print(f"  1,000 single submits called together: {BATCH / (time.perf_counter() - start):,.0f}/s")
    await store.close()


async def fill(path: Path, waiting: int) -> None:
    """Submit many jobs, and launch some of the old ones."""
    store = SqliteStore(path)
    await store.open()
    start = time.perf_counter()
    for first in range(0, waiting, 10_000):
        batch = [a_spec("w", n, user=f"user-{n % 1000}") for n in range(first, min(waiting, first + 10_000))]
        await store.submit(batch, now_ms=1)
    filled = time.perf_counter() - start
    print(f"{waiting:,} waiting jobs of 1,000 users:")
    print(f"  submitted in batches of 10,000 at {waiting / filled:,.0f}/s, making them included")
    old = [a_spec("w", n) for n in range(0, waiting, max(1, waiting // SINGLES))]
    await timed("launch of old ones", old, lambda spec: store.launch([placed(spec)]))
    await store.close()


async def restart(path: Path) -> None:
    """Measure a restart: opening the store, and reading all waiting jobs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    store = SqliteStore(path)
    await store.open()
    seen = 0
    async for jobs in store.open_jobs():
        seen += len(jobs)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"  read again in {time.perf_counter() - start:.1f} s ({seen:,}); peak memory grew by {grown:.0f} MiB"
    )
    await store.close()


def plain(path: Path) -> None:
    """Measure Python's sqlite3: one row, one commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT, spec BLOB)")
    rows = [(a_spec("p", n).job_id, "waiting", b"x" * 400) for n in range(SINGLES)]
    taken = []
    for row in rows:
        start = time.perf_counter()
        connection.execute("INSERT INTO jobs VALUES (?, ?, ?)", row)
        taken.append(time.perf_counter() - start)
    print(f"plain sqlite3 {sqlite3.sqlite_version}, NORMAL: insert of one row, {spread(taken)}")
    connection.close()


async def timed(label: str, specs: Sequence[JobSpec], call: Callable[[JobSpec], Awaitable[object]]) -> None:
    """Print the time of a call that is made for one job after the other."""
    taken = []
    cpu = time.process_time()
    for spec in specs:
        start = time.perf_counter()
        await call(spec)
        taken.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(specs) * 1e6
    print(f"  {label:<22} {spread(taken)}, CPU {cpu:.0f} us")


async def rate(calls: Sequence[Awaitable[object]], jobs: int) -> float:
    """Return jobs per second for calls that are made one after the other."""
    start = time.perf_counter()
    for call in calls:
        await call
    return jobs / (time.perf_counter() - start)


def spread(taken: Sequence[float]) -> str:
    """Return the median and the 99th percentile of some times."""
    return f"{statistics.median(taken) * 1e6:.0f} us ({statistics.quantiles(taken, n=100)[98] * 1e6:.0f})"


def calibrated() -> float:
    """Return the time of a fixed piece of Python in milliseconds: the best of five."""
    best = float("inf")
    for _ in range(5):
        start, total = time.perf_counter(), 0
        for number in range(1_000_000):
            total += number
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def a_spec(prefix: str, number: int, *, user: str = "ada") -> JobSpec:
    """Return a small job with an id that looks like a random UUID but is the same in each run."""
    scattered = (number * 0x9E3779B97F4A7C15 + 1) % 2**64
    job_id = JobId(f"{scattered:016x}-{prefix}-{number}")
    command = "python -m cook_jupyter.worker call " + "x" * 100
    return JobSpec(job_id=job_id, user=user, command=command, pool=DEFAULT_POOL, cpus=1.0, mem_mb=512.0)


def placed(spec: JobSpec) -> Instance:
    """Return the only instance of a job, with the job's own id."""
    return Instance(
        instance_id=InstanceId(spec.job_id),
        job_id=spec.job_id,
        status=InstanceStatus.UNKNOWN,
        host="localhost",
        cluster="local",
        started_ms=2,
    )


def running(spec: JobSpec) -> StatusUpdate:
    """Return the report that the instance is running."""
    return StatusUpdate(instance_id=InstanceId(spec.job_id), state=TaskState.RUNNING, at_ms=3)


def ended(spec: JobSpec) -> StatusUpdate:
    """Return the report that the instance has succeeded, with a small result."""
    result = ResultPayload(inline=b"r" * 200, size=200)
    return StatusUpdate(
        instance_id=InstanceId(spec.job_id), state=TaskState.FINISHED, at_ms=4, exit_code=0, result=result
    )


if __name__ == "__main__":
    main()
