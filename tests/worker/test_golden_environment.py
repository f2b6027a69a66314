"""What Cook's executor is told, case by case."""

from typing import Any

import pytest

from cook_jupyter.worker.environment import ExecutorSettings, executor_environment
from tests.golden.cases import cases

NAMES = {
    "default_progress_regex": "progress_regex",
    "default_progress_regex_string": "progress_regex",
    "progress_sample_interval_ms": "progress_sample_ms",
}


@pytest.mark.parametrize(("given", "expect"), cases("executor_env"))
def test_cooks_executor_is_told_the_same(given: dict[str, Any], expect: dict[str, Any]) -> None:
    settings = ExecutorSettings(**{NAMES.get(name, name): value for name, value in given["config"].items()})
    job = given["job"]
    told = executor_environment(
        settings, progress_file=job.get("progress_output_file"), progress_regex=job.get("progress_regex")
    )
    assert told == {name: str(value) for name, value in expect["environment"].items()}


def test_what_the_operator_adds_gives_way_to_what_the_executor_needs() -> None:
    settings = ExecutorSettings(environment={"TZ": "UTC", "EXECUTOR_LOG_LEVEL": "NOISE"}, log_level="INFO")
    told = executor_environment(settings)
    assert told["TZ"] == "UTC"
    assert told["EXECUTOR_LOG_LEVEL"] == "INFO"
