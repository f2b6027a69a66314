"""What stands for a notebook kernel in the crash test: a program that can be killed at any moment.

It submits jobs one by one, writes each key down, and begins where its predecessor was killed:
futures come back by key, and what was never accepted is submitted again. The last job waits until
the file `enough` is there, so that there is work under way however fast the machine is.

Run as: kernel_program.py FOLDER JOBS
"""

import os
import sys
import time
from pathlib import Path

from cook_jupyter.errors import NotFound
from cook_jupyter.executor import CookExecutor, CookFuture, attach


def work(number: int, seconds: float, ledger: str, gate: str | None) -> int:
    """The job: leave a mark in the ledger as the last act, and answer."""
    time.sleep(seconds)
    while gate is not None and not os.path.exists(gate):  # noqa: PTH110 - a job imports little
        time.sleep(0.02)
    line = f"{os.environ['COOK_JOB_UUID']} {os.environ['COOK_INSTANCE_UUID']} {number}\n"
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    return number * number


def main(folder: Path, jobs: int) -> None:
    """Submit what is missing, await everything, and say that it is done."""
    keys_file = folder / "keys"
    ledger = str(folder / "ledger")
    written = keys_file.read_text().splitlines() if keys_file.exists() else []
    key_of = {int(line.split()[0]): line.split()[1] for line in written if len(line.split()) == 2}
    futures: dict[int, CookFuture] = {}
    with CookExecutor(name="crash-test", mem_mb=64) as executor, keys_file.open("a") as keys:
        for number, key in key_of.items():
            try:
                futures[number] = attach(key)
            except NotFound:
                continue  # it was killed between making the key and its acceptance
        for number in range(jobs):
            if number not in futures:
                gate = str(folder / "enough") if number == jobs - 1 else None
                futures[number] = executor.submit(work, number, 0.01, ledger, gate)
                keys.write(f"{number} {futures[number].key}\n")
                keys.flush()
        for number, future in futures.items():
            assert future.result(timeout=800) == number * number
    (folder / "done").write_text("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
