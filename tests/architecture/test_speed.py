"""No verdict of the suite depends on the speed of the machine."""

import ast
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parents[1]


def hypothesis_arguments(module: Path) -> Iterator[ast.keyword]:
    """Yield the keyword arguments of a module's calls that concern hypothesis's view of speed."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield from (keyword for keyword in node.keywords if keyword.arg == "suppress_health_check")
            if "settings" in ast.unparse(node.func):
                yield from (keyword for keyword in node.keywords if keyword.arg == "deadline")


def test_hypothesis_never_fails_a_test_for_being_slow() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


def test_no_test_states_a_deadline_of_its_own_or_forgets_that_slow_is_fine() -> None:
    stated = [
        (str(module.relative_to(TESTS)), argument.arg, ast.unparse(argument.value))
        for module in sorted(TESTS.rglob("*.py"))
        for argument in hypothesis_arguments(module)
    ]

    assert [
        (module, name, value)
        for module, name, value in stated
        if (
            value != "None"
            if name == "deadline"
            else "too_slow" not in value and value != "list(HealthCheck)"
        )
    ] == []
