"""The simulator's file formats: traces and hosts (JSON) as input, rows of instances (CSV) as output.

Lives here: `TraceJob`, `SimHost` and `RunRow`, and reading and writing them in Cook's formats.
Not here: the configuration (`simulation.config`), the validation of values (`simulation.checks`), the
simulation itself (`simulation.replay`).

The values are named tuples rather than dataclasses because a large run has a million of each.

Source: Cook's simulator, as described in the fair-share specification, section 12.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import InstanceId, TaskState
from cook_jupyter.model.job import DEFAULT_PRIORITY, UNLIMITED_RUNTIME_MS, GroupId, JobId
from cook_jupyter.simulation.checks import check_hosts, check_trace, to_integer
from cook_jupyter.simulation.outputs import replacing, write_bytes

DEFAULT_MAX_RUNTIME_MS: Final = 7 * 24 * 3600 * 1000
TraceStatus = Literal["finished", "failed", "killed", "lost", "error"]


class TraceJob(NamedTuple):
    """A job of a trace: its request, its time of submission, and the outcome of each of its attempts.

    Attributes:
        job_id, user, name, group: as submitted.
        submit_ms: time of submission, from any origin; may be negative.
        run_time_ms: run time of an attempt that is not stopped.
        status: outcome of an attempt that is not stopped; anything but `finished` is a failure.
        cpus, mem_mb, gpus: requested resources.
        max_retries, priority, max_runtime_ms, expected_runtime_ms, disable_mea_culpa_retries: as in Cook.
    """

    job_id: JobId
    user: str
    submit_ms: int
    run_time_ms: int
    cpus: float
    mem_mb: float
    gpus: int = 0
    status: TaskState = TaskState.FINISHED
    max_retries: int = 1
    priority: int = DEFAULT_PRIORITY
    name: str = "cookjob"
    group: GroupId | None = None
    max_runtime_ms: int = DEFAULT_MAX_RUNTIME_MS
    expected_runtime_ms: int | None = None
    disable_mea_culpa_retries: bool = False


class SimHost(NamedTuple):
    """A simulated host: its name, its total resources, its attributes and its Mesos id (`slave_id`)."""

    hostname: str
    cpus: float
    mem_mb: float
    gpus: float = 0.0
    ports: tuple[tuple[int, int], ...] = ()
    attributes: Mapping[str, str] = MappingProxyType({})
    slave_id: str = ""


class RunRow(NamedTuple):
    """One instance of a run, a row of the output file; times are in ms of simulated time.

    Attributes:
        group_id: group of the job; empty if there is none.
        submit_time_ms: time at which the job was submitted.
        mesos_start_time_ms: time at which the cluster reported the instance as running; -1 if it never did.
        end_time_ms: end of the instance, or of the simulation if the instance still ran.
        status: unknown, running, success or failed (":instance.status/..." in the file).
        reason: sentence of the reason if the instance failed; empty otherwise.
        mem, cpus: resources that the instance held (mem in MB).
        requested_run_time, requested_status: run time and outcome in the trace.
        expected_run_time: expected run time of the job in ms; None if not given.
    """

    job_id: JobId
    instance_id: InstanceId
    group_id: GroupId | Literal[""]
    submit_time_ms: int
    mesos_start_time_ms: int
    start_time_ms: int
    end_time_ms: int
    hostname: str
    slave_id: str
    status: str
    reason: str
    user: str
    mem: float
    cpus: float
    job_name: str
    requested_run_time: int
    expected_run_time: int | None
    requested_status: str


# --- traces


class _Resource(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="resource/type")
    amount: float = msgspec.field(name="resource/amount")


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job in the format of a trace file."""

    run_time_ms: float = msgspec.field(name="run-time-ms")
    submit_time_ms: float = msgspec.field(name="submit-time-ms")
    job_id: JobId = msgspec.field(name="job/uuid")
    user: str = msgspec.field(name="job/user")
    resources: tuple[_Resource, ...] = msgspec.field(name="job/resource")
    status: TraceStatus | None = None
    max_retries: int = msgspec.field(name="job/max-retries", default=1)
    priority: int = msgspec.field(name="job/priority", default=DEFAULT_PRIORITY)
    name: str | None = msgspec.field(name="job/name", default=None)
    command: str | None = msgspec.field(name="job/command", default=None)
    group: GroupId | None = msgspec.field(name="job/group", default=None)
    max_runtime: float | None = msgspec.field(name="job/max-runtime", default=None)
    expected_runtime: float | None = msgspec.field(name="job/expected-runtime", default=None)
    disable_mea_culpa_retries: bool = msgspec.field(name="job/disable-mea-culpa-retries", default=False)


_CPUS: Final = "resource.type/cpus"
_MEM: Final = "resource.type/mem"
_GPUS: Final = "resource.type/gpus"
_RESOURCES: Final = (_CPUS, _MEM, _GPUS)
_DEFAULTS: Final = TraceJob._field_defaults


def read_trace(path: Path) -> list[TraceJob]:
    """Read a trace file. Unknown keys, and those without effect such as job/command, are ignored.

    Raises:
        InvalidRequest: the file cannot be read, is not a trace, has a job with an invalid value, is not
            sorted by submit-time-ms, or has a job twice.
    """
    entries = _decoded(path, list[_Entry], "a trace")
    trace = [_job_of(entry, f"job {number} of the trace {path}") for number, entry in enumerate(entries)]
    check_trace(trace, str(path))
    return trace


def write_trace(path: Path, trace: Iterable[TraceJob]) -> None:
    """Write a trace file in the format of Cook's simulator."""
    write_bytes(path, msgspec.json.encode([_entry_of(job) for job in trace]))


def _job_of(entry: _Entry, location: str) -> TraceJob:
    location = f"{location} ({entry.job_id})"
    amounts = {_GPUS: 0.0}
    types = [resource.type for resource in entry.resources]
    for resource in entry.resources:
        if resource.type not in _RESOURCES:
            raise InvalidRequest(
                f"{location} requests {resource.type!r}; valid types are {', '.join(_RESOURCES)}"
            )
        if types.count(resource.type) > 1:
            raise InvalidRequest(f"{location} requests {resource.type} twice")
        amounts[resource.type] = resource.amount
    for kind in (_CPUS, _MEM):
        if kind not in amounts:
            raise InvalidRequest(f"{location} requests no {kind}; every job needs cpus and memory")
    return TraceJob(
        job_id=entry.job_id,
        user=entry.user,
        submit_ms=int(entry.submit_time_ms),
        run_time_ms=int(entry.run_time_ms),
        cpus=amounts[_CPUS],
        mem_mb=amounts[_MEM],
        gpus=to_integer(amounts[_GPUS], f"{location}: {_GPUS}"),
        status=TaskState.FINISHED if entry.status is None else TaskState(entry.status),
        max_retries=entry.max_retries,
        priority=entry.priority,
        name=_DEFAULTS["name"] if entry.name is None else entry.name,
        group=entry.group,
        max_runtime_ms=DEFAULT_MAX_RUNTIME_MS
        if entry.max_runtime is None
        else min(int(entry.max_runtime), UNLIMITED_RUNTIME_MS),  # which is rounded up by 1 as a float
        expected_runtime_ms=None if entry.expected_runtime is None else int(entry.expected_runtime),
        disable_mea_culpa_retries=entry.disable_mea_culpa_retries,
    )


def _entry_of(job: TraceJob) -> _Entry:
    amounts = [(_CPUS, job.cpus), (_MEM, job.mem_mb), (_GPUS, float(job.gpus))]
    status: Any = job.status.value
    return _Entry(
        run_time_ms=job.run_time_ms,
        submit_time_ms=job.submit_ms,
        job_id=job.job_id,
        user=job.user,
        resources=tuple(
            _Resource(type=kind, amount=amount) for kind, amount in amounts if amount or kind != _GPUS
        ),
        status=status,
        max_retries=job.max_retries,
        priority=job.priority,
        name=job.name,
        group=job.group,
        max_runtime=job.max_runtime_ms,
        expected_runtime=job.expected_runtime_ms,
        disable_mea_culpa_retries=job.disable_mea_culpa_retries,
    )


# --- hosts


class _Range(msgspec.Struct, frozen=True):
    begin: int
    end: int


class _HostResources(msgspec.Struct, frozen=True, omit_defaults=True):
    """Amounts of each resource by Mesos role."""

    cpus: dict[str, float]
    mem: dict[str, float]
    gpus: dict[str, float] = {}
    ports: dict[str, tuple[_Range, ...]] = {}


class _HostEntry(msgspec.Struct, frozen=True):
    hostname: str
    resources: _HostResources
    attributes: dict[str, str | int | float] | None = None
    slave_id: str = msgspec.field(name="slave-id", default="")


def read_hosts(path: Path) -> list[SimHost]:
    """Read a file of hosts.

    Raises:
        InvalidRequest: the file cannot be read, is not a list of hosts, is empty, has a host with an invalid
            value, or has a host twice.
    """
    hosts = [
        SimHost(
            hostname=entry.hostname,
            cpus=_sum_of_roles(entry, "cpus", path),
            mem_mb=_sum_of_roles(entry, "mem", path),
            gpus=_sum_of_roles(entry, "gpus", path),
            ports=tuple((r.begin, r.end) for ranges in entry.resources.ports.values() for r in ranges),
            attributes={name: str(value) for name, value in (entry.attributes or {}).items()},
            slave_id=entry.slave_id,
        )
        for entry in _decoded(path, list[_HostEntry], "a list of hosts")
    ]
    check_hosts(hosts, str(path))
    return hosts


def _sum_of_roles(entry: _HostEntry, name: str, path: Path) -> float:
    """Return the total of a resource over all Mesos roles of a host."""
    amounts: dict[str, float] = getattr(entry.resources, name)
    for role, amount in amounts.items():
        if amount < 0:
            raise InvalidRequest(f"host {entry.hostname} of {path}: {name} of the role {role} is {amount:g}")
    return sum(amounts.values())


def write_hosts(path: Path, hosts: Iterable[SimHost]) -> None:
    """Write a file of hosts in the format of Cook's simulator; all resources go to the role `*`."""
    entries = [
        _HostEntry(
            hostname=host.hostname,
            resources=_HostResources(
                cpus={"*": host.cpus},
                mem={"*": host.mem_mb},
                gpus={"*": host.gpus} if host.gpus else {},
                ports={"*": tuple(_Range(begin=first, end=last) for first, last in host.ports)},
            ),
            attributes={**host.attributes},
            slave_id=host.slave_id,
        )
        for host in hosts
    ]
    write_bytes(path, msgspec.json.encode(entries))


# --- rows

COLUMNS: Final = RunRow._fields
_NEWER_COLUMNS: Final = frozenset({"group_id", "expected_run_time"})  # older files lack them
_STATUS: Final = ":instance.status/"


def write_rows(path: Path, rows: Iterable[RunRow]) -> None:
    """Write the rows of a run as CSV: a header, then one line per instance."""
    status = COLUMNS.index("status")
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((*row[:status], _STATUS + row.status, *row[status + 1 :]) for row in rows)


def read_rows(path: Path) -> list[RunRow]:
    """Read the rows of a run, written by `write_rows` or by any version of Cook's simulator.

    The columns may be in any order.

    Raises:
        InvalidRequest: the file cannot be read, lacks a column, or has an invalid value.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(_rows(path, csv.reader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"the rows {path} cannot be read: {error}") from error


def _rows(path: Path, lines: "Iterator[list[str]]") -> Iterator[RunRow]:
    header = next(lines, [])
    missing = [name for name in COLUMNS if name not in header and name not in _NEWER_COLUMNS]
    if missing:
        raise InvalidRequest(f"{path} is not the output of a simulation: it lacks {', '.join(missing)}")
    indexes = [header.index(name) if name in header else None for name in COLUMNS]
    kinds = [_KINDS.get(name, str) for name in COLUMNS]
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        try:
            yield RunRow(
                *(
                    kind("" if index is None else line[index])
                    for kind, index in zip(kinds, indexes, strict=True)
                )
            )
        except (IndexError, ValueError) as error:
            raise InvalidRequest(f"line {number} of {path} cannot be read: {error}") from error


def _ms(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else int(float(text))


_KINDS: Final[dict[str, Callable[[str], Any]]] = {
    "submit_time_ms": _ms,
    "mesos_start_time_ms": _ms,
    "start_time_ms": _ms,
    "end_time_ms": _ms,
    "requested_run_time": _ms,
    "expected_run_time": lambda text: _ms(text) if text else None,
    "mem": float,
    "cpus": float,
    "status": lambda text: text.removeprefix(_STATUS),
}

_T = TypeVar("_T")


def _decoded(path: Path, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{path} is not {what}: {error}") from error
