"""What ends a wait: every kind of result, in every way of waiting for it."""

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.errors import BadExit, ResultLost
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor.callbacks import CallbackThreads
from tests.waiting import HANG_S, wait_until

WAIT_S = HANG_S


def raise_of(kind: str) -> Any:
    import asyncio
    import concurrent.futures

    class Stop(BaseException):
        pass

    kinds: dict[str, Callable[[], BaseException]] = {
        "StopIteration": lambda: StopIteration(7),
        "StopAsyncIteration": StopAsyncIteration,
        "CancelledError": concurrent.futures.CancelledError,
        "TimeoutError": lambda: TimeoutError("of the call"),
        "asyncio.CancelledError": asyncio.CancelledError,
        "GeneratorExit": GeneratorExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "SystemExit": lambda: SystemExit(3),
        "Stop": Stop,
    }
    error = kinds[kind]()
    raise error


def unpickle(kind: str) -> None:
    """Called while a result is unpickled, and then only: raise what ends a process or a loop."""
    import builtins

    raise getattr(builtins, kind)


class RaisesWhenUnpickled:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return unpickle, (self.kind,)


KINDS: dict[str, tuple[type[BaseException], type[BaseException]]] = {
    "StopIteration": (StopIteration, RuntimeError),
    "StopAsyncIteration": (StopAsyncIteration, StopAsyncIteration),
    "CancelledError": (concurrent.futures.CancelledError, concurrent.futures.CancelledError),
    "TimeoutError": (TimeoutError, TimeoutError),
    "asyncio.CancelledError": (BadExit, BadExit),
    "GeneratorExit": (BadExit, BadExit),
    "KeyboardInterrupt": (BadExit, BadExit),
    "SystemExit": (BadExit, BadExit),
    "Stop": (BadExit, BadExit),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_call_raises_ends_every_way_of_waiting(executor: CookExecutor, kind: str) -> None:
    at_once, awaited = KINDS[kind]
    future = executor.submit(raise_of, kind)
    called: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
    future.add_done_callback(lambda done: called.set_result(done.exception()))

    with pytest.raises(at_once):
        future.result(WAIT_S)
    assert isinstance(future.exception(), at_once)
    assert list(concurrent.futures.as_completed([future], WAIT_S)) == [future]
    assert called.result(WAIT_S) is future.exception()
    with pytest.raises(awaited):
        async with asyncio.timeout(WAIT_S):
            await future
    later = executor.submit(raise_of, kind)
    with pytest.raises(awaited):
        async with asyncio.timeout(WAIT_S):
            await later
    (gathered,) = await asyncio.wait_for(asyncio.gather(later, return_exceptions=True), WAIT_S)
    assert isinstance(gathered, awaited)
    with pytest.raises(awaited):
        list(executor.map(raise_of, [kind], timeout=WAIT_S))


@pytest.mark.parametrize("late", [False, True])
async def test_asyncio_itself_may_wrap_a_future_whose_call_raises_stop_iteration(
    executor: CookExecutor, late: bool
) -> None:
    future = executor.submit(raise_of, "StopIteration")
    if late:
        future.exception(WAIT_S)

    with pytest.raises(RuntimeError, match="StopIteration") as raised:
        await asyncio.wait_for(asyncio.wrap_future(future), WAIT_S)

    assert isinstance(raised.value.__cause__, StopIteration)


@pytest.mark.parametrize(
    "kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration", "OSError"]
)
def test_a_result_that_raises_while_it_is_unpickled_ends_its_own_future_alone(
    executor: CookExecutor, kind: str
) -> None:
    bad = executor.submit(RaisesWhenUnpickled, kind)

    with pytest.raises(ResultLost, match=f"{kind}|unpickled"):
        bad.result(WAIT_S)
    assert executor.submit(abs, -1).result(WAIT_S) == 1


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_an_argument_that_raises_while_it_is_pickled_ends_its_own_map_alone(
    executor: CookExecutor, kind: str
) -> None:
    class Raises:
        def __reduce__(self) -> Any:
            unpickle(kind)

    results = executor.map(str, [*range(30), Raises()], chunksize=1, timeout=WAIT_S)

    with pytest.raises(Exception, match=kind):
        list(results)
    assert executor.submit(abs, -1).result(WAIT_S) == 1


def test_a_callback_may_wait_for_another_future(executor: CookExecutor, gate: Path) -> None:
    def call(number: int) -> int:
        return number + 1

    chain: concurrent.futures.Future[int] = concurrent.futures.Future()

    def after(done: Any, depth: int = 3) -> None:
        if depth == 0:
            chain.set_result(done.result())
            return
        following = executor.submit(call, done.result())
        following.add_done_callback(lambda each: after(each, depth - 1))
        following.result(WAIT_S)

    executor.submit(call, 0).add_done_callback(after)

    assert chain.result(WAIT_S) == 4


def test_a_callback_that_waits_for_ever_holds_up_no_result(executor: CookExecutor) -> None:
    never = threading.Event()
    blocked = threading.Event()

    def block(_: object) -> None:
        blocked.set()
        never.wait(WAIT_S)

    executor.submit(abs, -1).add_done_callback(block)
    assert blocked.wait(WAIT_S)
    others = [executor.submit(abs, -number) for number in range(5)]
    called: list[concurrent.futures.Future[int]] = [concurrent.futures.Future() for _ in others]
    for other, heard in zip(others, called, strict=True):
        other.add_done_callback(partial(copy_result, heard))

    assert [other.result(WAIT_S) for other in others] == list(range(5))
    assert [heard.result(WAIT_S) for heard in called] == list(range(5))
    never.set()


def test_callbacks_of_one_future_keep_their_order_and_do_not_hear_each_others_errors(
    executor: CookExecutor, gate: Path
) -> None:
    def wait(path: str) -> None:
        from pathlib import Path

        while not Path(path).exists():
            pass

    future = executor.submit(wait, str(gate))
    heard: list[int] = []
    ended = threading.Event()
    for number in range(20):
        future.add_done_callback(partial(note, heard, number))
        future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: ended.set())
    gate.touch()

    assert ended.wait(WAIT_S)
    assert heard == list(range(20))


def test_callback_threads_run_what_comes_after_their_end() -> None:
    threads = CallbackThreads("cook-test", 2)
    ran = [threading.Event() for _ in range(8)]
    for number, event in enumerate(ran):
        if number == 4:
            threads.close()
        threads.run(event.set)

    assert all(event.wait(WAIT_S) for event in ran)


# --- what nobody holds is freed ---


class Held:
    """Something that one can have a weak reference to."""

    def __init__(self, number: int) -> None:
        self.number = number


def copy_result(target: "concurrent.futures.Future[Any]", done: "concurrent.futures.Future[Any]") -> None:
    target.set_result(done.result())


def note(heard: list[int], number: int, _: object) -> None:
    heard.append(number)


def freed(references: "list[weakref.ref[Any]]") -> bool:
    if any(reference() is not None for reference in references):
        gc.collect()  # a second in a process that has run a thousand tests
    return all(reference() is None for reference in references)


@pytest.mark.parametrize("size", [1, 300_000])
def test_the_results_of_futures_that_were_dropped_are_freed(executor: CookExecutor, size: int) -> None:
    def make(number: int, size: int) -> Held:
        made = Held(number)
        made.content = bytes(size)  # type: ignore[attr-defined]
        return made

    futures = [executor.submit(make, number, size) for number in range(6)]
    references = [weakref.ref(future.result(WAIT_S)) for future in futures]
    assert not freed(references)
    futures.clear()

    wait_until(lambda: freed(references))


def test_a_failed_future_that_was_dropped_frees_its_error(executor: CookExecutor) -> None:
    class Failure(Exception):
        pass

    def fail() -> None:
        raise Failure

    future = executor.submit(fail)
    references: list[weakref.ref[Any]] = [weakref.ref(future), weakref.ref(future.exception(WAIT_S))]
    del future

    wait_until(lambda: freed(references))


@pytest.mark.parametrize("chunksize", [1, 5, "auto"])
def test_map_keeps_nothing_that_it_has_yielded(executor: CookExecutor, chunksize: Any) -> None:
    references: list[weakref.ref[Any]] = []
    results = executor.map(Held, range(20), chunksize=chunksize, timeout=WAIT_S)
    for number, result in enumerate(results):
        assert result.number == number
        wait_until(lambda: freed(references))
        references.append(weakref.ref(result))
        del result
