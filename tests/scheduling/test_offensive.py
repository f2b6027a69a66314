import pytest

from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.limits.offensive import excess_of


@pytest.mark.parametrize(
    ("cpus", "mem_mb", "too_much"),
    [
        (4.0, 12288.0, {}),
        (4.5, 12288.0, {"cpus": {"limit": 4.0, "usage": 4.5}}),
        (1.0, 12289.0, {"mem": {"limit": 12288.0, "usage": 12289.0}}),
    ],
)
def test_an_offensive_job_is_reported_with_the_limits_that_it_exceeds(
    cpus: float, mem_mb: float, too_much: dict[str, dict[str, float]]
) -> None:
    requested = Resources(cpus=cpus, mem_mb=mem_mb)
    assert excess_of(requested, max_cpus=4.0, max_mem_mb=12288.0) == too_much
    assert excess_of(requested, max_cpus=None, max_mem_mb=None) == {}
