"""Installed files: which files belong to Python and its packages, and which to the user.

Lives here: the test by directory. A file outside the directories of the interpreter and its packages is
local: beside the notebook, on PYTHONPATH, or in the sources of a package that is installed in editable mode.
Not here: how local code is sent and imported (`payload.pickling`, `payload.local_modules`).
"""

from __future__ import annotations

import functools
import os
import site
import sysconfig
from pathlib import Path

OWN_PACKAGE = "cook_jupyter"


@functools.lru_cache(maxsize=4096)
def is_installed(path: str) -> bool:
    """Return whether a file or directory belongs to Python or an installed package; links are followed."""
    return path.startswith(_FOLDERS) or (os.path.realpath(path) + "/").startswith(_FOLDERS)


def package_folders() -> list[str]:
    """Return the directories in which packages are installed."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return sorted({os.path.realpath(folder) for folder in folders if folder and Path(folder).is_dir()})


def _folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    folders.add(str(Path(__file__).parent.parent / "vendored"))  # from a package file: see `worker.start`
    return tuple(sorted({os.path.realpath(folder) + "/" for folder in folders if folder}))


_FOLDERS = _folders()
