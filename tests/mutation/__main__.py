"""Run mutation tests, and write docs/reference/mutants.md: `python -m tests.mutation --help`."""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from tests.mutation.mutations import Key, Mutant, mutants_of
from tests.mutation.report import Result, justifications, summary, write_page
from tests.mutation.runner import ROOT, Killers, Outcome, run

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
    parser.add_argument("--resume", action="store_true", help="continue the last run, which was interrupted")
    parser.add_argument("--again", action="store_true", help="continue it, and run again what survived")
    parser.add_argument("--page", action="store_true", help="write docs/reference/mutants.md")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the outcomes")
    options = parser.parse_args(arguments)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not (options.resume or options.again):
        options.results.unlink(missing_ok=True)
    results = _read(options.results)
    keys = set(_keys(_sources(options.only), options.function))
    results = {key: result for key, result in results.items() if key in keys}
    done = {key for key, result in results.items() if result.killed_by or not options.again}
    mutants = collect(options.only, options.function, options.sample, done)
    code = _run(mutants, options, results) if mutants else 0
    print(summary(results.values()))
    if options.page:
        write_page(list(results.values()), options.only, len(keys))
    return code


def _run(mutants: Sequence[Mutant], options: argparse.Namespace, results: dict[Key, Result]) -> int:
    started, before = time.monotonic(), len(results)
    reasons = justifications()
    killers = Killers()
    for result in results.values():
        if result.killer:
            killers.add(result.key[0], result.key[1], result.killer)
    print(f"{len(mutants)} mutants", flush=True)
    with options.results.open("a", encoding="utf-8") as stream:

        def report(outcome: Outcome) -> None:
            mutant = outcome.mutant
            result = Result(
                key=mutant.key, line=mutant.line, killed_by=outcome.killed_by, killer=outcome.killer
            )
            results[result.key] = result
            fields = [*result.key, result.line, result.killed_by, result.killer]
            print(json.dumps(fields), file=stream, flush=True)
            if not result.killed_by and result.key not in reasons:
                print(f"survives {outcome.tests} tests: {mutant.path}:{mutant.line} {mutant.function}")
                print(f"- {mutant.before}\n+ {mutant.after}  # occurrence {mutant.occurrence}", flush=True)
            if (len(results) - before) % 100 == 0:
                print(f"{summary(results.values())}, {time.monotonic() - started:.0f} s", flush=True)

        return run(mutants, options.jobs, killers, report)


def _read(path: Path) -> dict[Key, Result]:
    """Return the outcomes of a run that was interrupted; of a mutant that ran twice, the last one."""
    results: dict[Key, Result] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            file, function, before, after, occurrence, line, killed_by, killer = json.loads(text)
            key = (file, function, before, after, occurrence)
            results[key] = Result(key=key, line=line, killed_by=killed_by, killer=killer)
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
    sources = _sources(only)
    keys = _keys(sources, function)
    selected = {key for key in sorted(keys, key=_hash)[:sample] if key not in done}
    mutants = [
        mutant
        for path, source in sources.items()
        for mutant in mutants_of(path, source, selected.__contains__)
    ]
    return sorted(mutants, key=lambda mutant: _hash(mutant.key))


def _sources(only: Sequence[str]) -> dict[str, str]:
    """Return the texts of the modules to mutate, by path."""
    paths = [
        str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    ]
    return {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in paths
        if any(part in path for part in only)
    }


def _keys(sources: Mapping[str, str], function: str) -> list[Key]:
    """Return the keys of all mutants of modules."""
    keys: list[Key] = []

    def note(key: Key) -> bool:
        if function in key[1] and key[:2] not in AT_IMPORT:
            keys.append(key)
        return False

    for path, source in sources.items():
        list(mutants_of(path, source, note))
    return keys


def _hash(key: Key) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
