"""The page on preemption says what is true: its examples run."""

from pathlib import Path

from cook_jupyter.scheduling.preemption import PreemptionSettings
from tests.docs.page import run_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "preemption.md"


def test_its_examples_print_what_it_shows() -> None:
    assert run_page(PAGE) == 5


def test_its_table_has_both_values_of_each_setting() -> None:
    ours, cooks = PreemptionSettings(), PreemptionSettings.cook()
    different = {
        name: (getattr(ours, name), getattr(cooks, name))
        for name in PreemptionSettings.__dataclass_fields__
        if getattr(ours, name) != getattr(cooks, name)
    }
    rows = [
        line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    told = {name.strip(" `"): (here.strip(" `"), cook.strip(" `")) for _, name, here, cook, *_ in rows}

    del told["reservations"]  # of the service: it keeps the table
    assert told == {name: (str(a).lower(), str(b).lower()) for name, (a, b) in different.items()}
