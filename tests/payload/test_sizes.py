"""Arguments and results arrive whatever their size: sizes lie around every threshold that decides a route."""

import array
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cook_jupyter.payload import blobs, calls, encoding, pickling
from cook_jupyter.payload.requirements import CALL
from tests.payload.conftest import CallHarness

THRESHOLDS = (
    1,
    pickling.MIN_FRAME_BYTES,
    encoding.INLINE_CALL_BYTES,
    calls.INLINE_RESULT_BYTES,
    calls._CACHED_FUNCTION_MAX_BYTES,
    blobs._SMALLEST_MAPPED,
    1024 * 1024,
)
SIZES = st.one_of(
    st.sampled_from(THRESHOLDS).flatmap(lambda size: st.integers(max(0, size - 1500), size + 64)),
    st.sampled_from((2 * 1024 * 1024, 4 * 1024 * 1024)),
)
KINDS: dict[str, Callable[[int], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "text": lambda size: "x" * size,
    "C order": lambda size: np.arange(size // 8, dtype=float),
    "Fortran order": lambda size: np.asfortranarray(np.ones((max(1, size // 16), 2))),
    "every other": lambda size: np.arange(size // 4, dtype=float)[::2],
    "reversed": lambda size: np.arange(size // 8)[::-1],
    "no dimension": lambda size: np.array(float(size)),
    "empty": lambda _: np.empty((0, 3)),
    "structured": lambda size: np.zeros(size // 12, dtype=[("a", "i4"), ("b", "f8")]),
    "dates": lambda size: np.zeros(size // 8, dtype="datetime64[ns]"),
    "booleans": lambda size: np.ones(size, dtype=bool),
    "objects": lambda size: np.array([None, "x"] * (size // 400), dtype=object),
    "read only": lambda size: np.frombuffer(bytes(size), dtype=np.uint8),
    "frame": lambda size: pd.DataFrame({"a": np.arange(size // 16), "b": 1.5}),
    "series of dates": lambda size: pd.Series(pd.date_range("2020", periods=size // 8 % 5000)),
    "array.array": lambda size: array.array("d", bytes(size // 8 * 8)),
    "many small": lambda size: [np.full(100, number) for number in range(size // 800 % 500)],
    "small and large": lambda size: (np.zeros(4), bytes(size), np.zeros(size // 8), [np.ones(size // 8)]),
}


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal in type and content."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, pd.DataFrame | pd.Series):
        return left.equals(right)
    return bool(left == right)


@pytest.fixture(scope="module", params=[0o700, 0o770], ids=["private store", "shared store"])
def route_desk(request: pytest.FixtureRequest) -> Iterator[CallHarness]:
    """A desk whose blobs lie in a folder for this user alone, or for a group."""
    with tempfile.TemporaryDirectory() as folder:
        harness = CallHarness(Path(folder))
        Path(harness.store.url).chmod(request.param)
        yield harness
        harness.close()


def echo(*args: Any) -> Any:
    return args


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), SIZES), min_size=1, max_size=3))
def test_arguments_and_results_of_any_size_and_kind_arrive(
    route_desk: CallHarness, drawn: list[tuple[str, int]]
) -> None:
    args = tuple(KINDS[kind](size) for kind, size in drawn)

    result = route_desk.call(echo, *args)

    assert result.error is None
    assert same(result.value, args)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), SIZES), min_size=1, max_size=3))
def test_bundles_of_arguments_of_any_size_and_kind_arrive(
    route_desk: CallHarness, drawn: list[tuple[str, int]]
) -> None:
    args = [KINDS[kind](size) for kind, size in drawn]

    result = route_desk.bundle(lambda value: value, args)

    assert result.error is None
    assert same(result.value, args)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(KINDS)), SIZES)
def test_captured_values_of_any_size_and_kind_arrive(route_desk: CallHarness, kind: str, size: int) -> None:
    captured = KINDS[kind](size)

    result = route_desk.call(lambda: captured)

    assert result.error is None
    assert same(result.value, captured)


@pytest.mark.parametrize("size", [32_000, 32_768, 40_320, 47_000])
def test_a_call_that_is_small_enough_travels_inline_whatever_its_buffers(
    route_desk: CallHarness, size: int
) -> None:
    environment, job_id = route_desk.encode(len, (np.zeros(size, dtype=np.uint8),), {})

    assert CALL in environment
    assert route_desk.run(environment, job_id).value == size
