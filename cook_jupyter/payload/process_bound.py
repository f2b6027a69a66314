"""Objects that belong to the process that created them: executors, futures, coroutines, connections.

Lives here: a description of each kind, and what to send instead.
Not here: finding such an object in a call (`payload.pickle_diagnosis`).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class ProcessBound(NamedTuple):
    """Description of an object that cannot leave its process, and what to send instead."""

    what: str
    advice: str


_FUTURE = ProcessBound(
    "a future, which belongs to the process that waits for it", "pass its result: future.result()"
)
_ASYNCIO_FUTURE = ProcessBound(
    "a future of asyncio, which belongs to its event loop", "await it and pass the result"
)
_POOL = ProcessBound(
    "an executor, whose threads or processes belong to the process that made it",
    "make one inside the function",
)
_LOOP = ProcessBound(
    "an event loop, which belongs to the process that runs it", "use asyncio.run inside the function"
)

# By module and qualified name, so that nothing is imported for this; subclasses count, too.
_KINDS = {
    "cook_jupyter.executor.executor.CookExecutor": ProcessBound(
        "an executor, whose connection belongs to the process that made it",
        "make one inside the function: with CookExecutor() as executor: ...",
    ),
    "cook_jupyter.executor.future.CookFuture": ProcessBound(
        _FUTURE.what,
        "pass its result, future.result(), or pass future.key and call attach(key) inside the function",
    ),
    "cook_jupyter.notebook.session.BackgroundCell": ProcessBound(
        "a cell in the background, which belongs to the notebook", "pass its result: NAME.result()"
    ),
    "cook_jupyter.client.sync.JobClient": ProcessBound(
        "a connection to a scheduler, which belongs to the process that made it",
        "call connect() inside the function",
    ),
    "concurrent.futures._base.Future": _FUTURE,
    "_asyncio.Future": _ASYNCIO_FUTURE,
    "asyncio.futures.Future": _ASYNCIO_FUTURE,
    "concurrent.futures._base.Executor": _POOL,
    "multiprocessing.pool.Pool": _POOL,
    "asyncio.events.AbstractEventLoop": _LOOP,
    "builtins.coroutine": ProcessBound(
        "a coroutine, that is, a call of an `async def` function that was not awaited",
        "await it and pass the result, or pass the function and its arguments: "
        "submit(f, x), not submit(g, f(x))",
    ),
    "builtins.async_generator": ProcessBound(
        "an asynchronous generator, which runs in the process that made it", "pass a list of its values"
    ),
}


def process_bound(value: Any) -> ProcessBound | None:
    """Return the description of an object that cannot leave its process; None for other objects."""
    for kind in type(value).__mro__:
        description = _KINDS.get(f"{kind.__module__}.{kind.__qualname__}")
        if description is not None:
            return description
    return None
