"""Invalid input of a simulation is refused in one line that names the file, the job or host, and the key."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.simulation.checks import check_hosts, check_trace, fitting_no_host
from cook_jupyter.simulation.replay import simulate
from cook_jupyter.simulation.traces import SimHost, TraceJob, read_hosts, read_trace
from cook_jupyter.wire.submission import job_spec, read_submission

MAX_INT32 = 2**31 - 1


def an_entry(**changes: Any) -> dict[str, Any]:
    """Return an entry of a trace; `resources` has short names."""
    resources = {"cpus": 1.0, "mem": 100.0, **changes.pop("resources", {})}
    entry: dict[str, Any] = {
        "run-time-ms": 1000,
        "submit-time-ms": 0,
        "job/uuid": "0a",
        "job/user": "ada",
        "job/resource": [
            {"resource/type": f"resource.type/{kind}", "resource/amount": amount}
            for kind, amount in resources.items()
            if amount is not None
        ],
    }
    return entry | {name: value for name, value in changes.items() if value is not None}


def a_file(folder: Path, value: object) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(value))
    return path


BAD_ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"resources": {"cpus": -1.0}}, "cpus must be above 0, not -1"),
    ({"resources": {"cpus": 0}}, "cpus must be above 0, not 0"),
    ({"resources": {"cpus": None}}, "no resource.type/cpus"),
    ({"resources": {"mem": -100}}, "mem must be above 0, not -100"),
    ({"resources": {"mem": 0.0}}, "mem must be above 0"),
    ({"resources": {"mem": None}}, "no resource.type/mem"),
    ({"resources": {"gpus": 0.5}}, "gpus must be a whole number, not 0.5"),
    ({"resources": {"gpus": -1}}, "gpus must be a whole number from 0 up, not -1"),
    ({"resources": {"cpus": "2"}}, "Expected `float`, got `str`"),
    ({"resources": {"cpus": True}}, "Expected `float`, got `bool`"),
    ({"resources": {"disk": 2}}, "requests 'resource.type/disk'"),
    ({"job/user": ""}, "job/user is empty"),
    ({"job/user": " \t"}, "job/user is empty"),
    ({"job/uuid": " "}, "job/uuid is empty"),
    ({"job/user": 5}, "Expected `str`, got `int`"),
    ({"job/uuid": ""}, "job/uuid is empty"),
    ({"job/max-retries": 0}, "job/max-retries must be in 1..2147483647, not 0"),
    ({"job/max-retries": -1}, "job/max-retries must be in 1..2147483647, not -1"),
    ({"job/max-retries": 1.5}, "Expected `int`, got `float`"),
    ({"job/priority": 16_000_001}, "job/priority must be in 0..16000000, not 16000001"),
    ({"job/priority": 100_000_000}, "job/priority must be in 0..16000000"),
    ({"job/priority": -1}, "job/priority must be in 0..16000000, not -1"),
    ({"job/priority": 10**30}, "job/priority|out of range"),
    ({"run-time-ms": -1}, "run-time-ms must be in 0"),
    ({"run-time-ms": 1e300}, "run-time-ms must be in 0"),
    ({"submit-time-ms": -1e300}, "submit-time-ms must be within"),
    ({"submit-time-ms": "now"}, "Expected `float`, got `str`"),
    ({"job/max-runtime": -5}, "job/max-runtime must be above 0, not -5"),
    ({"job/max-runtime": 0}, "job/max-runtime must be above 0, not 0"),
    ({"job/expected-runtime": -5}, "job/expected-runtime must be above 0, not -5"),
    ({"job/disable-mea-culpa-retries": "no"}, "Expected `bool`, got `str`"),
]


@pytest.mark.parametrize(("changes", "complaint"), BAD_ENTRIES, ids=str)
def test_an_invalid_job_is_refused_in_one_line(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = a_file(tmp_path, [an_entry(**{"job/uuid": "first"}), an_entry(**changes)])

    with pytest.raises(InvalidRequest, match=complaint) as caught:
        read_trace(path)

    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "job 1 " in str(caught.value) or "$[1]" in str(caught.value) or "out of range" in str(caught.value)


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for number in ("NaN", "Infinity", "1e999"):
        path.write_text(json.dumps([an_entry()]).replace("100.0", number))
        with pytest.raises(InvalidRequest, match="is not a trace"):
            read_trace(path)


def test_a_duplicate_resource_is_refused(tmp_path: Path) -> None:
    entry = an_entry()
    entry["job/resource"] = entry["job/resource"] * 2

    with pytest.raises(InvalidRequest, match=r"job 0 .* \(0a\) requests resource.type/cpus twice"):
        read_trace(a_file(tmp_path, [entry]))


def test_a_trace_may_have_cooks_longest_run_time(tmp_path: Path) -> None:
    [job] = read_trace(a_file(tmp_path, [an_entry(**{"job/max-runtime": 2**63 - 1})]))

    assert job.max_runtime_ms == 2**63 - 1


HOST: dict[str, Any] = {"hostname": "h1", "resources": {"cpus": {"*": 4}, "mem": {"*": 1024}}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hostname": ""}, "hostname is empty"),
        ({"hostname": "  "}, "hostname is empty"),
        ({"resources": {"cpus": {"*": -4}, "mem": {"*": 1}}}, "cpus of the role \\* is -4"),
        ({"resources": {"cpus": {"*": 4, "cook": -1}, "mem": {"*": 1}}}, "cpus of the role cook is -1"),
        ({"resources": {"cpus": {}, "mem": {"*": 1}}}, "cpus must be above 0, not 0"),
        ({"resources": {"cpus": {"*": 1}, "mem": {"*": 0}}}, "mem must be above 0, not 0"),
        ({"resources": {"cpus": {"*": 1}}}, "mem"),
        (
            {"resources": {"cpus": {"*": 1}, "mem": {"*": 1}, "gpus": {"*": 0.5}}},
            "gpus must be a whole number",
        ),
        ({"resources": {"cpus": {"*": "4"}, "mem": {"*": 1}}}, "Expected `float`, got `str`"),
        (
            {"resources": {"cpus": {"*": 1}, "mem": {"*": 1}, "ports": {"*": [{"begin": 9, "end": 5}]}}},
            "ports 9 to 5 are no range",
        ),
    ],
    ids=str,
)
def test_an_invalid_host_is_refused_in_one_line(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        read_hosts(a_file(tmp_path, [HOST | {"hostname": "h0"}, HOST | changes]))

    assert "\n" not in str(caught.value)


def a_job(**changes: Any) -> TraceJob:
    return TraceJob(JobId("j"), "ada", 0, 1000, 1.0, 100.0)._replace(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpus": math.nan},
        {"cpus": math.inf},
        {"mem_mb": math.nan},
        {"mem_mb": -math.inf},
        {"gpus": 0.5},
        {"gpus": math.inf},
        {"user": ""},
        {"max_retries": 0},
        {"priority": 100_000_000},
        {"run_time_ms": -1},
    ],
    ids=str,
)
def test_python_callers_get_the_same_refusals(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="job 1 "):
        simulate([a_job(job_id="first"), a_job(**changes)], [SimHost("h1", 4.0, 1000.0)])


@pytest.mark.parametrize(
    "host", [SimHost("h1", math.nan, 1.0), SimHost("h1", 1.0, math.inf), SimHost("h1", -1.0, 1.0)], ids=str
)
def test_invalid_hosts_of_python_callers_are_refused(host: SimHost) -> None:
    with pytest.raises(InvalidRequest, match="host 1 "):
        simulate([a_job()], [SimHost("h0", 4.0, 1000.0), host])


numbers = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0, 1e9])
whole_numbers = st.sampled_from([-1, 0, 1, 2, 50, 16_000_000, 16_000_001, MAX_INT32, MAX_INT32 + 1])


@given(cpus=numbers, mem=numbers, gpus=whole_numbers, retries=whole_numbers, priority=whole_numbers)
def test_a_trace_is_refused_where_the_rest_api_refuses_the_job(
    cpus: float, mem: float, gpus: int, retries: int, priority: int
) -> None:
    body = {
        "uuid": "b7a8e0de-0000-4000-8000-000000000001",
        "command": "true",
        "max_retries": retries,
        "cpus": cpus,
        "mem": mem,
        "priority": priority,
        **({"gpus": gpus} if gpus else {}),
    }
    job = a_job(cpus=cpus, mem_mb=mem, gpus=gpus, max_retries=retries, priority=priority)

    assert _accepts_trace(job) == (_spec_of(body) is not None), body


def _accepts_trace(job: TraceJob) -> bool:
    try:
        check_trace([job])
    except InvalidRequest:
        return False
    return True


def _spec_of(body: dict[str, Any]) -> JobSpec | None:
    try:
        (job,) = read_submission(json.dumps({"jobs": [body]}).encode()).jobs
    except InvalidRequest:
        return None
    return job_spec(job, user="ada", pool=DEFAULT_POOL, submit_pool=None, docker_user="1:1")


# Jobs that fit no host

amounts = st.sampled_from([1.0, 2.0, 3.0])
shapes = st.tuples(amounts, amounts, st.integers(0, 2))


@given(jobs=st.lists(shapes, max_size=6), hosts=st.lists(shapes, min_size=1, max_size=5))
def test_a_job_fits_no_host_if_each_lacks_some_resource(
    jobs: list[tuple[float, float, int]], hosts: list[tuple[float, float, int]]
) -> None:
    trace = [a_job(job_id=str(number), cpus=c, mem_mb=m, gpus=g) for number, (c, m, g) in enumerate(jobs)]
    all_hosts = [SimHost(f"h{number}", c, m, g) for number, (c, m, g) in enumerate(hosts)]

    reasons = fitting_no_host(trace, all_hosts)

    expected = {
        job.job_id
        for job in trace
        if all(h.cpus < job.cpus or h.mem_mb < job.mem_mb or h.gpus < job.gpus for h in all_hosts)
    }
    assert reasons.keys() == expected
    assert all("it requests" in why for why in reasons.values())


def test_the_reason_why_a_job_fits_no_host_names_the_amounts() -> None:
    hosts = [SimHost("h1", 8.0, 1000.0), SimHost("h2", 2.0, 9000.0)]
    trace = [a_job(job_id="wide", cpus=9.0), a_job(job_id="both", cpus=4.0, mem_mb=4000.0)]

    assert fitting_no_host(trace, hosts) == {
        "wide": "it requests 9 cpus, and the largest host has 8",
        "both": "it requests 4 cpus, 4000 MB, and no single host has all of it",
    }


def test_a_simulation_without_hosts_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="has no hosts"):
        check_hosts([])
