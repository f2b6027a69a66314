"""A scheduler on a real Mesos, measured through its client. Everything runs on this machine.

    python benchmarks/mesos.py                      all figures
    python benchmarks/mesos.py latency rate         some
    python benchmarks/mesos.py running --jobs 1000  fewer running jobs

latency   submit to result of a call, 10 arrivals per second, on warm executors; also while a second framework
          launches a task each second, whose own latency is compared with the one that it has alone
rate      500 jobs that end at once, submitted together, on five agents
running   10,000 sleeping jobs at once on 20 agents of 1,000 cpus each; then the scheduler is killed with -9,
          and started again

`latency` uses the executor as it is. The others use one whose instances are timers instead of processes
(`_sleeping_executor.py`), since the machine has not enough memory for 10,000 processes.
"""

# ruff: noqa: E402 - the root must be on the path first

import argparse
import contextlib
import getpass
import itertools
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil

from cook_jupyter import CookExecutor, connect
from cook_jupyter.client.sync import JobClient
from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.messages import Event, OfferId
from cook_jupyter.errors import CookError
from cook_jupyter.executor.future import CookFuture
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.raw_framework import RawFramework

ARRIVALS_PER_S = 10
LATENCY_S = 30.0
RATE_JOBS = 500
SHORT_S = 300.0  # after which a measurement is given up


class Server:
    """A scheduler in a process of its own, on a Mesos.

    Args:
        mesos: the Mesos.
        sleeping: whether instances are timers instead of processes.
    """

    def __init__(self, mesos: LocalMesos, *, sleeping: bool = False) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="cook-bench-"))
        self._times = self.home / "cycles.txt"
        self._config = self.home / "cluster.toml"
        python = sys.executable
        if sleeping:
            program = self.home / "python"
            program.write_text(
                # the arguments begin with `-P -m cook_jupyter.worker`
                f'#!/bin/sh\nshift 3\nexec {sys.executable} {ROOT}/benchmarks/_sleeping_executor.py "$@"\n'
            )
            program.chmod(0o755)
            python = str(program)
        self._config.write_text(
            f"""
            [[clusters]]
            type = "mesos"
            master = "{mesos.master.removeprefix("http://")}"
            run_as = "{getpass.getuser()}"
            executor_python = "{python}"
            """
        )
        os.environ["COOK_JUPYTER_HOME"] = str(self.home)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> JobClient:
        """Start it, and return a client once it listens."""
        log = (self.home / "server.log").open("a")
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "benchmarks" / "_timed_server.py"), str(self._times)),
                *("serve", "--config", str(self._config)),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        )
        log.close()
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), (self.home / "server.log").read_text()
        return connect()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.communicate()
            self._process = None

    @property
    def memory_mb(self) -> float:
        """Its resident memory."""
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    @property
    def cpu_s(self) -> float:
        """The processor time that it has used."""
        assert self._process is not None
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def cycle_ms(self, since_s: float) -> list[float]:
        """Return the durations of the match cycles that began after a time since the epoch."""
        lines = [line.split() for line in self._times.read_text().splitlines()]
        return [float(duration) * 1000 for begun, duration in lines if float(begun) >= since_s]


@contextlib.contextmanager
def serving(*, sleeping: bool = False, **options: Any) -> Iterator[tuple[LocalMesos, Server, JobClient]]:
    """Run Mesos and a scheduler on it."""
    with LocalMesos(**options) as mesos:
        server = Server(mesos, sleeping=sleeping)
        try:
            yield mesos, server, server.start()
        finally:
            server.stop()
            shutil.rmtree(server.home, ignore_errors=True)


def identity(value: int) -> int:
    """The call that is measured."""
    return value


def show(row: str, value: str, goal: str = "") -> None:
    """Print one figure."""
    print(f"  {row:66} {value:>22}  {goal}", flush=True)


def quantile(values: Sequence[float], part: float) -> float:
    """Return a quantile; the largest value if there are few."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def wait_until(condition: Callable[[], bool], what: str) -> float:
    """Wait for a condition; return the seconds that it took."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > SHORT_S:
            raise TimeoutError(f"not within {SHORT_S:g} s: {what}")
        time.sleep(0.05)
    return time.perf_counter() - started


# --- latency ----------------------------------------------------------------------------------------------


class Neighbour(RawFramework):
    """A second framework, which launches a task each second and declines what it does not need."""

    wants_offer = False

    def _handle(self, event: Event) -> None:
        super()._handle(event)
        if event.offers is not None and not self.wants_offer:
            with self._changed:
                unused, self._offers = [OfferId(one) for one in self._offers], {}
            self._send(messages.decline(unused, refuse_s=5))

    def measure_ms(self, seconds: float) -> list[float]:
        """Return the times from the wish for an offer to TASK_RUNNING."""
        taken = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.perf_counter()
            self.wants_offer = True
            self._send(messages.revive(["*"]))
            task_id = self.run_command("true")
            self.wants_offer = False
            self.wait_for_state(task_id, "TASK_RUNNING", "TASK_FINISHED")
            taken.append((time.perf_counter() - started) * 1000)
            time.sleep(max(0.0, 1.0 - (time.perf_counter() - started)))
        return taken


def measure_calls_ms(executor: CookExecutor, seconds: float) -> list[float]:
    """Return the times from submission to result of calls that arrive at a steady rate."""
    taken: list[float] = []
    futures: list[CookFuture] = []

    def note(submitted: float, _: object) -> None:
        taken.append((time.perf_counter() - submitted) * 1000)

    begun = time.perf_counter()
    for number in itertools.count():
        due = begun + number / ARRIVALS_PER_S
        if number / ARRIVALS_PER_S > seconds:
            break
        time.sleep(max(0.0, due - time.perf_counter()))
        submitted = time.perf_counter()
        future = executor.submit(identity, number)
        future.add_done_callback(partial(note, submitted))
        futures.append(future)
    for future in futures:
        future.result(SHORT_S)
    return taken


def latency(jobs: int) -> None:
    """Measure calls that arrive one by one, and a second framework."""
    print(f"latency: {ARRIVALS_PER_S} calls per second for {LATENCY_S:g} s, two agents of 4 cpus")
    with serving(agents=2) as (mesos, server, _), CookExecutor(cpus=1, mem_mb=200) as executor:
        for future in [executor.submit(identity, number) for number in range(32)]:  # warms up
            future.result(SHORT_S)
        cpu_s = server.cpu_s
        calls = measure_calls_ms(executor, LATENCY_S)
        show("submit to result, p50", f"{statistics.median(calls):.1f} ms", "15 ms")
        show("submit to result, p99", f"{quantile(calls, 0.99):.1f} ms")
        show(
            "processor time of the scheduler per call", f"{(server.cpu_s - cpu_s) / len(calls) * 1000:.1f} ms"
        )
        with Neighbour(mesos.master) as neighbour:
            together: list[float] = []
            thread = threading.Thread(target=lambda: together.extend(neighbour.measure_ms(LATENCY_S)))
            thread.start()
            calls = measure_calls_ms(executor, LATENCY_S)
            thread.join()
        show("... beside a second framework, p50", f"{statistics.median(calls):.1f} ms")
        server.stop()
        with Neighbour(mesos.master) as neighbour:
            alone = neighbour.measure_ms(LATENCY_S / 3)
        show("the second framework: wish to running, p50", f"{statistics.median(together):.0f} ms")
        show("... worst of all", f"{max(together):.0f} ms")
        show("... alone, p50", f"{statistics.median(alone):.0f} ms")


# --- rate -------------------------------------------------------------------------------------------------


def sleepers(count: int, seconds: float) -> list[dict[str, object]]:
    """Return jobs that sleep."""
    return [
        {"command": f"sleep {seconds:g}", "cpus": 1, "mem": 16, "max_retries": 1, "name": "sleeper"}
        for _ in range(count)
    ]


def rate(jobs: int) -> None:
    """Measure many jobs that end at once."""
    print(f"rate: {RATE_JOBS} jobs that end at once, five agents of 1,000 cpus, executors with timers")
    with serving(sleeping=True, agents=5, cpus=1000, mem_mb=1_000_000) as (mesos, server, client):
        finish(client, client.submit(sleepers(50, 0)))  # warms up
        before = cpu_by_program(mesos) | {"scheduler": server.cpu_s}
        rates, accepted_s = [], 0.0
        for _ in range(3):
            started = time.perf_counter()
            uuids = client.submit(sleepers(RATE_JOBS, 0))
            accepted_s = time.perf_counter() - started
            finish(client, uuids)
            rates.append(RATE_JOBS / (time.perf_counter() - started))
        show("submission of the last 500", f"{accepted_s:.2f} s")
        rows = ", ".join(f"{one:.0f}" for one in rates)
        show("jobs per second, submission to the end of all, three times", rows, "450/s")
        after = cpu_by_program(mesos) | {"scheduler": server.cpu_s}
        for program in sorted(after):
            cpu_ms = (after[program] - before.get(program, 0.0)) * 1000 / (len(rates) * RATE_JOBS)
            show(f"processor time per job: {program}", f"{cpu_ms:.2f} ms")


def cpu_by_program(mesos: LocalMesos) -> dict[str, float]:
    """Return the processor time of the processes of a Mesos, by program."""
    total: dict[str, float] = defaultdict(float)
    for pid, name in mesos.processes().items():
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total[name if name.startswith("mesos") else "executors"] += times.user + times.system
    return dict(total)


def finish(client: JobClient, uuids: Sequence[str]) -> None:
    """Wait until jobs have completed, and check that all succeeded."""
    wait_until(lambda: client.job(uuids[-1]).status == "completed", "the end of the last job")
    wait_until(lambda: all(job.status == "completed" for job in client.jobs(uuids)), "the end of all jobs")
    assert all(job.state == "success" for job in client.jobs(uuids))


# --- running ----------------------------------------------------------------------------------------------


def running(jobs: int) -> None:
    """Measure many jobs that run at the same time, and a scheduler that is killed meanwhile."""
    print(f"running: {jobs:,} sleeping jobs, 20 agents of 1,000 cpus, executors with timers")
    with serving(sleeping=True, agents=20, cpus=1000, mem_mb=1_000_000) as (mesos, server, client):
        wait_until(lambda: client.info_v1().capacity.hosts == 20, "all agents")
        begun = time.time()
        started = time.perf_counter()
        uuids = client.submit(sleepers(jobs, 1_000_000))
        show("submission", f"{time.perf_counter() - started:.1f} s")
        wait_until(lambda: client.summary().running == jobs, "the launch of all")
        wait_until(lambda: mesos.metrics()["master/tasks_running"] == jobs, "all to run in Mesos")
        show("submission until all run", f"{time.perf_counter() - started:.1f} s", "40 s")
        cycles = server.cycle_ms(begun)
        show("match cycles", f"{len(cycles)}")
        show("cycle, p50", f"{quantile(cycles, 0.5):.0f} ms")
        show("cycle, p99", f"{quantile(cycles, 0.99):.0f} ms", "1000 ms")
        show("memory of the scheduler", f"{server.memory_mb:.0f} MiB", "400 MiB")
        show("processor time of the scheduler", f"{server.cpu_s:.1f} s")

        before = {instance.uuid for instance in client.running()}
        server.stop(signal.SIGKILL)
        killed = time.perf_counter()
        client = server.start()  # noqa: PLW2901 - of the next scheduler
        show("scheduler killed: until it listens again", f"{time.perf_counter() - killed:.1f} s")
        [uuid] = client.submit(sleepers(1, 0))
        wait_until(lambda: is_completed(client, uuid), "the end of a new job")
        show("... until a new job has run", f"{time.perf_counter() - killed:.1f} s", "10 s")
        time.sleep(5)  # for whatever reconciliation may change
        after = {instance.uuid for instance in client.running()}
        lost = sum(job.status != "running" for job in client.jobs(uuids))
        show(
            "instances lost, instances started again", f"{len(before - after)}, {len(after - before)}", "0, 0"
        )
        show("jobs that do not run any more", f"{lost}", "0")
        show("memory of the scheduler", f"{server.memory_mb:.0f} MiB")


def is_completed(client: JobClient, uuid: str) -> bool:
    """Return whether a job has completed; False while the scheduler does not answer."""
    try:
        return client.job(uuid).status == "completed"
    except CookError:
        return False


FIGURES: dict[str, Callable[[int], None]] = {"latency": latency, "rate": rate, "running": running}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="default: all")
    parser.add_argument("--jobs", type=int, default=10_000, help="number of running jobs")
    options = parser.parse_args()
    started = time.perf_counter()
    sum(range(1_000_000))
    print(
        f"{os.cpu_count()} cpus, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f},"
        f" a million additions in {(time.perf_counter() - started) * 1000:.0f} ms"
    )
    for name in options.figures or FIGURES:
        FIGURES[name](options.jobs)


if __name__ == "__main__":
    main()
