"""Options that are refused when they are set, and numbers of other kinds."""

import enum
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cook_jupyter.errors import CookError, InvalidRequest
from cook_jupyter.executor.executor import CookExecutor
from cook_jupyter.executor.groups import Group
from cook_jupyter.executor.options import Options


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"mem_mb": np.int64(200)}, 200),
        ({"cpus": np.float32(0.5)}, 0.5),
        ({"cpus": np.float64(1)}, 1.0),
        ({"cpus": Fraction(1, 2)}, 0.5),
        ({"mem_mb": Decimal(200)}, 200.0),
        ({"retries": np.int8(1)}, 1),
        ({"priority": np.uint8(5)}, 5),
        ({"gpus": np.int64(0)}, 0),
        ({"gpus": 0.0}, 0),
        ({"priority": np.float64(5)}, 5),
        ({"priority": Decimal(5)}, 5),
        ({"retries": Fraction(2, 1)}, 2),
        ({"max_runtime_s": np.int64(10)}, 10),
        ({"expected_runtime_s": np.float16(2)}, 2.0),
    ],
)
def test_numbers_of_any_library_are_numbers(options: dict[str, Any], plain: float) -> None:
    (name,) = options
    value = getattr(Options(**options), name)

    assert value == plain
    assert type(value) in (int, float)  # what JSON knows


@pytest.mark.parametrize(
    "name", ["cpus", "mem_mb", "max_runtime_s", "expected_runtime_s", "gpus", "retries", "priority"]
)
@pytest.mark.parametrize(
    ("value", "builtin"),
    [
        (-1, ValueError),
        (np.int64(-1), ValueError),
        (True, TypeError),
        (np.bool_(True), TypeError),
        ("1", TypeError),
        (np.str_("1"), TypeError),
        (1j, TypeError),
        ([1], TypeError),
        (np.array([1]), TypeError),
    ],
)
def test_what_is_no_number_is_refused_by_the_names_of_the_standard_library(
    name: str, value: Any, builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match=name) as raised:
        Options(**{name: value})
    assert isinstance(raised.value, CookError)


@pytest.mark.parametrize("name", ["gpus", "retries", "priority"])
@pytest.mark.parametrize(
    "value", [1.5, np.float32(0.5), Decimal("0.5"), float("nan"), float("inf"), Decimal("NaN")]
)
def test_a_number_that_is_not_whole_is_refused_where_a_whole_one_is_wanted(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number"):
        Options(**{name: value})


class Stage(enum.StrEnum):
    FIT = "fit"


@pytest.mark.parametrize("text", [np.str_("fit"), Stage.FIT])
def test_texts_of_any_library_are_texts(text: str) -> None:
    options = Options(name=text, pool=text, env={text: text}, labels={text: text}, constraints={text: text})

    assert msgspec.json.encode([options.name, options.pool, options.env, options.labels, options.constraints])
    assert options.name == options.pool == options.labels["fit"] == "fit"
    assert {type(value) for value in (options.name, options.pool, *options.env, *options.env.values())} == {
        str
    }


@pytest.mark.parametrize("name", ["env", "labels", "constraints"])
@pytest.mark.parametrize("value", [["a"], "ab", 3, {"a": 3}, {3: "a"}, {"a": None}, [("a", "b")]])
def test_what_does_not_map_texts_to_texts_is_refused_by_the_names_of_the_standard_library(
    name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"{name} must map strings to strings") as raised:
        CookExecutor(**{name: value})
    assert isinstance(raised.value, InvalidRequest)


@pytest.mark.parametrize("value", [3, b"gpu", ["gpu"]])
def test_a_pool_that_is_no_text_is_refused_in_words(value: Any) -> None:
    with pytest.raises(TypeError, match="pool must be a string"):
        Options(pool=value)


ODD_VALUES: list[Any] = [
    "no",
    "",
    b"x",
    None,
    True,
    np.bool_(False),
    0,
    -1,
    3,
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    Decimal("sNaN"),
    np.int64(3),
    np.array([1, 2]),
    [],
    ["a"],
    {"a"},
    {"a": "b"},
    {"a": 3},
    "a\0b",
    "\ud800",
    object(),
]
PLAIN = (str, int, float, bool, dict, tuple, type(None))


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", Options.__slots__)
def test_each_option_takes_an_odd_value_as_something_plain_or_refuses_it_by_name(
    name: str, value: Any
) -> None:
    try:
        options = Options(**{name: value})
    except InvalidRequest:
        with pytest.raises(InvalidRequest, match=name):
            Options(**{name: value})
    else:
        assert type(getattr(options, name)) in PLAIN
        assert msgspec.json.encode(options.job("session", "true"))


@pytest.mark.parametrize("value", [True, False, np.bool_(True), np.bool_(False)])
def test_detached_is_true_or_false(value: Any) -> None:
    assert Options(detached=value).detached is bool(value)


@pytest.mark.parametrize("value", ["no", "", "False", 0, 1, None])
def test_what_is_neither_true_nor_false_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="detached must be True or False"):
        Options(detached=value)


def test_an_empty_pool_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match="omit it for the scheduler's default"):
        Options(pool="")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"minimum": 1.5, "placement": "balanced", "attribute": "rack"}, "minimum must be a whole number"),
        ({"minimum": True, "placement": "balanced", "attribute": "rack"}, "minimum must be a whole number"),
        ({"attribute": 3, "placement": "balanced", "minimum": 2}, "attribute must be a string"),
        ({"name": 3}, "name must be a string"),
        ({"stragglers": 3}, "stragglers must be"),
        ({"stragglers": "ab"}, "stragglers must be"),
        ({"stragglers": (0.5, float("nan"))}, "must be a number above zero"),
        ({"stragglers": (0.5, "3")}, "must be a number above zero"),
        ({"stragglers": (0.5, 3, 4)}, "stragglers must be"),
    ],
    ids=str,
)
def test_the_parts_of_a_group_are_checked_like_options(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Group(**wrong)


def test_the_parts_of_a_group_may_be_numbers_of_any_library() -> None:
    group = Group(placement="balanced", attribute=np.str_("rack"), minimum=np.int64(2), stragglers=(0.5, 3))  # type: ignore[arg-type]

    assert msgspec.json.encode(group.submission())


@pytest.mark.parametrize("client", [3, b"http://127.0.0.1:1", ["http://127.0.0.1:1"], object()])
def test_what_is_neither_a_client_nor_a_url_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="client must be a JobClient or the URL of a scheduler"):
        CookExecutor(client)


@pytest.mark.parametrize("user", ["", " ", 3, True, b"ada", "a\nb"])
def test_a_user_that_names_nobody_is_refused_before_anything_is_started(user: Any, cook_home: Path) -> None:
    with pytest.raises(InvalidRequest, match="user name"):
        CookExecutor(user=user)
    assert not cook_home.exists() or not any(cook_home.iterdir())


@pytest.mark.parametrize("value", [float("nan"), np.float64("inf"), Decimal("NaN"), 0, 0.0])
def test_amounts_are_finite_and_above_zero(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="above zero"):
        Options(cpus=value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fit 1", "contains ' ': .* such as 'fit-1'"),
        ("\u00e9valuation", "contains '\u00e9'"),
        ("<lambda>", "contains '<', '>'.* such as 'lambda'"),
        ("x\n", "contains"),
        ("\u20ac", "contains '\u20ac'"),
        ("x" * 129, "129 characters"),
        (3, "must be a string"),
        (b"fit", "must be a string"),
    ],
)
def test_a_name_that_no_job_can_have_is_refused_in_words_with_one_that_can(name: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Options(name=name)


@pytest.mark.parametrize("name", ["fit-1", "Fit_1.2", "x" * 128, "", None])
def test_a_name_by_cooks_rule_is_taken(name: str | None) -> None:
    assert Options(name=name).name == name
