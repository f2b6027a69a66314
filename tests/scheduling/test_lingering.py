import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS
from cook_jupyter.scheduling.limits.lingering import TimedTask, lingering_tasks, runtime_limit_ms

optional_ms = st.none() | st.integers(0, 1000)


@pytest.mark.parametrize(
    ("own", "cap", "default", "longest"),
    [
        (50, 100, None, 50),
        (500, 100, None, 100),
        (None, 100, 20, 20),
        (None, 100, 200, 100),
        (None, 100, None, 100),
        (UNLIMITED_RUNTIME_MS, None, None, UNLIMITED_RUNTIME_MS),
        (None, None, None, None),
    ],
)
def test_the_limit_of_a_task_is_that_of_its_job_or_the_cap_if_lower(
    own: int | None, cap: int | None, default: int | None, longest: int | None
) -> None:
    assert runtime_limit_ms(own, cap_ms=cap, default_ms=default) == longest


@given(own=optional_ms, cap=optional_ms, default=optional_ms, age=st.integers(0, 2000))
def test_a_task_lingers_only_past_its_limit(
    own: int | None, cap: int | None, default: int | None, age: int
) -> None:
    actual = lingering_tasks([TimedTask(InstanceId("t"), 10, own)], 10 + age, cap_ms=cap, default_ms=default)
    longest = runtime_limit_ms(own, cap_ms=cap, default_ms=default)
    assert actual == (["t"] if longest is not None and age > longest else [])
