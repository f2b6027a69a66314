"""Versions: what Python and which packages each side of a call has.

Lives here: the small fingerprint that travels with a call, and the comparison made before anything is
unpickled.
Not here: environments themselves.

Why: bytecode of another Python minor version can crash the interpreter (distributed#7016), and "works in the
notebook but not on the workers" is the commonest complaint of the neighbourhood.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping

_COMPARED_IF_LOADED = ("numpy", "pandas")


def fingerprint() -> dict[str, str]:
    """Python's version and those of the packages that decide how a pickle reads.

    numpy and pandas are named when this process has them loaded: a call cannot refer to them otherwise.
    """
    found = {
        "python": _python(),
        "cloudpickle": _version("cloudpickle"),
        "cook_jupyter": _version("cook_jupyter"),
    }
    for package in _COMPARED_IF_LOADED:
        if package in sys.modules:
            found[package] = _version(package)
    return found


def mismatch(theirs: Mapping[str, str]) -> str | None:
    """Why a call from a process with `theirs` cannot be run here, as a table of both sides; None if it can.

    Python and cloudpickle must agree in major and minor version, numpy and pandas in the major one.
    """
    return None if _all_agree(tuple(theirs.items())) else table(theirs)


def table(theirs: Mapping[str, str]) -> str:
    """Both sides in columns."""
    rows = [("", "notebook", "host")]
    for name, version in theirs.items():
        here = _python() if name == "python" else _version(name)
        mark = "" if _agree(name, version, here) else "  <- differs"
        rows.append((name, version, (here or "not installed") + mark))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows)


@functools.lru_cache(maxsize=64)
def _all_agree(theirs: tuple[tuple[str, str], ...]) -> bool:
    return all(
        _agree(name, version, _python() if name == "python" else _version(name)) for name, version in theirs
    )


def _agree(name: str, theirs: str, ours: str) -> bool:
    if name == "cook_jupyter":
        return True  # the envelope's own format number decides that
    parts = 2 if name in {"python", "cloudpickle"} else 1
    return theirs.split(".")[:parts] == ours.split(".")[:parts]


@functools.cache
def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


@functools.cache
def _version(package: str) -> str:
    loaded = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    import importlib.metadata  # 20 ms, and seldom needed

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
