"""Load the IPython extension: what `%load_ext cook_jupyter` does.

Lives here: registering the magics, completion, and the help of `%cook list?`.
Not here: what is registered (`notebook.magics`, `notebook.completion`).
"""

import re
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from cook_jupyter.notebook.completion import CELL, LINE, Completer
from cook_jupyter.notebook.magics import CookMagics

_NAME = "CookMagics"
_HELP = re.compile(r"\s*%cook\s+(?P<command>\w+)\s*\?{1,2}\s*")

_loaded: dict[int, tuple[CookMagics, Completer]] = {}  # by the id of the shell


def load(shell: InteractiveShell) -> None:
    """Register magics, completion and help, unless that was done already."""
    if id(shell) in _loaded:
        return
    magics = CookMagics(shell)
    completer = Completer(magics)
    shell.register_magics(magics)
    for word in (LINE, CELL):
        shell.set_hook("complete_command", completer, str_key=word)  # type: ignore[no-untyped-call]
    shell.input_transformers_cleanup.append(rewrite_help)
    _loaded[id(shell)] = (magics, completer)


def unload(shell: InteractiveShell) -> None:
    """Remove everything that `load` registered."""
    loaded = _loaded.pop(id(shell), None)
    if loaded is None:
        return
    magics, completer = loaded
    magics.session.close()
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("cook", None)
    shell.magics_manager.registry.pop(_NAME, None)
    configurables: list[Any] = shell.configurables
    configurables[:] = [configurable for configurable in configurables if configurable is not magics]
    if rewrite_help in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(rewrite_help)
    _remove_hook(shell, completer)


def rewrite_help(lines: list[str]) -> list[str]:
    """Rewrite `%cook list?` as `%cook help list`; IPython alone would show the help of `list`."""
    if len(lines) == 1 and (match := _HELP.fullmatch(lines[0])):
        return [f"%cook help {match.group('command')}\n"]
    return lines


def _remove_hook(shell: InteractiveShell, completer: Completer) -> None:
    """Remove a completion hook from IPython's table, for which IPython has no function."""
    dispatch: Any = shell.strdispatchers.get("complete_command")
    for word in (LINE, CELL):
        chain = dispatch.strs.get(word) if dispatch is not None else None
        if chain is not None:
            chain.chain = [(priority, hook) for priority, hook in chain.chain if not _is(hook, completer)]


def _is(hook: Any, completer: Completer) -> bool:
    return hook is completer or getattr(hook, "__func__", None) is completer
