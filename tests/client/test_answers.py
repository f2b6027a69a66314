"""A client's values hold what the JSON of a scheduler says, and a scheduler reads what they send."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from cook_jupyter.client import answers
from cook_jupyter.client.events import EventBatch
from cook_jupyter.client.submission import GroupSubmission, JobSubmission
from cook_jupyter.executor.groups import Group
from cook_jupyter.executor.options import Options
from cook_jupyter.model import reason as reasons
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import InstanceStatus, ResultPayload
from cook_jupyter.model.job import JobState
from cook_jupyter.service.cycles.maintenance import refresh_monitoring
from cook_jupyter.wire.events import encode_event, encode_line
from cook_jupyter.wire.jobs import JobEncoder
from cook_jupyter.wire.submission import read_submission
from cook_jupyter.wire.validation import to_json
from tests.api.served import ApiServer, a_request, serving
from tests.builders import a_group, a_job, an_instance

# Cook's older names of what has another field, and what is the same for all instances.
SKIPPED = {"slave_id", "agent_id", "executor_id", "backfilled", "mesos"}


def lost(said: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Yield the places of a JSON text that a value does not hold."""
    if isinstance(said, dict):
        for name, value in said.items():
            if name not in SKIPPED:
                held = kept.get(name) if isinstance(kept, dict) else None
                yield from lost(value, held, f"{path}.{name}")
    elif isinstance(said, list):
        held = kept if isinstance(kept, list | tuple) else ()
        if len(said) != len(held):
            yield path
        for place, pair in enumerate(zip(said, held, strict=False)):
            yield from lost(*pair, f"{path}[{place}]")
    elif said != kept:
        yield path


def lost_of(body: bytes, answer: Any) -> list[str]:
    """Return the places of a body that its value does not hold."""
    value = msgspec.json.decode(body, type=answer)
    return list(lost(msgspec.json.decode(body), msgspec.to_builtins(value)))


def a_full_job() -> Any:
    group = a_group(
        host_placement={"type": "balanced", "parameters": {"attribute": "rack", "minimum": 2}},
        straggler_handling={"type": "quantile-deviation", "parameters": {"quantile": 0.5, "multiplier": 2.0}},
    )
    instance = an_instance(
        status=InstanceStatus.FAILED,
        reason=reasons.PREEMPTED,
        preempted=True,
        cancelled=True,
        backend_started_ms=2,
        ended_ms=9,
        exit_code=-9,
        progress=40,
        progress_message="half",
        sandbox="/a",
        ports=(31000,),
    )
    job = a_job(
        state=JobState.COMPLETED,
        instances=(instance,),
        group=group.group_id,
        submit_pool="p",
        expected_runtime_ms=5,
        env={"A": "b"},
        labels={"c": "d"},
        constraints=(("rack", "EQUALS", "1"),),
        extra={
            "uris": ({"value": "u"},),
            "application": {"name": "n", "version": "v"},
            "executor": "cook",
            "progress_output_file": "f",
            "progress_regex_string": "r",
            "disk": {"request": 2.0},
            "checkpoint": {"mode": "auto"},
            "container": {"type": "DOCKER"},
        },
    )
    return job, instance, group


def test_a_job_answer_holds_all_that_is_said_of_a_job_and_its_instances() -> None:
    job, instance, group = a_full_job()
    encoder = JobEncoder(files_url="http://h:1")
    body = to_json(encoder.encode_job(job, attempts=1, groups={group.group_id: group}))

    assert lost_of(body, answers.JobAnswer) == []
    assert lost_of(to_json(encoder.encode_instance_with_job(instance, job)), answers.InstanceAnswer) == []


def test_an_event_holds_all_that_is_said_of_a_job() -> None:
    job, instance, _ = a_full_job()
    result = ResultPayload(inline=b"bytes", blob="results/x", size=5)
    line = encode_line(7, [encode_event(JobChange(before=None, job=job, instance=instance, result=result))])
    event = msgspec.to_builtins(msgspec.json.decode(line, type=EventBatch))

    assert event["jobs"][0]["result"] == base64.b64encode(b"bytes").decode()
    assert list(lost(msgspec.json.decode(line), event)) == []


def test_the_reason_of_an_instance_has_the_name_that_the_scheduler_gave() -> None:
    for name, reason in reasons.REASONS.items():
        assert answers.InstanceAnswer(uuid="u", reason_code=reason.code).reason == name
    assert answers.InstanceAnswer(uuid="u").reason is None
    assert answers.InstanceAnswer(uuid="u", reason_code=7).reason is None


def test_an_answer_without_what_an_original_cook_omits_is_read() -> None:
    job = msgspec.json.decode(b'{"uuid":"u","status":"waiting","state":"waiting"}', type=answers.JobAnswer)

    assert (job.pool, job.retries_remaining, job.instances, job.env) == (None, None, (), {})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A scheduler with a job that runs, one that waits, and groups of both."""
    home: Path = tmp_path_factory.mktemp("served")
    with serving(home) as scheduler:
        running, waiting = str(uuid4()), str(uuid4())
        groups = [{"uuid": running, "name": "a"}, {"uuid": waiting, "name": "b"}]
        jobs = [a_request(group=running), a_request(group=waiting, cpus=2.0, mem=4096.0)]
        scheduler.submit()
        reply = scheduler.ask("POST", "/jobs", {"jobs": [*jobs, a_request(cpus=2.0)], "groups": groups})
        assert reply.status == 201, reply.text
        scheduler.started(jobs[0]["uuid"])
        scheduler.on_loop(lambda: refresh_monitoring(scheduler.scheduler))
        yield scheduler


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/pools", list[answers.PoolAnswer]),
        ("/queue", dict[str, list[answers.QueueEntry]]),
        ("/running", list[answers.InstanceAnswer]),
        ("/info", answers.CookInfo),
        ("/failure_reasons", list[answers.FailureReason]),
        ("/usage?user=owner&group_breakdown=true", answers.UsageAnswer),
        ("/share?user=owner", answers.ShareAnswer),
        ("/quota?user=owner", answers.QuotaAnswer),
        ("/v1/info", answers.SchedulerInfo),
        ("/v1/summary", answers.SummaryAnswer),
        ("/v1/monitor", answers.MonitorAnswer),
        ("/v1/rebalancer", answers.RebalancerAnswer),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_about_the_scheduler_holds_all_that_is_said(
    served: ApiServer, path: str, answer: Any
) -> None:
    reply = served.ask("GET", path)

    assert reply.status == 200, reply.text
    assert lost_of(reply.body, answer) == []


def test_an_answer_about_a_job_that_waits_holds_all_that_is_said(served: ApiServer) -> None:
    (uuid, *_) = [entry["job/uuid"] for entry in served.ask("GET", "/queue").json["default"]]

    assert lost_of(served.ask("GET", f"/v1/why/{uuid}").body, answers.WhyAnswer) == []
    unscheduled = served.ask("GET", "/unscheduled_jobs", job=uuid).body
    assert lost_of(unscheduled, list[answers.UnscheduledAnswer]) == []


def test_an_answer_about_groups_holds_all_that_is_said(served: ApiServer) -> None:
    group = Group(placement="balanced", attribute="HOSTNAME", minimum=2, stragglers=(0.5, 2.0))
    body = msgspec.json.encode({"jobs": [a_request(group=group.uuid)], "groups": [group.submission()]})
    assert served.ask("POST", "/jobs", body, headers={"Content-Type": "application/json"}).status == 201

    groups = served.ask("GET", "/group", uuid=group.uuid, detailed="true").body
    assert lost_of(groups, list[answers.GroupAnswer]) == []


def test_a_scheduler_reads_what_a_submission_says() -> None:
    options = Options(
        gpus=1, constraints={"rack": "1"}, max_runtime_s=2.0, expected_runtime_s=1.0, group=str(uuid4())
    )
    job = msgspec.structs.replace(options.job("s", "true"), uuid=str(uuid4()), name="n", env={"A": "b"})
    group = Group(placement="balanced", attribute="rack", minimum=2, stragglers=(0.5, 2.0)).submission()
    body = msgspec.json.encode({"jobs": [job], "groups": [group]})

    read = msgspec.json.decode(to_json(read_submission(body)))

    assert list(lost(msgspec.json.decode(body), read)) == []
    for shape, sent in ((JobSubmission, read["jobs"][0]), (GroupSubmission, read["groups"][0])):
        assert {field.encode_name for field in msgspec.structs.fields(shape)} <= set(sent)
