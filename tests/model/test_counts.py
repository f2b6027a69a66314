import pytest

from cook_jupyter.model.counts import counted


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 jobs"),
        (1, "1 job"),
        (0.5, "0.5 jobs"),
        (2, "2 jobs"),
        (2000, "2,000 jobs"),
        (1e9 + 1, "1,000,000,001 jobs"),
    ],
)
def test_a_count_is_followed_by_its_noun_in_singular_or_plural(count: float, text: str) -> None:
    assert counted(count, "job") == text
