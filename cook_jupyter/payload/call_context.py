"""Call context: the working directory, `sys.path` and random state with which a call runs on a host.

Lives here: the notebook's directory and its entries of `sys.path`, and fresh random seeds.
Not here: importing local modules as they are on disk (`payload.local_modules`), environment variables and
processes (`worker`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from cook_jupyter.payload.installations import package_folders
from cook_jupyter.payload.local_modules import LocalModules
from cook_jupyter.payload.main_module import FreshMain


def current_folder() -> str:
    """Return the current directory; an empty string if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - called for each call
    except OSError:
        return ""


def local_path() -> list[str]:
    """Return the entries of `sys.path` that are not part of the Python installation."""
    return list(_local_entries(tuple(sys.path)))


def main_file() -> str | None:
    """Return the path of the script that is `__main__`; None in a notebook."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return _absolute(file) if isinstance(file, str) else None


_absolute = functools.lru_cache(maxsize=8)(os.path.abspath)  # relative to the directory of the script's start


@functools.lru_cache(maxsize=8)
def _local_entries(path: tuple[str, ...]) -> tuple[str, ...]:
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    local = []
    for entry in path:
        folder = os.path.abspath(entry or ".")  # noqa: PTH100 - not resolved: links are followed on the host
        if not folder.endswith(".zip") and not (folder.startswith(prefixes) and "/lib/python" in folder):
            local.append(folder if entry else "")
    return tuple(local)


def reseed() -> None:
    """Seed the random generators anew, so that a job does not continue the random stream of an earlier one.

    The seeds are passed explicitly, because the generators take ten times longer to find their own.
    """
    random.seed(int.from_bytes(os.urandom(16), "little"))
    if (numpy := sys.modules.get("numpy.random")) is not None:
        with contextlib.suppress(Exception):
            numpy.seed(struct.unpack("<4I", os.urandom(16)))


@contextlib.contextmanager
def notebook_context(header: Mapping[str, Any]) -> Iterator[None]:
    """Run with the notebook's directory, if it exists here, its `sys.path` entries and a fresh `__main__`.

    Args:
        header: header of a call; `cwd`, `path` and `main` are read.
    """
    old_path, old_folder = list(sys.path), current_folder()
    existing = set(sys.path)
    sys.path[:0] = [entry for entry in header["path"] if entry not in existing]
    moved = False
    if header["cwd"] and header["cwd"] != old_folder:
        with contextlib.suppress(OSError):
            os.chdir(header["cwd"])
            moved = True
    _modules.begin_job((header["cwd"], *header["path"]))
    try:
        with FreshMain(header.get("main")):
            yield
    finally:
        _modules.end_job()
        if moved:
            with contextlib.suppress(OSError):
                os.chdir(old_folder)
        sys.path[:] = old_path


def has_stale_modules() -> bool:
    """Return whether local modules or installed packages have changed since this process imported them."""
    return _modules.is_stale()


_modules = LocalModules(package_folders())
