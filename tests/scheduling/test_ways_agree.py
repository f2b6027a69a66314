import pytest

from tests.scheduling.ways_agree import report

IN_CI = 2000
AT_ONCE = 100


@pytest.mark.parametrize("first", range(0, IN_CI, AT_ONCE))
def test_all_implementations_decide_as_specified(first: int) -> None:
    """A failure prints the seed and a small world; `python -m tests.scheduling.ways_agree` looks further."""
    failures = filter(None, map(report, range(first, first + AT_ONCE)))
    failure = next(failures, None)
    assert failure is None, failure
