"""The page on preemption is correct: its examples run."""

from pathlib import Path

from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings
from cook_jupyter.service.settings.tables import RebalancerSettings
from tests.docs.page import run_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "preemption.md"


def test_the_examples_of_the_page_print_the_shown_output() -> None:
    assert run_page(PAGE) == 5


def test_the_table_of_the_page_has_both_values_of_each_setting() -> None:
    ours, cooks = RebalancerSettings(), RebalancerSettings.cook()
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.replace("`", "").split("|") for line in lines if line.startswith("| `")]
    result = {name.strip(): (here.strip(), cook.strip()) for _, name, here, cook, *_ in rows}

    assert result == {
        name: (_as_text(getattr(ours, name)), _as_text(getattr(cooks, name))) for name in result
    }
    decisions = (PreemptionSettings(), PreemptionSettings.cook())
    fields = PreemptionSettings.__dataclass_fields__
    differing = {name for name in fields if len({_as_text(getattr(item, name)) for item in decisions}) > 1}
    assert differing <= set(result)


def _as_text(value: object) -> str:
    return str(value).lower()
