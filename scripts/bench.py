"""Run the programs of benchmarks/ one after the other, each alone on the machine and in a home of its own.

`make bench` runs them all; `python scripts/bench.py futures` those whose names are given.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(names: list[str]) -> int:
    """Return the exit code: 0 when each program ended well."""
    programs = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("[!_]*.py"))}
    unknown = [name for name in names if name not in programs]
    if unknown or not programs:
        print(f"bench: no such benchmark: {', '.join(unknown) or 'any'}; there are: {', '.join(programs)}")
        return 2

    failed = []
    for name in names or programs:
        print(f"== {name}", flush=True)
        home = tempfile.mkdtemp(prefix="cook-bench-")
        environment = {**os.environ, "COOK_JUPYTER_HOME": home}
        try:
            done = subprocess.run(
                [sys.executable, str(programs[name])], cwd=ROOT, env=environment, check=False
            )
            subprocess.run(
                [sys.executable, "-m", "cook_jupyter", "down"],
                env=environment,
                check=False,
                capture_output=True,
            )
        finally:
            shutil.rmtree(home, ignore_errors=True)
        if done.returncode != 0:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"bench: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
