"""`map`: bundled, ordered, lazy, and honest about failures."""

import operator
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import BadExit, HostLost, InvalidRequest, OutOfMemory, Unpicklable
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor.mapping import MOST_CALLS, TARGET_S, Sizes, columns_of
from tests.executor.test_executor import until, wait_for


def test_results_come_in_order(executor: CookExecutor) -> None:
    assert list(executor.map(lambda value: value * value, range(1000))) == [n * n for n in range(1000)]


def test_several_iterables_end_with_the_shortest(executor: CookExecutor) -> None:
    assert list(executor.map(operator.sub, [5, 6, 7], iter((1, 1)))) == [4, 5]
    assert list(executor.map(operator.neg, [])) == []


def test_many_calls_go_into_few_jobs(executor: CookExecutor, started: JobClient) -> None:
    named = executor.with_(name="bundled")

    assert sum(named.map(lambda value: value, range(50_000))) == sum(range(50_000))

    assert len(started.recent_jobs(1000, name="bundled")) < 100


def test_a_fixed_chunk_size_is_kept(executor: CookExecutor, started: JobClient) -> None:
    named = executor.with_(name="fixed")

    assert list(named.map(abs, range(-10, 0), chunksize=4)) == list(range(10, 0, -1))

    assert len(started.recent_jobs(1000, name="fixed")) == 3


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, "all", True])
def test_a_chunk_size_that_is_none_is_refused(executor: CookExecutor, chunksize: Any) -> None:
    with pytest.raises(InvalidRequest, match="chunksize"):
        executor.map(abs, [1], chunksize=chunksize)


def test_the_first_failure_is_raised_after_the_results_before_it(executor: CookExecutor) -> None:
    results = executor.map(lambda value: 10 // value, [1, 2, 0, 5], chunksize=2)

    assert [next(results), next(results)] == [10, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_exceptions_can_be_given_out_like_results(executor: CookExecutor) -> None:
    found = list(executor.map(lambda value: 10 // value, [1, 0, 5], return_exceptions=True))

    assert [found[0], found[2]] == [10, 2]
    assert isinstance(found[1], ZeroDivisionError)


def die(how: str) -> None:
    """Take this worker down."""
    if how == "exit":
        os._exit(3)
    if how == "success":
        os._exit(0)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        kept = []
        while True:
            kept.append(b"x" * (1 << 20))


DEATHS = {
    "exit": BadExit,
    "success": BadExit,
    "segfault": BadExit,
    "kill": HostLost,
    "memory": OutOfMemory,
}


@pytest.mark.parametrize(("how", "error"), DEATHS.items(), ids=DEATHS.keys())
def test_only_the_call_that_takes_its_worker_down_fails(
    executor: CookExecutor, how: str, error: type[Exception]
) -> None:
    def work(value: int) -> int:
        if value == 5:
            die(how)
        return value * value

    results = list(executor.map(work, range(9), chunksize=7, return_exceptions=True))

    assert isinstance(results[5], error)
    assert [value for value in results if value is not results[5]] == [n * n for n in range(9) if n != 5]


def test_several_calls_that_take_their_workers_down_fail_each_for_itself(executor: CookExecutor) -> None:
    fatal = {0, 3, 4, 11}
    results = list(
        executor.map(
            lambda value: os._exit(3) if value in fatal else value,
            range(12),
            chunksize=12,
            return_exceptions=True,
        )
    )

    assert {place for place, value in enumerate(results) if isinstance(value, BadExit)} == fatal
    assert [value for value in results if isinstance(value, int)] == [1, 2, 5, 6, 7, 8, 9, 10]


def test_what_comes_before_a_call_that_takes_its_worker_down_is_given_out_first(
    executor: CookExecutor,
) -> None:
    results = executor.map(lambda value: os._exit(3) if value == 2 else value, range(8), chunksize=8)

    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(BadExit):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    until(lambda: not executor._line.live().futures())


def test_leaving_the_executor_waits_for_the_parts_of_a_divided_bundle(started: JobClient) -> None:
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        results = executor.map(
            lambda value: os._exit(3) if value == 2 else value, range(8), chunksize=8, return_exceptions=True
        )
        named = executor._line.live()
    assert not named.futures()

    assert [value for value in results if isinstance(value, int)] == [0, 1, 3, 4, 5, 6, 7]


def test_what_cannot_travel_is_refused_when_map_is_called(executor: CookExecutor) -> None:
    with pytest.raises(Unpicklable, match="argument 1 of call 1"):
        executor.map(str, [(value for value in range(3))])


def test_what_cannot_travel_later_in_a_map_is_raised_in_its_place(executor: CookExecutor) -> None:
    results = executor.map(str, [1, (value for value in range(3))], chunksize=1)

    assert next(results) == "1"
    with pytest.raises(Unpicklable):
        next(results)


def test_time_runs_from_the_call_of_map(executor: CookExecutor, gate: Path) -> None:
    results = executor.map(wait_for, [str(gate)] * 3, timeout=0.2)

    with pytest.raises(TimeoutError):
        next(results)


def test_leaving_a_map_early_kills_the_rest(executor: CookExecutor, gate: Path) -> None:
    results = executor.map(
        lambda path: wait_for(path) if path else "", ["", str(gate), str(gate)], chunksize=1
    )
    assert next(results) == ""

    results.close()  # type: ignore[attr-defined]

    until(lambda: not executor._line.live().futures())


def test_results_are_lazy(executor: CookExecutor, gate: Path) -> None:
    results = executor.map(lambda path: wait_for(path) if path else "first", ["", str(gate)], chunksize=1)

    assert next(results) == "first"
    gate.touch()
    assert next(results) == "open"


def test_leaving_the_executor_waits_for_a_map_under_way(started: JobClient) -> None:
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        results = executor.map(lambda value: value, range(5000))

    assert list(results) == list(range(5000))


def test_a_list_may_change_while_its_calls_are_sent(executor: CookExecutor) -> None:
    values = list(range(2000))

    results = executor.map(lambda value: value, values)
    values[:] = [0] * 2000

    assert list(results) == list(range(2000))


# --- how large bundles are ----------------------------------------------------------------------------


def test_slow_calls_are_sent_one_by_one() -> None:
    sizes = Sizes(total=100, slots=4, fixed=None)

    first = sizes.next()
    sizes.observe(first, seconds=3.0, size=500)

    assert (first, sizes.next()) == (1, 1)


def test_quick_calls_grow_to_bundles_of_about_a_second() -> None:
    sizes = Sizes(total=10_000_000, slots=2, fixed=None)

    for _ in range(6):
        count = sizes.next()
        sizes.observe(count, seconds=count * 0.001, size=500)

    assert sizes.next() == pytest.approx(TARGET_S / 0.001, rel=0.01)


def test_the_last_calls_are_spread_over_all_slots() -> None:
    sizes = Sizes(total=1001, slots=4, fixed=None)
    sizes.observe(sizes.next(), seconds=0.01, size=500)

    assert sizes.next() <= 1000 / 4


def test_large_results_keep_bundles_small() -> None:
    sizes = Sizes(total=10_000_000, slots=2, fixed=None)
    for _ in range(6):
        count = sizes.next()
        sizes.observe(count, seconds=count * 1e-6, size=count * 2**20)

    assert sizes.next() <= 16


@given(
    total=st.integers(0, 10_000),
    slots=st.integers(1, 64),
    fixed=st.one_of(st.none(), st.integers(1, 500)),
    seconds=st.floats(1e-8, 100),
)
def test_every_call_is_handed_out_once(total: int, slots: int, fixed: int | None, seconds: float) -> None:
    sizes = Sizes(total=total, slots=slots, fixed=fixed)
    handed = []
    while count := sizes.next():
        handed.append(count)
        sizes.observe(count, seconds=count * seconds, size=100)

    assert sum(handed) == total
    assert all(0 < count <= MOST_CALLS for count in handed)


def test_ranges_stay_ranges_so_that_they_travel_as_two_numbers() -> None:
    columns, total = columns_of([range(10**12), [1, 2, 3]])

    assert total == 3
    assert isinstance(columns[0], range)
