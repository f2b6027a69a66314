"""What the notebook changed in a local module is there in a job, everywhere or nowhere."""

import datetime as dt
import importlib
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cook_jupyter.payload import module_state
from tests.conftest import missing_part
from tests.payload.conftest import CallHarness
from tests.waiting import HANG_S

SETTINGS = """
import threading
RATE = 3
NAMES = ["a"]
LIMITS = {"low": 1}
GUARD = None
CONFIG = dict(rate=3)
class Options: pass
options = Options()
options.size = 1
def rate(): return RATE
def config(): return CONFIG
def size(): return options.size
"""
MODEL = """
import settings
from settings import CONFIG, options
def seen():
    return settings.RATE, settings.NAMES, settings.LIMITS, CONFIG["rate"], options.size, settings.rate()
"""
LIVE = (
    "ready = False\nconnection = None\ncount = 0\n_cache = {}\ndef state(): return ready, connection, count\n"
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Local modules, imported as a notebook imports them."""
    for name, text in (("settings", SETTINGS), ("model", MODEL), ("live", LIVE)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for name in ("settings", "model", "live"):
        setattr(main, name, importlib.import_module(name))
    yield main
    for name in ("settings", "model", "live"):
        sys.modules.pop(name, None)


def a_function(main: Any, code: str) -> Any:
    exec(code, main.__dict__)
    return main.f


def test_what_the_notebook_set_in_a_module_is_seen_by_all_of_a_call(
    harness: CallHarness, modules: Any
) -> None:
    f = a_function(
        modules,
        "def f():\n    import settings as again\n    return model.seen(), again.RATE, settings.rate()",
    )
    before = harness.call_elsewhere(f).value
    modules.settings.RATE = 5
    modules.settings.NAMES.append("b")
    modules.settings.LIMITS["low"] = 7

    after = harness.call_elsewhere(f).value
    by_name = harness.call_elsewhere(modules.model.seen).value
    modules.settings.RATE = 3
    modules.settings.NAMES.pop()
    modules.settings.LIMITS["low"] = 1

    assert before == ((3, ["a"], {"low": 1}, 3, 1, 3), 3, 3)
    assert after == ((5, ["a", "b"], {"low": 7}, 3, 1, 5), 5, 5)
    assert by_name == (5, ["a", "b"], {"low": 7}, 3, 1, 5)
    assert harness.call_elsewhere(f).value == before, "the change ended with its job"


def test_an_object_that_the_notebook_imported_is_the_modules_own(harness: CallHarness, modules: Any) -> None:
    f = a_function(
        modules,
        "from settings import CONFIG, options\ndef f():\n"
        "    same = settings.config() is CONFIG, settings.options is options\n"
        "    return CONFIG['rate'], options.size, same, model.seen()",
    )
    modules.CONFIG["rate"] = 5
    modules.options.size = 2

    assert harness.call_elsewhere(f).value == f()
    assert harness.call_elsewhere(modules.model.seen).value[3:5] == (3, 1), (
        "only with a function that refers to it"
    )


def test_a_function_that_the_notebook_put_into_a_module_is_called_there(
    harness: CallHarness, modules: Any
) -> None:
    exec("def mine(): return 'mine'", modules.__dict__)
    modules.settings.rate = modules.mine

    assert harness.call_elsewhere(modules.model.seen).value[-1] == "mine"


def test_after_an_edit_the_file_decides(harness: CallHarness, modules: Any, tmp_path: Path) -> None:
    modules.settings.RATE = 5
    (tmp_path / "settings.py").write_text(SETTINGS.replace("RATE = 3", "RATE = 20"))

    assert harness.call_elsewhere(modules.model.seen).value[0] == 20


def test_an_edit_before_the_first_call_is_noticed(harness: CallHarness, modules: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(SETTINGS.replace("RATE = 3", "RATE = 4"))

    assert harness.call_elsewhere(modules.model.seen).value[0] == 4


def test_a_change_is_found_without_compiled_files_where_the_file_is_older_than_the_process(
    tmp_path: Path,
) -> None:
    if not Path("/proc/self/stat").exists():
        missing_part("/proc, from which a process knows when it started")
    (tmp_path / "settings.py").write_text("RATE = 3\n")
    (tmp_path / "edited.py").write_text("RATE = 3\n")
    program = (
        "from pathlib import Path\n"
        "from cook_jupyter.payload import module_state\n"
        "import edited, settings\n"
        "Path('edited.py').write_text('RATE = 4\\n')\n"
        "edited.RATE = settings.RATE = 5\n"
        "print(module_state.changes())\n"
    )

    run = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )

    assert run.stdout == "[('settings', 'RATE', 5)]\n"


def test_a_change_that_cannot_be_told_from_an_edit_is_warned_of(tmp_path: Path) -> None:
    program = (
        "import warnings\n"
        "from pathlib import Path\n"
        "from cook_jupyter.payload import module_state\n"
        "Path('settings.py').write_text('RATE = 3\\n')\n"
        "import settings\n"
        "print(module_state.changes())\n"
        "settings.RATE, settings.NEW = 5, 6\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    print(module_state.changes(), module_state.changes(), *[each.message for each in caught])\n"
    )

    run = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )

    assert run.stdout.startswith(
        "[]\n[] [] settings.RATE, settings.NEW: the value here is not what the file settings.py says, "
        "and jobs see what the file says. Python writes no compiled files here"
    )
    assert run.stdout.count("the value here") == 1


def test_a_name_that_the_notebook_added_to_a_module_is_there_in_a_job(
    harness: CallHarness, modules: Any
) -> None:
    f = a_function(
        modules, "def f():\n    import settings\n    return getattr(settings, 'NEW', None), settings.rate()"
    )
    modules.settings.NEW = {"depth": [3, Path("data"), dt.date(2026, 1, 2)]}
    modules.settings.RATE = 5

    assert harness.call_elsewhere(f).value == (modules.settings.NEW, 5)
    del modules.settings.NEW
    assert harness.call_elsewhere(f).value == (None, 5), "it ended with its job"


@pytest.mark.parametrize("name", ["RATE", "NEW"])
def test_an_array_or_a_table_that_the_notebook_put_into_a_module_is_there_in_a_job(
    harness: CallHarness, modules: Any, name: str
) -> None:
    f = a_function(modules, f"def f():\n    import settings\n    return settings.{name}")
    for value in (np.arange(3), np.float32(2), pd.DataFrame({"a": [1, 2]})):
        setattr(modules.settings, name, value)
        found = harness.call_elsewhere(f).value
        assert type(found) is type(value)
        assert np.array_equal(found, value)


@pytest.mark.parametrize("name", ["GUARD", "ADDED"])  # which no local module sets, this one included
def test_what_was_put_into_a_module_and_does_not_travel_is_warned_of_once(
    harness: CallHarness, modules: Any, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    module_state._warned_of.clear()
    setattr(modules.settings, name, threading.Lock())
    f = a_function(modules, "def f():\n    import settings\n    return settings.LIMITS")

    for _ in range(2):
        harness.call_elsewhere(f)

    (warned,) = recwarn.list
    assert f"this process has set settings.{name} to lock, which cannot be sent" in str(warned.message)
    assert "cook_jupyter/" not in warned.filename


def test_what_modules_do_to_themselves_and_each_other_is_not_warned_of(
    harness: CallHarness, modules: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "managed.py").write_text("lock = None\ndef open_it(x):\n    global lock\n    lock = x\n")
    (tmp_path / "other.py").write_text("import threading, live\nlive.guard = threading.Lock()\n")
    modules.managed, modules.other = map(importlib.import_module, ("managed", "other"))
    modules.managed.open_it(threading.Lock())
    f = a_function(modules, "def f():\n    import other\n    return managed.lock, hasattr(live, 'guard')")

    assert harness.call_elsewhere(f).value == (None, True)
    assert not recwarn.list
    for name in ("managed", "other"):
        sys.modules.pop(name)


def test_private_names_of_a_module_stay_its_own(harness: CallHarness, modules: Any) -> None:
    modules.live._cache["x"] = 1

    assert harness.call_elsewhere(a_function(modules, "def f(): return live._cache")).value == {}


def test_a_module_that_manages_something_of_this_process_is_not_sent_half(
    harness: CallHarness, modules: Any
) -> None:
    modules.live.ready, modules.live.connection, modules.live.count = True, object(), 7

    assert harness.call_elsewhere(modules.live.state).value == (False, None, 0)
