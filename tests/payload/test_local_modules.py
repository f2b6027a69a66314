"""A warm host imports local modules as they are on disk when a job starts."""

import importlib
import os
import py_compile
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.payload.local_modules import LocalModules
from tests.payload.conftest import CallHarness

Files = dict[str, str | None]  # text by path; None removes a file


def write(folder: Path, files: Files) -> None:
    """Edit files so that neither their size nor their time of change need differ."""
    for name, text in files.items():
        path = folder / name
        if text is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))


@dataclass(frozen=True)
class Edit:
    """Modules beside a notebook, an expression that imports them, and an edit.

    Attributes:
        before: the files at first.
        asks: module and function to call.
        after: files that are written later.
        answers: what the call returns before and after; an exception class if it raises.
    """

    before: Files
    asks: tuple[str, str]
    after: Files
    answers: tuple[Any, Any] = (1, 2)


MODEL = "from costs import fee\ndef ask():\n    return fee()\n"
EDITS = {
    "the module itself": Edit(
        {"model.py": "def ask():\n    return 1\n"},
        ("model", "ask"),
        {"model.py": "def ask():\n    return 2\n"},
    ),
    "a module that it imports from": Edit(
        {"model.py": MODEL, "costs.py": "def fee():\n    return 1\n"},
        ("model", "ask"),
        {"costs.py": "def fee():\n    return 2\n"},
    ),
    "a constant two modules below": Edit(
        {
            "model.py": MODEL,
            "costs.py": "from rates import RATE\ndef fee():\n    return RATE\n",
            "rates.py": "RATE = 1\n",
        },
        ("model", "ask"),
        {"rates.py": "RATE = 2\n"},
    ),
    "a package that re-exports": Edit(
        {
            "shop/__init__.py": "from .core import ask\n",
            "shop/core.py": "from .params import RATE\ndef ask():\n    return RATE\n",
            "shop/params.py": "RATE = 1\n",
        },
        ("shop", "ask"),
        {"shop/params.py": "RATE = 2\n"},
    ),
    "a star import": Edit(
        {"model.py": "from costs import *\n", "costs.py": "def ask():\n    return 1\n"},
        ("model", "ask"),
        {"costs.py": "def ask():\n    return 2\n"},
    ),
    "modules that import each other": Edit(
        {
            "left.py": "import right\nVALUE = 1\ndef ask():\n    return right.ask()\n",
            "right.py": "import left\ndef ask():\n    return left.VALUE\n",
        },
        ("left", "ask"),
        {"left.py": "import right\nVALUE = 2\ndef ask():\n    return right.ask()\n"},
    ),
    "a module imported within a function": Edit(
        {"model.py": "def ask():\n    from costs import FEE\n    return FEE\n", "costs.py": "FEE = 1\n"},
        ("model", "ask"),
        {"costs.py": "FEE = 2\n"},
    ),
    "a module of a namespace package": Edit(
        {"space/part.py": "def ask():\n    return 1\n"},
        ("space.part", "ask"),
        {"space/part.py": "def ask():\n    return 2\n"},
    ),
    "a namespace package that becomes a package": Edit(
        {"space/part.py": "import space\ndef ask():\n    return getattr(space, 'VALUE', 1)\n"},
        ("space.part", "ask"),
        {"space/__init__.py": "VALUE = 2\n"},
    ),
    "a module that becomes a package": Edit(
        {"model.py": "def ask():\n    return 1\n"},
        ("model", "ask"),
        {"model.py": None, "model/__init__.py": "def ask():\n    return 2\n"},
    ),
    "a package that shadows a module": Edit(
        {"model.py": "def ask():\n    return 1\n"},
        ("model", "ask"),
        {"model/__init__.py": "def ask():\n    return 2\n"},
    ),
    "an optional module that appears": Edit(
        {
            "model.py": "try:\n    from fast import VALUE\nexcept ImportError:\n    VALUE = 1\n"
            "def ask():\n    return VALUE\n"
        },
        ("model", "ask"),
        {"fast.py": "VALUE = 2\n"},
    ),
    "a module that is removed": Edit(
        {"model.py": MODEL, "costs.py": "def fee():\n    return 1\n"},
        ("model", "ask"),
        {"costs.py": None},
        answers=(1, ModuleNotFoundError),
    ),
    "a module that was missing": Edit(
        {"model.py": MODEL},
        ("model", "ask"),
        {"costs.py": "def fee():\n    return 2\n"},
        answers=(ModuleNotFoundError, 2),
    ),
    "a syntax error that is mended": Edit(
        {"model.py": "def ask(:\n    return 1\n"},
        ("model", "ask"),
        {"model.py": "def ask():\n    return 2\n"},
        answers=(SyntaxError, 2),
    ),
    "a class that another module extends": Edit(
        {
            "model.py": "from base import Base\nclass Sub(Base): ...\ndef ask():\n    return Sub().value\n",
            "base.py": "class Base:\n    value = 1\n",
        },
        ("model", "ask"),
        {"base.py": "class Base:\n    value = 2\n"},
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a notebook, on its search path."""
    notebook = tmp_path / "notebook"
    notebook.mkdir()
    monkeypatch.chdir(notebook)
    monkeypatch.syspath_prepend(notebook)
    yield notebook
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def ask(module: str, function: str) -> Any:
    """Call a function of a module that is imported by name: what a job of a notebook does."""
    return getattr(importlib.import_module(module), function)()


def answer(harness: CallHarness, asks: tuple[str, str]) -> Any:
    """What a warm process answers, or the class of what it raises."""
    result = harness.call_elsewhere(ask, *asks)
    return result.value if result.error is None else type(result.error)


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_is_seen_by_the_next_job(harness: CallHarness, folder: Path, case: str) -> None:
    edit = EDITS[case]
    write(folder, edit.before)
    before = answer(harness, edit.asks)

    write(folder, edit.after)

    assert (before, answer(harness, edit.asks)) == edit.answers
    assert answer(harness, edit.asks) == edit.answers[1]


def test_every_one_of_many_edits_in_one_second_is_seen(harness: CallHarness, folder: Path) -> None:
    write(folder, {"model.py": MODEL})
    answers = []

    for fee in range(5):
        write(folder, {"costs.py": f"def fee():\n    return {fee}\n"})
        answers.append(answer(harness, ("model", "ask")))

    assert answers == [0, 1, 2, 3, 4]


def test_a_compiled_file_that_python_takes_for_current_is_not_used(
    harness: CallHarness, folder: Path
) -> None:
    write(folder, {"costs.py": "def ask():\n    return 1\n"})
    py_compile.compile(str(folder / "costs.py"))

    write(folder, {"costs.py": "def ask():\n    return 2\n"})  # same size, same time: Python would not notice

    assert answer(harness, ("costs", "ask")) == 2


def test_jobs_leave_no_compiled_files_beside_the_notebook(harness: CallHarness, folder: Path) -> None:
    write(folder, {"costs.py": "def ask():\n    return 1\n"})

    answer(harness, ("costs", "ask"))

    assert [entry.name for entry in folder.iterdir()] == ["costs.py"]


def test_an_edit_while_a_job_runs_is_seen_by_the_next_one(harness: CallHarness, folder: Path) -> None:
    write(folder, {"costs.py": "def ask():\n    return 1\n"})

    def edit_meanwhile(path: str) -> int:
        import costs  # type: ignore[import-not-found]

        Path(path).write_text("def ask():\n    return 2\n")
        return int(costs.ask())

    first = harness.call_elsewhere(edit_meanwhile, str(folder / "costs.py")).value

    assert (first, answer(harness, ("costs", "ask"))) == (1, 2)


def test_a_link_that_points_elsewhere_is_followed(harness: CallHarness, folder: Path, tmp_path: Path) -> None:
    for value in (1, 2):
        write(tmp_path, {f"version{value}/costs.py": f"def ask():\n    return {value}\n"})
    (folder / "costs.py").symlink_to(tmp_path / "version1" / "costs.py")
    first = answer(harness, ("costs", "ask"))

    (folder / "costs.py").unlink()
    (folder / "costs.py").symlink_to(tmp_path / "version2" / "costs.py")

    assert (first, answer(harness, ("costs", "ask"))) == (1, 2)


def test_a_file_in_an_earlier_folder_of_the_path_shadows_the_one_that_was_imported(
    harness: CallHarness, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    monkeypatch.syspath_prepend(earlier)
    write(folder, {"costs.py": "def ask():\n    return 1\n"})
    first = answer(harness, ("costs", "ask"))

    write(earlier, {"costs.py": "def ask():\n    return 2\n"})

    assert (first, answer(harness, ("costs", "ask"))) == (1, 2)


def test_two_notebooks_take_turns_and_each_keeps_its_own_module(
    harness: CallHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = "import itertools\ncounter = itertools.count()\ndef ask():\n    return WHO, next(counter)\n"
    answers = []
    for who in ("ada", "bob"):
        write(tmp_path, {f"{who}/counting.py": f"WHO = {who!r}\n{count}"})

    for who in ("ada", "bob", "ada", "bob"):
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path / who)
            patch.syspath_prepend(tmp_path / who)
            answers.append(harness.call_elsewhere(ask, "counting", "ask").value)

    assert answers == [("ada", 0), ("bob", 0), ("ada", 1), ("bob", 1)]


def imported(*names: str) -> LocalModules:
    """A process that has imported these modules in a job."""
    modules = LocalModules()
    modules.begin_job((str(Path.cwd()),))
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        modules.end_job()
    return modules


def changes(folder: Path) -> dict[str, Callable[[], Any]]:
    """What happens beside a notebook and changes no code."""
    return {
        "a touched module": lambda: os.utime(folder / "costs.py"),
        "a module that was written anew with the same text": lambda: write(folder, {"costs.py": "FEE = 1\n"}),
        "results": lambda: (folder / "results.csv").write_text("1,2\n"),
        "a module that nobody asked for": lambda: (folder / "other.py").write_text("x = 1\n"),
        "a folder": (folder / "plots").mkdir,
    }


@pytest.mark.parametrize("change", changes(Path()))
def test_what_changes_no_code_makes_nothing_stale(folder: Path, change: str) -> None:
    write(folder, {"costs.py": "FEE = 1\n"})
    modules = imported("costs")

    changes(folder)[change]()

    assert not modules.is_stale()


def test_a_compiled_module_without_source_is_seen_to_change(folder: Path) -> None:
    for value in (1, 2):
        write(folder, {"source.py": f"VALUE = {value}\n"})
        py_compile.compile(str(folder / "source.py"), cfile=str(folder / f"{value}.compiled"))
    (folder / "1.compiled").rename(folder / "costs.pyc")
    modules = imported("costs")
    before = modules.is_stale()

    (folder / "2.compiled").rename(folder / "costs.pyc")

    assert (before, modules.is_stale()) == (False, True)


def test_a_package_that_is_installed_upgraded_or_removed_makes_imports_stale(tmp_path: Path) -> None:
    (tmp_path / "sums-1.0.dist-info").mkdir()
    modules = LocalModules([str(tmp_path)])
    (tmp_path / "__pycache__").mkdir()
    answers = [modules.is_stale()]

    (tmp_path / "sums-1.0.dist-info").rename(tmp_path / "sums-1.1.dist-info")
    answers += [modules.is_stale(), modules.is_stale()]

    assert answers == [False, True, True]


def test_a_local_module_with_a_name_of_the_standard_library_travels_by_value(
    harness: CallHarness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"random.py": "def ask():\n    return 'mine'\n"})
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "random")
        mine = importlib.import_module("random")

        assert harness.call_elsewhere(mine.ask).value == "mine"


def test_installed_modules_are_not_watched(folder: Path) -> None:
    modules = imported("json", "numpy")

    assert not modules._files
    assert not modules.is_stale()


# --- functions and classes that the notebook has imported ---------------------------------------------------


SHOP = """
import enum
from costs import FEE

class Size(enum.Enum):
    SMALL = 1
    LARGE = 2

class Item:
    def __init__(self, size):
        self.size = size

def fee():
    return FEE

def check(item):
    import shop
    return item.size is shop.Size.LARGE and isinstance(item, shop.Item) and Size is shop.Size

def make():
    return Item(Size.LARGE)
"""


@pytest.fixture
def shop(folder: Path) -> Any:
    """A local module that this process has imported, as a notebook does."""
    write(folder, {"costs.py": "FEE = 1\n", "shop.py": SHOP})
    return importlib.import_module("shop")


def test_a_function_that_was_imported_before_an_edit_runs_as_it_is_on_disk(
    harness: CallHarness, folder: Path, shop: Any
) -> None:
    first = harness.call_elsewhere(shop.fee).value

    write(folder, {"costs.py": "FEE = 2\n"})

    assert (first, harness.call_elsewhere(shop.fee).value) == (1, 2)
    assert harness.call_elsewhere(lambda: shop.fee()).value == 2  # noqa: PLW0108 - by the module, not the function


def test_a_class_of_a_local_module_is_one_class_on_the_host_and_here(harness: CallHarness, shop: Any) -> None:
    item = shop.Item(shop.Size.LARGE)

    assert harness.call_elsewhere(shop.check, item).value is True
    assert harness.call_elsewhere(lambda one: shop.check(one), item).value is True  # noqa: PLW0108 - see above
    made = harness.call_elsewhere(shop.make).value
    assert type(made) is shop.Item
    assert made.size is shop.Size.LARGE


def test_without_a_shared_folder_local_code_travels_as_the_notebook_holds_it(
    harness: CallHarness, folder: Path, shop: Any
) -> None:
    Path(harness.store.url).chmod(0o770)

    write(folder, {"costs.py": "FEE = 2\n"})

    assert harness.call_elsewhere(shop.fee).value == 1


def test_a_local_module_that_no_search_path_leads_to_travels_by_value(
    harness: CallHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"lost_module.py": "def ask():\n    return 1\n"})
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        lost = importlib.import_module("lost_module")
    sys.modules["lost_module"] = lost

    try:
        assert harness.call_elsewhere(lost.ask).value == 1
    finally:
        del sys.modules["lost_module"]
