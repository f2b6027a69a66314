"""The JSON of jobs, instances, groups, events and usage."""

import base64
from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import InstanceStatus, ResultPayload
from cook_jupyter.model.job import JobId, JobState
from cook_jupyter.wire.events import EventEncoder, EventLine, encode_event, encode_line
from cook_jupyter.wire.jobs import JobEncoder, encode_group, encode_queue_entry
from cook_jupyter.wire.limits import encode_usage
from cook_jupyter.wire.validation import to_json
from tests.builders import a_group, a_job, an_instance


def to_dict(value: object) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.json.decode(to_json(value))
    return decoded


def test_what_a_job_does_not_have_is_left_out_and_never_null() -> None:
    body = to_dict(JobEncoder().encode_job(a_job(), attempts=0, groups={}))
    assert None not in body.values()
    assert body["groups"] == []
    assert body["uris"] == []
    for absent in ("submit_pool", "expected_runtime", "application", "executor", "disk", "container"):
        assert absent not in body


def test_the_older_face_tells_groups_by_uuid_and_only_if_there_are_any() -> None:
    group = a_group()
    encoder = JobEncoder()
    assert "groups" not in to_dict(encoder.encode_raw_job(a_job(), attempts=0))
    assert to_dict(encoder.encode_raw_job(a_job(group=group.group_id), attempts=0))["groups"] == [
        group.group_id
    ]
    body = to_dict(
        encoder.encode_job(a_job(group=group.group_id), attempts=0, groups={group.group_id: group})
    )
    assert body["groups"] == [{"uuid": group.group_id, "name": "cookgroup"}]


def test_a_listed_job_has_four_keys_in_kebab_case() -> None:
    job = a_job(
        expected_runtime_ms=5,
        submit_pool="p",
        extra={"progress_output_file": "f", "progress_regex_string": "r"},
    )
    body = JobEncoder().encode_list_job(job, attempts=0)
    for key in ("expected-runtime", "submit-pool", "progress-output-file", "progress-regex-string"):
        assert key in body
        assert key.replace("-", "_") not in body


def test_a_job_that_succeeded_at_once_has_no_retries_left() -> None:
    assert (
        to_dict(JobEncoder().encode_job(a_job(max_retries=1), attempts=1, groups={}))["retries_remaining"]
        == 0
    )


@pytest.mark.parametrize(
    ("host_url", "url"), [(None, "http://h:1"), ("http://agent:5051", "http://agent:5051")]
)
def test_the_output_url_leads_to_the_host_where_that_serves_files(host_url: str | None, url: str) -> None:
    encoder = JobEncoder(files_url="http://h:1", host_files_url=lambda instance: host_url)

    body = to_dict(encoder.encode_instance(an_instance(sandbox="/s"), a_job()))

    assert body["output_url"] == f"{url}/files/read.json?path=%2Fs"


def test_an_instance_tells_its_cluster_as_mesos_and_its_sandbox_by_url() -> None:
    instance = an_instance(sandbox="/a b/c?d", cluster="local")
    body = to_dict(JobEncoder(files_url="http://h:1").encode_instance(instance, a_job()))
    assert body["compute-cluster"] == {
        "name": "local",
        "type": "mesos",
        "mesos": {"framework-id": "unsupported"},
    }
    assert body["output_url"] == "http://h:1/files/read.json?path=%2Fa%20b%2Fc%3Fd"
    assert body["sandbox_directory"] == "/a b/c?d"
    assert body["executor"] == "cook"
    assert body["backfilled"] is False
    assert "reason_code" not in body
    assert "end_time" not in body


def test_an_explicit_executor_is_shown_on_the_instance() -> None:
    assert JobEncoder().encode_instance(an_instance(), a_job(extra={"executor": "mesos"})).executor == "mesos"


def test_a_failed_instance_tells_its_reason() -> None:
    instance = an_instance(
        status=InstanceStatus.FAILED, reason="preempted-by-rebalancer", ended_ms=9, preempted=True
    )
    body = to_dict(JobEncoder().encode_instance(instance, a_job()))
    assert (body["reason_code"], body["reason_string"], body["reason_mea_culpa"]) == (
        1002,
        "Preempted by rebalancer",
        True,
    )
    assert (body["end_time"], body["preempted"]) == (9, True)


def test_counts_of_a_group_are_told_only_in_detail() -> None:
    group, job = a_group(), a_job(state=JobState.RUNNING)
    assert "running" not in to_dict(encode_group(group, [job.job_id], None))
    detailed = to_dict(encode_group(group, [job.job_id], Counter([job.state])))
    assert (detailed["waiting"], detailed["running"], detailed["completed"]) == (0, 1, 0)


def test_a_queue_entry_has_its_group_without_the_jobs() -> None:
    group = a_group()
    entry = encode_queue_entry(a_job(priority=7), group)
    assert entry["job/priority"] == 7
    assert set(entry["group/_job"][0]) == {
        "group/uuid",
        "group/name",
        "group/host-placement",
        "group/straggler-handling",
    }


def test_usage_is_added_up_in_plain_doubles() -> None:
    class Row:
        job_id, group, cpus, mem_mb, gpus = JobId("j"), None, 0.1, 2.0, 0.0

    body = encode_usage([Row()] * 3, None)
    assert body == {"total_usage": {"cpus": 0.1 + 0.1 + 0.1, "mem": 6.0, "gpus": 0.0, "jobs": 3}}


def test_an_event_carries_the_inline_result() -> None:
    instance = an_instance(status=InstanceStatus.SUCCESS, ended_ms=5, exit_code=0)
    job = a_job(state=JobState.COMPLETED, instances=(instance,), change=7)
    change = JobChange(
        before=None, job=job, instance=instance, result=ResultPayload(inline=b"\0bytes", size=6)
    )

    line = msgspec.json.decode(encode_line(7, [encode_event(change)]), type=EventLine)

    (event,) = line.jobs
    assert line.cursor == event.change == 7
    assert (event.status, event.state, event.attempts) == ("completed", "success", 1)
    assert isinstance(event.result, str)
    assert base64.b64decode(event.result) == b"\0bytes"
    assert event.instance is not msgspec.UNSET
    assert event.instance.end_time == 5


def test_a_change_is_encoded_once_however_many_hear_of_it() -> None:
    encoder = EventEncoder()
    change = JobChange(before=None, job=a_job(change=1))
    assert encoder.encode(change) is encoder.encode(change)


def test_two_changes_that_share_a_number_are_not_mixed_up() -> None:
    encoder = EventEncoder()
    job = a_job(change=1)
    first = JobChange(before=None, job=job)
    second = JobChange(before=None, job=replace(job, state=JobState.COMPLETED))
    assert encoder.encode(first) != encoder.encode(second)


def test_the_encoder_remembers_a_bounded_number_of_bytes() -> None:
    encoder = EventEncoder()
    for number in range(200):
        result = ResultPayload(inline=b"x" * 60_000, size=60_000)
        encoder.encode(JobChange(before=None, job=a_job(change=number), result=result))
    assert sum(len(event) for _, event in encoder._cache.values()) <= 4 * 1024 * 1024
