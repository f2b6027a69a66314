"""Install Mesos 1.11.0 for tests: `python -m tests.mesos.local_mesos.install`.

Lives here: the download of libmesos, and the build of the programs around it.
Not here: what they are (`tests.mesos.local_mesos`), how they are started (`tests.mesos.local_mesos.cluster`).

Needs Linux on x86_64, and from Debian libsvn1, libapr1, libsasl2-2, libsasl2-modules, libcurl4, g++ and
binutils, which are installed by apt-get if we are root. Writes about 120 MB to the user's cache directory.
The first time takes about 15 s, later ones nothing. Several processes can install at the same time.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

_ARTEFACT = "mesos.scheduler===1.11.0.linux-x86_64"
_LIBRARY_SHA256 = "84d7ee9af27e912636b139de40257df1ee4f56c201de6bba834278aa1e8fd64c"
_PIP = "pip==24.0"  # the last one that accepts a version such as that of the artefact

_PACKAGES = {  # Debian package: a library or a program in it
    "libsvn1": "libsvn_delta-1.so.1",
    "libapr1": "libapr-1.so.0",
    "libsasl2-2": "libsasl2.so.2",
    "libsasl2-modules": "sasl2/libcrammd5.so",
    "libcurl4": "libcurl.so.4",
    "g++": "g++",
    "binutils": "readelf",
}
_LIBRARY_DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_NATIVE = Path(__file__).parent / "native"
_COMMAND_TIMEOUT_S = 300.0


class InstallFailed(Exception):
    """Mesos cannot be installed on this machine; the message is one line that says what is missing."""


def install() -> Path:
    """Install Mesos unless it is installed; return the directory of its programs.

    Raises:
        InstallFailed: see there.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise InstallFailed("the build of Mesos for tests is for Linux on x86_64")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cook_jupyter" / "mesos"
    # Each version of our sources has a directory of its own: nobody changes programs that run.
    sources = [*sorted(_NATIVE.iterdir()), Path(__file__)]
    prefix = cache / hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    if not prefix.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not prefix.exists():
                _install_packages()
                library = cache / "libmesos-1.11.0.so"
                if not library.exists():
                    _download_library(library)
                _build(library, prefix)
    return prefix / "bin"


def _install_packages() -> None:
    """Install the Debian packages that are missing."""
    missing = [name for name, part in _PACKAGES.items() if not (_find_library(part) or shutil.which(part))]
    if not missing:
        return
    advice = f"for the tests with a real Mesos, run: sudo apt-get install {' '.join(missing)}"
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise InstallFailed(advice)
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        _run(*command, environment=environment)
    except InstallFailed:
        try:
            _run("apt-get", "update", "-qq", environment=environment)
            _run(*command, environment=environment)
        except InstallFailed as error:
            raise InstallFailed(f"{advice} ({error})") from None


def _find_library(name: str) -> Path | None:
    paths = (Path(directory, name) for directory in _LIBRARY_DIRECTORIES)
    return next((path for path in paths if path.exists()), None)


def _download_library(target: Path) -> None:
    """Download the artefact, and take libmesos out of it.

    The artefact is a built distribution under the name of a source distribution, so that pip downloads and
    unpacks it, and then fails to build it.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        pip_path = f"{scratch}/pip"
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip3"]
        options = ["--quiet", "--disable-pip-version-check", "--retries", "2", "--no-deps"]
        _run(*pip, "install", *options, "--target", pip_path, _PIP)
        environment = {**os.environ, "PYTHONPATH": pip_path, "TMPDIR": scratch}
        command = [sys.executable, "-m", "pip", "download", *options, "--no-clean", "--no-cache-dir"]
        output = ""
        try:
            _run(*command, "--dest", scratch, _ARTEFACT, environment=environment)
        except InstallFailed as error:  # as expected
            output = str(error)
        library = next(Path(scratch).rglob("_scheduler.so"), None)
        if library is None:
            raise InstallFailed(f"cannot download {_ARTEFACT} from the package index ({output})")
        with library.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != _LIBRARY_SHA256:
                raise InstallFailed(f"{_ARTEFACT} from the package index has an unexpected checksum")
        library.replace(target)


def _build(library: Path, prefix: Path) -> None:
    """Build the programs, and put them in place when they are complete."""
    with tempfile.TemporaryDirectory(dir=prefix.parent) as scratch:
        build = Path(scratch, "build")
        lib, programs = build / "lib", build / "bin"
        lib.mkdir(parents=True)
        programs.mkdir()
        (lib / "libmesos.so").symlink_to(library)
        _write_imports(library, Path(scratch))
        compat = lib / "libmesos-compat.so"
        _run(
            *("gcc", "-shared", "-fPIC", "-O1", "-w", f"-I{scratch}"),
            f'-DLIBCURL="{_find_library(_PACKAGES["libcurl4"])}"',
            f"-Wl,--version-script={scratch}/imports.map",
            *("-o", str(compat), str(_NATIVE / "mesos-compat.c"), "-ldl"),
        )
        for name in ("libssl.so.1.0.0", "libcrypto.so.1.0.0", "libcurl.so.4"):
            (lib / name).symlink_to(compat.name)
        # An RPATH, unlike a RUNPATH, serves the dependencies of the library, too.
        _run(
            *(
                "g++",
                "-std=c++17",
                "-O1",
                "-o",
                str(programs / "mesos-node"),
                str(_NATIVE / "mesos-node.cpp"),
            ),
            *(f"-L{lib}", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"),
            f"-Wl,--disable-new-dtags,-rpath,{prefix}/lib",
            *("-lmesos-compat", "-lmesos"),
        )
        for name in ("mesos-master", "mesos-agent", "mesos-containerizer"):
            (programs / name).symlink_to("mesos-node")
        build.rename(prefix)


def _write_imports(library: Path, directory: Path) -> None:
    """Describe what the library imports from Python 2.7, OpenSSL 1.0 and libcurl, for mesos-compat.c."""
    lines: list[str] = []
    versions: dict[str, list[str]] = defaultdict(list)
    for line in _run("readelf", "--wide", "--dyn-syms", str(library)).splitlines():
        fields = line.split()
        if len(fields) < 8 or fields[6] != "UND":
            continue
        name, _, version = fields[7].partition("@")
        if version.startswith("CURL_"):
            kind = "FORWARD"
        elif version.startswith("OPENSSL_"):
            kind = "MISSING"
        elif re.match("PyExc_|_Py_", name):
            kind = "OBJECT"
        elif name.startswith("Py"):
            kind = "MISSING"
        else:
            continue
        lines.append(f"{kind}({name})\n")
        if version:
            versions[version].append(name)
    (directory / "imports.h").write_text("".join(lines))
    maps = (f"{version} {{ {'; '.join(names)}; }};\n" for version, names in versions.items())
    (directory / "imports.map").write_text("".join(maps))


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a program; return its output, or raise `InstallFailed` with the end of it."""
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_COMMAND_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallFailed(f"{command[0]}: {error}") from error
    if result.returncode:
        last = " ".join(result.stdout.split())[-300:]
        raise InstallFailed(f"{' '.join(command[:4])} failed: {last}")
    return result.stdout


def main() -> None:
    """Install, and print where."""
    try:
        print(install())
    except InstallFailed as error:
        sys.exit(f"no Mesos here: {error}")


if __name__ == "__main__":
    main()
