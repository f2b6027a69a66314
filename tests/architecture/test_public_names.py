"""The public names of `cook_jupyter`, and the modules that define them."""

import importlib

import pytest

import cook_jupyter


@pytest.mark.parametrize("name", sorted(cook_jupyter.__all__))
def test_every_public_name_can_be_fetched(name: str) -> None:
    assert getattr(cook_jupyter, name) is not None


def test_every_public_name_is_listed_by_dir() -> None:
    assert set(cook_jupyter.__all__) <= set(dir(cook_jupyter))


def test_the_executor_is_that_of_its_own_package() -> None:
    assert cook_jupyter.CookExecutor is importlib.import_module("cook_jupyter.executor").CookExecutor


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = cook_jupyter.no_such_name
