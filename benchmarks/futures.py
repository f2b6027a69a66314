"""Futures of cook_jupyter compared with a process pool, Ray, Dask and ipyparallel, each with two workers.

Each contestant runs alone in a separate process, from a cold start. Only ratios within one run are
meaningful; numbers of different machines, or of different days, are not comparable.

    python benchmarks/futures.py                   all of them
    python benchmarks/futures.py ours pool         some

Contestants are in the extra [bench]; those that are not installed are reported as missing.
"""

# ruff: noqa: D102 - the methods of a contestant are documented in the protocol

import argparse
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

BEGUN = time.perf_counter()

WORKERS = 2
SINGLE_CALLS = 300
SUBMITS = 2_000
ROUND_TRIPS = 60
MEBIBYTE = 2**20
SHORT_S = 120.0  # time after which a contestant stops measuring a row

ROWS = {
    "cold": ("first call on a cold machine, s", "less", 2),
    "one": ("one call, submitted and awaited, p50 ms", "less", 2),
    "submits": ("separate submits, end to end, per s", "more", 0),
    "map": ("map of a trivial function, calls per s", "more", 0),
    "array": ("1 MiB array there and back, MB/s both ways", "more", 0),
    "memory": ("memory of all processes afterwards, MB", "less", 0),
}


def identity(value: Any) -> Any:
    """The function that every contestant runs."""
    return value


class Contestant(Protocol):
    """The operations of a contestant that are measured."""

    map_calls: int  # enough for a steady rate, in a reasonable time

    def start(self) -> None:
        """Start the contestant, so that it accepts calls."""

    def call(self, value: Any) -> Any:
        """Submit one call and wait for it."""

    def submit_all(self, values: Sequence[Any]) -> list[Any]:
        """Submit a call for each value, then get all results."""

    def map(self, values: Iterable[Any]) -> Iterable[Any]:
        """Map a function over values, with the contestant's own bundling."""

    def stop(self) -> None:
        """Stop the contestant, and remove everything that it created."""


class Ours:
    """cook_jupyter: each call is a durable job of a scheduler in a separate process."""

    map_calls = 1_000_000

    def start(self) -> None:
        from cook_jupyter.executor import CookExecutor

        self._home = tempfile.mkdtemp(prefix="cook-bench-")
        os.environ["COOK_JUPYTER_HOME"] = self._home
        self._executor = CookExecutor(cpus=1, mem_mb=256)

    def call(self, value: Any) -> Any:
        return self._executor.submit(identity, value).result()

    def submit_all(self, values: Sequence[Any]) -> list[Any]:
        return [future.result() for future in [self._executor.submit(identity, value) for value in values]]

    def map(self, values: Iterable[Any]) -> Iterable[Any]:
        return self._executor.map(identity, values)

    def stop(self) -> None:
        self._executor.shutdown()
        subprocess.run(
            [sys.executable, "-m", "cook_jupyter", "down"], check=False, capture_output=True, timeout=60
        )
        shutil.rmtree(self._home, ignore_errors=True)


class Pool:
    """The standard library's process pool: a lower bound for calls in another process; nothing is durable."""

    map_calls = 1_000_000

    def start(self) -> None:
        self._executor = ProcessPoolExecutor(WORKERS)

    def call(self, value: Any) -> Any:
        return self._executor.submit(identity, value).result()

    def submit_all(self, values: Sequence[Any]) -> list[Any]:
        return [future.result() for future in [self._executor.submit(identity, value) for value in values]]

    def map(self, values: Iterable[Any]) -> Iterable[Any]:
        return self._executor.map(identity, values, chunksize=10_000)

    def stop(self) -> None:
        self._executor.shutdown()


class Ray:
    """Ray on this machine."""

    map_calls = 3_000

    def start(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine
        import ray

        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=400 * MEBIBYTE,
        )
        self._ray = ray
        self._identity = ray.remote(identity)

    def call(self, value: Any) -> Any:
        return self._ray.get(self._identity.remote(value))

    def submit_all(self, values: Sequence[Any]) -> list[Any]:
        return list(self._ray.get([self._identity.remote(value) for value in values]))

    def map(self, values: Iterable[Any]) -> Iterable[Any]:
        return self.submit_all(list(values))

    def stop(self) -> None:
        self._ray.shutdown()


class Dask:
    """dask.distributed: a LocalCluster of processes."""

    map_calls = 3_000

    def start(self) -> None:
        distributed: Any = importlib.import_module("distributed")
        self._cluster = distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client = distributed.Client(self._cluster)

    def call(self, value: Any) -> Any:
        return self._client.submit(identity, value, pure=False).result()

    def submit_all(self, values: Sequence[Any]) -> list[Any]:
        futures = [self._client.submit(identity, value, pure=False) for value in values]
        return list(self._client.gather(futures))

    def map(self, values: Iterable[Any]) -> Iterable[Any]:
        return list(self._client.gather(self._client.map(identity, list(values), pure=False)))

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()


class Ipyparallel:
    """ipyparallel: a controller and engines."""

    map_calls = 50_000

    def start(self) -> None:
        import ipyparallel

        self._cluster = ipyparallel.Cluster(n=WORKERS, log_level=40)
        self._view = self._cluster.start_and_connect_sync(activate=False).load_balanced_view()

    def call(self, value: Any) -> Any:
        return self._view.apply_async(identity, value).get()

    def submit_all(self, values: Sequence[Any]) -> list[Any]:
        return [each.get() for each in [self._view.apply_async(identity, value) for value in values]]

    def map(self, values: Iterable[Any]) -> Iterable[Any]:
        return list(self._view.map_async(identity, values, chunksize=1000).get())

    def stop(self) -> None:
        self._cluster.stop_cluster_sync()


CONTESTANTS: dict[str, tuple[str, Callable[[], Contestant], str]] = {
    "ours": ("cook_jupyter", Ours, "cook_jupyter"),
    "pool": ("process pool", Pool, "concurrent"),
    "ray": ("Ray", Ray, "ray"),
    "dask": ("Dask", Dask, "distributed"),
    "ipyparallel": ("ipyparallel", Ipyparallel, "ipyparallel"),
}


def main() -> int:
    """Run the requested contestants, and print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("names", nargs="*", help=", ".join(CONTESTANTS))
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.child:
        measure(CONTESTANTS[asked.child][1]())
        return 0
    unknown = set(asked.names) - set(CONTESTANTS)
    if unknown:
        arguments.error(f"no such contestant: {', '.join(sorted(unknown))}")

    found: dict[str, dict[str, float]] = {}
    for name in asked.names or CONTESTANTS:
        title, _, package = CONTESTANTS[name]
        if importlib.util.find_spec(package) is None:
            print(f"{title}: not installed (pip install 'cook_jupyter[bench]')", flush=True)
            continue
        print(f"{title} ...", end=" ", flush=True)
        begun = time.perf_counter()
        figures = run(name)
        print(f"{time.perf_counter() - begun:.0f} s" if figures else "failed", flush=True)
        if figures:
            found[name] = figures
    show(found)
    return 0 if "ours" in found or (asked.names and "ours" not in asked.names) else 1


def run(name: str) -> dict[str, float]:
    """Run one contestant in a separate process."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", name], check=False, capture_output=True, text=True, timeout=900
    )
    figures = [line for line in done.stdout.splitlines() if line.startswith("figures ")]
    if not figures:
        print(f"\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
        return {}
    read: dict[str, float] = json.loads(figures[-1].removeprefix("figures "))
    return read


def measure(contestant: Contestant) -> None:
    """Measure all rows of one contestant, from a cold start."""
    import numpy as np

    imported = time.perf_counter() - BEGUN  # numpy is loaded for this program, not for the contestant
    contestant.start()
    try:
        assert contestant.call(1) == 1
        figures = {"cold": time.perf_counter() - BEGUN - imported}
        contestant.submit_all(range(50))
        figures["one"] = 1000 * median_s(lambda: contestant.call(1), SINGLE_CALLS)
        figures["submits"] = SUBMITS / seconds(lambda: contestant.submit_all(range(SUBMITS)))
        calls = contestant.map_calls
        figures["map"] = calls / seconds(lambda: consume(contestant.map(range(calls))))
        array = np.random.default_rng(1).random(MEBIBYTE // 8)
        for _ in range(3):
            contestant.call(array)
        figures["array"] = 2 * MEBIBYTE / 1e6 / median_s(lambda: contestant.call(array), ROUND_TRIPS)
        figures["memory"] = memory_mb()
    finally:
        contestant.stop()
    print("figures " + json.dumps(figures), flush=True)


def median_s(call: Callable[[], Any], times: int) -> float:
    """Return the median duration of a call."""
    taken: list[float] = []
    while len(taken) < times and sum(taken) < SHORT_S:
        taken.append(seconds(call))
    return statistics.median(taken)


def seconds(call: Callable[[], Any]) -> float:
    """Return the duration of a call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def consume(values: Iterable[Any]) -> None:
    """Check each value."""
    for _ in values:
        pass


def memory_mb() -> float:
    """Return the memory of all processes of this contestant in MB, with shared pages counted once (PSS)."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_family(folder):
            with contextlib.suppress(OSError):
                rolled = (folder / "smaps_rollup").read_text()
                total += sum(int(line.split()[1]) for line in rolled.splitlines() if line.startswith("Pss:"))
    return total * 1024 / 1e6


def is_family(folder: Path) -> bool:
    """Return whether a process descends from this one, or serves the home that this one created."""
    home = os.environ.get("COOK_JUPYTER_HOME", "")
    with contextlib.suppress(OSError, ValueError):
        if home and f"COOK_JUPYTER_HOME={home}\0".encode() in (folder / "environ").read_bytes():
            return True
        pid = int(folder.name)
        while pid > 1:
            if pid == os.getpid():
                return True
            stat = Path(f"/proc/{pid}/stat").read_text()
            pid = int(stat.rpartition(")")[2].split()[1])
    return False


def show(found: dict[str, dict[str, float]]) -> None:
    """Return the table: figures, and below each its ratio to that of cook_jupyter."""
    names = list(found)
    width = max(len(title) for title, _, _ in ROWS.values())
    print("\n" + " " * width + "".join(f"{CONTESTANTS[name][0]:>14}" for name in names))
    for row, (title, better, digits) in ROWS.items():
        cells = [f"{found[name][row]:,.{digits}f}" for name in names]
        print(f"{title:<{width}}" + "".join(f"{cell:>14}" for cell in cells))
        if "ours" in found and len(names) > 1:
            ours = found["ours"][row]
            ratios = []
            for name in names:
                ratio = found[name][row] / ours if better == "less" else ours / found[name][row]
                ratios.append("" if name == "ours" else f"{ratio:.2f}x")
            print(f"{'  ours, times better':<{width}}" + "".join(f"{cell:>14}" for cell in ratios))


if __name__ == "__main__":
    sys.exit(main())
