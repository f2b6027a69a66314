"""A quick value is the frozen dataclass that it was, only made faster."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from cook_jupyter.model.fast_dataclass import evolve, fast_constructor, fast_init
from tests.builders import an_instance


def a_place_class() -> type[Any]:
    @fast_init
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Place:
        """Something with each kind of field."""

        name: str
        size: int = 1
        tags: dict[str, str] = field(default_factory=dict)

        @property
        def doubled(self) -> int:
            return 2 * self.size

    return Place


@pytest.fixture(params=["class", "constructor"])
def place(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Both ways to construct a value of such a class."""
    cls = a_place_class()
    return cls if request.param == "class" else fast_constructor(cls)


def test_it_is_made_with_its_defaults(place: Callable[..., Any]) -> None:
    one, other = place(name="a"), place(name="a")

    assert type(one).__name__ == "Place"
    assert (one.name, one.size, one.tags, one.doubled) == ("a", 1, {}, 2)
    assert one == other
    assert one.tags is not other.tags
    assert repr(one).endswith("Place(name='a', size=1, tags={})")


def test_it_cannot_be_changed(place: Callable[..., Any]) -> None:
    for one in (place(name="a"), evolve(place(name="a"), size=3)):
        with pytest.raises(FrozenInstanceError):
            one.size = 4


def test_it_wants_what_has_no_default_and_nothing_else(place: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"Place.*name"):
        place()
    with pytest.raises(TypeError, match=r"Place.*colour"):
        place(name="a", colour="red")
    with pytest.raises(TypeError, match="Place"):
        place("a")


def test_evolve_changes_what_it_is_told_to_and_leaves_the_old_one_alone(place: Callable[..., Any]) -> None:
    before = place(name="a", size=2, tags={"x": "y"})

    after = evolve(before, size=3)

    assert after == replace(before, size=3) == place(name="a", size=3, tags={"x": "y"})
    assert type(after) is type(before)
    assert before.size == 2
    with pytest.raises(AttributeError):
        evolve(before, colour="red")


def test_it_is_copied_and_pickled_as_any_dataclass() -> None:
    instance = an_instance(ports=(1, 2))

    assert copy.deepcopy(instance) == instance
    assert pickle.loads(pickle.dumps(instance)) == instance
