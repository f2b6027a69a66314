"""Traces, hosts and rows are read and written in Cook's formats, and invalid files are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.job import JobId
from cook_jupyter.simulation.traces import (
    DEFAULT_MAX_RUNTIME_MS,
    RunRow,
    SimHost,
    TraceJob,
    read_hosts,
    read_rows,
    read_trace,
    write_hosts,
    write_rows,
    write_trace,
)

SHORTEST: dict[str, Any] = {
    "run-time-ms": 1000,
    "submit-time-ms": -5,
    "job/uuid": "0a",
    "job/user": "ada",
    "job/max-retries": 3,
    "job/priority": 70,
    "job/resource": [
        {"resource/type": "resource.type/cpus", "resource/amount": 2},
        {"resource/type": "resource.type/mem", "resource/amount": 512.5},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def write_json(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


# Traces


def test_the_shortest_entry_has_cooks_defaults(file: Path) -> None:
    assert read_trace(write_json(file, [SHORTEST])) == [
        TraceJob(
            job_id=JobId("0a"),
            user="ada",
            submit_ms=-5,
            run_time_ms=1000,
            cpus=2.0,
            mem_mb=512.5,
            gpus=0,
            status=TaskState.FINISHED,
            max_retries=3,
            priority=70,
            group=None,
            max_runtime_ms=DEFAULT_MAX_RUNTIME_MS,
            expected_runtime_ms=None,
            disable_mea_culpa_retries=False,
        )
    ]


def test_every_key_of_the_longest_entry_is_read_or_ignored(file: Path) -> None:
    entry = SHORTEST | {
        "status": "lost",
        "job/name": "sweep",
        "job/command": "sleep 10",
        "job/group": "0b",
        "job/max-runtime": 60000,
        "job/expected-runtime": 500.0,
        "job/disable-mea-culpa-retries": True,
        "job/label": [{"whatever": 1}],
        "job/resource": [
            *SHORTEST["job/resource"],
            {"resource/type": "resource.type/gpus", "resource/amount": 1.0},
        ],
    }

    (job,) = read_trace(write_json(file, [entry]))

    assert (job.status, job.name, job.group, job.gpus) == (TaskState.LOST, "sweep", "0b", 1)
    assert (job.max_runtime_ms, job.expected_runtime_ms) == (60000, 500)
    assert job.disable_mea_culpa_retries


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        (
            [SHORTEST, SHORTEST | {"job/uuid": "0b", "submit-time-ms": -6}],
            r"job 1 \(0b\) was submitted at -6",
        ),
        ([SHORTEST, SHORTEST], "job 0a twice"),
        ([SHORTEST | {"status": "asleep"}], r"Invalid enum value 'asleep'.*status"),
        ([SHORTEST | {"job/user": None}], "job/user"),
        ([{k: v for k, v in SHORTEST.items() if k != "job/resource"}], "job/resource"),
        ([SHORTEST | {"job/resource": [{"resource/type": "ram", "resource/amount": 1}]}], "requests 'ram'"),
        ({"jobs": []}, "is not a trace"),
    ],
)
def test_an_invalid_trace_is_refused(file: Path, entries: object, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read_trace(write_json(file, entries))


def test_the_error_for_a_missing_file_names_it(file: Path) -> None:
    for read in (read_trace, read_hosts, read_rows):
        with pytest.raises(InvalidRequest, match="file"):
            read(file)


names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
times = st.integers(-(10**13), 10**13)
amounts = st.floats(0, 1e6, exclude_min=True)
jobs = st.builds(
    TraceJob,
    job_id=st.uuids().map(str),
    user=names.filter(str.strip),  # a blank one is refused
    submit_ms=times,
    run_time_ms=st.integers(0, 10**13),
    cpus=amounts,
    mem_mb=amounts,
    gpus=st.integers(0, 8),
    status=st.sampled_from(
        [TaskState.FINISHED, TaskState.FAILED, TaskState.KILLED, TaskState.LOST, TaskState.ERROR]
    ),
    max_retries=st.integers(1, 100),
    priority=st.integers(0, 16_000_000),
    name=names,
    group=st.none() | st.uuids().map(str),
    max_runtime_ms=st.integers(1, 10**12),
    expected_runtime_ms=st.none() | st.integers(1, 10**12),
    disable_mea_culpa_retries=st.booleans(),
)


@given(trace=st.lists(jobs, max_size=5, unique_by=lambda job: job.job_id))
def test_a_written_trace_can_be_read_back(
    tmp_path_factory: pytest.TempPathFactory, trace: list[TraceJob]
) -> None:
    trace.sort(key=lambda job: job.submit_ms)
    file = tmp_path_factory.getbasetemp() / "trace.json"

    write_trace(file, trace)

    assert read_trace(file) == trace


# Hosts

HOST = {
    "hostname": "h1",
    "attributes": {"rack": "r1", "cores": 8},
    "resources": {
        "cpus": {"*": 4, "cook": 2.5},
        "mem": {"*": 1024},
        "ports": {"*": [{"begin": 31000, "end": 31010}]},
    },
    "slave-id": "S1",
}


def test_roles_of_a_host_are_added_up(file: Path) -> None:
    assert read_hosts(write_json(file, [HOST])) == [
        SimHost(
            hostname="h1",
            cpus=6.5,
            mem_mb=1024.0,
            ports=((31000, 31010),),
            attributes={"rack": "r1", "cores": "8"},
            slave_id="S1",
        )
    ]


@pytest.mark.parametrize(
    ("hosts", "complaint"),
    [([], "has no hosts"), ([HOST, HOST], "the host h1 twice"), ([{"hostname": "h1"}], "resources")],
)
def test_invalid_hosts_are_refused(file: Path, hosts: object, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read_hosts(write_json(file, hosts))


def test_written_hosts_can_be_read_back(file: Path) -> None:
    hosts = [
        SimHost("h1", 4.0, 1024.0, 2.0, ((31000, 31010), (32000, 32000)), {"rack": "r1"}, "S1"),
        SimHost("h2", 0.5, 1.0, attributes={}),
    ]

    write_hosts(file, hosts)

    assert read_hosts(file) == hosts


# Rows

NEWER = (
    "job_id,instance_id,group_id,submit_time_ms,mesos_start_time_ms,start_time_ms,end_time_ms,hostname,slave_id,"
    "status,reason,user,mem,cpus,job_name,requested_run_time,expected_run_time,requested_status\n"
)
OLDER = NEWER.replace("group_id,", "").replace("expected_run_time,", "")


def a_row(**fields: Any) -> RunRow:
    values: dict[str, Any] = {
        "job_id": "0a",
        "instance_id": "0b",
        "group_id": "0c",
        "submit_time_ms": 1,
        "mesos_start_time_ms": -1,
        "start_time_ms": 5,
        "end_time_ms": 9,
        "hostname": "h1",
        "slave_id": "S1",
        "status": "failed",
        "reason": "Preempted by rebalancer",
        "user": "ada",
        "mem": 512.5,
        "cpus": 2.0,
        "job_name": 'a "quoted", name',
        "requested_run_time": 4,
        "expected_run_time": 3,
        "requested_status": "finished",
    }
    return RunRow(**{**values, **fields})


def test_rows_are_written_in_cooks_format(file: Path) -> None:
    write_rows(file, [a_row(), a_row(group_id="", expected_run_time=None, reason="", status="running")])

    assert file.read_text() == (
        NEWER + "0a,0b,0c,1,-1,5,9,h1,S1,:instance.status/failed,Preempted by rebalancer,ada,512.5,2.0,"
        '"a ""quoted"", name",4,3,finished\n'
        "0a,0b,,1,-1,5,9,h1,S1,:instance.status/running,,ada,512.5,2.0,"
        '"a ""quoted"", name",4,,finished\n'
    )


def test_rows_of_older_and_newer_versions_are_read(file: Path) -> None:
    file.write_text(OLDER + "0a,0b,1,-1,5,9,h1,S1,:instance.status/success,,ada,512,2,x,4,finished\n")

    (row,) = read_rows(file)

    assert row == a_row(
        group_id="", expected_run_time=None, status="success", reason="", job_name="x", mem=512.0
    )


@given(
    rows=st.lists(
        st.builds(
            a_row,
            status=st.sampled_from(["unknown", "running", "success", "failed"]),
            user=names,
            job_name=names,
            mem=amounts,
            end_time_ms=times,
            expected_run_time=st.none() | times,
        ),
        max_size=4,
    )
)
def test_written_rows_can_be_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[RunRow]) -> None:
    file = tmp_path_factory.getbasetemp() / "rows.csv"

    write_rows(file, rows)

    assert read_rows(file) == rows


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it lacks job_id"),
        (NEWER.replace("user,", ""), "it lacks user"),
        (NEWER + "0a,0b\n", "line 2"),
        (NEWER + "0a,0b,0c,soon,-1,5,9,h1,S1,x,,ada,1,1,x,4,,finished\n", "line 2.*soon"),
    ],
)
def test_invalid_rows_are_refused(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)

    with pytest.raises(InvalidRequest, match=complaint):
        read_rows(file)
