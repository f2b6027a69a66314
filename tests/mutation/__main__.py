"""Run mutation tests, and write docs/reference/mutants.md: `python -m tests.mutation --help`."""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Container, Sequence
from pathlib import Path

from tests.mutation.mutations import Key, Mutant, mutants_of
from tests.mutation.report import Result, justifications, write_page
from tests.mutation.runner import EXAMPLES, ROOT, Outcome, run

PACKAGES = ("cook_jupyter/model", "cook_jupyter/scheduling")
AT_IMPORT = {  # they have run before a function can be replaced
    ("cook_jupyter/model/reason.py", "_table"),
    ("cook_jupyter/model/instance.py", "InstanceStatus.__init__"),
    ("cook_jupyter/model/instance.py", "TaskState.__init__"),
}
RESULTS = ROOT / "build" / "mutants.jsonl"


def main(arguments: Sequence[str]) -> int:
    """Run the mutants; print those that survive without a justification."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--sample", type=int, help="number of mutants; all if omitted")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the paths of the modules to mutate")
    parser.add_argument("--function", default="", help="part of the names of the functions to mutate")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes at a time")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, help="maximum number of examples of a property"
    )
    parser.add_argument("--resume", action="store_true", help="continue the last run, which was interrupted")
    parser.add_argument("--page", action="store_true", help="write docs/reference/mutants.md")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the outcomes")
    options = parser.parse_args(arguments)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        options.results.unlink(missing_ok=True)
    results = _read(options.results)
    done = {result.key for result in results}
    mutants = collect(options.only, options.function, options.sample, done)
    code = _run(mutants, options, results) if mutants else 0
    killed = sum(result.is_killed for result in results)
    print(f"{killed} of {len(results)} mutants killed ({killed / max(1, len(results)):.1%})")
    if options.page:
        write_page(results, options.only)
    return code


def _run(mutants: Sequence[Mutant], options: argparse.Namespace, results: list[Result]) -> int:
    started = time.monotonic()
    reasons = justifications()
    print(f"{len(mutants)} mutants", flush=True)
    with options.results.open("a", encoding="utf-8") as stream:

        def report(outcome: Outcome) -> None:
            mutant = outcome.mutant
            result = Result(key=mutant.key, line=mutant.line, is_killed=outcome.killer is not None)
            results.append(result)
            print(json.dumps([*result.key, result.line, result.is_killed]), file=stream, flush=True)
            if not result.is_killed and result.key not in reasons:
                print(f"survives {outcome.tests} tests: {mutant.path}:{mutant.line} {mutant.function}")
                print(f"- {mutant.before}\n+ {mutant.after}  # occurrence {mutant.occurrence}", flush=True)
            if len(results) % 100 == 0:
                print(f"{len(results)} done, {time.monotonic() - started:.0f} s", flush=True)

        return run(mutants, options.jobs, options.examples, report)


def _read(path: Path) -> list[Result]:
    """Return the outcomes of a run that was interrupted."""
    results: list[Result] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            file, function, before, after, occurrence, line, is_killed = json.loads(text)
            key = (file, function, before, after, occurrence)
            results.append(Result(key=key, line=line, is_killed=is_killed))
    return results


def collect(
    only: Sequence[str], function: str = "", sample: int | None = None, done: Container[Key] = ()
) -> list[Mutant]:
    """Return the mutants to run, in the order of a hash: so the first ones are a sample of all.

    Args:
        only: parts of the paths of modules.
        function: part of the names of functions.
        sample: number of mutants; None for all.
        done: mutants to leave out.
    """
    paths = [
        str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    ]
    sources = {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in paths
        if any(part in path for part in only)
    }
    keys: list[Key] = []

    def note(key: Key) -> bool:
        if function in key[1] and key[:2] not in AT_IMPORT:
            keys.append(key)
        return False

    for path, source in sources.items():
        list(mutants_of(path, source, note))
    selected = {key for key in sorted(keys, key=_hash)[:sample] if key not in done}
    mutants = [
        mutant
        for path, source in sources.items()
        for mutant in mutants_of(path, source, selected.__contains__)
    ]
    return sorted(mutants, key=lambda mutant: _hash(mutant.key))


def _hash(key: Key) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
