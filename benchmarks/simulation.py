"""Time of the simulator: whole workloads through the real service and store, on simulated hosts.

Each size runs in a separate process, which has its own peak memory. Generating the workload is not included
in the time, but its jobs and hosts are part of the memory. Wall-clock time and processor time are printed,
which differ on a busy machine. A million additions in Python, before and after, show the speed of the
machine.

Goal (two cores, nothing else running): 1,000,000 jobs of 200 users on 2,000 hosts of 32 cpus in 2 minutes,
that is 120 µs per job.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from typing import NamedTuple

from cook_jupyter.simulation.config import SimConfig
from cook_jupyter.simulation.replay import simulate
from cook_jupyter.simulation.workload import generate


class Size(NamedTuple):
    """Size of a workload: numbers of jobs, users, and hosts of 32 cpus."""

    jobs: int
    users: int
    hosts: int


SIZES = (Size(10_000, 50, 100), Size(100_000, 100, 500), Size(1_000_000, 200, 2000))


def main() -> int:
    """Simulate workloads of growing size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="with 1,000,000 jobs, too: minutes")
    parser.add_argument("--scenario", default="office")
    parser.add_argument("--policy", default="fair")
    asked = parser.parse_args()
    tell_machine()
    print(
        f"{'jobs':>10}{'users':>7}{'hosts':>7}{'cycles':>8}{'rows':>11}{'preempted':>11}"
        f"{'clock, s':>10}{'processor, s':>14}{'µs a job':>10}{'jobs/s':>9}{'peak, MiB':>11}"
    )
    for size in SIZES if asked.full else SIZES[:-1]:
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(size, asked.scenario, asked.policy)
        )
        process.start()
        process.join()
        if process.exitcode:
            return 1
    tell_machine()
    return 0


def run(size: Size, scenario: str, policy: str) -> None:
    """Simulate one workload and print its line."""
    workload = generate(scenario, jobs=size.jobs, users=size.users, hosts=size.hosts)
    share = workload.even_share
    config = SimConfig(shares={"default": {"cpus": share.cpus, "mem": share.mem_mb}})
    trace, hosts = workload.trace(), workload.sim_hosts()
    clock_s, processor_s = time.perf_counter(), time.process_time()
    outcome = simulate(trace, hosts, config, policy=policy)
    clock_s, processor_s = time.perf_counter() - clock_s, time.process_time() - processor_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    preempted = sum(cycle.preempted for cycle in outcome.cycles)
    print(
        f"{size.jobs:>10,}{size.users:>7}{size.hosts:>7,}{len(outcome.cycles):>8,}{len(outcome.rows):>11,}"
        f"{preempted:>11,}{clock_s:>10.1f}{processor_s:>14.1f}{processor_s / size.jobs * 1e6:>10.0f}"
        f"{size.jobs / clock_s:>9,.0f}{peak / 2**20:>11,.0f}",
        flush=True,
    )


def tell_machine() -> None:
    """Measure the present speed of this machine."""
    best_s = min(_additions_s() for _ in range(20))
    print(f"a million additions in Python (this machine, now): {1000 * best_s:.1f} ms", flush=True)


def _additions_s() -> float:
    began_s = time.process_time()
    sum(range(1_000_000))
    return time.process_time() - began_s


if __name__ == "__main__":
    sys.exit(main())
