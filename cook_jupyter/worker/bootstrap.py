"""The start of `python -m cook_jupyter.worker` in any interpreter, which may be too old, or lack the package.

Lives here: a script that refuses such an interpreter with a sentence; otherwise it runs the module. It is
also `__main__.py` of the file that `cook-jupyter mesos package` makes, which a Mesos executor unpacks first:
in a file, importing is slow, and `importlib.metadata` leaves it open.
Not here: when it is used (`worker.start`).

Every Python since 2.7 must be able to read it. A refused spawner sends its reason to the agent, which reports
it; others print it.
"""

import json
import os
import socket
import struct
import sys

OLDEST = (3, 11)
_UNPACKED = ".cook_jupyter"  # in the sandbox of an executor


def _start():
    # type: () -> None
    version = "%d.%d" % sys.version_info[:2]  # noqa: UP031
    if sys.version_info[:2] < OLDEST:
        _refuse("is Python %s; cook_jupyter needs %d.%d or later" % ((version,) + OLDEST))  # noqa: RUF005, UP031
    own_path = os.path.abspath(__file__)
    package = os.path.dirname(own_path)
    if os.path.isfile(package):
        if sys.argv[1:2] == ["mesos-executor"]:
            _restart(_unpack(package) + "/cook_jupyter/worker/bootstrap.py")
        sys.path[0] = package  # whatever the working directory becomes
    else:
        if not sys.flags.safe_path:  # modules beside this script, or in a sandbox, would hide others
            _restart(own_path)
        root = os.path.dirname(os.path.dirname(os.path.dirname(own_path)))
        if os.path.isdir(root + "/cook_jupyter/vendored"):
            sys.path.insert(0, root)
    try:
        import cook_jupyter.worker  # noqa: F401
    except ImportError:
        _refuse("(Python %s) has no cook_jupyter: install it there" % version)  # noqa: UP031
    import runpy

    runpy.run_module("cook_jupyter.worker", run_name="__main__", alter_sys=True)


def _restart(script):
    # type: (str) -> None
    """Replace this process by the same interpreter with a script, and without unsafe paths."""
    os.execv(sys.executable, [sys.executable, "-P", script] + sys.argv[1:])  # noqa: RUF005, S606 - no shell wanted


def _unpack(package):
    # type: (str) -> str
    """Unpack the package file; return the directory."""
    import zipfile
    from importlib.util import MAGIC_NUMBER

    folder = os.path.abspath(os.path.join(os.environ.get("MESOS_SANDBOX", "."), _UNPACKED))
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            path = os.path.join(folder, name)
            if name.endswith(".pyc"):
                if not content.startswith(MAGIC_NUMBER):
                    continue
                stem = os.path.basename(name)[: -len("pyc")]
                path = os.path.join(
                    os.path.dirname(path), "__pycache__", stem + str(sys.implementation.cache_tag) + ".pyc"
                )
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
    return folder


def _refuse(reason):
    # type: (str) -> None
    text = "%s on host %s %s" % (sys.executable, socket.gethostname(), reason)  # noqa: UP031
    if sys.argv[1:2] == ["spawner"]:
        header = json.dumps({"t": "refused", "why": text}).encode("ascii")
        os.write(int(sys.argv[2]), struct.pack("!II", len(header), 0) + header)
    else:
        sys.stderr.write("cook_jupyter: " + text + "\n")
    sys.exit(1)


if __name__ == "__main__":
    _start()
