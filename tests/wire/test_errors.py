"""Errors go over the wire and come back as what they were."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter import errors
from cook_jupyter.errors import CookError, InvalidRequest, NotFound
from cook_jupyter.wire.errors import encode_error, error_of, format_error_tree, status_of

TRAVELLING = [
    errors.InvalidRequest,
    errors.TooLarge,
    errors.Unsatisfiable,
    errors.NotFound,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.Conflict,
    errors.IllegalTransition,
    errors.QuotaExceeded,
    errors.SchedulerError,
    errors.StoreFull,
    errors.StoreBusy,
    errors.StoreDamaged,
    errors.OutOfStep,
]


@pytest.mark.parametrize("kind", TRAVELLING)
def test_the_client_raises_the_class_that_the_scheduler_raised(kind: type[CookError]) -> None:
    raised = kind("there is no room")

    back = error_of(status_of(raised), encode_error(raised), kind.__name__)

    assert type(back) is kind
    assert str(back) == "there is no room"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.TooLarge),
        (422, errors.QuotaExceeded),
        (431, errors.TooLarge),
        (500, errors.SchedulerError),
        (502, errors.SchedulerError),
        (503, errors.SchedulerUnreachable),
        (507, errors.StoreFull),
    ],
)
def test_of_an_original_cook_the_status_tells_the_class(status: int, kind: type[CookError]) -> None:
    assert type(error_of(status, b'{"error":"text"}')) is kind


def test_an_error_tree_survives_the_way_and_is_told_in_one_line() -> None:
    tree = {"jobs": [None, {"disk": {"request": "missing-required-key"}}]}
    raised = InvalidRequest("wrong", tree=tree)

    back = error_of(400, encode_error(raised))

    assert isinstance(back, InvalidRequest)
    assert back.tree == tree
    assert str(back) == "jobs[1].disk.request: missing-required-key"


def test_what_was_not_found_is_read_from_the_text() -> None:
    uuid = "d8f6b4a2-0000-4000-8000-123456789abc"
    back = error_of(404, msgspec.json.encode({"error": f"unknown:\n{uuid}"}))
    assert isinstance(back, NotFound)
    assert back.missing == (uuid,)


def test_a_text_body_is_taken_as_it_is() -> None:
    assert str(error_of(403, b"Cross origin request denied from x")) == "Cross origin request denied from x"


def test_an_empty_body_still_says_something() -> None:
    assert str(error_of(502, b"")) == "the scheduler answered with status 502"


@given(status=st.integers(400, 599), body=st.binary(max_size=200), name=st.none() | st.text(max_size=20))
def test_any_answer_makes_an_error(status: int, body: bytes, name: str | None) -> None:
    assert isinstance(error_of(status, body, name), CookError)


@given(
    st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_tree_can_be_format_error_treed(tree: object) -> None:
    assert format_error_tree(tree)
