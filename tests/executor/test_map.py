"""`map`: bundled, ordered, lazy, and honest about failures."""

import operator
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from itertools import count, cycle, islice, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import (
    BadExit,
    CookError,
    ExecutorClosed,
    HostLost,
    JobKilled,
    OutOfMemory,
    Unpicklable,
)
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor import arguments as reading
from cook_jupyter.executor.arguments import Arguments
from cook_jupyter.executor.mapping import MAX_CALLS, TARGET_S, BundleSizer
from cook_jupyter.executor.stages import Stage
from cook_jupyter.payload import encoding
from tests.executor.test_executor import wait_for
from tests.waiting import wait_until


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


@pytest.mark.parametrize("name", ["chunksize", "buffersize"])
@pytest.mark.parametrize(
    ("value", "builtin"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("all", TypeError), (True, TypeError)],
)
def test_a_size_that_is_none_is_refused_by_the_standard_librarys_names_and_ours(
    executor: CookExecutor, name: str, value: Any, builtin: type[Exception]
) -> None:
    for kind in (builtin, CookError):
        with pytest.raises(kind, match=name):
            executor.map(abs, [1], **{name: value})


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
    wait_until(lambda: not executor._holder.current_session().futures())


def test_leaving_the_executor_waits_for_the_parts_of_a_divided_bundle(started: JobClient) -> None:
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        results = executor.map(
            lambda value: os._exit(3) if value == 2 else value, range(8), chunksize=8, return_exceptions=True
        )
        named = executor._holder.current_session()
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

    wait_until(lambda: not executor._holder.current_session().futures())


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
    sizes = BundleSizer(total=100, slots=4, fixed=None)

    first = sizes.next()
    sizes.observe(first, seconds=3.0, size=500)

    assert (first, sizes.next()) == (1, 1)


def test_quick_calls_grow_to_bundles_of_about_a_second() -> None:
    sizes = BundleSizer(total=10_000_000, slots=2, fixed=None)

    for _ in range(6):
        count = sizes.next()
        sizes.observe(count, seconds=count * 0.001, size=500)

    assert sizes.next() == pytest.approx(TARGET_S / 0.001, rel=0.01)


def test_the_last_calls_are_spread_over_all_slots() -> None:
    sizes = BundleSizer(total=1001, slots=4, fixed=None)
    sizes.observe(sizes.next(), seconds=0.01, size=500)

    assert sizes.next() <= 1000 / 4


def test_large_results_keep_bundles_small() -> None:
    sizes = BundleSizer(total=10_000_000, slots=2, fixed=None)
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
    sizes = BundleSizer(total=total, slots=slots, fixed=fixed)
    handed = []
    while count := sizes.next():
        handed.append(count)
        sizes.observe(count, seconds=count * seconds, size=100)

    assert sum(handed) == total
    assert all(0 < count <= MAX_CALLS for count in handed)


# --- how far iterables are read ------------------------------------------------------------------------


def test_ranges_stay_ranges_so_that_they_travel_as_three_numbers() -> None:
    arguments = Arguments([range(10**12), [1, 2, 3]])

    assert arguments.read(begun=0, yielded=0) == 3
    assert arguments.pop(2)[0] == range(2)
    assert arguments.pop(1)[0] == range(2, 3)


def test_a_map_ends_with_the_shortest_iterable_beside_endless_ones(executor: CookExecutor) -> None:
    assert list(executor.map(operator.mul, range(5), repeat(10))) == [0, 10, 20, 30, 40]
    assert list(executor.map(operator.mul, count(1), [2, 3])) == [2, 6]
    assert list(executor.map(operator.mul, cycle("ab"), iter((1, 2, 3)))) == ["a", "bb", "aaa"]
    assert list(executor.map(operator.mul, repeat(2), [])) == []
    assert list(executor.map(operator.neg)) == []


def test_an_endless_iterable_is_read_while_results_are_taken(executor: CookExecutor) -> None:
    results = executor.map(operator.neg, count())

    assert list(islice(results, 2000)) == [-number for number in range(2000)]
    results.close()  # type: ignore[attr-defined]


def test_a_buffer_size_limits_what_is_read_before_its_results_are_taken(executor: CookExecutor) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in count():
            read.append(number)
            yield number

    results = executor.map(operator.neg, numbers(), buffersize=3)

    assert len(read) == 3
    assert [next(results) for _ in range(10)] == [-number for number in range(10)]
    assert len(read) <= 13
    results.close()  # type: ignore[attr-defined]


def test_a_buffer_size_holds_for_lists_too(executor: CookExecutor) -> None:
    assert list(executor.map(operator.neg, [1, 2, 3, 4, 5], buffersize=2)) == [-1, -2, -3, -4, -5]


def test_an_iterable_may_depend_on_the_results_before(executor: CookExecutor) -> None:
    found = [1]

    def proposals() -> Iterator[int]:
        while True:
            yield found[-1]

    results = executor.map(lambda value: value * 2, proposals(), buffersize=1)
    while len(found) < 8:
        found.append(next(results))

    assert found == [1, 2, 4, 8, 16, 32, 64, 128]


def test_iterables_are_read_in_the_callers_thread(
    executor: CookExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_READ_AHEAD", 10)
    threads = set()

    def numbers() -> Iterator[int]:
        for number in range(100):
            threads.add(threading.current_thread())
            yield number

    assert list(executor.map(abs, numbers())) == list(range(100))
    assert threads == {threading.current_thread()}


def test_large_arguments_are_not_read_far_ahead() -> None:
    arguments = Arguments([(bytes(2**20) for _ in range(1000))])

    assert 60 <= arguments.read(begun=0, yielded=0) <= 70
    assert not arguments.exhausted


def test_what_an_iterable_raises_comes_from_the_call_of_map_or_after_the_results_before_it(
    executor: CookExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError):
        executor.map(abs, (1 // number for number in (1, 0)))
    monkeypatch.setattr(reading, "MAX_READ_AHEAD", 2)

    results = executor.map(abs, (6 // number for number in (1, 2, 3, 0)))

    assert [next(results) for _ in range(3)] == [6, 3, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_shutdown_waits_for_a_bundle_that_is_being_made_when_all_others_have_ended(
    started: JobClient, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_READ_AHEAD", 2)
    folder, encode = gate.parent, encoding.encode_bundle
    executor = CookExecutor(started, cpus=0.5, mem_mb=256)
    session = executor._holder.current_session()

    def encode_when_alone(*args: Any, **kwargs: Any) -> Any:
        wait_until(lambda: not any(future.stage is Stage.ACCEPTED for future in session.futures()))
        return encode(*args, **kwargs)

    with executor:
        executor.map(lambda number: (folder / str(number)).touch(), (number for number in range(5)))
        monkeypatch.setattr(encoding, "encode_bundle", encode_when_alone)

    assert len(list(folder.iterdir())) == 5


def test_a_map_that_nobody_iterates_over_is_carried_out_whole(
    started: JobClient, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_READ_AHEAD", 2)
    folder = gate.parent

    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        executor.map(lambda number: (folder / str(number)).touch(), (number for number in range(9)))

    assert sorted(path.name for path in folder.iterdir()) == [str(number) for number in range(9)]


@pytest.mark.parametrize("options", [{}, {"buffersize": 4}])
def test_what_a_map_has_not_read_when_its_executor_is_shut_down_is_not_called(
    started: JobClient, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(reading, "MAX_READ_AHEAD", 4)
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        results = executor.map(abs, count(), **options)
        assert next(results) == 0

    with pytest.raises(RuntimeError, match="after shutdown") as raised:
        list(results)
    assert isinstance(raised.value, ExecutorClosed)


def test_shutdown_that_cancels_ends_a_map_with_the_bundles_that_run(started: JobClient, gate: Path) -> None:
    executor = CookExecutor(started, cpus=0.5, mem_mb=256)
    results = executor.map(wait_for, [str(gate)] * 100, chunksize=1)
    wait_until(lambda: any(future.running() for future in executor._holder.current_session().futures()))

    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()

    assert next(results) == "open"
    with pytest.raises(CancelledError):
        list(results)


def test_killing_ends_a_map_with_what_it_was_killed_by(executor: CookExecutor, gate: Path) -> None:
    results = executor.map(wait_for, [str(gate)] * 100, chunksize=1)
    wait_until(lambda: any(future.running() for future in executor._holder.current_session().futures()))

    executor.kill()

    with pytest.raises(JobKilled):
        next(results)


KINDS: dict[str, Callable[[list[int]], Iterable[Any]]] = {
    "list": list,
    "tuple": tuple,
    "range": lambda values: range(len(values)),
    "iterator": iter,
    "generator": lambda values: (value for value in values),
    "dict": lambda values: dict.fromkeys(values, 0),
    "text": lambda values: dict.fromkeys(map(str, values)),
}


@given(
    shapes=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 30)), min_size=1, max_size=3),
    buffersize=st.one_of(st.none(), st.integers(1, 8)),
    bundle=st.integers(1, 7),
)
def test_arguments_are_those_of_zip_and_leave_iterators_where_zip_does(
    shapes: list[tuple[str, int]], buffersize: int | None, bundle: int
) -> None:
    ours = [KINDS[kind](list(range(length))) for kind, length in shapes]
    reference = [KINDS[kind](list(range(length))) for kind, length in shapes]
    arguments = Arguments(ours, buffersize)
    rows: list[tuple[Any, ...]] = []
    known = begun = 0
    while not arguments.exhausted or known > begun:
        added = arguments.read(begun, begun)
        known += added
        assert buffersize is None or known - begun <= buffersize
        size = min(bundle, known - begun)
        if size:
            rows += zip(*arguments.pop(size), strict=True)
            begun += size

    assert rows == list(zip(*reference, strict=False))
    for left, right in zip(ours, reference, strict=True):
        if isinstance(left, Iterator) and isinstance(right, Iterator):
            assert list(left) == list(right)
