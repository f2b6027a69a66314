"""Execute the notebook of binder/ from nothing, print its headline and say where the executed notebook lies.

From nothing means: a home of its own for the scheduler, made for this run and taken away after it, so that
neither your jobs nor your settings play a part. The notebook starts an embedded scheduler; with `--mesos` it
finds one that is a framework of a real Mesos on this machine, which ends with this program. Cells tagged
`headline`, and printed lines that start with `Headline:`, are repeated at the end.
"""

import asyncio
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "binder" / "fair_share_demo.ipynb"
EXECUTED = ROOT / "build" / "demo" / "fair_share_demo.ipynb"
AGENTS = 2
CELL_TIMEOUT_S = 150  # `make demo` promises to end within three minutes


def main() -> int:
    """Return the exit code: 0 when every cell ran."""
    started = time.monotonic()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    home = tempfile.mkdtemp(prefix="cook-demo-")  # short: the path of a Unix socket has about a hundred bytes
    os.environ |= {
        "COOK_JUPYTER_HOME": f"{home}/cook",
        "IPYTHONDIR": f"{home}/ipython",
        "JUPYTER_RUNTIME_DIR": f"{home}/jupyter",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    try:
        with _mesos_scheduler(Path(home)) if "--mesos" in sys.argv[1:] else _embedded_scheduler():
            failure = asyncio.run(_execute(notebook))
    finally:
        shutil.rmtree(home, ignore_errors=True)
        EXECUTED.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, EXECUTED)

    print()
    if failure is not None:
        print(failure)
        print(f"The notebook stopped at the cell above; what it did till then: {EXECUTED.relative_to(ROOT)}")
        return 1
    headlines = list(_headlines(notebook))
    print("\n".join(headlines))
    print(f"Executed in {time.monotonic() - started:.0f} s: {EXECUTED.relative_to(ROOT)}")
    if not headlines:
        print("demo: the notebook printed no headline", file=sys.stderr)
        return 1
    return 0


async def _execute(notebook: Any) -> CellExecutionError | None:
    """Run all cells in order, naming each; return the failure that stopped it, if one did."""
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    started = time.monotonic()
    async with client.async_setup_kernel():
        number = 0
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            number += 1
            first_line = next((line for line in cell.source.splitlines() if line.strip()), "")
            elapsed = time.monotonic() - started
            print(f"{elapsed:5.1f} s  cell {number}/{len(code_cells)}  {first_line[:80]}", flush=True)
            try:
                await client.async_execute_cell(cell, index)
            except CellExecutionError as failure:
                return failure
    return None


def _headlines(notebook: Any) -> Iterator[str]:
    for cell in notebook.cells:
        tagged = "headline" in cell.get("metadata", {}).get("tags", [])
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            for line in text.splitlines():
                if (tagged and line.strip()) or line.startswith("Headline:"):
                    yield line


@contextmanager
def _embedded_scheduler() -> Iterator[None]:
    """Stop the scheduler that the notebook starts in the home of this run."""
    try:
        yield
    finally:
        subprocess.run(
            [sys.executable, "-m", "cook_jupyter", "down"],
            check=False,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def _mesos_scheduler(home: Path) -> Iterator[None]:
    """Run a scheduler on a real Mesos, whose agents share the cpus of this machine."""
    from tests.mesos.local_mesos.cluster import LocalMesos

    config = home / "cluster.toml"
    with LocalMesos(agents=AGENTS, cpus=max(1, (os.cpu_count() or 1) // AGENTS)) as mesos:
        master = mesos.master.removeprefix("http://")
        config.write_text(
            f"""
            [[clusters]]
            type = "mesos"
            master = "{master}"
            run_as = "{getpass.getuser()}"
            executor_python = "{sys.executable}"
            """
        )
        command = [sys.executable, "-m", "cook_jupyter", "serve", "--config", str(config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scheduler:
            try:
                assert scheduler.stdout is not None
                print(scheduler.stdout.readline().partition(";")[0] + f", on the Mesos of {mesos.master}")
                yield
                _print_mesos_tasks(mesos.call("GET_TASKS"))
            finally:
                scheduler.terminate()


def _print_mesos_tasks(tasks: dict[str, Any]) -> None:
    """Print how many tasks Mesos has run, by agent."""
    agents = Counter(task["agent_id"]["value"].rpartition("-")[2] for task in tasks["completed_tasks"])
    parts = ", ".join(f"{count:,} on agent {agent}" for agent, count in sorted(agents.items()))
    print(f"Tasks that Mesos remembers: {parts}")


if __name__ == "__main__":
    sys.exit(main())
