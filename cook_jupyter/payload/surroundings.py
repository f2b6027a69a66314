"""Surroundings: what a call finds around it, on the host as in the notebook.

Lives here: the current folder, the notebook's own part of sys.path, fresh randomness, and forgetting local
modules that have changed since a warm process imported them.
Not here: environment variables and processes (`worker`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def current_folder() -> str:
    """The current folder; empty if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - asked for each call
    except OSError:
        return ""


def local_path() -> list[str]:
    """The entries of sys.path that the host's Python does not have by itself."""
    return list(_local_entries(tuple(sys.path)))


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
def as_in_notebook(header: Mapping[str, Any]) -> Iterator[None]:
    """Where the notebook is, if that folder exists here, and with the notebook's own modules."""
    _forget_stale_modules((header["cwd"], *header["path"]))
    before_path, before_modules = list(sys.path), len(sys.modules)
    known = set(sys.path)
    sys.path[:0] = [entry for entry in header["path"] if entry not in known]
    before_folder = current_folder()
    moved = False
    if header["cwd"] and header["cwd"] != before_folder:
        with contextlib.suppress(OSError):
            os.chdir(header["cwd"])
            moved = True
    try:
        yield
    finally:
        if moved:
            with contextlib.suppress(OSError):
                os.chdir(before_folder)
        _note_local_modules(len(sys.modules) - before_modules)
        sys.path[:] = before_path


_local_modules: dict[str, tuple[str, int]] = {}  # name to file and its time of change, in ns


_last_place: list[tuple[str, ...]] = [()]


def _note_local_modules(new: int) -> None:
    """Remember those of the `new` youngest modules that are the user's own; sys.modules keeps their order."""
    if new <= 0:
        return
    from cook_jupyter.payload import pickling

    for name in list(itertools.islice(reversed(sys.modules), new)):
        if pickling.is_local(name) and (file := getattr(sys.modules[name], "__file__", None)):
            with contextlib.suppress(OSError):
                _local_modules[name] = (file, Path(file).stat().st_mtime_ns)


def _forget_stale_modules(place: tuple[str, ...]) -> None:
    """Let a module be imported anew if it was edited, or if this notebook may mean another of that name."""
    moved = place != _last_place[0]
    _last_place[0] = place
    for name, (file, changed_ns) in list(_local_modules.items()):
        try:
            fresh = not moved and Path(file).stat().st_mtime_ns == changed_ns
        except OSError:
            fresh = False
        if not fresh:
            del _local_modules[name]
            sys.modules.pop(name, None)
