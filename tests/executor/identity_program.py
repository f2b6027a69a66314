"""A script whose jobs use what its `__main__` defines as one would use it here.

Prints a line of JSON: the name of each function that was submitted, and what it returned here and in a job.
"""

import asyncio
import copy
import enum
import functools
import importlib
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from cook_jupyter import CookExecutor

Path("shop.py").write_text(
    """
import enum

class Size(enum.Enum):
    SMALL = 1
    LARGE = 2

class Item:
    def __init__(self, size):
        self.size = size

class Sold(Exception):
    def __init__(self, item, *, to):
        super().__init__(to)
        self.item = item

def sell(item):
    raise Sold(item, to="ada")
""",
    encoding="utf-8",
)
Path("prices.py").write_text(
    "from shop import Item, Size\nPRICES = {Size.SMALL: 3, Size.LARGE: 5}\n"
    "def price_of(item):\n    assert isinstance(item, Item)\n    return PRICES[item.size]\n",
    encoding="utf-8",
)
sys.path.insert(0, str(Path.cwd()))
shop: Any = importlib.import_module("shop")

_PATIENCE_S = 120


@dataclass
class State:
    step: int

    class Inner:
        pass


class Mode(enum.Enum):
    FAST = 1


class Stop(Exception):
    def __init__(self, a: int, *, b: int) -> None:
        super().__init__(a)
        self.b = b


@functools.cache
def cached(x: int) -> int:
    return x


def double(value: int) -> int:
    return 2 * value


MISSING = object()
table = {"a": 1}
log: list[int] = []


def note(value: int) -> None:
    log.append(value)


def pickles_what_is_defined() -> Any:
    things = (State(3), Mode.FAST, double, cached, State.Inner)
    again = pickle.loads(pickle.dumps(things))
    return again[0] == things[0], [one is other for one, other in zip(things[1:], again[1:], strict=True)]


def copies() -> Any:
    return copy.deepcopy(Mode.FAST) is Mode.FAST, copy.deepcopy(State(1)) == State(1)


def uses_cloudpickle_itself() -> Any:
    state, local = cloudpickle.loads(cloudpickle.dumps((State(4), lambda: State)))
    return isinstance(state, State), local() is State


def uses_a_pool(method: str, function: Callable[[int], int]) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(function, range(3), timeout=_PATIENCE_S))


def sees_one_table(argument: Any, sentinel: object, default: object = MISSING) -> Any:
    return argument is table, sentinel is MISSING, default is MISSING, argument


def shares_globals(writer: Callable[[int], None]) -> Any:
    log.clear()
    writer(1)
    note(2)
    return list(log)


def catches_its_own(error: type[BaseException]) -> Any:
    try:
        raise Stop(1, b=2)
    except error as caught:
        return caught.b  # type: ignore[attr-defined]


def knows_its_main() -> Any:
    import __main__

    return __main__.State is State, __main__.double is double, State.__module__, __name__


def uses_local_modules(item: Any, size: Any) -> Any:
    import shop as again  # type: ignore[import-not-found]
    from prices import price_of  # type: ignore[import-not-found]

    same = False
    try:
        again.sell(item)
    except shop.Sold as sold:
        same = sold.item is item
    return (
        item.size is again.Size.LARGE,
        size is again.Size.SMALL,
        isinstance(item, again.Item),
        shop is again,
        same,
        price_of(item),
        type(pickle.loads(pickle.dumps(item))) is again.Item,
    )


def changes_a_class() -> Any:
    State.Inner.changed = getattr(State.Inner, "changed", 0) + 1  # type: ignore[attr-defined]
    cached(1)
    return State.Inner.changed, cached.cache_info().currsize  # type: ignore[attr-defined]


async def waits(value: int) -> int:
    await asyncio.sleep(0)
    return value


def main() -> None:
    item = shop.Item(shop.Size.LARGE)
    calls: list[tuple[Any, ...]] = [
        (pickles_what_is_defined,),
        (copies,),
        (uses_cloudpickle_itself,),
        (uses_a_pool, "fork", double),
        (uses_a_pool, "spawn", double),
        (sees_one_table, table, MISSING),
        (shares_globals, note),
        (catches_its_own, Stop),
        (knows_its_main,),
        (uses_local_modules, item, shop.Size.SMALL),
    ]
    outcomes: dict[str, Any] = {}
    with CookExecutor(cpus=0.5, mem_mb=400) as executor:
        for function, *args in calls:
            name = " ".join([function.__name__, *(arg for arg in args if isinstance(arg, str))])
            outcomes[name] = function(*args), executor.submit(function, *args).result(_PATIENCE_S)
        outcomes["jobs begin with what was sent"] = (
            [1, 1],
            [executor.submit(changes_a_class).result(_PATIENCE_S)[0] for _ in range(2)],
        )
        come_back = executor.submit(lambda: [double, State, Mode.FAST, MISSING]).result(_PATIENCE_S)
        outcomes["things come back"] = (
            [True] * 4,
            [one is other for one, other in zip(come_back, [double, State, Mode.FAST, MISSING], strict=True)],
        )
        outcomes["async by submit"] = 5, executor.submit(waits, 5).result(_PATIENCE_S)
        outcomes["async by map"] = [1, 2], list(executor.map(waits, [1, 2]))
        outcomes["async by partial"] = 6, executor.submit(functools.partial(waits, 6)).result(_PATIENCE_S)
        outcomes["async by lambda"] = 7, executor.submit(lambda: waits(7)).result(_PATIENCE_S)
        outcomes["async by lambda in map"] = [8], list(executor.map(lambda value: waits(value + 1), [7]))
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)
