"""Run tests against mutants, each in a fork of a process that has collected the tests.

Lives here: `run`. A first pass runs every test once and notes which functions it calls and how much time it
takes. Then each mutant is a fork in which the code of one function is replaced; it runs the tests that call
the function, those that killed its other mutants first, then the fastest, until one fails.
Not here: the mutants (`mutations`), the report (`report`).

A fork may use some multiple of the CPU time that its tests took without a mutant. Past that the mutant counts
as killed: its loops may be endless.
"""

import gc
import os
import resource
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.mutations import Mutant

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    "tests/model",
    "tests/scheduling",
    "tests/golden",
    "tests/service/test_head_room.py",  # decisions about a pool, with snapshots of the real service
    "tests/service/test_preemption.py",
    "tests/service/test_growth.py",
    "tests/service/test_why.py",
    "tests/service/test_offer_limits.py",
    "tests/service/test_dumps.py",
)
EXAMPLES = 8  # of a property by default, as a survivor costs all tests that call its function
LEFT_OUT = ("test_ways_agree.py", "test_counted.py")  # long repetitions of what other tests compare, too
_CPU_FACTOR = 4.0
_CPU_EXTRA_S = 5.0
_MEMORY_EXTRA = 3 << 30

Place = tuple[str, int]  # path of a module and the first line of a function


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a mutant.

    Attributes:
        mutant: the mutant.
        killer: the test that failed; "" if the time ran out; None if the mutant survived.
        tests: number of tests that call the function.
    """

    mutant: Mutant
    killer: str | None
    tests: int


@dataclass(slots=True)
class _Baseline:
    """Tests by the functions that they call."""

    items: dict[str, pytest.Item] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    callers: dict[Place, list[str]] = field(default_factory=dict)


def run(mutants: Sequence[Mutant], jobs: int, examples: int, report: Callable[[Outcome], None]) -> int:
    """Run tests against mutants; return 0 unless the tests fail without any mutant.

    Args:
        mutants: the mutants.
        jobs: number of processes at a time.
        examples: maximum number of examples of a property.
        report: called with each outcome.
    """
    plugin = _Plugin(mutants, jobs, examples, report)
    arguments = ["-q", "-p", "no:cacheprovider", *TESTS]
    code = pytest.main(arguments, plugins=[plugin])
    return int(code)


class _Plugin:
    """Takes the place of pytest's loop over tests."""

    def __init__(
        self, mutants: Sequence[Mutant], jobs: int, examples: int, report: Callable[[Outcome], None]
    ) -> None:
        self._mutants = mutants
        self._jobs = jobs
        self._examples = examples
        self._report = report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once, then those that concern each mutant."""
        items = [item for item in session.items if not item.path.name.endswith(LEFT_OUT)]
        for item in items:
            _reduce_examples(item, self._examples)
        started = time.monotonic()
        baseline = _measure(items)
        cpu_s = sum(baseline.cpu_s.values())
        print(
            f"{len(baseline.items)} tests, {cpu_s:.0f} s of CPU, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        for outcome in _outcomes(self._mutants, baseline, self._jobs):
            self._report(outcome)
        return True


def _reduce_examples(item: pytest.Item, examples: int) -> None:
    """Give a property few and always the same examples, and no search for simpler ones."""
    machine: Any = getattr(item, "cls", None)
    if isinstance(getattr(machine, "settings", None), hypothesis.settings):  # a state machine
        machine.settings = _reduced(machine.settings, examples)
        return
    function: Any = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    own = getattr(function, "_hypothesis_internal_use_settings", None)
    if own is not None:
        function._hypothesis_internal_use_settings = _reduced(own, examples)


def _reduced(settings: hypothesis.settings, examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        settings,
        max_examples=min(settings.max_examples, examples),
        derandomize=True,
        database=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )


def _measure(items: Sequence[pytest.Item]) -> _Baseline:
    baseline = _Baseline()
    prefix = str(ROOT / "cook_jupyter") + os.sep
    for item in items:
        called: set[CodeType] = set()

        def note(frame: FrameType, event: str, _: Any, called: set[CodeType] = called) -> None:
            if event == "call":
                called.add(frame.f_code)

        before = time.process_time()
        sys.setprofile(note)
        try:
            is_passed = _passes(item)
        finally:
            sys.setprofile(None)
        if not is_passed:
            raise pytest.UsageError(f"{item.nodeid} fails without any mutant")
        baseline.items[item.nodeid] = item
        baseline.cpu_s[item.nodeid] = time.process_time() - before
        for code in called:
            if code.co_filename.startswith(prefix):
                place = (os.path.relpath(code.co_filename, ROOT), code.co_firstlineno)
                baseline.callers.setdefault(place, []).append(item.nodeid)
    return baseline


def _passes(item: pytest.Item) -> bool:
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _outcomes(mutants: Sequence[Mutant], baseline: _Baseline, jobs: int) -> Iterator[Outcome]:
    functions = _functions()
    killers: dict[Place, list[str]] = {}
    running: dict[int, tuple[int, Mutant, Place, int]] = {}  # pipe -> process, mutant, place, number of tests
    pending = list(reversed(mutants))
    gc.collect()
    gc.freeze()
    while pending or running:
        while pending and len(running) < jobs:
            mutant = pending.pop()
            place = (mutant.path, mutant.code.co_firstlineno)
            known = dict.fromkeys(reversed(killers.get(place, [])))
            callers = sorted(baseline.callers.get(place, []), key=baseline.cpu_s.__getitem__)
            tests = list(dict.fromkeys((*known, *callers)))
            if not tests:
                yield Outcome(mutant=mutant, killer=None, tests=0)
                continue
            pipe, pid = _fork(
                mutant, functions[place], [baseline.items[test] for test in tests], baseline.cpu_s
            )
            running[pipe] = (pid, mutant, place, len(tests))
        ready, _, _ = select.select(list(running), [], [], None if running else 0)
        for pipe in ready:
            pid, mutant, place, number = running.pop(pipe)
            with os.fdopen(pipe, encoding="utf-8") as stream:
                killer = stream.read()
            os.waitpid(pid, 0)
            if killer.startswith("::killed "):
                name = killer.removeprefix("::killed ")
                killers.setdefault(place, []).append(name)
                yield Outcome(mutant=mutant, killer=name, tests=number)
            else:
                yield Outcome(mutant=mutant, killer=None if killer == "::survived" else "", tests=number)


def _functions() -> Mapping[Place, list[FunctionType]]:
    """Return the functions of the package by place."""
    prefix = str(ROOT / "cook_jupyter") + os.sep
    functions: dict[Place, list[FunctionType]] = {}
    for value in gc.get_objects():
        if isinstance(value, FunctionType) and value.__code__.co_filename.startswith(prefix):
            place = (os.path.relpath(value.__code__.co_filename, ROOT), value.__code__.co_firstlineno)
            functions.setdefault(place, []).append(value)
    return functions


def _fork(
    mutant: Mutant,
    functions: Sequence[FunctionType],
    items: Sequence[pytest.Item],
    cpu_s: Mapping[str, float],
) -> tuple[int, int]:
    """Start a process that runs tests against a mutant; return the pipe with its answer, and its id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    answer = ""
    try:
        os.close(reader)
        limit_s = int(_CPU_FACTOR * sum(cpu_s[item.nodeid] for item in items) + _CPU_EXTRA_S)
        used_s = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used_s + limit_s, used_s + limit_s))
        pages = (
            int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            if sys.platform == "linux"
            else 0
        )
        if pages:
            memory = pages * resource.getpagesize() + _MEMORY_EXTRA
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        for function in functions:
            if function.__code__.co_freevars == mutant.code.co_freevars:
                function.__code__ = mutant.code
        answer = "::survived"
        for item in items:
            if not _passes(item):
                answer = f"::killed {item.nodeid}"
                break
    finally:
        with suppress(OSError):
            os.write(writer, answer.encode())
        os._exit(0)
