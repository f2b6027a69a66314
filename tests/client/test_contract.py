"""What both clients promise, against a scheduler: each verb does what it says and comes back as its type."""

import inspect
import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from cook_jupyter.client.aio import AsyncEventStream, AsyncJobClient
from cook_jupyter.client.events import EventStream
from cook_jupyter.client.submission import GroupSubmission, HostPlacement, JobSubmission
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import Conflict, InvalidRequest, NotFound, TooLarge, Unauthenticated
from tests.api.served import TOKEN, ApiServer, serving
from tests.client.conftest import NewClient


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with serving(tmp_path_factory.mktemp("served")) as scheduler:
        yield scheduler


@pytest.fixture
def client(served: ApiServer, new_client: NewClient) -> Iterator[JobClient]:
    with new_client(served.url, token=TOKEN) as made:
        yield made
        made.kill([job.uuid for job in made.recent_jobs(100, states=["waiting", "running"])])


def a_job(**fields: Any) -> JobSubmission:
    return JobSubmission(**{"command": "true", "cpus": 0.1, "mem_mb": 16.0, "max_retries": 1, **fields})


def large_job(**fields: Any) -> JobSubmission:
    """A job that needs a whole host."""
    return a_job(cpus=2.0, mem_mb=4096.0, **fields)


def test_a_job_is_submitted_found_and_killed(client: JobClient) -> None:
    (uuid,) = client.submit([a_job(name="one", labels={"a": "b"}, env={"C": "d"})])

    job = client.job(uuid)
    assert (job.uuid, job.name, job.user) == (uuid, "one", client.user)
    assert (dict(job.labels), dict(job.env), job.mem_mb, job.max_retries) == ({"a": "b"}, {"C": "d"}, 16.0, 1)
    client.kill([uuid])
    assert client.job(uuid).is_completed


def test_jobs_come_in_the_order_asked_and_unknown_ones_are_named(client: JobClient) -> None:
    uuids = client.submit([a_job(), a_job(), a_job()])[::-1]
    stranger = str(uuid4())

    assert [job.uuid for job in client.jobs(uuids)] == uuids
    assert [job.uuid for job in client.jobs([stranger, *uuids], partial=True)] == uuids
    with pytest.raises(NotFound) as raised:
        client.jobs([*uuids, stranger])
    assert raised.value.missing == (stranger,)


def test_more_uuids_than_a_url_can_hold_are_found(client: JobClient) -> None:
    uuids = client.submit([a_job() for _ in range(150)])

    assert [job.uuid for job in client.jobs(uuids)] == uuids


def test_a_uuid_in_use_is_a_conflict_unless_it_may_have_arrived(client: JobClient) -> None:
    job = a_job(uuid=str(uuid4()))
    client.submit([job])

    with pytest.raises(Conflict):
        client.submit([job])
    accepted: list[str] = []
    assert client.submit([job], may_have_arrived=True, on_accepted=accepted.extend) == accepted == [job.uuid]


def test_what_is_wrong_is_refused_before_or_by_the_scheduler(client: JobClient) -> None:
    with pytest.raises(TooLarge):
        client.submit([a_job(env={"X": "x" * 9_000_000})])
    with pytest.raises(InvalidRequest, match="cpus"):
        client.submit([{"command": "true"}])


def test_a_stranger_is_refused(served: ApiServer, new_client: NewClient) -> None:
    with new_client(served.url, token="wrong") as stranger, pytest.raises(Unauthenticated):
        stranger.pools()


def test_a_client_of_another_user_sees_the_jobs_of_that_user(client: JobClient) -> None:
    ada, name = client.acting_as("ada"), f"of-ada-{uuid4()}"
    (uuid,) = ada.submit([a_job(name=name)])

    assert ada.user == "ada"
    assert [job.uuid for job in client.list_jobs(user="ada", name=name)] == [uuid]
    assert [job.uuid for job in ada.recent_jobs(1)] == [uuid]
    assert client.list_jobs(name=name) == []
    ada.kill([uuid])


def test_an_instance_is_found_and_killed(client: JobClient, served: ApiServer) -> None:
    (uuid,) = client.submit([a_job()])
    task = served.started(uuid)

    (instance,) = client.instances([task])
    assert (instance.uuid, instance.status) == (task, "running")
    assert instance.job is not None
    assert instance.job.uuid == uuid
    assert task in {running.uuid for running in client.running(limit=100)}
    client.kill_instances([task])


def test_jobs_that_wait_are_explained_and_cancelled(client: JobClient, served: ApiServer) -> None:
    holders = client.submit([a_job(cpus=1.5), a_job(cpus=1.5)])
    for holder in holders:
        served.started(holder)
    waiting = client.submit([large_job(), large_job()])

    assert client.why(waiting[0]).sentences
    assert client.unscheduled(waiting)[1].uuid == waiting[1]
    assert {entry.uuid for entry in client.queue(limit=10)["default"]} == set(waiting)
    assert client.cancel_waiting([*holders, *waiting]) == waiting
    assert client.usage().total.cpus >= 3.0


def test_a_group_is_described_found_and_killed(client: JobClient) -> None:
    group = GroupSubmission(uuid=str(uuid4()), name="g", host_placement=HostPlacement(type="unique"))
    uuids = client.submit([a_job(group=group.uuid)], [group])
    uuids += client.submit([a_job(group=group.uuid)], override_group_immutability=True)

    (found,) = client.groups([group.uuid], detailed=True)
    assert (found.name, found.host_placement, set(found.jobs)) == ("g", group.host_placement, set(uuids))
    client.kill_groups([group.uuid])
    assert client.groups([group.uuid], detailed=True)[0].completed == 2


def test_retries_are_set_and_added(client: JobClient) -> None:
    (uuid,) = client.submit([large_job()])

    assert client.retry(uuid, retries=3) == 3
    assert client.retry([uuid], increment=2) == 5
    assert client.job(uuid).max_retries == 5


def test_shares_and_quotas_are_set_and_reset(client: JobClient) -> None:
    assert client.set_share("bob", reason="r", cpus=3, mem=300).mem_mb == 300
    assert client.share("bob").of_pool("default").cpus == 3
    assert client.set_quota("bob", reason="r", count=7, pool="default").count == 7
    assert client.quota("bob").count == 7
    client.reset_share("bob", reason="r")
    client.reset_quota("bob", reason="r")
    assert client.share("bob") == client.share("carol")
    assert client.quota("bob") == client.quota("carol")


def test_the_scheduler_tells_of_itself(client: JobClient) -> None:
    assert [pool.name for pool in client.pools()] == ["default", "other", "closed"]
    assert client.info_v1().user == client.user == "owner"
    assert client.summary().capacity.cpus == 4.0
    assert client.info().version
    assert "rebalancer" in client.settings()
    assert {reason.code for reason in client.failure_reasons()} > {1002}
    assert client.monitor().pools is not None
    before = client.rebalancer()
    assert client.set_rebalancer(min_dru_diff=0.25).min_dru_diff == 0.25
    assert client.set_rebalancer(min_dru_diff=before.min_dru_diff) == before


def test_a_report_of_waits_is_answered(client: JobClient, served: ApiServer) -> None:
    (uuid,) = client.submit([a_job()])

    assert not client.report_waits(served.started(uuid), []).deadlocked


def test_blobs_of_any_size_travel_both_ways(client: JobClient) -> None:
    for size in (0, 1, 3_000_000):
        name, data = f"calls/{uuid4()}", os.urandom(size)
        assert client.blob_size(name) is None
        client.put_blob(name, memoryview(data))
        assert client.has_blob(name)
        assert (client.blob_size(name), client.get_blob(name)) == (size, data)


def test_a_result_is_fetched_and_its_absence_is_told(client: JobClient, served: ApiServer) -> None:
    (uuid,) = client.submit([a_job()])
    with pytest.raises(Conflict):
        client.result(uuid)
    served.finish(uuid)
    with pytest.raises(NotFound):
        client.result(uuid)


def test_events_tell_what_happens_and_go_on_at_a_cursor(client: JobClient) -> None:
    with client.events(None, {"of": "events"}) as stream:
        first = next(stream)
        client.submit([a_job()])
        (uuid,) = client.submit([a_job(labels={"of": "events"})])
        seen = next(batch for batch in stream if batch.jobs)
    assert {job.uuid for job in seen.jobs} == {uuid}

    with client.events(first.cursor, {"of": "events"}, store=first.store) as stream:
        again = next(batch for batch in stream if batch.jobs)
    assert {job.uuid for job in again.jobs} == {uuid}


METHODS = sorted(
    name
    for name, _ in inspect.getmembers(JobClient, inspect.isfunction)
    if not name.startswith("_") and name != "patient_for"
)


@pytest.mark.parametrize("name", METHODS)
def test_the_asynchronous_client_has_the_methods_of_the_other_one(name: str) -> None:
    one, other = (
        inspect.signature(getattr(client, name), eval_str=True) for client in (JobClient, AsyncJobClient)
    )

    assert list(one.parameters.values()) == list(other.parameters.values())
    returns = {JobClient: AsyncJobClient, EventStream: AsyncEventStream}
    assert other.return_annotation == returns.get(one.return_annotation, one.return_annotation)
