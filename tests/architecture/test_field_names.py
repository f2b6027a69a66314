"""The fields of Cook's JSON are known to `wire` and `client` alone, and its numeric reason codes, too."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import cook_jupyter
from cook_jupyter.client import answers, events, submission
from cook_jupyter.model.reason import REASONS

PACKAGE = Path(cook_jupyter.__file__).parent
FILES = sorted(path for layer in ("executor", "notebook") for path in (PACKAGE / layer).rglob("*.py"))
FIELDS = {
    field.encode_name
    for module in (answers, events, submission)
    for shape in vars(module).values()
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct)
    for field in msgspec.structs.fields(shape)
}
CODES = {reason.code for reason in REASONS.values()}


def is_field(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value in FIELDS


def is_table(node: ast.AST) -> bool:
    """Return whether an expression names a constant of a module, such as the marks of the states."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.isupper()


def field_names_in(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that read or make a JSON object by the name of a field."""
    tables = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and all(map(is_table, node.targets if isinstance(node, ast.Assign) else [node.target]))
    }
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=value, slice=key) if is_field(key) and not is_table(value):
                yield node.lineno
            case ast.Call(func=ast.Attribute(value=value, attr="get" | "pop"), args=[key, *_]) if is_field(
                key
            ) and not is_table(value):
                yield node.lineno
            case ast.Dict(keys=keys) if id(node) not in tables and any(map(is_field, keys)):
                yield node.lineno


def reason_codes_in(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that use the number of a reason."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="reason_code"):
                yield node.lineno
            case ast.Compare(ops=ops, comparators=values) if any(
                isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in ops
            ):
                numbers = {
                    part.value
                    for value in values
                    for part in ast.walk(value)
                    if isinstance(part, ast.Constant) and isinstance(part.value, int)
                }
                if numbers & CODES:
                    yield node.lineno


@pytest.mark.parametrize("find", [field_names_in, reason_codes_in])
def test_the_notebook_side_reads_attributes_and_not_json(find: Callable[[ast.Module], Iterator[int]]) -> None:
    guilty = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in FILES
        for line in find(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert not guilty


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('job["uuid"]', 1),
        ('job.get("instances", ())', 1),
        ('{"max_retries": 1}', 1),
        ('MARKS["running"]', 0),
        ('MARKS = {"running": 1}', 0),
        ('job["colour"]', 0),
    ],
)
def test_a_field_name_is_found_and_a_table_of_states_is_none(source: str, count: int) -> None:
    assert len(list(field_names_in(ast.parse(source)))) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [("code == 2002", 1), ("x in (1, 99003)", 1), ("job.reason_code", 1), ("x < 1000", 0)],
)
def test_the_number_of_a_reason_is_found(source: str, count: int) -> None:
    assert len(list(reason_codes_in(ast.parse(source)))) == count


@pytest.mark.parametrize("path", sorted((PACKAGE / "client").rglob("*.py")), ids=lambda path: path.stem)
def test_the_client_says_of_which_type_each_value_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Any"]
