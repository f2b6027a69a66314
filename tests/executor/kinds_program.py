"""A script whose `__main__` defines each kind of objects in turn, and sends it to a job.

    kinds_program.py NUMBER...    the kinds with these places in the list; all of them without

Prints a line of JSON for each kind: its name, and what came of `check` here, in a job, and in a job of `map`.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from cook_jupyter import CookExecutor
from cook_jupyter.errors import Unpicklable
from tests.executor.kinds import KINDS

_PATIENCE_S = 60


def _outcome(call: Callable[[], Any]) -> str:
    try:
        return repr(call())
    except Unpicklable as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - the test compares what came of it
        return f"failed: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"


def _call_here(function: Callable[[], Any]) -> Any:
    value = function()
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _run_kinds(numbers: list[int]) -> None:
    with CookExecutor(cpus=0.5, mem_mb=300) as executor:
        for number in numbers:
            kind = KINDS[number]
            if sys.version_info < kind.since:
                continue
            namespace = globals()
            exec(kind.source, namespace)
            function = namespace["check"]
            outcomes = _outcomes(executor, function, is_refused=bool(kind.refused))
            print(json.dumps({"name": kind.name, **outcomes}), flush=True)


def _outcomes(executor: CookExecutor, function: Callable[[], Any], *, is_refused: bool) -> dict[str, str]:
    return {
        "job": _outcome(lambda: executor.submit(function).result(_PATIENCE_S)),
        "map": _outcome(lambda: next(executor.map(_call_argument, [function]))),
        "here": "" if is_refused else _outcome(lambda: _call_here(function)),
    }


def _call_argument(function: Callable[[], Any]) -> Any:
    return _call_here(function)


if __name__ == "__main__":
    _run_kinds([int(word) for word in sys.argv[1:]] or list(range(len(KINDS))))
