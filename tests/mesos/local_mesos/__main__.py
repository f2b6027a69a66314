"""Run Mesos on this machine until it is interrupted: `python -m tests.mesos.local_mesos --agents 3`."""

import argparse
import signal
import sys

from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.local_mesos.install import InstallFailed


def main() -> None:
    """Start, print the addresses, and wait."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--cpus", type=float, default=4, help="of each agent [4]")
    parser.add_argument("--mem-mb", type=int, default=4096, help="of each agent [4096]")
    parser.add_argument(
        "--attributes", action="append", default=[], help="such as rack:a, given to the agents in turn"
    )
    options = parser.parse_args()
    try:
        mesos = LocalMesos(
            agents=options.agents, cpus=options.cpus, mem_mb=options.mem_mb, attributes=options.attributes
        )
    except InstallFailed as error:
        sys.exit(f"no Mesos here: {error}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with mesos:
            print(f"master: {mesos.master_node.host}:{mesos.master_node.port}")
            for agent in mesos.agents:
                print(f"{agent.name}: {agent.host}:{agent.port}")
            print(f"logs and sandboxes: {mesos.work_dir}")
            print("press Ctrl-C to stop", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
