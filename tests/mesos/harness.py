"""Our cluster on a real Mesos, for the tests of this directory."""

import asyncio
import contextlib
import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.request import Request, urlopen

from cook_jupyter.clusters.base import ClusterListener, Launch
from cook_jupyter.clusters.mesos.cluster import MesosCluster
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.sandboxes import MesosSandboxes
from cook_jupyter.clusters.mesos.transport.http_connection import HttpSchedulerConnection, Timing
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress, MasterList
from cook_jupyter.model.resources import Resources
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.waiting import HANG_S

USER = getpass.getuser()
POOLS = ("default", "other")


class StateInMemory:
    """What a cluster must remember; it outlives the schedulers of a test."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.saves = 0

    async def load(self) -> str | None:
        return self.text

    async def save(self, text: str) -> None:
        self.text = text
        self.saves += 1


class PlacingCluster(MesosCluster):
    """A cluster that gives launches for hosts that do not exist a host with room, as the matcher would."""

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        await super().start(listener, [self._on(launch, "127.0.1.1") for launch in open_launches])
        async with asyncio.timeout(HANG_S):
            while not self._has_all_offers():  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)

    async def launch(self, launches: Sequence[Launch]) -> None:
        room = {offer.host: offer.room for offer in self.offers()}
        placed = []
        for launch in launches:
            if launch.instance.host in room:
                placed.append(launch)
                continue
            host = next((h for h in sorted(room) if launch.spec.resources.fits_in(room[h])), "none")
            if host in room:
                room[host] -= launch.spec.resources
            placed.append(self._on(launch, host))
        await super().launch(placed)

    @staticmethod
    def _on(launch: Launch, host: str) -> Launch:
        return replace(launch, instance=replace(launch.instance, host=host))

    def _has_all_offers(self) -> bool:
        hosts = {offer.host: offer.room + offer.running for offer in self.offers()}
        whole = {offer.host: offer.room for offer in self.capacity()}
        return len(hosts) > 0 and hosts == whole


class MesosSite:
    """A framework of a real Mesos, with one scheduler after the other.

    Args:
        mesos: the Mesos.
        options: options of the cluster that differ from those of tests.
    """

    def __init__(self, mesos: LocalMesos, **options: Any) -> None:
        self.mesos = mesos
        self.state = StateInMemory()
        self.options = MesosOptions(
            **{
                "master": mesos.master.removeprefix("http://"),
                "executor_python": sys.executable,
                "run_as": USER,
                "kill_grace_s": 1.0,
                "executor_idle_s": 30.0,
                **options,
            }
        )

    def cluster(self, make: Callable[..., MesosCluster] = PlacingCluster) -> MesosCluster:
        """A cluster that has not been started; a second one is what a restarted scheduler would make."""
        master = MasterAddress.parse(self.options.master)
        return make(
            self.options,
            HttpSchedulerConnection(
                MasterList([master]), timing=Timing(shortest_pause_s=0.1, longest_pause_s=0.5)
            ),
            state=self.state,
            sandboxes=MesosSandboxes,
            results=MesosSandboxes,
            pools=POOLS,
            version="test",
            user=USER,
            tick_s=0.05,
        )

    async def settle(self, cluster: object) -> None:
        """Tear the framework down, with all that runs."""
        await asyncio.to_thread(self.tear_down)

    def tear_down(self) -> None:
        """Remove the framework from Mesos."""
        if self.state.text is None:
            return
        framework_id = self.state.text.split('"framework_id": "')[1].split('"')[0]
        with contextlib.suppress(OSError):  # it is removed already
            body = f"frameworkId={framework_id}".encode()
            urlopen(Request(f"{self.mesos.master}/master/teardown", body), timeout=HANG_S).close()
        self.state.text = None


def whole(resources: Sequence[Resources]) -> Resources:
    """Return the sum of resources."""
    return sum(resources, Resources())
