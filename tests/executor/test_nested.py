"""Calls that submit calls, with a real scheduler: waits that can end do, and those that cannot end say so."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import NestedDeadlock, Unpicklable
from cook_jupyter.executor import CookExecutor, CookFuture
from cook_jupyter.executor.nested import blocked_on
from tests.executor.test_executor import SOON_S, wait_for
from tests.waiting import wait_until


@pytest.fixture
def parents(started: JobClient) -> Iterator[CookExecutor]:
    """An executor of which two jobs fill the machine."""
    cpus = started.info_v1().capacity.cpus
    made = CookExecutor(started, cpus=cpus / 2, mem_mb=200, name="parent")
    yield made
    made.kill()
    made.shutdown(wait=False)


def square(number: int) -> int:
    return number * number


def by_result(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        return sum(future.result() for future in [inner.submit(square, number) for number in numbers])


def by_map(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        return sum(inner.map(square, numbers))


def by_wait(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        done, _ = concurrent.futures.wait([inner.submit(square, number) for number in numbers])
    return sum(future.result() for future in done)


def by_as_completed(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        futures = [inner.submit(square, number) for number in numbers]
        return sum(future.result() for future in concurrent.futures.as_completed(futures))


def by_shutdown(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        futures = [inner.submit(square, number) for number in numbers]
    return sum(future.result() for future in futures)


def by_thread(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner, concurrent.futures.ThreadPoolExecutor() as pool:
        return sum(pool.map(lambda number: inner.submit(square, number).result(), numbers))


async def by_await(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        return sum([await future for future in [inner.submit(square, number) for number in numbers]])


async def by_gather(numbers: list[int]) -> int:
    with CookExecutor(mem_mb=100) as inner:
        return sum(await asyncio.gather(*[inner.submit(square, number) for number in numbers]))


WAYS: list[Callable[[list[int]], Any]] = [
    by_result,
    by_map,
    by_wait,
    by_as_completed,
    by_shutdown,
    by_thread,
    by_await,
    by_gather,
]


@pytest.mark.parametrize("way", WAYS)
def test_parents_that_fill_the_machine_and_wait_end_all_and_one_says_why(
    parents: CookExecutor, way: Callable[[list[int]], Any]
) -> None:
    futures = [parents.submit(way, [3, 4]) for _ in range(2)]

    errors = [future.exception(SOON_S) for future in futures]

    assert sorted(map(type, errors), key=str) == sorted([NestedDeadlock, type(None)], key=str)
    (error,) = filter(None, errors)
    assert "can never start" in str(error)
    assert [future.result() for future in futures if future.exception() is None] == [25]


def test_a_parent_may_catch_the_error_and_compute_by_itself(parents: CookExecutor) -> None:
    def parent(number: int) -> int:
        with CookExecutor(mem_mb=100) as inner:
            try:
                return int(inner.submit(square, number).result())
            except NestedDeadlock:
                return square(number)

    assert [future.result(SOON_S) for future in [parents.submit(parent, n) for n in (2, 3)]] == [4, 9]


def test_why_says_of_parent_and_child_who_waits_for_whom(
    parents: CookExecutor, started: JobClient, gate: Path
) -> None:
    def parent(path: str) -> Any:
        with CookExecutor(mem_mb=100, name="child") as inner:
            return inner.submit(wait_for, path).result()

    holder = parents.submit(wait_for, str(gate))
    wait_until(holder.running)
    future = parents.submit(parent, str(gate))

    wait_until(lambda: "It waits for 1 job of its own: 1 waiting, 0 running." in future.why())
    (child,) = started.recent_jobs(1, name="child")
    sentences = " ".join(started.why(child.uuid).sentences)
    assert f"It was submitted by the job {future.key} (parent" in sentences
    assert "which runs and waits for it, and holds" in sentences
    gate.touch()
    assert (holder.result(SOON_S), future.result(SOON_S)) == ("open", "open")


def test_threads_are_blocked_only_while_each_waits_without_a_timeout(
    executor: CookExecutor, gate: Path
) -> None:
    future = executor.submit(wait_for, str(gate))
    waits: dict[str, Callable[[], object]] = {
        "result": future.result,
        "wait": lambda: concurrent.futures.wait([future]),
        "as_completed": lambda: list(concurrent.futures.as_completed([future])),
        "with a timeout": lambda: future.result(SOON_S),
        "of its own": lambda: wait_for(str(gate)),
    }
    threads = {name: threading.Thread(target=wait) for name, wait in waits.items()}
    for thread in threads.values():
        thread.start()

    blocked = [threads[name] for name in ("result", "wait", "as_completed")]
    wait_until(lambda: blocked_on(blocked) == {future})
    for name in ("with a timeout", "of its own"):
        assert blocked_on([*blocked, threads[name]]) == set()
    gate.touch()
    for thread in threads.values():
        thread.join()
    assert blocked_on(blocked) == set()


async def awaited(future: CookFuture) -> None:
    await future


async def gathered(future: CookFuture) -> None:
    await asyncio.gather(future, asyncio.shield(asyncio.wrap_future(future)))


async def waited_for(future: CookFuture) -> None:
    await asyncio.wait([asyncio.wrap_future(future)], return_when=asyncio.FIRST_COMPLETED)


async def as_completed(future: CookFuture) -> None:
    for each in asyncio.as_completed([asyncio.wrap_future(future)]):
        await each


async def in_a_group(future: CookFuture) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(awaited(future))


async def in_a_thread(future: CookFuture) -> None:
    await asyncio.to_thread(future.result)


async def with_a_timer(future: CookFuture) -> None:
    await asyncio.wait_for(awaited(future), SOON_S)


async def beside_a_socket(future: CookFuture) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0):
        await future


@pytest.mark.parametrize(
    ("coroutine", "is_blocked"),
    [
        (awaited, True),
        (gathered, True),
        (waited_for, True),
        (as_completed, True),
        (in_a_group, True),
        (in_a_thread, True),
        (with_a_timer, False),
        (beside_a_socket, False),
    ],
)
def test_an_event_loop_is_blocked_only_while_nothing_but_futures_can_wake_it(
    executor: CookExecutor, gate: Path, coroutine: Callable[[CookFuture], Any], is_blocked: bool
) -> None:
    future = executor.submit(wait_for, str(gate))
    before = set(threading.enumerate())
    loop = threading.Thread(target=lambda: asyncio.run(coroutine(future)))
    loop.start()

    def blocked() -> set[CookFuture]:
        return blocked_on(set(threading.enumerate()) - before, [future])

    if is_blocked:
        wait_until(lambda: blocked() == {future})
    else:
        wait_until(lambda: future.is_listened_to and future.running())
        assert not blocked()
    gate.touch()
    loop.join(SOON_S)
    assert not blocked()


async def a_coroutine() -> int:
    return 1


BOUND: dict[str, tuple[Callable[[CookExecutor], Any], str]] = {
    "executor": (lambda executor: executor, "with CookExecutor"),
    "view": (lambda executor: executor.with_(cpus=0.25), "with CookExecutor"),
    "future": (lambda executor: executor.submit(abs, -1), "attach"),
    "future of the standard library": (lambda _: concurrent.futures.Future(), "future.result()"),
    "pool": (lambda _: concurrent.futures.ThreadPoolExecutor(), "inside the function"),
    "client": (lambda executor: executor._holder.current_session().client, "connect()"),
    "event loop": (lambda _: asyncio.new_event_loop(), "asyncio.run"),
}


@pytest.mark.parametrize("kind", BOUND)
def test_what_belongs_to_this_process_is_told_what_it_is_wherever_it_hides(
    executor: CookExecutor, kind: str
) -> None:
    make, advice = BOUND[kind]
    value = make(executor)
    for submit in (
        lambda: executor.submit(print, value),
        lambda: executor.submit(print, key=[{"a": value}]),
        lambda: executor.submit(lambda: value),
        lambda: executor.map(print, [value]),
    ):
        with pytest.raises(Unpicklable, match=r"belongs? to the process") as raised:
            submit()
        assert advice in str(raised.value)


def test_a_coroutine_is_told_what_it_is_on_both_ways(executor: CookExecutor) -> None:
    coroutine = a_coroutine()
    with pytest.raises(Unpicklable, match="a call of an `async def` function"):
        executor.submit(print, coroutine)
    coroutine.close()
