"""Into IPython and out again: what `%load_ext cook_jupyter` does.

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
    """Register everything, unless it is."""
    if id(shell) in _loaded:
        return
    magics = CookMagics(shell)
    completer = Completer(magics)
    shell.register_magics(magics)
    for word in (LINE, CELL):
        shell.set_hook("complete_command", completer, str_key=word)  # type: ignore[no-untyped-call]
    shell.input_transformers_cleanup.append(help_of_commands)
    _loaded[id(shell)] = (magics, completer)


def unload(shell: InteractiveShell) -> None:
    """Take everything back that `load` has registered."""
    found = _loaded.pop(id(shell), None)
    if found is None:
        return
    magics, completer = found
    magics.session.close()
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("cook", None)
    shell.magics_manager.registry.pop(_NAME, None)
    configurables: list[Any] = shell.configurables
    configurables[:] = [each for each in configurables if each is not magics]
    if help_of_commands in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(help_of_commands)
    _forget_hook(shell, completer)


def help_of_commands(lines: list[str]) -> list[str]:
    """Read `%cook list?` as `%cook help list`; IPython alone would take it for a question about `list`."""
    if len(lines) == 1 and (found := _HELP.fullmatch(lines[0])):
        return [f"%cook help {found.group('command')}\n"]
    return lines


def _forget_hook(shell: InteractiveShell, completer: Completer) -> None:
    """IPython has no way to take a completion hook back: its table is gone through by hand."""
    dispatch: Any = shell.strdispatchers.get("complete_command")
    for word in (LINE, CELL):
        chain = dispatch.strs.get(word) if dispatch is not None else None
        if chain is not None:
            chain.chain = [(priority, hook) for priority, hook in chain.chain if not _is(hook, completer)]


def _is(hook: Any, completer: Completer) -> bool:
    return hook is completer or getattr(hook, "__func__", None) is completer
