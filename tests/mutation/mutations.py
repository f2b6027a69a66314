"""The mutants of a module, made from its syntax tree.

Lives here: `mutants_of`. Mutated are expressions and statements inside functions. Not mutated: declarations
(constants, defaults of fields, tables, annotations), docstrings, and the texts of errors.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "minimum": "maximum"}
_CALLS |= {"maximum": "minimum", "argmax": "argmin"}
_MAX_LENGTH = 400  # of the source of a change: longer ones say nothing in a report
_DECLARED = ("strict", "dtype")  # keyword arguments that check or declare, and change no result
_PLAIN_CONDITIONS = (ast.Compare, ast.BoolOp, ast.UnaryOp)  # mutated as such

Function = ast.FunctionDef | ast.AsyncFunctionDef
Key = tuple[str, str, str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change of one function.

    Attributes:
        path: path of the module.
        function: qualified name of the outermost function around the change.
        line: line of the change.
        before, after: source of the changed expression or statement.
        occurrence: number of equal changes before it in the function, so that the fields identify a mutant.
        code: code object of the changed function.
    """

    path: str
    function: str
    line: int
    before: str
    after: str
    occurrence: int
    code: CodeType

    @property
    def key(self) -> Key:
        """The key of the mutant, which does not depend on lines."""
        return self.path, self.function, self.before, self.after, self.occurrence


def mutants_of(path: str, source: str, select: Callable[[Key], bool] = lambda _: True) -> Iterator[Mutant]:
    """Yield the mutants of a module, in the order of its source.

    Args:
        path: path of the module.
        source: text of the module.
        select: returns whether to yield the mutant of a key.
    """
    tree = ast.parse(source)
    for function, name in _functions(tree):
        seen: dict[tuple[str, str], int] = {}
        for node, mutated, undo in _changes(function):
            before, after = ast.unparse(node), ast.unparse(mutated)
            if len(before) < _MAX_LENGTH:
                occurrence = seen.get((before, after), 0)
                seen[before, after] = occurrence + 1
                is_selected = select((path, name, before, after, occurrence))
                code = _compile(tree, path, function, name) if is_selected else None
                if code is not None:
                    yield Mutant(
                        path=path,
                        function=name,
                        line=getattr(node, "lineno", function.lineno),
                        before=before,
                        after=after,
                        occurrence=occurrence,
                        code=code,
                    )
            undo()


def _functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Yield the functions of a module that are not inside another, with their qualified names."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[Function, str]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, prefix + node.name
            elif isinstance(node, ast.ClassDef) and not _is_protocol(node):
                yield from walk(node.body, f"{prefix}{node.name}.")

    return walk(tree.body, "")


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def _compile(tree: ast.Module, path: str, function: Function, name: str) -> CodeType | None:
    """Return the code of a function of a changed tree; None if the change cannot be compiled."""
    try:
        module = compile(ast.fix_missing_locations(tree), path, "exec")
    except (SyntaxError, ValueError):
        return None
    pending = [module]
    while pending:
        code = pending.pop()
        if code.co_qualname == name and code.co_firstlineno == first_line(function):
            return code
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return None


def first_line(function: Function) -> int:
    """Return the line with which the code of a function begins: that of its first decorator, if any."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def _changes(function: Function) -> Iterator[tuple[ast.AST, ast.AST, Any]]:
    """Change a function in one place after the other; yield the old and the new node, and how to undo it."""
    for parent, field, index, node in _places(function):
        for mutated in _mutations(node):
            old = copy.copy(node)
            _replace(parent, field, index, mutated)

            def undo(
                parent: ast.AST = parent, field: str = field, index: int | None = index, node: ast.AST = node
            ) -> None:
                _replace(parent, field, index, node)

            ast.copy_location(mutated, node)
            yield old, mutated, undo


def _replace(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _places(function: Function) -> list[tuple[ast.AST, str, int | None, ast.AST]]:
    """Return all nodes in the body of a function that may be changed, each with its place in its parent."""
    found: list[tuple[ast.AST, str, int | None, ast.AST]] = []

    def visit(node: ast.AST) -> None:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "args") and not isinstance(
                node, ast.Call
            ):
                continue
            if isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg in _DECLARED):
                continue
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.AST) and not (
                    isinstance(child, ast.JoinedStr) or _is_docstring(child)
                ):
                    found.append((node, field, index, child))
                    visit(child)

    for index, statement in enumerate(function.body):
        if not _is_docstring(statement):
            found.append((function, "body", index, statement))
            visit(statement)
    return found


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _mutations(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that may replace a node."""
    yield from _of_operators(node)
    yield from _of_conditions(node)
    if isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.Return(value=ast.Constant(value=None))
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif _may_be_omitted(node):
        yield ast.Pass()


def _of_conditions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, _PLAIN_CONDITIONS):
        yield _with(node, test=_negated(node.test))
    elif isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            if not isinstance(test, _PLAIN_CONDITIONS):
                yield _with(node, ifs=[*node.ifs[:index], _negated(test), *node.ifs[index + 1 :]])


def _of_operators(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            other = _OPERATORS[type(operator)]()
            yield _with(node, ops=[*node.ops[:index], other, *node.ops[index + 1 :]])
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _OPERATORS:
        yield _with(node, op=_OPERATORS[type(node.op)]())


def _of_constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(value=not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value=value + 1)
    elif isinstance(value, str):
        yield ast.Constant(value=f"{value}?")


def _of_call(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        yield _with(node, func=ast.Name(id=_CALLS[node.func.id], ctx=ast.Load()))
    if isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS:
        yield _with(node, func=_with(node.func, attr=_CALLS[node.func.attr]))
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in _DECLARED:
            yield _with(node, keywords=[*node.keywords[:index], *node.keywords[index + 1 :]])


def _may_be_omitted(node: ast.AST) -> bool:
    """Return whether the function still runs without a statement: it changes an object, or a number."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    return isinstance(node, ast.Delete | ast.AugAssign)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=test)


def _with(node: Any, **fields: Any) -> Any:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
