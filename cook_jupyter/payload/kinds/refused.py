"""Objects that cannot be sent: refused at submission, with advice.

Lives here: kinds of objects that would be broken after unpickling, and the advice for each kind.
Not here: the path to a refused object (`payload.pickle_diagnosis`), objects that belong to their process
(`payload.process_bound`).
"""

from __future__ import annotations

import pickle
import sys
from typing import Any, NoReturn

ADVICE = {
    "_thread.lock": "create the lock inside the function",
    "_thread.RLock": "create the lock inside the function",
    "_io.TextIOWrapper": "pass the path and open the file inside the function",
    "_io.BufferedReader": "pass the path and open the file inside the function",
    "_io.BufferedWriter": "pass the path and open the file inside the function",
    "_io.BufferedRandom": "pass the path and open the file inside the function",
    "_io.FileIO": "pass the path and open the file inside the function",
    "mmap.mmap": "pass the path and map the file inside the function",
    "socket.socket": "open the connection inside the function",
    "sqlite3.Connection": "open the connection inside the function",
    "sqlite3.Cursor": "open the connection inside the function",
    "builtins.generator": "pass a list of its values",
    "builtins.frame": "pass the values that you need of it",
    "builtins.traceback": "pass traceback.format_exception(error), a list of texts",
    "re.Match": "pass match.group() or match.groupdict()",
    "ctypes.CDLL": "load the library inside the function",
    "weakref.weakproxy": "pass the object itself",
    "builtins.weakproxy": "pass the object itself",
    "builtins.weakcallableproxy": "pass the object itself",
    "weakref.finalize": "create it inside the function",
}
GENERAL_ADVICE = "create it inside the function, or pass the plain data it is made from"


def reduce_file(file: Any) -> tuple[Any, ...]:
    """Refer to the job's standard output or error for that of this process; refuse other files."""
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name) or file is getattr(sys, f"__{name}__"):
            return getattr, (sys, name)
    raise _refusal(file)


def refuse(obj: Any) -> NoReturn:
    """Refuse an object that would be broken after unpickling."""
    raise _refusal(obj)


def _refusal(obj: Any) -> pickle.PicklingError:
    kind = type(obj)
    return pickle.PicklingError(f"cannot pickle '{kind.__module__}.{kind.__qualname__}' object")
