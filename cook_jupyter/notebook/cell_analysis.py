"""What a cell needs from the notebook before it can run elsewhere.

Lives here: reading a cell without running it: the notebook's names that it uses, and what cannot go along.
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

# The shell's own: they are there, or have no meaning, on a host.
SHELL_NAMES = frozenset({"get_ipython", "exit", "quit", "open", "display", "In", "Out", "_", "__", "___"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededNames:
    """The names of the notebook that a cell may read before it has bound them itself.

    Attributes:
        always: names that the cell never binds.
        perhaps: names that the cell binds as well; whether it reads them before depends on how it runs.
    """

    always: tuple[str, ...]
    perhaps: tuple[str, ...]


def names_needed(source: str, notebook: Container[str]) -> NeededNames:
    """Return the names of the notebook that a cell may read before it has bound them itself.

    Args:
        source: the cell.
        notebook: the names that the notebook has.

    Raises:
        SyntaxError: it is no Python.
        InvalidRequest: it uses magics or shell commands, which need the notebook's own kernel.
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
    function = FunctionType(
        next(const for const in code.co_consts if hasattr(const, "co_name")), namespace, "anchor"
    )
    function.__qualname__ = "the cell"  # what a refusal calls it
    return function


def _refuse_magics(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "get_ipython":
            raise InvalidRequest(
                f"line {node.lineno} of the cell uses a % magic, a ! command or get_ipython(), which need "
                "the notebook's own kernel; move it to another cell; subprocess.run does for a shell command"
            )
