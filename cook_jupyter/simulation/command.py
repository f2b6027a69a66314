"""The command `cook-jupyter simulate`: files in, rows and a report out.

Lives here: what the command does, step by step, and what it says meanwhile.
Not here: its options (`cli`), the simulation (`simulation.replay`), what is reported (`simulation.report`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.simulation.comparison import Run, figures_of
from cook_jupyter.simulation.config import SimConfig, read_config
from cook_jupyter.simulation.policies import Policy, policy_named
from cook_jupyter.simulation.replay import Cycle, Outcome, simulate
from cook_jupyter.simulation.report import write_report
from cook_jupyter.simulation.summary import as_text
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

_EVERY_S: Final = 2.0  # between two lines of progress

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A workload to be made up, where no trace is given; see `simulation.workload.generate`."""

    scenario: str
    jobs: int
    users: int
    hosts: int
    seed: int = 0
    keep: Path | None = None  # where trace.json, hosts.json and config.edn are written, to be used again


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be simulated."""

    trace: Sequence[TraceJob]
    hosts: Sequence[SimHost]
    config: SimConfig = field(default_factory=SimConfig)


def work_of(trace: Path | None, hosts: Path | None, config: Path | None, made: Made | None, say: Say) -> Work:
    """Read a trace and its hosts, or make a workload up.

    Raises:
        InvalidRequest: a file is not what it should be, or it is not clear what to simulate.
    """
    told = SimConfig() if config is None else read_config(config)
    if told.ignored:
        say(f"{config}: these keys mean nothing here: {', '.join(told.ignored)}")
    if made is not None:
        if trace is not None or hosts is not None:
            raise InvalidRequest("give either a trace and its hosts, or a scenario to make them from")
        return _made(made, told, has_shares=config is not None)
    if trace is None or hosts is None:
        raise InvalidRequest("a simulation wants --trace and --hosts, or --scenario to make a workload up")
    return Work(trace=read_trace(trace), hosts=read_hosts(hosts), config=told)


def run_policies(
    work: Work,
    policies: Sequence[str],
    *,
    out: Path | None,
    report: Path | None = None,
    summary: bool = False,
    until_done: bool = False,
    say: Say,
) -> str:
    """Simulate the work under each policy; returns the summary, or nothing if none was asked for.

    Args:
        work: what to simulate.
        policies: names of policies, each once.
        out: where the rows go. With several policies each name is put before the suffix: rows-fair.csv.
        report: the directory of a report that compares the policies.
        summary: whether to return the report's figures as text.
        until_done: see `replay.simulate`.
        say: takes lines about how far it is.

    Raises:
        InvalidRequest: there is no such policy, or nothing to simulate.
    """
    chosen = [policy_named(name) for name in dict.fromkeys(policies)]
    runs: dict[str, Run] = {}
    for policy in chosen:
        outcome = _one(work, policy, until_done=until_done, say=say)
        if out is not None:
            file = out if len(chosen) == 1 else out.with_name(f"{out.stem}-{policy.name}{out.suffix}")
            write_rows(file, outcome.rows)
            say(f"{policy.name}: {len(outcome.rows):,} rows in {file}")
        if report is not None or summary:
            runs[policy.name] = Run(
                rows=outcome.rows,
                hosts=work.hosts,
                shares=work.config.shares,
                cycle_ms=work.config.cycle_step_ms,
                trace=work.trace,
                mea_culpa_limit=work.config.mea_culpa_limit,
            )
    if report is not None:
        say(f"the report is {write_report(runs, report)}")
    return as_text([figures_of(name, run) for name, run in runs.items()]) if summary else ""


def _made(made: Made, config: SimConfig, *, has_shares: bool) -> Work:
    try:
        workload = generate(made.scenario, jobs=made.jobs, users=made.users, hosts=made.hosts, seed=made.seed)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    if not has_shares:
        even = workload.even_share
        share = {"cpus": even.cpus, "mem": even.mem_mb, "gpus": even.gpus}
        config = replace(config, shares={"default": share})
    work = Work(trace=workload.trace(), hosts=workload.sim_hosts(), config=config)
    if made.keep is not None:
        made.keep.mkdir(parents=True, exist_ok=True)
        write_trace(made.keep / "trace.json", work.trace)
        write_hosts(made.keep / "hosts.json", work.hosts)
        if not has_shares:
            text = " ".join(f":{name} {amount!r}" for name, amount in config.shares["default"].items())
            (made.keep / "config.edn").write_text(f'{{:shares [{{:user "default" {text}}}]}}\n')
    return work


def _one(work: Work, policy: Policy, *, until_done: bool, say: Say) -> Outcome:
    last_ms = work.trace[-1].submit_ms if work.trace else 0
    first_ms = work.trace[0].submit_ms if work.trace else 0
    span_ms = max(1, last_ms - first_ms)
    began_s = said_s = time.monotonic()

    def tell(cycle: Cycle) -> None:
        nonlocal said_s
        now_s = time.monotonic()
        if now_s - said_s >= _EVERY_S:
            said_s = now_s
            part = min(1.0, (cycle.at_ms - first_ms) / span_ms)
            say(
                f"{policy.name}: {part:4.0%} of the trace, {cycle.running:,} tasks run,"
                f" {cycle.waiting:,} jobs wait"
            )

    outcome = simulate(
        work.trace, work.hosts, work.config, policy=policy, until_done=until_done, progress=tell
    )
    hours = (outcome.end_ms - first_ms) / 3_600_000
    say(
        f"{policy.name}: {len(outcome.cycles):,} cycles, {hours:,.1f} hours in"
        f" {time.monotonic() - began_s:.1f} s; {outcome.waiting:,} jobs wait at the end"
    )
    if outcome.refused:
        say(f"{policy.name}: {len(outcome.refused):,} jobs were refused, larger than their user's quota")
    return outcome
