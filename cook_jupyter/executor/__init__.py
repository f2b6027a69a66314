"""Compute: `CookExecutor`, a `concurrent.futures.Executor` whose calls are Cook jobs.

Lives here: futures, the bundling of `map`, and coming back to futures after a kernel restart.
Not here: how calls become bytes (`payload`); requests (`client`); magics (`notebook`).
"""
