"""Run tests against mutants, each in a fork of a process that has collected the tests.

Lives here: `run`. First every test runs once, which shows the functions that it calls and its CPU time. Then
each mutant is a fork in which the code of one function is replaced; it runs the tests that call the function
until one fails, in two stages. The quick stage runs all tests, with few examples of each property; most
mutants are killed there. Only those that survive reach the thorough stage, which runs the properties with
more examples, and compares all implementations with the reference in random worlds. In both, tests that have
killed other mutants of the function or the module come first, then the fastest.
Not here: the mutants (`mutations`), the report (`report`).

A test may use some multiple of the CPU time that it took without a mutant. Past that the mutant counts as
killed, as its loops may be endless. The multiple is so large that a mutant that is merely slow survives.
"""

import gc
import os
import resource
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.mutations import Mutant
from tests.scheduling import ways_agree
from tests.scheduling.test_ways_agree import IN_CI

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
WORLDS = "tests/scheduling/test_ways_agree.py"  # compares all implementations with the reference
LEFT_OUT = "tests/golden/test_counted.py"  # about the tests themselves
MAX_WORLDS = 300  # of the 2,000 of CI
_CPU_FACTOR = 4.0
_CPU_EXTRA_S = 5.0
_MEMORY_EXTRA = 3 << 30
_NEIGHBOURS = 10  # tests that killed most mutants of a module
_SURVIVED = "survived"

Place = tuple[str, int]  # path of a module and the first line of a function


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How much is tried against a mutant.

    Attributes:
        name: name of the stage, as results have it.
        examples: maximum number of examples of a property.
    """

    name: str
    examples: int


QUICK = Stage(name="quick", examples=8)
THOROUGH = Stage(name="thorough", examples=40)
TIME = "time"  # in place of a stage: a test took much longer than without the mutant


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a mutant.

    Attributes:
        mutant: the mutant.
        killed_by: name of the stage in which a test failed, or `TIME`; None if the mutant survived.
        killer: the test that failed or ran out of time, "" if none.
        tests: number of tests that call the function.
    """

    mutant: Mutant
    killed_by: str | None
    killer: str
    tests: int


@dataclass(slots=True)
class Killers:
    """The tests that have killed mutants, which are the first to be tried against their neighbours."""

    _of_functions: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _of_modules: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, path: str, function: str, killer: str) -> None:
        """Note the test that killed a mutant of a function."""
        self._of_functions.setdefault((path, function), []).append(killer)
        self._of_modules.setdefault(path, Counter())[killer] += 1

    def first(self, path: str, function: str) -> list[str]:
        """Return tests to try first: the last to kill in the function, then the deadliest of the module."""
        own = reversed(self._of_functions.get((path, function), []))
        of_module = self._of_modules.get(path, Counter[str]()).most_common(_NEIGHBOURS)
        return list(dict.fromkeys((*own, *(killer for killer, _ in of_module))))


@dataclass(frozen=True, slots=True)
class _Property:
    """A property, or a state machine, and its own settings.

    Attributes:
        owner: the object that has the settings.
        attribute: name of the attribute of the owner.
        own: the settings that it has in other runs.
    """

    owner: Any
    attribute: str
    own: hypothesis.settings

    def enter(self, stage: Stage) -> None:
        """Use the examples of a stage, always the same, and do not search for simpler ones."""
        reduced = hypothesis.settings(
            self.own,
            max_examples=min(self.own.max_examples, stage.examples),
            derandomize=True,
            database=None,
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        )
        setattr(self.owner, self.attribute, reduced)


@dataclass(slots=True)
class _Baseline:
    """Tests by the functions that they call, as measured in a stage."""

    stage: Stage
    properties: Collection[_Property]
    items: dict[str, pytest.Item] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    callers: dict[Place, list[str]] = field(default_factory=dict)

    def enter(self) -> None:
        """Prepare all properties for the stage."""
        for each in self.properties:
            each.enter(self.stage)

    def tests_of(self, place: Place, first: Collection[str]) -> list[str]:
        """Return the tests that call a function, in the order in which to try them."""
        callers = sorted(self.callers.get(place, []), key=self.cpu_s.__getitem__)
        known = set(callers)
        return list(dict.fromkeys((*(test for test in first if test in known), *callers)))

    def limit_s(self, test: str) -> int:
        """Return the CPU time that a test may use."""
        return ceil(_CPU_FACTOR * self.cpu_s[test] + _CPU_EXTRA_S)


def run(mutants: Sequence[Mutant], jobs: int, killers: Killers, report: Callable[[Outcome], None]) -> int:
    """Run tests against mutants; return 0 unless the tests fail without any mutant.

    Args:
        mutants: the mutants.
        jobs: number of processes at a time.
        killers: tests that have killed mutants before.
        report: called with each outcome.
    """
    plugin = _Plugin(mutants, jobs, killers, report)
    arguments = ["-q", "-p", "no:cacheprovider", *TESTS]
    code = pytest.main(arguments, plugins=[plugin])
    return int(code)


class _Plugin:
    """Takes the place of pytest's loop over tests."""

    def __init__(
        self, mutants: Sequence[Mutant], jobs: int, killers: Killers, report: Callable[[Outcome], None]
    ) -> None:
        self._mutants = mutants
        self._jobs = jobs
        self._killers = killers
        self._report = report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once in each stage, then those that concern each mutant."""
        ways_agree.shrunk = lambda world, fails: world  # a failure is enough; a small world would take long
        items = [item for item in session.items if not item.nodeid.startswith(LEFT_OUT)]
        worlds = [item for item in items if item.nodeid.startswith(WORLDS)]
        others = [item for item in items if not item.nodeid.startswith(WORLDS)]
        worlds = worlds[: len(worlds) * MAX_WORLDS // IN_CI]
        properties = {item: each for item in others if (each := _property_of(item)) is not None}
        baselines = [
            _measure(others, properties.values(), QUICK),
            _measure([*worlds, *properties], properties.values(), THOROUGH),
        ]
        for outcome in _outcomes(self._mutants, baselines, self._jobs, self._killers):
            self._report(outcome)
        return True


def _property_of(item: pytest.Item) -> _Property | None:
    """Return the property that a test is; None if it is another test."""
    machine: Any = getattr(item, "cls", None)
    function: Any = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    for owner, attribute in ((machine, "settings"), (function, "_hypothesis_internal_use_settings")):
        own = getattr(owner, attribute, None)
        if isinstance(own, hypothesis.settings):
            return _Property(owner, attribute, own)
    return None


def _measure(items: Sequence[pytest.Item], properties: Collection[_Property], stage: Stage) -> _Baseline:
    """Run tests once and note their functions and CPU times."""
    started = time.monotonic()
    baseline = _Baseline(stage=stage, properties=properties)
    baseline.enter()
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
    cpu_s, wall_s = sum(baseline.cpu_s.values()), time.monotonic() - started
    print(f"{stage.name}: {len(items)} tests, {cpu_s:.0f} s of CPU, {wall_s:.0f} s", flush=True)
    return baseline


def _passes(item: pytest.Item) -> bool:
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _outcomes(
    mutants: Sequence[Mutant], baselines: Sequence[_Baseline], jobs: int, killers: Killers
) -> Iterator[Outcome]:
    functions = _functions()
    running: dict[int, tuple[int, Mutant, int]] = {}  # pipe -> process, mutant, number of tests
    pending = list(reversed(mutants))
    gc.collect()
    gc.freeze()
    while pending or running:
        while pending and len(running) < jobs:
            mutant = pending.pop()
            place = (mutant.path, mutant.code.co_firstlineno)
            first = killers.first(mutant.path, mutant.function)
            tests = [(baseline, baseline.tests_of(place, first)) for baseline in baselines]
            number = len({name for _, names in tests for name in names})
            if not number:
                yield Outcome(mutant=mutant, killed_by=None, killer="", tests=0)
                continue
            pipe, pid = _fork(mutant, functions[place], tests)
            running[pipe] = (pid, mutant, number)
        ready, _, _ = select.select(list(running), [], [], None if running else 0)
        for pipe in ready:
            pid, mutant, number = running.pop(pipe)
            with os.fdopen(pipe, encoding="utf-8") as stream:
                answer = stream.read()
            os.waitpid(pid, 0)
            stage, _, killer = (answer or TIME).partition(" ")
            if stage != _SURVIVED and killer:
                killers.add(mutant.path, mutant.function, killer)
            killed_by = None if stage == _SURVIVED else stage
            yield Outcome(mutant=mutant, killed_by=killed_by, killer=killer, tests=number)


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
    mutant: Mutant, functions: Sequence[FunctionType], tests: Sequence[tuple[_Baseline, Sequence[str]]]
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
        _limit_memory()
        for function in functions:
            if function.__code__.co_freevars == mutant.code.co_freevars:
                function.__code__ = mutant.code
        answer = _try(tests, writer)
    finally:
        with suppress(OSError):
            os.write(writer, answer.encode())
        os._exit(0)


def _try(tests: Sequence[tuple[_Baseline, Sequence[str]]], writer: int) -> str:
    """Run tests until one fails; return the stage and the test, or that the mutant survived."""
    used_s = ceil(time.process_time())
    hard_s = used_s + 2 * sum(baseline.limit_s(name) for baseline, names in tests for name in names)
    for baseline, names in tests:
        baseline.enter()
        for name in names:

            def end(*_: object, name: str = name) -> None:
                os.write(writer, f"{TIME} {name}".encode())
                os._exit(0)

            signal.signal(signal.SIGXCPU, end)
            soft_s = ceil(time.process_time()) + baseline.limit_s(name)
            resource.setrlimit(resource.RLIMIT_CPU, (min(soft_s, hard_s), hard_s))
            if not _passes(baseline.items[name]):
                return f"{baseline.stage.name} {name}"
    return _SURVIVED


def _limit_memory() -> None:
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        memory = pages * resource.getpagesize() + _MEMORY_EXTRA
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
