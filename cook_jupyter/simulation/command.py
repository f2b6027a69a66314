"""The command `cook-jupyter simulate`: files in, rows and a report out.

Lives here: what the command does, step by step, and what it prints meanwhile.
Not here: its options (`cli`), the simulation (`simulation.replay`), what is reported (`simulation.report`).

Whatever can be refused is refused before the simulation begins: the names of scenario and policies, the input
files, and where the results are to go.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.simulation.comparison import Run, figures_of
from cook_jupyter.simulation.config import SimConfig, read_config
from cook_jupyter.simulation.outputs import check_directory, check_file, write_text
from cook_jupyter.simulation.policies import Policy, policy_named
from cook_jupyter.simulation.replay import Cycle, Outcome, simulate
from cook_jupyter.simulation.report import write_report
from cook_jupyter.simulation.summary import amount, as_text, count
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
    """What is simulated."""

    trace: Sequence[TraceJob]
    hosts: Sequence[SimHost]
    config: SimConfig = field(default_factory=SimConfig)


def load_input(
    trace: Path | None, hosts: Path | None, config: Path | None, workload: WorkloadSpec | None, report: Report
) -> SimulationInput:
    """Read a trace and its hosts, or generate a workload.

    Args:
        trace: file of the trace.
        hosts: file of the hosts.
        config: file of the configuration; None for the defaults of Cook's simulator.
        workload: the workload to generate instead of reading a trace.
        report: takes a line about keys of the configuration that have no meaning.

    Raises:
        InvalidRequest: a file is not what it should be, or it is not clear what to simulate.
    """
    if workload is None and (trace is None or hosts is None):
        raise InvalidRequest("give --trace and --hosts, or --scenario to generate a workload")
    if workload is not None and (trace is not None or hosts is not None):
        raise InvalidRequest("give either a trace and its hosts, or a scenario to generate them from")
    settings = SimConfig() if config is None else read_config(config)
    if settings.ignored:
        report(f"{config}: these keys mean nothing here: {', '.join(settings.ignored)}")
    if workload is not None:
        return _generate(workload, settings, has_shares=config is not None)
    assert trace is not None and hosts is not None  # noqa: S101, PT018 - checked above
    work = SimulationInput(trace=read_trace(trace), hosts=read_hosts(hosts), config=settings)
    if not work.trace:
        raise InvalidRequest(f"the trace {trace} has no jobs; there is nothing to simulate")
    return work


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Where the results of a simulation go.

    Attributes:
        out: file of the rows. With several policies each name is put before the suffix: rows-fair.csv.
        report: directory of a report that compares the policies.
        keep: directory of the generated workload.
    """

    out: Path | None = None
    report: Path | None = None
    keep: Path | None = None

    def rows_file(self, policy: Policy, policies: Sequence[Policy]) -> Path | None:
        """Return where the rows of one of the policies go."""
        if self.out is None or len(policies) == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}-{policy.name}{self.out.suffix}")

    def check(self, policies: Sequence[Policy], inputs: Iterable[Path | None] = ()) -> None:
        """Check that all results can be written.

        Args:
            policies: the policies to be simulated.
            inputs: files that are read, and must not be written over.

        Raises:
            InvalidRequest: one cannot be written.
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


def policies_named(names: Iterable[str]) -> list[Policy]:
    """Return the policies of these names, each once.

    Raises:
        InvalidRequest: there is no such policy.
    """
    return [policy_named(name) for name in dict.fromkeys(names)]


def run_policies(
    work: SimulationInput,
    policies: Sequence[Policy],
    targets: Targets,
    *,
    summary: bool = False,
    until_done: bool = False,
    report: Report,
) -> str:
    """Simulate the same input under each policy; return the summary, or nothing if none was requested.

    Args:
        work: what to simulate.
        policies: the policies to compare.
        targets: where the results go; they have been checked.
        summary: whether to return the report's figures as text.
        until_done: see `replay.simulate`.
        report: takes lines about the progress.

    Raises:
        InvalidRequest: there is nothing to simulate.
    """
    runs: dict[str, Run] = {}
    for policy in policies:
        outcome = _simulate_policy(work, policy, until_done=until_done, report=report)
        file = targets.rows_file(policy, policies)
        if file is not None:
            write_rows(file, outcome.rows)
            report(f"{policy.name}: {count(len(outcome.rows), 'row')} in {file}")
        if targets.report is not None or summary:
            runs[policy.name] = Run.of(outcome, work.trace, work.hosts, work.config)
    if targets.report is not None:
        report(f"the report is {write_report(runs, targets.report)}")
    return as_text([figures_of(name, run) for name, run in runs.items()]) if summary else ""


def keep_workload(work: SimulationInput, directory: Path, *, with_config: bool) -> None:
    """Write a generated workload as trace.json and hosts.json.

    Args:
        work: the workload.
        directory: where the files go.
        with_config: whether its shares are generated, too, and go to config.edn.
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

    def progress(cycle: Cycle) -> None:
        nonlocal reported_s
        now_s = time.monotonic()
        if now_s - reported_s >= _PROGRESS_INTERVAL_S:
            reported_s = now_s
            part = min(1.0, (cycle.at_ms - first_ms) / span_ms)
            report(
                f"{policy.name}: {part:4.0%} of the trace, {count(cycle.running, 'task')} running,"
                f" {count(cycle.waiting, 'job')} waiting"
            )

    outcome = simulate(
        work.trace, work.hosts, work.config, policy=policy, until_done=until_done, progress=progress
    )
    hours = (outcome.end_ms - first_ms) / 3_600_000
    report(
        f"{policy.name}: {count(len(outcome.cycles), 'cycle')}, {amount(hours)} hours in"
        f" {time.monotonic() - start_s:.1f} s; {count(outcome.waiting, 'job')} waiting at the end"
    )
    for jobs, what in (
        (outcome.refused, "refused"),
        (outcome.removed, "removed"),
        (outcome.fitting_no_host, "fitting no host"),
    ):
        _report_never_ran(policy, jobs, what, report)
    return outcome


def _report_never_ran(policy: Policy, jobs: Mapping[str, str], what: str, report: Report) -> None:
    """Report how many jobs could never start, and the reason of the first."""
    if jobs:
        job_id, reason = next(iter(jobs.items()))
        report(f"{policy.name}: {count(len(jobs), 'job')} {what}; job {job_id}: {reason}")
