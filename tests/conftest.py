"""Fixtures for all tests: a separate home directory, and skips for missing parts of the system.

Also the configuration of the suite: the profile of hypothesis, and `--shuffle SEED` for another order.
Not here: builders of values (`tests/builders.py`), fixtures of one layer (its own conftest.py).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.golden.cases import counted, forget_reading, unknown_words
from tests.waiting import HANG_S


def is_ci() -> bool:
    """Return whether this is a CI run: the variable CI is set."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


STARTING_PROCESSES = frozenset(
    {"docs", "system", "executor", "clusters", "client", "store", "notebook", "mesos"}
)  # layers

# A deadline and the check `too_slow` judge the machine, not the product: no verdict depends on its speed.
# In CI a commit has one verdict, so the examples follow from the test alone; elsewhere each run tries others.
hypothesis_settings.register_profile(
    "cook_jupyter",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=is_ci(),
)
hypothesis_settings.load_profile("cook_jupyter")

# A shell starts programs in the background with interrupts ignored, and they inherit that: tests of Ctrl-C,
# and the kernels that tests start, would wait for an interrupt that never comes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def missing_part(reason: str) -> NoReturn:
    """End a test whose part (a browser, a cgroup, root) this machine does not have.

    On a developer's machine the test is skipped, with one line. In CI (the variable CI is set) it fails:
    there, a part that has gone missing is a check that has silently stopped checking.

    Args:
        reason: what is missing and how to get it.
    """
    if is_ci():
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--shuffle SEED`."""
    parser.addoption("--shuffle", metavar="SEED", help="run the tests in the random order that SEED gives")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Return the line that names the order, for whoever wants to see a failure again."""
    seed = config.getoption("--shuffle")
    return None if seed is None else f"order: --shuffle {seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the modules, and the tests within each, if `--shuffle` was given.

    The tests of a module stay together, so that its fixtures are made once. In a distributed run, modules
    that start processes come first: a long one at the end would leave the other cores idle.
    """
    seed = config.getoption("--shuffle")
    if seed is None:
        if hasattr(config, "workerinput"):
            tests = Path(__file__).parent
            items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in STARTING_PROCESSES)
        return
    rng = random.Random(seed)
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    batches = list(modules.values())
    rng.shuffle(batches)
    for batch in batches:
        rng.shuffle(batch)
    items[:] = [item for batch in batches for item in batch]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many of Cook's golden cases, and of our own like them, were run and passed."""
    reports = [
        (report.nodeid, outcome == "passed")
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
        if "golden_case" in getattr(report, "keywords", ()) and (report.when == "call" or outcome != "passed")
    ]
    for name, count in zip(("golden cases", "cases of our own like them"), counted(reports), strict=True):
        if count.run:
            terminalreporter.write_line(f"{name}: {count.passed} of {count.run} passed")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail the test of a golden case that passes over one of its words."""
    if "golden_case" not in pyfuncitem.keywords:
        return (yield)
    values = list(pyfuncitem.callspec.params.values())
    forget_reading(values)
    result = yield
    unknown = unknown_words(values)
    if unknown:
        pytest.fail(f"the driver does not know these words of the case: {', '.join(unknown)}", pytrace=False)
    return result


@pytest.fixture(scope="session", autouse=True)
def no_test_touches_the_users_home() -> Iterator[None]:
    """Point COOK_JUPYTER_HOME at a folder of this run, and forget settings that would lead elsewhere."""
    with pytest.MonkeyPatch.context() as patch, short_folder() as home:
        for name in [name for name in os.environ if name.startswith("COOK_")]:
            patch.delenv(name)
        patch.setenv("COOK_JUPYTER_HOME", str(home))
        yield


@pytest.fixture
def cook_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh COOK_JUPYTER_HOME for one test; a scheduler that was started in it is stopped afterwards."""
    with short_folder() as home:
        monkeypatch.setenv("COOK_JUPYTER_HOME", str(home))
        yield home


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for a Unix socket; what lived in it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="cook-"))
    try:
        yield folder
    finally:
        if any(folder.iterdir()):
            subprocess.run(
                [sys.executable, "-m", "cook_jupyter", "down", "--stop-work"],
                env={**os.environ, "COOK_JUPYTER_HOME": str(folder)},
                check=False,
                capture_output=True,
                timeout=HANG_S,
            )
        shutil.rmtree(folder, ignore_errors=True)
