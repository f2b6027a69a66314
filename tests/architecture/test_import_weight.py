"""What an import drags in, seen in a fresh interpreter. import-linter sees imports; this sees their cost."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "apsw",
    "dask",
    "distributed",
    "ipywidgets",
    "jupyter_server",
    "numpy",
    "sqlite3",
    "tornado",
}
LIMIT_S = 0.15


def modules_after(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter holds after `statement`."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module", ["cook_jupyter", "cook_jupyter.client", "cook_jupyter.executor", "cook_jupyter.errors"]
)
def test_the_notebook_wing_loads_nothing_heavy(module: str) -> None:
    assert not modules_after(f"import {module}") & HEAVY


def test_using_the_public_names_loads_nothing_heavy() -> None:
    assert not modules_after("from cook_jupyter import CookExecutor, connect") & HEAVY


def test_importing_the_package_imports_none_of_its_floors() -> None:
    ours = {name for name in modules_after("import cook_jupyter") if name.startswith("cook_jupyter")}

    assert ours == {"cook_jupyter"}


def test_a_worker_needs_only_cloudpickle_beside_the_standard_library() -> None:
    foreign = {"click", "fsspec", "msgspec", "tblib", "IPython"} | HEAVY

    assert not modules_after("import cook_jupyter.worker") & foreign


def test_importing_the_package_takes_less_than_150_ms() -> None:
    program = "import time; t = time.perf_counter(); import cook_jupyter; print(time.perf_counter() - t)"
    seconds = min(
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(5)  # the least of five: a busy machine is not our fault
    )

    assert seconds < LIMIT_S
