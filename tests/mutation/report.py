"""The page docs/reference/mutants.md: score by module, and the mutants that survive.

Lives here: `write_page`, and `Justification`, why a mutant may survive; `justified.toml` has them.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutations import Key
from tests.mutation.runner import EXAMPLES, ROOT

PAGE = ROOT / "docs" / "reference" / "mutants.md"
JUSTIFIED = Path(__file__).with_name("justified.toml")

_INTRODUCTION = """# Mutation tests

Do the tests notice when a decision is changed? `make mutants` changes `model` and `scheduling` in one place
after the other (`<` to `<=`, `and` to `or`, a number to the next, a statement to nothing ...) and runs the
tests of these layers against each of these *mutants*. A mutant *survives* if no test fails: it shows a gap in
the tests or dead code, or it is *justified*, because no caller could notice it.

```sh
make mutants                      # all mutants, which takes hours; RESUME=1 continues an interrupted run
make mutants SAMPLE=500           # the same 500 each time, chosen by a hash of the change
make mutants ONLY=ranking/merge   # modules whose path contains this text
make mutants PAGE=1               # also write this page
```

Each mutant is a fork of a process that has collected the tests, with one code object replaced. It runs the
tests that call the changed function until one fails. It also counts as killed if it uses far more CPU time
than the tests do without it. Properties try {examples} examples each instead of up to 300, and the comparison
of all implementations with the reference (`ways_agree`) is omitted, so the score is a lower bound.
Declarations (constants, defaults of fields, tables), docstrings and messages of exceptions are not changed.

This page is generated; the reasons are in `tests/mutation/justified.toml`.
"""

# Measured when the sample grew. Update it when it grows again.
_UNSEEN = """Their survivors were followed up, so the score of all mutants is lower:
when the sample grew from 318 to 448 and then to 520, the tests killed 105 of 130 new mutants (81%), and then
55 of 73 (75%). About half of these survivors could be noticed, and now have tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a mutant.

    Attributes:
        key: key of the mutant.
        line: line of the change.
        is_killed: whether any test failed, or the time ran out.
    """

    key: Key
    line: int
    is_killed: bool


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


def write_page(results: Sequence[Result], only: Sequence[str]) -> None:
    """Write the page.

    Args:
        results: outcomes of the mutants.
        only: parts of the paths of the modules that were mutated.
    """
    where = ", ".join(f"`{part}`" for part in only if part) or "`model` and `scheduling`"
    scope = f"{len(results)} mutants of {where}, the first by the hash of their changes.\n{_UNSEEN}"
    reasons = justifications()
    by_path: dict[str, list[Result]] = {}
    for result in results:
        by_path.setdefault(result.key[0], []).append(result)
    lines = [_INTRODUCTION.format(examples=EXAMPLES), f"## Score\n\n{scope}\n"]
    lines += [
        "| Module | Mutants | Killed | Justified | Survive | Killed or justified |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for path, group in [*sorted(by_path.items()), ("all", list(results))]:
        killed = sum(result.is_killed for result in group)
        justified = sum(not result.is_killed and result.key in reasons for result in group)
        part = (killed + justified) / len(group)
        name = path.removeprefix("cook_jupyter/").removesuffix(".py")
        survive = len(group) - killed - justified
        lines.append(f"| {name} | {len(group)} | {killed} | {justified} | {survive} | {part:.0%} |")
    survivors = sorted(
        (result for result in results if not result.is_killed),
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
