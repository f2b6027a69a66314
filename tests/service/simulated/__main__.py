"""Simulate the service from many seeds, or show what one seed does.

python -m tests.service.simulated 20000 --first 1000
python -m tests.service.simulated --seed 17
python -m tests.service.simulated --seed 17 --without crash,partition
"""

import argparse
import sys
import time
from collections.abc import Sequence

from tests.service.simulated.scenario import FAULT_KINDS
from tests.service.simulated.simulation import simulate
from tests.service.simulated.soak import Tally, failure_lines

REPORT_EVERY = 1000


def main() -> int:
    """Run what is asked for; returns 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="simulated"
    )
    parser.add_argument("seeds", type=int, nargs="?", default=1000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run only this seed and print its trace")
    parser.add_argument(
        "--without", default="", help=f"kinds of faults to leave out, of {','.join(FAULT_KINDS)}"
    )
    parser.add_argument("--digests", action="store_true", help="print a digest of each seed's trace")
    arguments = parser.parse_args()
    without = [kind for kind in arguments.without.split(",") if kind]
    if arguments.seed is not None:
        return show(arguments.seed, without)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.digests:
        for seed in seeds:
            print(simulate(seed, is_traced=True, without=without).digest)
        return 0
    return soak(seeds, without)


def show(seed: int, without: Sequence[str]) -> int:
    """Print the trace of one seed."""
    outcome = simulate(seed, is_traced=True, without=without)
    print(*outcome.lines, sep="\n")
    print(f"digest {outcome.digest}")
    print("all invariants held" if outcome.violation is None else f"violated: {outcome.violation}")
    return int(outcome.violation is not None)


def soak(seeds: range, without: Sequence[str]) -> int:
    """Run many seeds, and print those that fail and what was counted."""
    tally, began_s = Tally(), time.process_time()
    for seed in seeds:
        outcome = simulate(seed, without=without)
        tally.add(outcome)
        if outcome.violation is not None:
            print(*failure_lines(outcome), sep="\n", flush=True)
        if tally.seeds % REPORT_EVERY == 0:
            print(f"{tally.seeds:,} seeds, {len(tally.failed)} failed", flush=True)
    print(f"seeds {seeds.start} to {seeds.stop - 1}")
    print(*tally.lines(time.process_time() - began_s), sep="\n")
    return int(bool(tally.failed))


if __name__ == "__main__":
    sys.exit(main())
