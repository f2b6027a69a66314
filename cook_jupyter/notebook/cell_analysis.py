"""Static analysis of a cell: what it needs from the notebook in order to run elsewhere.

Lives here: reading a cell without running it: which of the notebook's names it uses, and what cannot be sent.
Not here: when a name is bound (`notebook.cell_names`), sending it (`notebook.magics`), running it
(`notebook.cell_job`).
"""

import ast
from collections.abc import Container
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.notebook.cell_names import names_bound, names_read

# Names of the shell, which exist on the host, too, or have no meaning there.
SHELL_NAMES = frozenset({"get_ipython", "exit", "quit", "open", "display", "In", "Out", "_", "__", "___"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededNames:
    """The notebook's names that a cell may read before it binds them itself.

    Attributes:
        always: names that the cell never binds.
        perhaps: names that the cell also binds; whether it reads them first depends on how it runs.
    """

    always: tuple[str, ...]
    perhaps: tuple[str, ...]


def names_needed(source: str, notebook: Container[str]) -> NeededNames:
    """Return the notebook's names that a cell may read before it binds them itself.

    Args:
        source: source of the cell.
        notebook: names that the notebook has.

    Raises:
        SyntaxError: the cell is not valid Python.
        InvalidRequest: the cell uses magics or shell commands, which need the notebook's own kernel.
    """
    tree = ast.parse(source)
    _refuse_magics(tree)
    code: CodeType = compile(tree, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    bound = names_bound(code)
    needed = sorted(name for name in names_read(code) if name in notebook and name not in SHELL_NAMES)
    return NeededNames(
        always=tuple(name for name in needed if name not in bound),
        perhaps=tuple(name for name in needed if name in bound),
    )


def ends_with_value(source: str) -> bool:
    """Return whether the last line is an expression whose value a notebook shows: one without a semicolon."""
    body = ast.parse(source).body
    if not body or not isinstance(body[-1], ast.Expr):
        return False
    last = ast.get_source_segment(source, body[-1]) or ""
    rest = source[source.rfind(last) + len(last) :]
    return not rest.split("#")[0].strip().startswith(";")


def anchor(names: list[str], namespace: dict[str, Any]) -> FunctionType:
    """Return a function that refers to `names` as globals of the notebook, and does nothing.

    Pickled with the functions of the notebook that the cell uses, it has the same globals, as in the
    notebook: those functions see what the cell sets.
    """
    listed = ", ".join(names)
    code = compile(f"def anchor():\n    return ({listed}{',' if names else ''})\n", "<names>", "exec")
    function = FunctionType(
        next(const for const in code.co_consts if hasattr(const, "co_name")), namespace, "anchor"
    )
    function.__qualname__ = "the cell"  # its name in error messages
    return function


def _refuse_magics(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "get_ipython":
            raise InvalidRequest(
                f"line {node.lineno} of the cell uses a % magic, a ! command or get_ipython(), which need "
                "the notebook's own kernel; move it to another cell, or use subprocess.run"
            )
