"""Run the examples of one page of the documentation, in order, as its reader would: `python page.py PAGE.md`.

A page is one session. Its blocks share one fresh namespace, which is `__main__`, as in a notebook:

- ```` ```python ```` and ```` ```ipython ```` blocks are executed. With one ipython block, the whole page
  runs in IPython, with magics and `await`.
- a ```` ```text ```` block right after one of these is what it must print; `...` stands for anything.
- in ```` ```console ```` blocks, lines after `$ ` are commands (each must succeed) and the others
  what they must print.
- blocks of another language, and those marked `no-run`, are shown only.

An example that fails ends the program, with the line of the page in the traceback.
"""

import contextlib
import doctest
import io
import linecache
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`]*)$")
CHECK = doctest.OutputChecker()
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class WrongOutput(AssertionError):
    """An example ran and printed something else than its page says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block."""

    language: str
    source: str
    line: int  # of its first line of source, from 1
    follows: bool  # nothing but blank lines between it and the block before
    runs: bool


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    lines = text.splitlines()
    number = 0
    follows = False
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if opening is None:
            follows = follows and not lines[number].strip()
            number += 1
            continue
        indent = opening["indent"]
        language, *marks = opening["info"].split() or [""]
        end = next(
            (at for at in range(number + 1, len(lines)) if lines[at].strip() == "```"),
            len(lines),
        )
        source = [line.removeprefix(indent) for line in lines[number + 1 : end]]
        yield Block(
            language=language,
            source="\n".join(source) + "\n",
            line=number + 2,
            follows=follows,
            runs="no-run" not in marks,
        )
        follows = True
        number = end + 1


class Session:
    """What the reader of a page types into."""

    def __init__(self, page: str, *, interactive: bool) -> None:
        self._page = page
        self._shell: Any = None
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        if interactive:
            from IPython.core.interactiveshell import InteractiveShell

            self._shell = InteractiveShell.instance()

    def execute(self, block: Block) -> str:
        """Run a block of Python and return what it printed."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if self._shell is not None:
                print(f"{self._page}:{block.line}", file=sys.stderr)  # IPython numbers lines by cell
                self._shell.run_cell(block.source, store_history=True).raise_error()
            else:
                source = "\n" * (block.line - 1) + block.source
                linecache.cache[self._page] = (
                    len(source),
                    None,
                    source.splitlines(keepends=True),
                    self._page,
                )
                exec(compile(source, self._page, "exec"), self._namespace)
        return printed.getvalue()


def run_commands(block: Block, page: str) -> None:
    """Run the commands of a console block, each against the output shown below it."""
    steps: list[tuple[str, list[str]]] = []
    for line in block.source.splitlines():
        if line.startswith("$ "):
            steps.append((line.removeprefix("$ "), []))
        elif steps:
            steps[-1][1].append(line)
    # The commands of this environment, as if it were activated.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    for command, expected in steps:
        done = subprocess.run(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "PATH": path},
        )
        if done.returncode != 0:
            raise WrongOutput(f"{page}:{block.line}: `{command}` ended with {done.returncode}\n{done.stdout}")
        if expected:
            compare(f"{page}:{block.line}: `{command}`", "\n".join(expected) + "\n", done.stdout)


def compare(where: str, expected: str, printed: str) -> None:
    """Raise WrongOutput unless `printed` is what the page shows."""
    if not CHECK.check_output(expected, printed, LENIENT):
        raise WrongOutput(f"{where} should print\n{expected}and printed\n{printed}")


def run_page(path: Path) -> int:
    """Run all examples of a page; return how many there were."""
    blocks = list(blocks_of(path.read_text(encoding="utf-8")))
    running = [block for block in blocks if block.runs]
    session = Session(str(path), interactive=any(block.language == "ipython" for block in running))
    ran = 0
    printed: str | None = None
    for block in blocks:
        if block.language == "text" and block.follows and printed is not None:
            compare(f"{path}:{block.line}", block.source, printed)
        printed = None
        if not block.runs:
            continue
        if block.language in {"python", "ipython"}:
            printed = session.execute(block)
            ran += 1
        elif block.language == "console":
            run_commands(block, str(path))
            ran += 1
    return ran


if __name__ == "__main__":
    print(f"{run_page(Path(sys.argv[1]))} examples ran")
