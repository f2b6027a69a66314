"""A kernel that submits jobs which mark a ledger, and checks their results.

A process of its own, as its calls would carry what other tests have changed in their modules.
"""

import random
import sys

from cook_jupyter import CookExecutor
from tests.mesos.ledger_job import work


def main(ledger: str, count: int) -> int:
    """Submit the jobs, and wait for the results."""
    rng = random.Random(1)
    executor = CookExecutor(cpus=0.5, mem_mb=50, retries=1)
    futures = [executor.submit(work, number, ledger, rng.uniform(0.0, 0.3)) for number in range(count)]
    assert [future.result() for future in futures] == [2 * number for number in range(count)]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
