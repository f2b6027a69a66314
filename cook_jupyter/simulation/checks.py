"""Validation of the input of a simulation.

Lives here: `check_trace` and `check_hosts`, which refuse what the live API refuses too (`wire.submission`),
and `fitting_no_host`, which finds the jobs that no host could ever run. Not here: file formats
(`simulation.traces`, `simulation.config`), checks of output paths (`simulation.outputs`).
"""

from collections.abc import Iterable, Iterator, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Final

import numpy as np

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import HIGHEST_PRIORITY, UNLIMITED_RUNTIME_MS, JobId

if TYPE_CHECKING:
    from cook_jupyter.simulation.traces import SimHost, TraceJob

MAX_TIME_MS: Final = 2**53  # exact as a JSON number; sums of a few such times stay within 64 bits
MAX_COUNT: Final = 2**31 - 1  # retries and gpus
MAX_PORT: Final = 65_535


def check_trace(trace: Sequence["TraceJob"], name: str = "given") -> None:
    """Check the jobs of a trace: their values, their order, and that each appears once.

    Args:
        trace: jobs in order of submission.
        name: name of the trace in error messages.

    Raises:
        InvalidRequest: a job has an invalid value, the jobs are not in order of submission, or a job appears
            twice.
    """
    last: TraceJob | None = None
    for number, job in enumerate(trace):
        fault = next(_faults_of_job(job), None)
        if fault is not None:
            raise InvalidRequest(f"job {number} ({job.job_id}) of the trace {name}: {fault}")
        if last is not None and job.submit_ms < last.submit_ms:
            raise InvalidRequest(
                f"the trace {name} is not sorted by submit-time-ms: job {number} ({job.job_id}) was"
                f" submitted at {job.submit_ms}, the one before it at {last.submit_ms}; sort the list"
            )
        last = job
    repeated = _first_repeated(job.job_id for job in trace)
    if repeated is not None:
        raise InvalidRequest(f"the trace {name} has job {repeated} twice; each needs a job/uuid of its own")


def check_hosts(hosts: Sequence["SimHost"], name: str = "the list of hosts") -> None:
    """Check the hosts of a simulation.

    Args:
        hosts: all hosts of the simulation.
        name: name of the list in error messages.

    Raises:
        InvalidRequest: the list is empty, a host has an invalid value, or two hosts have the same name.
    """
    if not hosts:
        raise InvalidRequest(f"{name} has no hosts; nothing could ever run")
    for number, host in enumerate(hosts):
        fault = next(_faults_of_host(host), None)
        if fault is not None:
            raise InvalidRequest(f"host {number} ({host.hostname}) of {name}: {fault}")
    repeated = _first_repeated(host.hostname for host in hosts)
    if repeated is not None:
        raise InvalidRequest(f"{name} has the host {repeated} twice")


def fitting_no_host(trace: Sequence["TraceJob"], hosts: Sequence["SimHost"]) -> dict[JobId, str]:
    """Return the ids of the jobs that fit no host, not even an empty one, each with the reason."""
    if not trace:
        return {}
    shapes = _largest_shapes({(host.cpus, host.mem_mb, host.gpus) for host in hosts})
    cpus, mem_mb, gpus = (
        np.array(column, dtype=np.float64)
        for column in zip(*((job.cpus, job.mem_mb, job.gpus) for job in trace), strict=True)
    )
    fits = np.zeros(len(trace), dtype=np.bool_)
    for host_cpus, host_mem_mb, host_gpus in shapes:
        fits |= (cpus <= host_cpus) & (mem_mb <= host_mem_mb) & (gpus <= host_gpus)
    max_amounts = tuple(max(shape[index] for shape in shapes) for index in range(3))
    return {
        trace[index].job_id: _why_no_host(trace[index], max_amounts)
        for index in np.flatnonzero(~fits).tolist()
    }


def is_positive(amount: float) -> bool:
    """Return whether a number is positive and finite."""
    return 0 < amount < inf


def is_not_negative(amount: float) -> bool:
    """Return whether a number is zero or more, and finite."""
    return 0 <= amount < inf


def _faults_of_job(job: "TraceJob") -> Iterator[str]:
    """Yield a message for each invalid value of a job, under the keys of the trace."""
    if not job.job_id.strip():
        yield "job/uuid is empty"
    if not job.user.strip():
        yield "job/user is empty"
    for key, amount in (("cpus", job.cpus), ("mem", job.mem_mb)):
        if not is_positive(amount):
            yield f"resource.type/{key} must be above 0, not {amount:g}"
    if not 0 <= job.gpus <= MAX_COUNT or job.gpus % 1:
        yield f"resource.type/gpus must be a whole number from 0 up, not {job.gpus:g}"
    if not 0 <= job.priority <= HIGHEST_PRIORITY:
        yield f"job/priority must be in 0..{HIGHEST_PRIORITY}, not {job.priority}"
    if not 1 <= job.max_retries <= MAX_COUNT:
        yield f"job/max-retries must be in 1..{MAX_COUNT}, not {job.max_retries}"
    if not -MAX_TIME_MS <= job.submit_ms <= MAX_TIME_MS:
        yield f"submit-time-ms must be within {MAX_TIME_MS} ms of 0, not {job.submit_ms}"
    if not 0 <= job.run_time_ms <= MAX_TIME_MS:
        yield f"run-time-ms must be in 0..{MAX_TIME_MS}, not {job.run_time_ms}"
    if not 0 < job.max_runtime_ms <= UNLIMITED_RUNTIME_MS:
        yield f"job/max-runtime must be above 0, not {job.max_runtime_ms}"
    expected_ms = job.expected_runtime_ms
    if expected_ms is not None and not 0 < expected_ms <= UNLIMITED_RUNTIME_MS:
        yield f"job/expected-runtime must be above 0, not {expected_ms}"


def _faults_of_host(host: "SimHost") -> Iterator[str]:
    """Yield a message for each invalid value of a host."""
    if not host.hostname.strip():
        yield "hostname is empty"
    for key, amount in (("cpus", host.cpus), ("mem", host.mem_mb)):
        if not is_positive(amount):
            yield f"{key} must be above 0, not {amount:g}"
    if not is_not_negative(host.gpus) or host.gpus % 1:
        yield f"gpus must be a whole number from 0 up, not {host.gpus:g}"
    for begin, end in host.ports:
        if not 0 <= begin <= end <= MAX_PORT:
            yield f"ports {begin} to {end} are no range within 0..{MAX_PORT}"


def _first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that repeats an earlier one, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


_Shape = tuple[float, float, float]  # cpus, memory, gpus


def _largest_shapes(shapes: set[_Shape]) -> list[_Shape]:
    """Return the shapes that are not contained in another shape."""
    largest: list[_Shape] = []
    for shape in sorted(shapes, reverse=True):
        if not any(
            all(amount <= larger_amount for amount, larger_amount in zip(shape, larger, strict=True))
            for larger in largest
        ):
            largest.append(shape)
    return largest


def _why_no_host(job: "TraceJob", max_amounts: Sequence[float]) -> str:
    requested = (("cpus", job.cpus), ("MB", job.mem_mb), ("gpus", float(job.gpus)))
    exceeded = [
        f"it requests {amount:g} {unit}, and the largest host has {limit:g}"
        for (unit, amount), limit in zip(requested, max_amounts, strict=True)
        if amount > limit
    ]
    if exceeded:
        return "; ".join(exceeded)
    return (
        "it requests "
        + ", ".join(f"{amount:g} {unit}" for unit, amount in requested if amount)
        + (", and no single host has all of it")
    )


def to_integer(value: float, name: str) -> int:
    """Convert a number to an integer.

    Args:
        value: a number without fraction.
        name: name of the number in error messages.

    Raises:
        InvalidRequest: the number has a fraction, or is not finite.
    """
    if not isfinite(value) or value != int(value):
        raise InvalidRequest(f"{name} must be a whole number, not {value:g}")
    return int(value)
