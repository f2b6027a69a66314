"""dask takes our executor as its scheduler."""

import pytest

from cook_jupyter.executor import CookExecutor

dask = pytest.importorskip("dask")


def test_dask_computes_on_the_executor(executor: CookExecutor) -> None:
    parts = [dask.delayed(pow)(base, 2) for base in range(6)]

    total = dask.delayed(sum)(parts)

    assert dask.compute(total, scheduler=executor)[0] == sum(base**2 for base in range(6))


def test_dask_arrays_compute_on_the_executor(executor: CookExecutor) -> None:
    array = pytest.importorskip("dask.array")

    assert array.ones((600, 400), chunks=(300, 400)).sum().compute(scheduler=executor) == 240_000


def test_the_width_is_what_fits_of_our_jobs(executor: CookExecutor) -> None:
    capacity = executor._holder.current_session().scheduler.info.capacity

    assert executor._max_workers == int(min(capacity.cpus / 0.5, capacity.mem_mb / 256))
    assert executor.with_(cpus=10**6)._max_workers == 1
