"""What a cell needs from the notebook before it can run elsewhere.

Lives here: reading a cell without running it: the notebook's names that it uses, and what cannot go along.
Not here: sending it (`notebook.magics`), running it (`notebook.cell_job`).
"""

import ast
import symtable
from collections.abc import Container, Iterator
from types import FunctionType
from typing import Any

from cook_jupyter.errors import InvalidRequest

# The shell's own: they are there, or have no meaning, on a host.
SHELL_NAMES = frozenset({"get_ipython", "exit", "quit", "open", "display", "In", "Out", "_", "__", "___"})

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def names_needed(source: str, notebook: Container[str]) -> list[str]:
    """The names of the notebook that a cell may read before it has set them itself.

    Args:
        source: the cell.
        notebook: the names that the notebook has.

    Raises:
        SyntaxError: it is no Python.
        InvalidRequest: it uses magics or shell commands, which need the notebook's own kernel.
    """
    tree = ast.parse(source)
    _refuse_magics(tree)
    needed: set[str] = set()
    own: set[str] = set()
    for statement in tree.body:
        needed |= _reads(statement) - own
        own |= set(_surely_sets(statement))
    return sorted(name for name in needed if name in notebook and name not in SHELL_NAMES)


def ends_with_value(source: str) -> bool:
    """Whether the last line is an expression that a notebook would show: one without a semicolon."""
    body = ast.parse(source).body
    if not body or not isinstance(body[-1], ast.Expr):
        return False
    last = ast.get_source_segment(source, body[-1]) or ""
    rest = source[source.rfind(last) + len(last) :]
    return not rest.split("#")[0].strip().startswith(";")


def anchor(names: list[str], namespace: dict[str, Any]) -> FunctionType:
    """A function of the notebook that refers to `names` and does nothing.

    Pickled with the functions of the notebook that the cell uses, it shares its globals with them, as in
    the notebook: what the cell sets, they see.
    """
    listed = ", ".join(names)
    code = compile(f"def anchor():\n    return ({listed}{',' if names else ''})\n", "<names>", "exec")
    return FunctionType(
        next(const for const in code.co_consts if hasattr(const, "co_name")), namespace, "anchor"
    )


def _refuse_magics(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "get_ipython":
            raise InvalidRequest(
                f"line {node.lineno} of the cell uses a % magic, a ! command or get_ipython(), which need "
                "the notebook's own kernel; move it to another cell; subprocess.run does for a shell command"
            )


def _reads(statement: ast.stmt) -> set[str]:
    """The names that a statement, or a function in it, may look up among the globals."""
    found = {
        node.target.id
        for node in ast.walk(statement)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    found |= {
        target.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Delete)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    tables = [symtable.symtable(ast.unparse(statement), "<cell>", "exec")]
    top = tables[0]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        found |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (table is top or symbol.is_global())
        }
    return found


def _surely_sets(statement: ast.stmt) -> Iterator[str]:
    """The names that are set for certain once a statement is done."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from _targets(target)
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield from _targets(statement.target)
    elif isinstance(statement, _DEFINITIONS):
        yield statement.name
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)


def _targets(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Starred):
        yield from _targets(target.value)
    elif isinstance(target, (ast.Tuple, ast.List)):
        for part in target.elts:
            yield from _targets(part)
