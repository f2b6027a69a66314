"""The page on preemption says what is true: its examples run."""

from pathlib import Path

from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings
from cook_jupyter.service.settings.tables import RebalancerSettings
from tests.docs.page import run_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "preemption.md"


def test_its_examples_print_what_it_shows() -> None:
    assert run_page(PAGE) == 5


def test_its_table_has_both_values_of_each_setting() -> None:
    ours, cooks = RebalancerSettings(), RebalancerSettings.cook()
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.replace("`", "").split("|") for line in lines if line.startswith("| `")]
    result = {name.strip(): (here.strip(), cook.strip()) for _, name, here, cook, *_ in rows}

    assert result == {name: (_told(getattr(ours, name)), _told(getattr(cooks, name))) for name in result}
    decisions = (PreemptionSettings(), PreemptionSettings.cook())
    fields = PreemptionSettings.__dataclass_fields__
    differing = {name for name in fields if len({_told(getattr(item, name)) for item in decisions}) > 1}
    assert differing <= set(result)


def _told(value: object) -> str:
    return str(value).lower()
