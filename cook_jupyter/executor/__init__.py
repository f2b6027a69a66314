"""The executor: `CookExecutor`, a `concurrent.futures.Executor` whose calls are Cook jobs.

Lives here: futures, bundling the calls of `map`, and attaching to jobs after a kernel restart.
Not here: encoding calls (`payload`); requests (`client`); magics (`notebook`).
"""

from cook_jupyter.executor.attach import attach, recent
from cook_jupyter.executor.executor import CookExecutor
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.groups import Group

__all__ = ["CookExecutor", "CookFuture", "Group", "attach", "recent"]
