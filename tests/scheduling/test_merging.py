from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.scheduling.merging import merged
from tests.scheduling.strategies import on_snapshots


@st.composite
def lists_that_tie(draw: st.DrawFn) -> list[list[float]]:
    """Lists of which many are the same or begin alike."""
    steps = st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.0]), max_size=8)
    kinds = [list(accumulate(draw(steps))) for _ in range(draw(st.integers(1, 3)))]
    return [
        kind[: draw(st.integers(0, len(kind)))] if draw(st.booleans()) else kind
        for kind in draw(st.lists(st.sampled_from(kinds), max_size=40))
    ]


@on_snapshots
@given(lists=lists_that_tie())
def test_lists_are_merged_as_if_sorted_again_after_each_element(lists: list[list[float]]) -> None:
    waiting = [[(score, number, at) for at, score in enumerate(each)] for number, each in enumerate(lists)]
    waiting = [each for each in waiting if each]
    expected = []
    while waiting:
        waiting.sort(key=lambda each: each[0][0])
        served = waiting.pop(0)
        expected.append(served.pop(0)[1:])
        if served:
            waiting.insert(0, served)

    lengths = np.array([len(each) for each in lists], dtype=np.int64)
    order = merged(np.array([score for each in lists for score in each], dtype=np.float64), lengths)

    begins = np.cumsum(lengths) - lengths
    assert order.tolist() == [begins[number] + at for number, at in expected]
