"""The mutants are those that they are said to be."""

from tests.mutation.mutations import mutants_of
from tests.mutation.report import Result, summary
from tests.mutation.runner import Killers

SOURCE = '''
LIMIT = 3

def is_small(number: int, *, limit: int = LIMIT) -> bool:
    """Return whether a number is small."""
    return number < limit and not number == 13

class Counter:
    def add(self, number: int) -> None:
        if number:
            self.total += number
'''


def test_functions_and_methods_are_changed_in_one_place_each() -> None:
    changes = [(each.function, each.before, each.after) for each in mutants_of("small.py", SOURCE)]

    assert ("is_small", "number < limit", "number <= limit") in changes
    assert ("is_small", "number == 13", "number != 13") in changes
    assert ("is_small", "not number == 13", "number == 13") in changes
    assert ("is_small", "13", "14") in changes
    assert ("Counter.add", "self.total += number", "self.total -= number") in changes
    assert ("Counter.add", "self.total += number", "pass") in changes
    assert any(after.startswith("if not number:") for _, _, after in changes)


def test_declarations_and_docstrings_stay() -> None:
    changes = [each.before for each in mutants_of("small.py", SOURCE)]

    assert not any("LIMIT" in before or "Return whether" in before for before in changes)


def test_docstrings_of_inner_functions_stay() -> None:
    source = 'def outer():\n    def inner():\n        """Return one."""\n        return 1\n    return inner\n'

    assert not [each for each in mutants_of("inner.py", source) if "Return one" in each.before]


def test_the_code_of_a_mutant_does_what_its_change_says() -> None:
    namespace: dict[str, object] = {}
    exec(compile(SOURCE, "small.py", "exec"), namespace)
    function = namespace["is_small"]
    (mutant,) = [each for each in mutants_of("small.py", SOURCE) if each.after == "number <= limit"]

    function.__code__ = mutant.code  # type: ignore[attr-defined]

    assert function(3)  # type: ignore[operator]


def test_a_mutant_is_told_from_equal_changes_of_its_function() -> None:
    source = "def double(x):\n    return x + x + 1 + 1\n"
    keys = [each.key for each in mutants_of("double.py", source)]

    assert len(set(keys)) == len(keys)
    assert [key[-1] for key in keys if key[2:4] == ("1", "2")] == [0, 1]


def test_only_selected_mutants_are_made() -> None:
    assert not list(mutants_of("small.py", SOURCE, lambda key: key[1] == "nothing"))


def test_what_killed_neighbours_is_tried_first() -> None:
    killers = Killers()
    for function, killer in (("one", "first"), ("one", "second"), ("other", "third"), ("other", "third")):
        killers.add("small.py", function, killer)

    assert killers.first("small.py", "one") == ["second", "first", "third"]
    assert killers.first("small.py", "new") == ["third", "first", "second"]
    assert killers.first("large.py", "one") == []


def test_the_summary_tells_the_stages_apart() -> None:
    results = [
        Result(key=("small.py", "add", "1", "2", number), line=1, killed_by=stage, killer="")
        for number, stage in enumerate(("quick", "quick", "thorough", "time", None))
    ]

    assert summary(results) == (
        "4 of 5 mutants killed (80.0%): 2 in the quick stage, 1 in the thorough one, 1 by time"
    )
