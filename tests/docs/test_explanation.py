"""The notebook that explains fair share: executed as its reader would, and held to what it says."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.waiting import HANG_S

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "fair_share.ipynb"
LIMIT_S = int(3 * HANG_S)

# What the text claims, in terms of what its cells have worked out; run as a last cell.
CLAIMS = """
wait = {p: {u.user: u.wait_ms.median / MINUTE_MS for u in f.users} for p, f in figures.items()}
others = [user for user in work.users if user != "hog"]
bursts = [user for user in work.users if user.startswith("bursts")]

assert min(wait["fifo"][u] for u in others) > 20, "fifo makes everybody wait for the hog"
assert min(wait["quota"][u] for u in bursts) > 5, "quota holds back those who come in bursts"
assert figures["quota"].busy_while_waiting < 0.5, "while machines stand idle"
assert max(wait["fair"][u] for u in others) <= 10, "fair makes hardly anybody wait"
assert wait["fifo"]["hog"] < wait["fair"]["hog"] < wait["quota"]["hog"] / 2, "the hog's place is between"
assert figures["fair"].end_ms < 1.2 * figures["fifo"].end_ms, "the machines are as busy as under fifo"
assert 0 < figures["fair"].lost_part < 0.05, "the price is small"
assert not any(f.failed or f.never_started for f in figures.values())
"""


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_the_notebook_runs_and_what_it_claims_holds(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS))
    client = NotebookClient(
        notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )

    client.execute()


def test_the_notebook_is_kept_executed_with_its_plots(notebook: Any) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]

    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in shown if output.output_type == "error"]
    assert len([output for output in shown if "image/png" in output.get("data", {})]) == 2


def test_the_notebook_tells_nothing_of_the_machine_it_was_made_on() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    for cell in json.loads(text)["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, "times of execution belong to no reader"

    assert not re.search(r"/(home|root|tmp|work|Users|usr|var)/", text)
