"""A golden case fails where its driver passes over one of its words."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.golden.cases import forget_reading, ignore, unknown_words
from tests.golden.words import Words, watched

CASE: dict[str, Any] = {"op": "x", "jobs": [{"seq": 1, "user": "u"}, {"seq": 2}], "pool": {"name": "p"}}


def ignoring(case: Words) -> object:
    ignore(case, "op", "jobs")
    return case["pool"]["name"]


def read(driver: Callable[[Words], object]) -> list[str]:
    """Return what a driver leaves unread of the case."""
    case = watched(CASE)
    driver(case)
    return unknown_words([case])


@pytest.mark.parametrize(
    ("driver", "unknown"),
    [
        (lambda case: None, ["jobs", "op", "pool"]),
        (lambda case: (case["op"], case.get("pool"), "jobs" in case), ["jobs.seq", "jobs.user", "pool.name"]),
        (lambda case: [job["seq"] for job in case["jobs"]], ["jobs.user", "op", "pool"]),
        (lambda case: [{**job} for job in (*case["jobs"], case["pool"])], ["op"]),
        (dict, ["jobs.seq", "jobs.user", "pool.name"]),
        (lambda case: list(case.items()), ["jobs.seq", "jobs.user", "pool.name"]),
        (lambda case: case == CASE, []),
        (lambda case: case["pool"] != {}, ["jobs", "op"]),
        (ignoring, ["jobs.seq", "jobs.user"]),
    ],
)
def test_what_a_driver_does_not_read_is_named(driver: Callable[[Words], object], unknown: list[str]) -> None:
    assert read(driver) == unknown


def test_a_word_is_read_anew_in_each_test() -> None:
    case = watched(CASE)
    assert case == CASE
    assert unknown_words([case]) == []

    forget_reading([case, "columnar"])

    assert unknown_words([case]) == ["jobs", "op", "pool"]


def test_what_the_choice_of_a_driver_has_read_counts_as_read() -> None:
    assert unknown_words([watched({"op": "x"}, ["op"])]) == []
