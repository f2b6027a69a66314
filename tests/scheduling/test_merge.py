import random
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.scheduling.ranking.merge import merge_order
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
def test_lists_are_merged_as_if_merge_by_sorting_repeatedly_element(lists: list[list[float]]) -> None:
    assert _merged(lists) == _merge_by_sorting_repeatedly(lists)


@pytest.mark.parametrize("seed", range(20))
def test_hundreds_of_lists_are_merged_in_the_same_way(seed: int) -> None:
    rng = random.Random(seed)
    scores = range(rng.choice([1, 2, 4]))
    lists: list[list[float]] = [
        sorted(map(float, rng.choices(scores, k=rng.randint(0, 4)))) for _ in range(rng.randint(24, 200))
    ]
    assert _merged(lists) == _merge_by_sorting_repeatedly(lists)


@pytest.mark.parametrize("seed", range(150))
def test_a_few_lists_that_tie_again_and_again_are_merged_so_too(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [sorted(map(float, rng.choices(range(6), k=rng.randint(1, 8)))) for _ in range(2)]
    lists = [
        kind[rng.choice((0, 0, 0, 1)) : len(kind) - rng.choice((0, 0, 0, 1))]
        for kind in rng.choices(kinds, k=rng.randint(2, 9))
    ]
    assert _merged(lists) == _merge_by_sorting_repeatedly(lists)


def test_lists_that_were_never_served_keep_their_starting_order_in_a_wide_tie() -> None:
    # 30 lists tie at 1.0; some have been served together at 0.0, the others not at all.
    lists = [[0.0, 1.0] if number % 3 == 0 else [1.0] for number in range(30)]
    assert _merged(lists) == _merge_by_sorting_repeatedly(lists)


def _merged(lists: list[list[float]]) -> list[int]:
    """Positions of the elements in merged order, the lists standing one behind the other."""
    lengths = np.array([len(scores) for scores in lists], dtype=np.int64)
    scores = np.array([score for scores in lists for score in scores], dtype=np.float64)
    order: list[int] = merge_order(scores, lengths).tolist()
    return order


def _merge_by_sorting_repeatedly(lists: list[list[float]]) -> list[int]:
    waiting = [[(score, number, at) for at, score in enumerate(item)] for number, item in enumerate(lists)]
    waiting = [item for item in waiting if item]
    expected = []
    while waiting:
        waiting.sort(key=lambda item: item[0][0])
        served = waiting.pop(0)
        expected.append(served.pop(0)[1:])
        if served:
            waiting.insert(0, served)

    begins = np.cumsum([0, *map(len, lists)]).tolist()
    return [begins[number] + at for number, at in expected]
