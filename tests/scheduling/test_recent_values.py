"""Values that are removed when they were not used for long."""

from cook_jupyter.scheduling.limits.recent_values import FEW, MAX_UNUSED_ROUNDS, RecentValues


def test_few_values_are_kept_even_if_they_are_not_used() -> None:
    values: RecentValues[int, str] = RecentValues()
    values.get(1, str)

    assert not any(values.next_round() for _ in range(3 * MAX_UNUSED_ROUNDS))
    assert 1 in values


def test_of_many_values_those_that_were_not_used_for_long_are_removed() -> None:
    values: RecentValues[int, str] = RecentValues()
    for key in range(FEW + 1):
        values.get(key, str)
    for _ in range(3 * MAX_UNUSED_ROUNDS):
        values.get(0, str)
        values.next_round()

    assert [key for key, _ in values.items()] == [0]
