"""Submissions: what is taken, what is refused, and how the refusal is told."""

from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.pool import PoolName
from cook_jupyter.wire.submission import (
    ENV_BYTES,
    ENV_VALUE_BYTES,
    JOBS_PER_SUBMISSION,
    JobRequest,
    Submission,
    group_of,
    job_spec,
    read_raw_submission,
    read_submission,
)
from cook_jupyter.wire.validation import BodyDecoder, read_json


def a_request(**fields: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "command": "true", "max_retries": 1, "cpus": 1, "mem": 100, **fields}


def read(**fields: Any) -> JobRequest:
    (job,) = read_submission(msgspec.json.encode({"jobs": [a_request(**fields)]})).jobs
    return job


def spec(**fields: Any) -> JobSpec:
    return job_spec(read(**fields), user="ada", pool=PoolName("p"), submit_pool=None, docker_user="1:2")


def tree_of(**fields: Any) -> Any:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    tree: Any = caught.value.tree
    return None if tree is None else tree["jobs"][0]


def test_defaults_are_cooks() -> None:
    job = spec()
    assert (job.name, job.priority, job.max_runtime_ms) == ("cookjob", 50, 9223372036854775807)
    assert (job.env, job.labels, job.constraints, job.gpus, job.ports) == ({}, {}, (), 0, 0)


@pytest.mark.parametrize("key", ["max_runtime", "max-runtime", "maxRuntime"])
def test_the_top_level_of_a_job_takes_every_case(key: str) -> None:
    assert spec(**{key: 86400000.0}).max_runtime_ms == 86400000


def test_a_uuid_of_any_version_is_taken_and_told_in_lower_case() -> None:
    assert spec(uuid="ABCDEF00-1111-F222-0333-444444444444").job_id == "abcdef00-1111-f222-0333-444444444444"


def test_an_empty_name_stays_empty() -> None:
    assert spec(name="").name == ""


def test_status_is_taken_and_ignored() -> None:
    assert spec(status="whatever").extra == {}


def test_an_operator_may_be_written_in_any_case_and_a_pattern_freely() -> None:
    job = spec(constraints=[["HOSTNAME", "equals", "lol won't get scheduled"]])
    assert job.constraints == (("HOSTNAME", "EQUALS", "lol won't get scheduled"),)


def test_an_application_comes_out_exactly_as_it_was_sent() -> None:
    application = {"name": "foo", "version": "0.1.2", "workload-class": "c", "workload-id": "i"}
    assert spec(application=application).extra["application"] == application


def test_a_docker_container_gets_its_submitter_as_user() -> None:
    job = spec(
        container={"type": "docker", "docker": {"image": "x"}, "volumes": [{"host-path": "/a", "mode": "rw"}]}
    )
    assert job.extra["container"] == {
        "type": "DOCKER",
        "docker": {
            "image": "x",
            "force-pull-image": False,
            "parameters": [{"key": "user", "value": "1:2"}],
        },
        "volumes": [{"host-path": "/a", "mode": "RW"}],
    }


def test_another_docker_user_is_refused() -> None:
    docker = {"image": "x", "parameters": [{"key": "user", "value": "0:0"}]}
    with pytest.raises(InvalidRequest, match="must be 1:2, not 0:0"):
        spec(container={"type": "DOCKER", "docker": docker})


@pytest.mark.parametrize(
    ("fields", "tree"),
    [
        ({"priority": 16000001}, {"priority": "(not (between-0-and-16000000 16000001))"}),
        ({"priority": -1}, {"priority": "(not (between-0-and-16000000 -1))"}),
        ({"disk": {}}, {"disk": {"request": "missing-required-key"}}),
        ({"cpus": 0}, {"cpus": "(not (pos? 0))"}),
        ({"mem": -3.5}, {"mem": "(not (pos? -3.5))"}),
        ({"gpus": 0}, {"gpus": "(not (pos? 0))"}),
        ({"ports": 0.1}, {"ports": "(not (integer? 0.1))"}),
        ({"cpus": True}, {"cpus": "(not (number? true))"}),
        ({"datasets": []}, {"datasets": "disallowed-key"}),
        ({"env": {"": "x"}}, {"env": {"": '(not (non-empty? ""))'}}),
        ({"env": {"a": 1}}, {"env": {"a": "(not (string? 1))"}}),
        ({"name": "a b"}, {"name": '(not (job-name? "a b"))'}),
        ({"executor": "custom"}, {"executor": '(not (executor? "custom"))'}),
        ({"command": None}, {"command": "(not (string? nil))"}),
        ({"application": {"name": "x"}}, {"application": {"version": "missing-required-key"}}),
        ({"constraints": [["a", "EQUALS"]]}, {"constraints": ["(not (has-3-elements a-list))"]}),
        ({"max_runtime": 2**63}, {"max_runtime": f"(not (pos? {2**63}))"}),
        ({"progress_output_file": ""}, {"progress_output_file": '(not (non-empty? ""))'}),
    ],
)
def test_a_wrong_shape_is_told_as_a_tree(fields: dict[str, Any], tree: object) -> None:
    assert tree_of(**fields) == tree


def test_a_missing_key_is_told_where_it_is_missing() -> None:
    job = a_request()
    del job["cpus"]
    with pytest.raises(InvalidRequest) as caught:
        read_submission(msgspec.json.encode({"jobs": [a_request(), job, a_request()]}))
    assert caught.value.tree == {"jobs": [None, {"cpus": "missing-required-key"}]}


def test_rawscheduler_takes_no_pool() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_raw_submission(msgspec.json.encode({"jobs": [], "pool": "p"}))
    assert caught.value.tree == {"pool": "disallowed-key"}


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"BIG": "x" * ENV_VALUE_BYTES}},
        {"env": {"BIG": "é" * (ENV_VALUE_BYTES // 2)}},
        {"env": {f"V{i}": "x" * (ENV_VALUE_BYTES - 100) for i in range(9)}},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x\0y"}},
        {"command": "echo \0"},
        {"expected_runtime": 10, "max_runtime": 9},
        {"uris": [{"value": "x", "executable": True, "extract": True}]},
    ],
)
def test_what_no_host_could_run_is_refused_with_a_sentence(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"job [0-9a-f-]{36}") as caught:
        spec(**fields)
    assert caught.value.tree is None


def test_an_environment_within_the_bounds_is_taken() -> None:
    value = "x" * (ENV_VALUE_BYTES - 10)
    assert len(spec(env={f"V{i}": value for i in range(ENV_BYTES // ENV_VALUE_BYTES)}).env) == 8


def test_too_many_jobs_are_refused() -> None:
    body = msgspec.json.encode({"jobs": [a_request()] * (JOBS_PER_SUBMISSION + 1)})
    with pytest.raises(InvalidRequest, match="at-most-10000-elements"):
        read_submission(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"jobs":"\\ud800"}',
        b"[" * 100_000,
        b'{"jobs":' + b"[" * 40 + b"]" * 40 + b"}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_submission(body)


@pytest.mark.parametrize("depth", [32, 33])
def test_json_may_be_32_levels_deep(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth <= 32:
        assert read_json(body)
    else:
        with pytest.raises(InvalidRequest, match="deeper than 32"):
            read_json(body)


@pytest.mark.parametrize(
    "placement",
    [
        {"type": "balanced", "parameters": {"attribute": "rack"}},
        {"type": "attribute-equals"},
        {"type": "balanced"},
    ],
)
def test_a_placement_needs_its_parameters(placement: dict[str, Any]) -> None:
    body = {"jobs": [], "groups": [{"uuid": str(uuid4()), "host-placement": placement}]}
    (group,) = read_submission(msgspec.json.encode(body)).groups
    with pytest.raises(InvalidRequest, match="needs the parameter"):
        group_of(group)


def test_a_group_comes_out_as_it_was_sent() -> None:
    sent = {
        "uuid": str(uuid4()),
        "name": "g",
        "hostPlacement": {"type": "balanced", "parameters": {"attribute": "rack", "minimum": 2}},
        "straggler-handling": {
            "type": "quantile-deviation",
            "parameters": {"quantile": 0.5, "multiplier": 2.0},
        },
    }
    (request,) = read_submission(msgspec.json.encode({"jobs": [], "groups": [sent]})).groups
    group = group_of(request)
    assert group.host_placement == sent["hostPlacement"]
    assert group.straggler_handling == sent["straggler-handling"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(JobRequest.__struct_fields__)


@settings(max_examples=300)
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    dropped=st.sets(st.sampled_from(FIELDS), max_size=1),
)
def test_the_fast_and_the_slow_look_agree(changes: dict[str, Any], dropped: set[str]) -> None:
    """What the typed decoder takes, the slow look takes with the same value; what it refuses has a tree."""
    job = {key: value for key, value in {**a_request(), **changes}.items() if key not in dropped}
    value = {"jobs": [job]}
    reader = BodyDecoder(Submission)
    slow: object = None
    fault = None
    try:
        slow = reader.read_value(value)
    except InvalidRequest as error:
        fault = error
    assert fault is None or fault.tree is not None
    try:
        fast: object = msgspec.json.decode(msgspec.json.encode(value), type=Submission)
    except msgspec.ValidationError:
        fast = None
    if fast is not None:
        assert slow == fast
    assert reader.read(msgspec.json.encode(value)) == slow if slow is not None else True
