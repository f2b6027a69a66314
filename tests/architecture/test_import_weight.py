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


def modules_after(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter holds after `statement`."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module", ["cook_jupyter", "cook_jupyter.client", "cook_jupyter.executor", "cook_jupyter.errors"]
)
def test_the_notebook_side_loads_nothing_heavy(module: str) -> None:
    assert not modules_after(f"import {module}") & HEAVY


def test_using_the_public_names_loads_nothing_heavy() -> None:
    assert not modules_after("from cook_jupyter import CookExecutor, connect") & HEAVY


def test_importing_the_package_imports_none_of_its_packages() -> None:
    ours = {name for name in modules_after("import cook_jupyter") if name.startswith("cook_jupyter")}

    assert ours == {"cook_jupyter"}


def test_a_worker_needs_only_cloudpickle_beside_the_standard_library() -> None:
    foreign = {"click", "fsspec", "msgspec", "tblib", "IPython"} | HEAVY

    assert not modules_after("import cook_jupyter.worker") & foreign


def cpu_time_s(module: str) -> float:
    """Return the CPU time of an import in a fresh interpreter, the least of five."""
    program = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    return min(
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(5)
    )


def test_importing_the_package_costs_less_than_importing_asyncio() -> None:
    assert cpu_time_s("cook_jupyter") < cpu_time_s("asyncio")
