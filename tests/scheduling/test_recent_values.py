"""Values that are removed when they were not used for long."""

import pytest

from cook_jupyter.scheduling.limits.recent_values import FEW, MAX_UNUSED_ROUNDS, RecentValues


def test_few_values_are_kept_even_if_they_are_not_used() -> None:
    values: RecentValues[int, str] = RecentValues()
    values.get(1, str)

    assert not any(values.next_round() for _ in range(3 * MAX_UNUSED_ROUNDS))
    assert 1 in values


@pytest.mark.parametrize(("number", "stays"), [(FEW, True), (FEW + 1, False)])
def test_a_value_is_removed_at_the_second_turn_at_which_it_was_not_used(number: int, stays: bool) -> None:
    values: RecentValues[int, str] = RecentValues()
    for key in range(number):
        values.get(key, str)
    removed = [values.next_round() for _ in range(2 * MAX_UNUSED_ROUNDS)]
    assert removed == [False] * (2 * MAX_UNUSED_ROUNDS - 1) + [not stays]
    assert (len(values) == number) is stays


def test_a_replaced_value_is_read_in_place_of_the_old_one_but_was_not_used() -> None:
    values: RecentValues[int, str] = RecentValues()
    for key in range(FEW + 1):
        values.get(key, str)
    for _ in range(2 * MAX_UNUSED_ROUNDS):
        values.replace(1, "new")
        assert values.get(0, str) == ""
        assert dict(values.items())[1] == "new"
        values.next_round()
    assert [key for key, _ in values.items()] == [0]


def test_what_was_cleared_is_made_anew_and_is_not_removed_with_what_was_there() -> None:
    values: RecentValues[int, str] = RecentValues()
    for key in range(FEW + 1):
        values.get(key, str)
    values.clear()
    assert (len(values), 0 in values) == (0, False)
    for key in range(FEW + 1, 2 * FEW + 3):
        assert values.get(key, lambda: "again") == "again"
    for _ in range(2 * MAX_UNUSED_ROUNDS):
        values.next_round()
    assert len(values) == 0


def test_of_many_values_those_that_were_not_used_for_long_are_removed() -> None:
    values: RecentValues[int, str] = RecentValues()
    for key in range(FEW + 1):
        values.get(key, str)
    for _ in range(3 * MAX_UNUSED_ROUNDS):
        values.get(0, str)
        values.next_round()

    assert [key for key, _ in values.items()] == [0]
