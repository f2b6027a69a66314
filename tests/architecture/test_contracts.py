"""The import contracts of docs/architecture.md, checked by import-linter and by parsing every module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cook_jupyter

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cook_jupyter"
SCHEDULER_SIDE = ("model", "wire", "scheduling", "store", "clusters", "service", "api")
PICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal"}


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (PACKAGE / package).rglob("*.py"))


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", SCHEDULER_SIDE)
def test_the_scheduler_never_unpickles(package: str) -> None:
    guilty = {
        str(path.relative_to(ROOT)): name
        for path in files_of(package)
        for name in imports_of(path)
        if name.split(".")[0] in PICKLERS
    }

    assert not guilty


def test_nothing_inside_the_package_takes_a_name_from_its_root() -> None:
    public = {"cook_jupyter", *(f"cook_jupyter.{name}" for name in cook_jupyter.__all__)}
    guilty = [
        str(path.relative_to(ROOT))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py" and public & set(imports_of(path))
    ]

    assert not guilty


def test_every_module_says_what_lives_in_it() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert not silent


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty_words = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}

    assert not [path for path in PACKAGE.rglob("*.py") if path.stem in empty_words]
