"""The reference pages of this wing name what there is, and nothing else."""

import inspect
import re
from pathlib import Path

from cook_jupyter import errors
from cook_jupyter.client.sync import JobClient
from cook_jupyter.executor import CookExecutor, CookFuture
from cook_jupyter.notebook.arguments import option_strings
from cook_jupyter.notebook.commands import COMMANDS
from cook_jupyter.notebook.magics import CookMagics
from cook_jupyter.notebook.rendering import MARKS

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
MAGICS = (REFERENCE / "magics.md").read_text(encoding="utf-8")
PYTHON = (REFERENCE / "python.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    _, _, rest = page.partition(f"\n## {title}")
    return rest.partition("\n## ")[0]


def test_every_option_of_a_cell_is_told() -> None:
    told = re.findall(r"^\| `(--[\w-]+)", section(MAGICS, "`%%cook`"), re.MULTILINE)

    assert set(told) == {name for name, _ in option_strings(CookMagics.cook)}


def test_every_command_and_its_options_are_told() -> None:
    rows = re.findall(r"^\| `%cook ?(\w*)[^|]*\|[^|]*\|([^|]*)\|", section(MAGICS, "`%cook`"), re.MULTILINE)
    told = {name: set(re.findall(r"--[\w-]+", options)) for name, options in rows}

    assert told == {
        "": set(),
        "help": set(),
        **{name: {option for option, _ in option_strings(command)} for name, command in COMMANDS.items()},
    }


def test_every_setting_is_told() -> None:
    told = re.findall(r"^\| `(\w+)`", section(MAGICS, "Settings"), re.MULTILINE)

    assert set(told) == set(CookMagics.class_traits(config=True))


def test_every_mark_is_told() -> None:
    told = re.findall(r"^\| (\S) \| ([\w ]+) \|", section(MAGICS, "States"), re.MULTILINE)

    assert set(told) == {(mark.shape, mark.word) for mark in MARKS.values()}


def test_every_option_of_the_executor_is_told() -> None:
    told = re.findall(r"^\| `(\w+)` \|", section(PYTHON, "`CookExecutor`"), re.MULTILINE)

    assert set(told) == set(inspect.signature(CookExecutor).parameters)


def test_what_a_future_has_of_its_own_is_told() -> None:
    text = section(PYTHON, "`CookFuture`")
    members = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    told = {name for member in members for name in re.findall(r"`(\w+)", member)}

    assert {"key", "status", "logs", "why", "kill", "cancel", "replay"} <= told
    assert [name for name in told if not hasattr(CookFuture, name)] == []


def test_every_error_is_told() -> None:
    text = section(PYTHON, "Exceptions")
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.CookError)
    }

    assert {name for name in classes - {"IllegalTransition"} if f"`{name}`" not in text} == set()


def test_every_method_of_the_client_is_told() -> None:
    text = section(PYTHON, "`connect` and `JobClient`")
    methods = {name for name, value in vars(JobClient).items() if inspect.isfunction(value)}

    assert {name for name in methods if not name.startswith("_") and f"`{name}`" not in text} == set()
