"""The steps of the command `cook-jupyter simulate`: read the input, simulate, write rows and a report.

Lives here: what the command does, and the progress it prints.
Not here: its options (`cli`), the simulation (`simulation.replay`), the report (`simulation.report`).

Names of scenarios and policies, input files and output paths are checked before the simulation begins.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import JobId
from cook_jupyter.simulation.comparison import Run, compute_figures
from cook_jupyter.simulation.config import SimConfig, read_config
from cook_jupyter.simulation.outputs import check_directory, check_file, write_text
from cook_jupyter.simulation.policies import Policy, find_policy
from cook_jupyter.simulation.replay import CycleStats, Outcome, simulate
from cook_jupyter.simulation.report import write_report
from cook_jupyter.simulation.summary import format_count, format_number, render_text
from cook_jupyter.simulation.traces import (
    SimHost,
    TraceJob,
    read_hosts,
    read_trace,
    write_hosts,
    write_rows,
    write_trace,
)
from cook_jupyter.simulation.workload import generate

_PROGRESS_INTERVAL_S: Final = 2.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """A workload to generate where no trace is given; see `simulation.workload.generate`."""

    scenario: str
    jobs: int
    users: int
    hosts: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationInput:
    """The jobs, the hosts and the configuration to simulate."""

    trace: Sequence[TraceJob]
    hosts: Sequence[SimHost]
    config: SimConfig = field(default_factory=SimConfig)


def load_input(
    trace: Path | None, hosts: Path | None, config: Path | None, workload: WorkloadSpec | None, report: Report
) -> SimulationInput:
    """Read a trace and its hosts, or generate a workload.

    Args:
        trace: file with the trace.
        hosts: file with the hosts.
        config: file with the configuration; None for the defaults of Cook's simulator.
        workload: the workload to generate instead of reading a trace.
        report: function that prints a line; called if the configuration has keys that are ignored.

    Raises:
        InvalidRequest: a file is invalid, or neither or both of a trace and a workload are given.
    """
    if workload is None and (trace is None or hosts is None):
        raise InvalidRequest("give --trace and --hosts, or --scenario to generate a workload")
    if workload is not None and (trace is not None or hosts is not None):
        raise InvalidRequest("give either --trace and --hosts, or --scenario, not both")
    sim_config = SimConfig() if config is None else read_config(config)
    if sim_config.ignored:
        report(f"{config}: ignored keys: {', '.join(sim_config.ignored)}")
    if workload is not None:
        return _generate(workload, sim_config, has_shares=config is not None)
    assert trace is not None and hosts is not None  # noqa: S101, PT018 - checked above
    work = SimulationInput(trace=read_trace(trace), hosts=read_hosts(hosts), config=sim_config)
    if not work.trace:
        raise InvalidRequest(f"the trace {trace} has no jobs; there is nothing to simulate")
    return work


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The files and directories that a simulation writes.

    Attributes:
        out: file for the rows. With several policies, the name of the policy goes before the suffix:
            rows-fair.csv.
        report: directory for the report that compares the policies.
        keep: directory for the generated workload.
    """

    out: Path | None = None
    report: Path | None = None
    keep: Path | None = None

    def rows_file(self, policy: Policy, policies: Sequence[Policy]) -> Path | None:
        """Return the file for the rows of one of the policies."""
        if self.out is None or len(policies) == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}-{policy.name}{self.out.suffix}")

    def check(self, policies: Sequence[Policy], inputs: Iterable[Path | None] = ()) -> None:
        """Check that all results can be written.

        Args:
            policies: the policies to simulate.
            inputs: input files, which must not be overwritten.

        Raises:
            InvalidRequest: a result cannot be written.
        """
        used = {path.resolve() for path in inputs if path is not None}
        for option, directory in (("--report", self.report), ("--keep", self.keep)):
            if directory is not None:
                check_directory(directory, option)
        for policy in policies:
            file = self.rows_file(policy, policies)
            if file is None:
                continue
            check_file(file, "--out")
            if file.resolve() in used:
                raise InvalidRequest(f"--out {file} is read by this simulation; name another file")


def find_policies(names: Iterable[str]) -> list[Policy]:
    """Return the policies with these names, without duplicates.

    Raises:
        InvalidRequest: a name is unknown.
    """
    return [find_policy(name) for name in dict.fromkeys(names)]


def run_policies(
    work: SimulationInput,
    policies: Sequence[Policy],
    targets: Targets,
    *,
    summary: bool = False,
    until_done: bool = False,
    report: Report,
) -> str:
    """Simulate the same input under each policy and write the results.

    Args:
        work: the jobs, hosts and configuration to simulate.
        policies: the policies to compare.
        targets: files and directories for the results, already checked.
        summary: whether to return a summary.
        until_done: whether to go on after the last submission until nothing runs and nothing can start.
        report: function that prints a line of progress.

    Returns:
        The figures of the report as text if `summary` is set, else an empty string.

    Raises:
        InvalidRequest: there is nothing to simulate.
    """
    runs: dict[str, Run] = {}
    for policy in policies:
        outcome = _simulate_policy(work, policy, until_done=until_done, report=report)
        file = targets.rows_file(policy, policies)
        if file is not None:
            write_rows(file, outcome.rows)
            report(f"{policy.name}: {format_count(len(outcome.rows), 'row')} in {file}")
        if targets.report is not None or summary:
            runs[policy.name] = Run.of(outcome, work.trace, work.hosts, work.config)
    if targets.report is not None:
        report(f"the report is {write_report(runs, targets.report)}")
    return render_text([compute_figures(name, run) for name, run in runs.items()]) if summary else ""


def write_workload(work: SimulationInput, directory: Path, *, with_config: bool) -> None:
    """Write a generated workload as trace.json and hosts.json.

    Args:
        work: the workload.
        directory: directory for the files.
        with_config: whether to write the shares of the workload to config.edn, too.
    """
    write_trace(directory / "trace.json", work.trace)
    write_hosts(directory / "hosts.json", work.hosts)
    if not with_config:
        return
    text = " ".join(f":{name} {share!r}" for name, share in work.config.shares["default"].items())
    write_text(directory / "config.edn", f'{{:shares [{{:user "default" {text}}}]}}\n')


def _generate(spec: WorkloadSpec, config: SimConfig, *, has_shares: bool) -> SimulationInput:
    try:
        workload = generate(spec.scenario, jobs=spec.jobs, users=spec.users, hosts=spec.hosts, seed=spec.seed)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    if not has_shares:
        even = workload.even_share
        share = {"cpus": even.cpus, "mem": even.mem_mb, "gpus": even.gpus}
        config = replace(config, shares={"default": share})
    return SimulationInput(trace=workload.trace(), hosts=workload.sim_hosts(), config=config)


def _simulate_policy(work: SimulationInput, policy: Policy, *, until_done: bool, report: Report) -> Outcome:
    first_ms = work.trace[0].submit_ms if work.trace else 0
    last_ms = work.trace[-1].submit_ms if work.trace else 0
    span_ms = max(1, last_ms - first_ms)
    start_s = reported_s = time.monotonic()

    def progress(cycle: CycleStats) -> None:
        nonlocal reported_s
        now_s = time.monotonic()
        if now_s - reported_s >= _PROGRESS_INTERVAL_S:
            reported_s = now_s
            fraction = min(1.0, (cycle.at_ms - first_ms) / span_ms)
            report(
                f"{policy.name}: {fraction:4.0%} of the trace, {format_count(cycle.running, 'task')} running,"
                f" {format_count(cycle.waiting, 'job')} waiting"
            )

    outcome = simulate(
        work.trace, work.hosts, work.config, policy=policy, until_done=until_done, progress=progress
    )
    hours = (outcome.end_ms - first_ms) / 3_600_000
    report(
        f"{policy.name}: {format_count(len(outcome.cycles), 'cycle')}, {format_number(hours)} hours in"
        f" {time.monotonic() - start_s:.1f} s; {format_count(outcome.waiting, 'job')} waiting at the end"
    )
    for jobs, outcome_name in (
        (outcome.refused, "refused"),
        (outcome.removed, "removed"),
        (outcome.fitting_no_host, "fitting no host"),
    ):
        _report_never_ran(policy, jobs, outcome_name, report)
    return outcome


def _report_never_ran(policy: Policy, jobs: Mapping[JobId, str], outcome_name: str, report: Report) -> None:
    """Report how many jobs could never start, and why the first of them could not."""
    if jobs:
        job_id, reason = next(iter(jobs.items()))
        report(f"{policy.name}: {format_count(len(jobs), 'job')} {outcome_name}; job {job_id}: {reason}")
