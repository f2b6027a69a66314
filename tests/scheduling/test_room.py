"""The room of hosts during a cycle: exact, estimated, and of one host of each kind."""

import random

import numpy as np
import pytest

from cook_jupyter.model.offer import HostKind
from cook_jupyter.scheduling.hosts import room as room_module
from cook_jupyter.scheduling.hosts.columns import port_count
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.hosts.room import ERROR, DistinctHosts, FillEstimates, HostRoom
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling.busy_pools import some_offers, some_requests

SEEDS = pytest.mark.parametrize("first", range(0, 60, 10))


class PlainRoom:
    """The room of hosts as the rules tell it."""

    def __init__(self, hosts: Hosts) -> None:
        self._offers = hosts.offers
        self._placed: list[list[TaskRequest]] = [[] for _ in hosts.offers]

    def assign(self, host: int, request: TaskRequest) -> None:
        self._placed[host].append(request)

    def left(self, host: int) -> tuple[float, float, float, float]:
        """Free cpus, memory, gpus and ports; gpus of other kinds of hosts are not a number."""
        offer, placed = self._offers[host], self._placed[host]
        return (
            offer.room.cpus - sum(request.cpus for request in placed),
            offer.room.mem_mb - sum(request.mem_mb for request in placed),
            offer.room.gpus - sum(request.gpus for request in placed)
            if offer.kind is HostKind.PLAIN
            else float("inf"),
            port_count(offer) - sum(request.ports for request in placed),
        )

    def fits(self, host: int, request: TaskRequest) -> bool:
        asked = (request.cpus, request.mem_mb, request.gpus, request.ports)
        return all(amount <= left + 1e-12 for amount, left in zip(asked, self.left(host), strict=True))

    def fill(self, host: int, request: TaskRequest) -> float:
        offer, (cpus, mem_mb, *_) = self._offers[host], self.left(host)
        whole = offer.room + offer.running
        return (whole.cpus - cpus + request.cpus) / (whole.cpus or 1.0) + (
            whole.mem_mb - mem_mb + request.mem_mb
        ) / (whole.mem_mb or 1.0)


@SEEDS
def test_room_and_its_estimates_follow_the_assignments(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 10):
        rng = random.Random(seed)
        monkeypatch.setattr(room_module, "_FEW", rng.choice((0, 12)))
        monkeypatch.setattr(room_module, "_MAX_CACHED_CPUS", rng.choice((0, 1, 8)))
        hosts = Hosts(some_offers(rng))
        room, plain = HostRoom(hosts.columns), PlainRoom(hosts)
        estimates = FillEstimates(room, hosts.columns)
        distinct = DistinctHosts(room, hosts.columns, np.empty(0, dtype=np.int64))
        requests = some_requests(rng, is_limited=False)
        for request in requests:
            everywhere = range(len(hosts))
            fits = [plain.fits(host, request) for host in everywhere]
            fills = [plain.fill(host, request) for host in everywhere]
            is_open = None if rng.random() < 0.5 else np.array([rng.random() < 0.8 for _ in everywhere])
            begin = rng.randrange(len(hosts))
            estimates.estimate(request, begin, len(hosts), is_open)

            assert [room.fits(host, request) for host in everywhere] == fits, f"seed {seed}, {request}"
            assert [room.fill(host, request) for host in everywhere] == pytest.approx(fills)
            assert [room.fitness(host, request) for host in everywhere] == pytest.approx(
                [fitness_of(fill) for fill in fills]
            )
            some = np.array(sorted(rng.sample(range(len(hosts)), rng.randint(1, len(hosts)))))
            assert room.fills(some, request).tolist() == [
                room.fill(host, request) if fits[host] else -1.0 for host in some
            ]
            for host in range(begin, len(hosts)):
                estimate = float(estimates.latest[host])
                if is_open is not None and not is_open[host]:
                    assert estimate == 0.0
                elif fits[host]:
                    assert abs(estimate - 1.0 - fills[host]) <= ERROR
                elif not _nearly_fits(plain, host, request):
                    assert estimate <= 0.0, f"seed {seed}, {request}, host {host}"
            _require_the_first_of_the_fullest(distinct, room, request)

            if any(fits):
                taken = rng.choice([host for host in range(len(hosts)) if fits[host]])
                room.assign(taken, request)
                plain.assign(taken, request)
                estimates.refresh(taken, taken)
                distinct.refresh(taken)
                assert room.left(taken) == pytest.approx(plain.left(taken)[:2])
        changed = np.flatnonzero(room.used.any(axis=0))
        built = DistinctHosts(room, hosts.columns, changed)
        for request in requests:
            _require_the_first_of_the_fullest(built, room, request)


def _nearly_fits(plain: PlainRoom, host: int, request: TaskRequest) -> bool:
    """Return whether the host lacks no more than the part by which its room is overestimated."""
    return plain.fits(host, request._replace(cpus=request.cpus - 1e-4, mem_mb=request.mem_mb - 1e-3))


def _require_the_first_of_the_fullest(distinct: DistinctHosts, room: HostRoom, request: TaskRequest) -> None:
    """Require that the representatives have the first of the hosts that the job fills most."""
    estimates = distinct.estimates
    slots = estimates.hosts[: estimates.count].tolist()
    assert len(set(slots)) == len(slots)
    exact = room.fills(np.arange(len(room.used[0])), request)
    if exact.max() >= 0.0:
        assert int(exact.argmax()) in slots
    estimates.estimate(request, 0, estimates.count)
    for host, estimate in zip(slots, estimates.latest.tolist(), strict=True):
        if exact[host] >= 0.0:
            assert abs(estimate - 1.0 - exact[host]) <= ERROR
