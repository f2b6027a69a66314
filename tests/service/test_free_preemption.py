"""A preempted job uses up no attempt, however often; unless the settings are Cook's."""

from pathlib import Path

import pytest

from cook_jupyter.model.lifecycle import attempts_of_reasons
from cook_jupyter.model.reason import KILLED_EXTERNALLY, PREEMPTED
from cook_jupyter.service.settings.loading import load_settings

OFTEN = 9


def test_preemption_costs_no_retry_however_often_it_happens() -> None:
    settings = load_settings(None)

    assert attempts_of_reasons([PREEMPTED] * OFTEN, mea_culpa_limits=settings.jobs.free_failures) == 0
    assert (
        attempts_of_reasons([KILLED_EXTERNALLY] * OFTEN, mea_culpa_limits=settings.jobs.free_failures)
        == OFTEN - 5
    )


@pytest.mark.parametrize(
    ("said", "counted"), [("{}", OFTEN - 5), ("{preempted-by-rebalancer = 2}", OFTEN - 2)]
)
def test_an_operator_may_count_preemptions(tmp_path: Path, said: str, counted: int) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"mea_culpa_limits = {said}\n")

    assert (
        attempts_of_reasons([PREEMPTED] * OFTEN, mea_culpa_limits=load_settings(file).jobs.free_failures)
        == counted
    )
