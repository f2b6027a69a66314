from importlib import import_module
from pathlib import Path

import pytest

from tests.golden import cases

ROOT = Path(__file__).parents[2]
TOPICS = sorted({path.stem for path in cases.HOME.rglob("*.json")})


@pytest.fixture(scope="module")
def taken() -> set[str]:
    """The ids of all cases that some test of the suite takes."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "golden.cases import" in path.read_text():
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return cases.taken


@pytest.mark.parametrize("topic", TOPICS)
def test_every_golden_case_is_taken_by_a_test(topic: str, taken: set[str]) -> None:
    assert [case["id"] for case in cases.in_files(topic) if case["id"] not in taken] == []


def test_no_two_golden_cases_have_one_id() -> None:
    ids = [case["id"] for topic in TOPICS for case in cases.in_files(topic)]
    assert len(ids) == len(set(ids))


def test_a_case_counts_once_and_only_if_it_passed_everywhere() -> None:
    result = [
        ("test_a.py::test_one[columnar-dru-01 a title]", True),
        ("test_a.py::test_one[lazily-dru-01 a title]", False),
        ("test_b.py::test_two[qf-03 another, as in mat-09]", True),
        ("test_b.py::test_two[in columns-our-dru-01 next to dru-01]", True),
    ]
    assert cases.counted(result) == ((1, 2), (1, 1))
