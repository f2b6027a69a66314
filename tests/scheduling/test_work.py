"""What placing jobs on many hosts costs, as numbers of its expensive steps; decisions do not depend on it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.hosts.room import DistinctHosts, FillEstimates, HostRoom
from cook_jupyter.scheduling.matching import columnar
from cook_jupyter.scheduling.matching.best_fit import BestFit
from cook_jupyter.scheduling.matching.matching import MatchSettings, match
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling.queues import job_id

NOTHING = Resources()


class Work:
    """Numbers of steps, and of the hosts that each step reads, by name of the step."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()

    def of(self, name: str) -> tuple[int, int]:
        return self.steps[name], self.hosts[name]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The work of all decisions of a test."""
    counted = Work()

    def count(owner: Any, method: str, name: str, hosts_of: Callable[..., int]) -> None:
        original = getattr(owner, method)

        def counting(self: Any, *arguments: Any) -> Any:
            counted.steps[name] += 1
            counted.hosts[name] += hosts_of(self, *arguments)
            return original(self, *arguments)

        monkeypatch.setattr(owner, method, counting)

    count(FillEstimates, "estimate", "estimate", lambda _, request, begin, end, is_open=None: end - begin)
    count(FillEstimates, "refresh", "refresh", lambda *_: 1)
    count(HostRoom, "fills", "exact", lambda _, hosts, request: len(hosts))
    count(BestFit, "__init__", "index", lambda *_: 1)
    count(BestFit, "choose", "look-up", lambda *_: 1)
    count(BestFit, "refresh", "index refresh", lambda *_: 1)
    count(DistinctHosts, "__init__", "kinds", lambda *_: 1)
    return counted


def some_hosts(number: int, cpus: float = 4.0, mem_mb: float = 64.0, running: Resources = NOTHING) -> Hosts:
    whole = Resources(cpus=cpus, mem_mb=mem_mb)
    return Hosts(
        Offer(
            host=f"host-{n:04}", cluster="east", pool=PoolName("pool"), room=whole - running, running=running
        )
        for n in range(number)
    )


def place(hosts: Hosts, shapes: Sequence[tuple[float, float]], good_enough: float = 1.0) -> int:
    """Place a job of each shape, and return the number of matches."""
    requests = [TaskRequest(job_id(seq), *shape) for seq, shape in enumerate(shapes)]
    matches, _, _ = match(requests, hosts, settings=MatchSettings(good_enough=good_enough, columnar_from=0))
    return len(matches)


def test_jobs_of_one_shape_on_one_host_read_all_hosts_once(work: Work) -> None:
    assert place(some_hosts(100), [(0.03, 0.5)] * 100) == 100

    assert work.of("estimate") == (1, 100)


@pytest.mark.parametrize("number", [200, 700])
@pytest.mark.parametrize("shape", [(3.3, 50.0), (2.1, 1.0)])
@pytest.mark.parametrize("good_enough", [0.6, 1.0])
def test_jobs_of_one_shape_that_take_host_after_host_read_all_hosts_a_few_times(
    good_enough: float, shape: tuple[float, float], number: int, work: Work
) -> None:
    assert place(some_hosts(number), [shape] * number, good_enough) == number

    steps, hosts = work.of("estimate")
    assert steps <= columnar._MIN_HOSTS_IN_A_ROW + 1 + number // columnar._LOOKAHEAD
    assert hosts <= number * steps


def test_jobs_of_many_shapes_are_looked_up_by_free_resources(work: Work) -> None:
    shapes = [(0.5 + n % 3, 1.0 + n % 7) for n in range(200)]

    assert place(some_hosts(400), shapes) == 200

    choices = columnar._MIN_CHOICES + 400 // columnar._HOSTS_PER_CHOICE
    assert work.of("index") == (1, 1)
    assert work.of("estimate")[0] == choices - 1
    assert work.of("look-up")[0] == 200 - (choices - 1)
    assert work.of("index refresh")[0] == 200 - choices


def test_the_index_by_free_resources_is_dropped_where_it_finds_good_hosts_only(work: Work) -> None:
    shapes = [(0.25 + n % 2, 1.0 + n % 7) for n in range(40)] + [(3.5, 60.0), (3.25, 59.0)] * 30

    assert place(some_hosts(100), shapes, 0.65) == 100

    assert work.of("index")[0] == 1
    assert work.of("look-up")[0] == 10  # the first fit is found by 5 jobs, and the others miss


def test_of_many_equal_hosts_one_is_compared(work: Work) -> None:
    shapes = [(0.3 + n % 3, 1.1 + n % 7) for n in range(100)]

    assert place(some_hosts(2000, cpus=4.1), shapes) == 100

    assert work.of("kinds")[0] == 1
    steps, hosts = work.of("exact")
    assert hosts <= 2000 + 4 * steps
    assert work.of("estimate")[1] <= 2000 + 100 * 20
    assert work.of("refresh")[0] <= 200


def test_a_good_host_among_the_first_thousands_ends_the_search(work: Work) -> None:
    shapes = [(1.0 + n % 3, 7.3) for n in range(20)]

    assert place(some_hosts(2 * columnar._FIRST_HOSTS + 1), shapes, 0.51) == 20

    assert work.of("estimate") == (20, 20 * columnar._FIRST_HOSTS)


def test_only_hosts_with_new_jobs_are_refreshed(work: Work) -> None:
    shapes = [(0.3 + n % 3, 1.1 + n % 7) for n in range(50)]

    assert place(some_hosts(50, cpus=4.1), shapes) == 50

    assert work.of("refresh")[0] <= 50
