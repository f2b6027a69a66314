"""Compare the Python and package versions of notebook and host.

Lives here: the fingerprint that is sent with a call, and the comparison made before anything is unpickled.
Not here: setting up environments.

Bytecode of another minor version of Python can crash the interpreter (distributed#7016), and "works in the
notebook but not on the workers" is the most frequent complaint about similar tools.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping

_COMPARED_IF_LOADED = ("numpy", "pandas")


def fingerprint() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect how a pickle is read.

    numpy and pandas are included if this process has loaded them: a call cannot refer to them otherwise.
    """
    versions_by_name = {
        "python": _python(),
        "cloudpickle": _version("cloudpickle"),
        "cook_jupyter": _version("cook_jupyter"),
    }
    for package in _COMPARED_IF_LOADED:
        if package in sys.modules:
            versions_by_name[package] = _version(package)
    return versions_by_name


def mismatch(notebook_versions: Mapping[str, str]) -> str | None:
    """Compare the notebook's versions with this host's: return a table of both if a call cannot run here.

    Python and cloudpickle must agree in major and minor version, numpy and pandas in the major version.
    Returns None if the call can run.
    """
    return None if _all_agree(tuple(notebook_versions.items())) else table(notebook_versions)


def table(notebook_versions: Mapping[str, str]) -> str:
    """Return the versions of notebook and host as a table."""
    rows = [("", "notebook", "host")]
    for name, version in notebook_versions.items():
        here = _python() if name == "python" else _version(name)
        mark = "" if _agree(name, version, here) else "  <- differs"
        rows.append((name, version, (here or "not installed") + mark))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows)


@functools.lru_cache(maxsize=64)
def _all_agree(notebook_versions: tuple[tuple[str, str], ...]) -> bool:
    return all(
        _agree(name, version, _python() if name == "python" else _version(name))
        for name, version in notebook_versions
    )


def _agree(name: str, notebook_version: str, host_version: str) -> bool:
    if name == "cook_jupyter":
        return True  # checked by the envelope's format number
    parts = 2 if name in {"python", "cloudpickle"} else 1
    return notebook_version.split(".")[:parts] == host_version.split(".")[:parts]


@functools.cache
def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


@functools.cache
def _version(package: str) -> str:
    loaded = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    import importlib.metadata  # 20 ms, and rarely needed

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
