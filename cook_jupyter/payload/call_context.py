"""Surroundings: what a call finds around it, on the host as in the notebook.

Lives here: the current folder, the notebook's own part of sys.path, fresh randomness.
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
    """The current folder; empty if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - asked for each call
    except OSError:
        return ""


def local_path() -> list[str]:
    """The entries of sys.path that the host's Python does not have by itself."""
    return list(_local_entries(tuple(sys.path)))


def main_file() -> str | None:
    """Return the path of the script that is `__main__`; None in a notebook."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return _absolute(file) if isinstance(file, str) else None


_absolute = functools.lru_cache(maxsize=8)(os.path.abspath)  # of the folder in which the script was started


@functools.lru_cache(maxsize=8)
def _local_entries(path: tuple[str, ...]) -> tuple[str, ...]:
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    kept = []
    for entry in path:
        folder = os.path.abspath(entry or ".")  # noqa: PTH100 - not resolved: links are followed on the host
        if not folder.endswith(".zip") and not (folder.startswith(own) and "/lib/python" in folder):
            kept.append(folder if entry else "")
    return tuple(kept)


def reseed() -> None:
    """Fresh randomness for each job: a warm process must not hand one job the stream that another seeded.

    Seeds are given: the generators take ten times longer to find their own.
    """
    random.seed(int.from_bytes(os.urandom(16), "little"))
    if (numpy := sys.modules.get("numpy.random")) is not None:
        with contextlib.suppress(Exception):
            numpy.seed(struct.unpack("<4I", os.urandom(16)))


@contextlib.contextmanager
def notebook_context(header: Mapping[str, Any]) -> Iterator[None]:
    """Run in the notebook's folder, if it exists here, with its part of sys.path and a fresh `__main__`.

    Args:
        header: of a call: `cwd`, `path` and `main`.
    """
    before_path, before_folder = list(sys.path), current_folder()
    known = set(sys.path)
    sys.path[:0] = [entry for entry in header["path"] if entry not in known]
    moved = False
    if header["cwd"] and header["cwd"] != before_folder:
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
                os.chdir(before_folder)
        sys.path[:] = before_path


def has_stale_modules() -> bool:
    """Return whether local modules or installed packages have changed since this process imported them."""
    return _modules.is_stale()


_modules = LocalModules(package_folders())
