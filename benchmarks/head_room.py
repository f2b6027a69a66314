"""Costs and benefits of keeping room for the head of the queue.

Runs every scenario of the generator through the simulator, with and without kept room, and prints a
table in Markdown: utilisation (cpu hours of tasks over those of the hosts until the last task has ended), the
longest and the mean wait of the largest jobs (one in twenty, by cpus and memory), and the time until the last
task has ended. Each number is the mean over some seeds. `docs/explanation/head-of-queue.md` has the result.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from cook_jupyter.service.settings.tables import HeadRoomSettings
from cook_jupyter.simulation.config import SimConfig
from cook_jupyter.simulation.policies import Policy, find_policy
from cook_jupyter.simulation.replay import Outcome, simulate
from cook_jupyter.simulation.traces import TraceJob
from cook_jupyter.simulation.workload import SCENARIOS, Workload, generate

HOUR_MS = 3_600_000.0
LARGEST = 20  # one job in this many is among the largest
JOBS, USERS = 800, 6


class Figures(NamedTuple):
    """Result of one run, or the mean of several; times in hours."""

    utilisation: float
    longest_wait: float
    mean_wait: float
    makespan: float


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="fair-patient", help="how else is decided")
    parser.add_argument("--hosts", type=int, default=16, help="how many hosts there are")
    parser.add_argument(
        "--cpus", type=int, default=4, help="how many cpus each has; most jobs request 1 or 2"
    )
    parser.add_argument("--seeds", type=int, default=4, help="how many workloads of each scenario")
    asked = parser.parse_args()
    print(
        f"{JOBS} jobs of {USERS} users on {asked.hosts} hosts of {asked.cpus} cpus,"
        f" policy `{asked.policy}`, mean of {asked.seeds} workloads each.\n"
    )
    print("| Scenario | Kept | Utilisation | Longest wait of the largest | Their mean wait | Makespan |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scenario in sorted(SCENARIOS):
        for name, head_room in (("nothing", HeadRoomSettings.cook()), ("room", HeadRoomSettings())):
            policy = replace(find_policy(asked.policy), head_room=head_room)
            runs = [
                run(scenario, seed, policy, asked.hosts, asked.cpus) for seed in range(1, asked.seeds + 1)
            ]
            mean = Figures(*map(fmean, zip(*runs, strict=True)))
            print(
                f"| {scenario} | {name} | {mean.utilisation:.1%} | {mean.longest_wait:.2f} h"
                f" | {mean.mean_wait:.2f} h | {mean.makespan:.2f} h |",
                flush=True,
            )
    return 0


def run(scenario: str, seed: int, policy: Policy, hosts: int, cpus: int) -> Figures:
    """Simulate one workload."""
    workload = generate(scenario, jobs=JOBS, users=USERS, hosts=hosts, cpus_per_host=cpus, seed=seed)
    share = workload.even_share
    outcome = simulate(
        workload.trace(),
        workload.sim_hosts(),
        SimConfig(shares={"default": {"cpus": share.cpus, "mem": share.mem_mb}}),
        policy=policy,
        seed=seed,
        until_done=True,
    )
    return figures(workload, outcome)


def figures(workload: Workload, outcome: Outcome) -> Figures:
    """Return the result of a simulation."""
    trace = workload.trace()
    begin_ms = trace[0].submit_ms
    end_ms = max(row.end_time_ms for row in outcome.rows)
    busy = sum(row.cpus * (row.end_time_ms - row.start_time_ms) for row in outcome.rows)
    whole = len(workload.hosts) * workload.cpus_per_host
    started: dict[str, int] = {}
    for row in outcome.rows:
        started.setdefault(row.job_id, row.start_time_ms)
    waits = [(started.get(job.job_id, end_ms) - job.submit_ms) / HOUR_MS for job in largest(trace)]
    return Figures(
        busy / (whole * (end_ms - begin_ms)), max(waits), fmean(waits), (end_ms - begin_ms) / HOUR_MS
    )


def largest(trace: Sequence[TraceJob]) -> Sequence[TraceJob]:
    """Return the jobs with the largest requests."""
    return sorted(trace, key=lambda job: (-job.cpus, -job.mem_mb))[: max(1, len(trace) // LARGEST)]


if __name__ == "__main__":
    raise SystemExit(main())
