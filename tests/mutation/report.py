"""The page docs/reference/mutants.md: score by module, and the mutants that survive.

Lives here: `write_page`, and `Justification`, why a mutant may survive; `justified.toml` has them.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutations import Key
from tests.mutation.runner import MAX_WORLDS, QUICK, ROOT, THOROUGH, TIME
from tests.scheduling.test_ways_agree import IN_CI

PAGE = ROOT / "docs" / "reference" / "mutants.md"
JUSTIFIED = Path(__file__).with_name("justified.toml")

_INTRODUCTION = """# Mutation tests

Do the tests notice when a decision is changed? `make mutants` changes `model` and `scheduling` in one place
after the other (`<` to `<=`, `and` to `or`, a number to the next, a statement to nothing ...) and runs the
tests of these layers against each of these *mutants*. A mutant *survives* if no test fails: it shows a gap in
the tests or dead code, or it is *justified*, because no caller could notice it.

```sh
make mutants                      # all mutants, which takes hours; RESUME=1 continues an interrupted run
make mutants AGAIN=1              # continues it, and runs again what survived: after tests were added
make mutants SAMPLE=500           # the same 500 each time, chosen by a hash of the change
make mutants ONLY=ranking/merge   # modules whose path contains this text
make mutants PAGE=1               # also write this page
```

Each mutant is a fork of a process that has collected the tests, with one code object replaced. It runs the
tests that call the changed function until one fails, in two stages:

- The *quick* stage runs all tests; properties try {quick} examples each instead of up to 300.
- The *thorough* stage is for what survives the quick one: properties try {thorough} examples each, and all
  implementations are compared with the reference (`ways_agree`) in {worlds:,} of CI's {in_ci:,} worlds.

Both try the same examples each time. As they are fewer than those of CI, the score is a lower bound. A mutant
also counts as killed if a test uses more than 4 times the CPU time that it needs without the mutant, and 5
seconds more: its loops may be endless. Not changed are declarations (constants, defaults of fields, tables),
docstrings and messages of exceptions.

This page is generated; the reasons are in `tests/mutation/justified.toml`.
"""

# Measured on mutants that nobody had looked at. Update it with each such measurement.
_UNSEEN = """Survivors are followed up, so the score of mutants that nobody has looked at is lower.
The other packages were first run as a whole: the tests killed 2,451 of 3,054 mutants (80%).
While tests were added for `matching/`, `rebalancing/` and `hosts/`, both stages killed 202 of 229 such
mutants (88%), and then the quick stage alone 1,335 of 1,532 (87%); before, it killed 160 of 203 (79%)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a mutant.

    Attributes:
        key: key of the mutant.
        line: line of the change.
        killed_by: name of the stage in which a test failed, or `TIME`; None if the mutant survived.
        killer: the test that failed or ran out of time, "" if none.
    """

    key: Key
    line: int
    killed_by: str | None
    killer: str


def summary(results: Iterable[Result]) -> str:
    """Return how many mutants were killed, in one line."""
    ends = Counter(result.killed_by for result in results)
    total = ends.total()
    killed = total - ends[None]
    return (
        f"{killed:,} of {total:,} mutants killed ({killed / max(1, total):.1%}): {ends[QUICK.name]:,} in the "
        f"quick stage, {ends[THOROUGH.name]:,} in the thorough one, {ends[TIME]:,} by time"
    )


def justifications() -> Mapping[Key, str]:
    """Return the reasons why mutants may survive."""
    entries = tomllib.loads(JUSTIFIED.read_text(encoding="utf-8")).get("justified", [])
    return {
        (
            entry["path"],
            entry["function"],
            entry["before"],
            entry["after"],
            entry.get("occurrence", 0),
        ): entry["reason"]
        for entry in entries
    }


def write_page(results: Sequence[Result], only: Sequence[str], total: int) -> None:
    """Write the page.

    Args:
        results: outcomes of the mutants.
        only: parts of the paths of the modules that were mutated.
        total: number of all mutants of these modules.
    """
    where = ", ".join(f"`{part}`" for part in only if part) or "`model` and `scheduling`"
    part = f"{len(results):,} of {total:,}, chosen by the hash of their changes"
    part = part if len(results) < total else f"all {total:,}"
    scope = f"Mutants of {where}: {part}.\n\n{summary(results)}.\n\n{_UNSEEN}"
    reasons = justifications()
    by_path: dict[str, list[Result]] = {}
    for result in results:
        by_path.setdefault(result.key[0], []).append(result)
    introduction = _INTRODUCTION.format(
        quick=QUICK.examples, thorough=THOROUGH.examples, worlds=MAX_WORLDS, in_ci=IN_CI
    )
    lines = [introduction, f"## Score\n\n{scope}\n"]
    lines += [
        "| Module | Mutants | Killed | Of these: thorough | time | Killed | Justified | Survive |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for path, group in [*sorted(by_path.items()), ("all", list(results))]:
        ends = Counter(result.killed_by for result in group)
        justified = sum(not result.killed_by and result.key in reasons for result in group)
        killed = len(group) - ends[None]
        numbers = (
            len(group),
            killed,
            ends[THOROUGH.name],
            ends[TIME],
            f"{killed / len(group):.0%}",
            justified,
        )
        name = path.removeprefix("cook_jupyter/").removesuffix(".py")
        lines.append(f"| {' | '.join(map(str, (name, *numbers, ends[None] - justified)))} |")
    survivors = sorted(
        (result for result in results if not result.killed_by),
        key=lambda result: (result.key[0], result.line),
    )
    lines += ["", "## Survivors", "", "| Function | Change | Reason |", "| --- | --- | --- |"]
    for result in survivors:
        path, function, before, after, _ = result.key
        module = path.removeprefix("cook_jupyter/").removesuffix(".py")
        reason = reasons.get(result.key, "")
        lines.append(f"| {module}: `{function}` | {_code(before)} → {_code(after)} | {reason} |")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _code(source: str) -> str:
    text = " ".join(source.split()).replace("|", "\\|")
    return f"`{text if len(text) <= 120 else text[:117] + '...'}`"
