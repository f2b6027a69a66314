"""Counts over many simulations, and how they are printed.

Lives here: `Tally`, `failure_lines`. Not here: the command line (`__main__`), a simulation (`simulation`).
"""

from collections import Counter
from collections.abc import Iterator

from tests.service.simulated.scenario import FAULT_KINDS
from tests.service.simulated.simulation import Outcome

INVARIANTS = (
    *("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I10", "I12", "I13", "I14", "I15", "I19"),
    *("events", "views"),
)


def replay_command(seed: int) -> str:
    """Return the command that runs a seed again and prints its trace."""
    return f".venv/bin/python -m tests.service.simulated --seed {seed}"


class Tally:
    """Counts over many simulations.

    Attributes:
        seeds: number of simulations.
        failed: outcomes of those in which an invariant did not hold.
        faults: number of faults, by kind.
        checks: number of checks, by invariant.
        totals: sums of what each simulation counts.
    """

    def __init__(self) -> None:
        self.seeds = 0
        self.failed: list[Outcome] = []
        self.faults: Counter[str] = Counter()
        self.checks: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one simulation."""
        self.seeds += 1
        self.faults.update(outcome.faults)
        self.checks.update(outcome.checks)
        self.totals["callbacks"] += outcome.steps
        self.totals["jobs"] += outcome.jobs
        self.totals["instances"] += outcome.instances
        self.totals["tasks started while an earlier one of their job was being killed"] += outcome.overlaps
        self.totals["virtual seconds"] += int(outcome.virtual_s)
        if outcome.violation is not None:
            self.failed.append(outcome)

    @property
    def missing(self) -> list[str]:
        """Kinds of faults that never happened, and invariants that were never checked."""
        return [kind for kind in FAULT_KINDS if not self.faults[kind]] + [
            name for name in INVARIANTS if not self.checks[name]
        ]

    def lines(self, took_s: float) -> Iterator[str]:
        """Yield the summary, line by line."""
        each_ms = 1000 * took_s / max(1, self.seeds)
        yield f"{self.seeds:,} seeds in {took_s:,.1f} s of one core ({each_ms:.0f} ms each)"
        yield f"failed: {len(self.failed)}"
        for title, counts in (("ran", self.totals), ("faults", self.faults), ("checks", self.checks)):
            yield f"{title}: " + ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
        if self.missing:
            yield f"never happened or never checked: {', '.join(self.missing)}"


def failure_lines(outcome: Outcome) -> Iterator[str]:
    """Yield what is to be said of a simulation in which an invariant did not hold."""
    yield f"seed {outcome.seed}: {outcome.violation}"[:1000]
    yield f"    {replay_command(outcome.seed)}"
