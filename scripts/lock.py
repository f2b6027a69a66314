"""Resolve what `pyproject.toml` allows into exact versions.

    python scripts/lock.py                 renew requirements/*.txt: the newest of everything
    python scripts/lock.py --keep          keep each locked version that pyproject.toml still allows
    python scripts/lock.py --oldest FILE   write the lowest versions that pyproject.toml allows

A lock holds versions and sha256 hashes of the wheels of all platforms, and no addresses: any index
can serve it. Run by the Python of .venv-tools, which holds uv (see the target `lock` of the Makefile).

Not here: how a lock is installed (scripts/setup.sh).
"""

import argparse
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
OLDEST_PYTHON = "3.11"
EXTRAS = ("dev", "lab", "demo", "bench")  # `dev` first: the others take the versions that it has
TOOLS = ("uv",)


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 when everything was resolved."""
    parser = argparse.ArgumentParser(description="Resolve what pyproject.toml allows into exact versions.")
    parser.add_argument(
        "--keep", action="store_true", help="keep locked versions where they are still allowed"
    )
    parser.add_argument(
        "--oldest", metavar="FILE", type=Path, help="write the lowest allowed versions to FILE"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter that --oldest is for")
    options = parser.parse_args(arguments)
    try:
        if options.oldest is not None:
            write_oldest(options.oldest.resolve(), python=options.python)
        else:
            write_locks(keep=options.keep)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def write_locks(*, keep: bool) -> None:
    """Write one lock for each extra that `scripts/setup.sh` installs, and one for the tools.

    Args:
        keep: whether a locked version stays while pyproject.toml allows it.
    """
    LOCKS.mkdir(exist_ok=True)
    renewal = [] if keep else ["--upgrade"]
    every_platform = ["--universal", f"--python-version={OLDEST_PYTHON}", "--generate-hashes", *renewal]
    dev_lock = LOCKS / "dev.txt"
    for extra in EXTRAS:
        same_as_dev = [] if extra == "dev" else [f"--constraints={dev_lock}"]
        resolve(
            LOCKS / f"{extra}.txt", [*every_platform, *same_as_dev, f"--extra={extra}"], build_requirements()
        )
    resolve(LOCKS / "tools.txt", every_platform, TOOLS, package=False)


def write_oldest(output: Path, *, python: str) -> None:
    """Write the lowest version that each direct dependency of `dev` allows and that has a wheel.

    Indirect dependencies are at their newest: a lower bound for them is for our dependencies to state.

    Args:
        output: the file to write.
        python: the interpreter that the versions are for.
    """
    lowest = ["--resolution=lowest-direct", f"--python={python}", "--extra=dev", "--upgrade"]
    resolve(output, lowest, build_requirements())


def build_requirements() -> list[str]:
    """Return what builds the package, and what hatchling asks for when the installation is editable."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [
        *project["build-system"]["requires"],
        "editables~=0.3",
    ]


def resolve(
    output: Path, options: Sequence[str], requirements: Sequence[str], *, package: bool = True
) -> None:
    """Run uv's resolver.

    Args:
        output: the file that receives the versions.
        options: further options of `uv pip compile`.
        requirements: requirements beside those of the package.
        package: whether the package's own requirements are resolved too.
    """
    uv = Path(sys.executable).with_name("uv")
    # An sdist is built by whatever is newest on that day, so only wheels are allowed.
    fixed = ["--quiet", "--no-annotate", "--no-header", "--only-binary=:all:", f"--output-file={output}"]
    sources = ["pyproject.toml", "-"] if package else ["-"]
    subprocess.run(
        [uv, "pip", "compile", *fixed, *options, *sources],
        input="\n".join(requirements),
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "UV_NO_CONFIG": "1"},
    )
    pins = sum("==" in line for line in output.read_text(encoding="utf-8").splitlines())
    print(f"{output.relative_to(ROOT) if output.is_relative_to(ROOT) else output}: {pins} versions")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
