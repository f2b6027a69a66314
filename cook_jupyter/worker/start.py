"""How the processes of a host are started, in any interpreter.

Lives here: the command that runs `cook_jupyter.worker`, whether this code is installed or comes from the file
that `cook-jupyter mesos package` makes.
Not here: making it (`worker.mesos.package`), the first steps in the interpreter (`worker.bootstrap`).

An installed package is searched in the interpreter that is started, which must have it. With a package file,
each interpreter runs the code in there; it uses the other packages in there only if it has none of its own.
"""

import os
import sys

VENDORED = "cook_jupyter/vendored"  # in a package file: other packages
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_IS_PACKAGED = os.path.isfile(_ROOT) or os.path.isdir(f"{_ROOT}/{VENDORED}")


def worker_command(python: str) -> list[str]:
    """Return the start of the command of a process in an interpreter; its arguments follow."""
    options = ["-P"] if python == sys.executable else []  # another one may be too old to know it
    return [python, *options, f"{_ROOT}/cook_jupyter/worker/bootstrap.py"]


def add_vendored() -> None:
    """Let this interpreter find the packages in the package file, after its own."""
    folder = f"{_ROOT}/{VENDORED}"
    if _IS_PACKAGED and folder not in sys.path:
        sys.path.append(folder)


def package_variables(pythonpath: str | None) -> dict[str, str]:
    """Return the variables by which a command `python -m cook_jupyter.worker` finds the code of this process.

    Args:
        pythonpath: PYTHONPATH of the command.
    """
    if not _IS_PACKAGED:
        return {}
    return {"PYTHONPATH": f"{_ROOT}{os.pathsep}{pythonpath}" if pythonpath else _ROOT}
