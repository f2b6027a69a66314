"""The package file: our executor as a single file, which agents fetch and any Python of the hosts runs.

Lives here: `write_package`.
Not here: how it starts (`worker.bootstrap`), how it is found again (`worker.start`).

It is a zip file, as in the standard library's `zipapp`, with the sources of what hosts and the calls on them
need, and with cloudpickle. The same sources make the same bytes, so that its digest names its content. For
the Python that makes it, it holds compiled code, too: compiling takes longer than anything else at the start.
An executor unpacks it in its sandbox.
"""

import hashlib
import importlib.metadata
import importlib.util
import marshal
import os
import struct
import zipfile
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

from cook_jupyter.worker.start import VENDORED

_WITHOUT = frozenset(
    {"api", "cli.py", "clusters", "scheduling", "server_extension", "service", "simulation", "store"}
)
_VENDORED_PACKAGE = "cloudpickle"
_MARSHAL_VERSION = 2  # later ones depend on how often an object is referred to at the moment
_UNCHECKED_HASH = 1  # flag of a .pyc whose source is not compared
_EARLIEST = (1980, 1, 1, 0, 0, 0)


class Package(NamedTuple):
    """A package file that was written.

    Attributes:
        size: size in bytes.
        digest: SHA-256.
    """

    size: int
    digest: str


def write_package(path: str) -> Package:
    """Write the package file.

    Args:
        path: its path; an existing file is replaced.

    Raises:
        OSError: it cannot be written.
    """
    temporary = f"{path}.new"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(_files()):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # Unix, wherever this runs
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    with open(temporary, "rb") as file:
        content = file.read()
    os.replace(temporary, path)
    return Package(len(content), hashlib.sha256(content).hexdigest())


def _files() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the package with their content."""
    own_folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    yield from _modules(own_folder, "cook_jupyter", without=_WITHOUT)
    spec = importlib.util.find_spec(_VENDORED_PACKAGE)
    assert spec is not None  # noqa: S101 - a dependency of ours
    assert spec.origin is not None  # noqa: S101 - it is a package with a file
    yield from _modules(os.path.dirname(spec.origin), f"{VENDORED}/{_VENDORED_PACKAGE}")
    with open(f"{own_folder}/worker/bootstrap.py", "rb") as file:
        yield "__main__.py", file.read()
    for name in ("cook_jupyter", _VENDORED_PACKAGE):
        version = importlib.metadata.version(name)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        yield f"{name}-{version}.dist-info/METADATA", metadata.encode()


def _modules(folder: str, prefix: str, without: frozenset[str] = frozenset()) -> Iterator[tuple[str, bytes]]:
    """Yield the modules below a directory, each as source and compiled."""
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if name in without or name == "__pycache__":
            continue
        if os.path.isdir(path):
            yield from _modules(path, f"{prefix}/{name}")
        elif name.endswith(".py"):
            with open(path, "rb") as file:
                source = file.read()
            yield f"{prefix}/{name}", source
            yield f"{prefix}/{name}c", _compiled(source, f"{prefix}/{name}")


def _compiled(source: bytes, name: str) -> bytes:
    """Return a .pyc file (PEP 552)."""
    code: CodeType = compile(source, name, "exec", dont_inherit=True)
    flags = struct.pack("<L", _UNCHECKED_HASH)
    head = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source)
    return head + marshal.dumps(code, _MARSHAL_VERSION)
