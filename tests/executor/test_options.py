"""Options that are refused when they are set, and numbers of other kinds."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cook_jupyter.errors import CookError, InvalidRequest
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
        (3, "must be a text"),
        (b"fit", "must be a text"),
    ],
)
def test_a_name_that_no_job_can_have_is_refused_in_words_with_one_that_can(name: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Options(name=name)


@pytest.mark.parametrize("name", ["fit-1", "Fit_1.2", "x" * 128, "", None])
def test_a_name_by_cooks_rule_is_taken(name: str | None) -> None:
    assert Options(name=name).name == name
