"""Jobs, instances and groups as Cook tells them.

Lives here: the fields of a job, an instance and a group, and the several dialects in which Cook's own
endpoints tell them (`/jobs`, the older `/rawscheduler`, `/list`, `/queue`).
Not here: how they are sent (`wire.submission`), the stream of events (`wire.events`).

A field that has nothing to say is left out, never null: Cook's clients test with `in`.

Source: the REST specification, sections 5 to 8 and 13.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType, field

from cook_jupyter.model.instance import Instance
from cook_jupyter.model.job import Group, GroupId, Job, JobState
from cook_jupyter.model.reason import REASONS

UNKNOWN_HOST = "Unknown"
DEFAULT_EXECUTOR = "cook"
NO_FRAMEWORK = "unsupported"  # Cook's word for "there is not exactly one Mesos cluster"
_LIST_KEYS = {
    "expected_runtime": "expected-runtime",
    "progress_output_file": "progress-output-file",
    "progress_regex_string": "progress-regex-string",
    "submit_pool": "submit-pool",
}


class InstanceBody(msgspec.Struct):
    """One instance, as told."""

    task_id: str
    status: str
    start_time: int
    hostname: str
    slave_id: str
    agent_id: str
    executor_id: str
    executor: str
    preempted: bool
    backfilled: bool
    ports: Sequence[int]
    compute_cluster: dict[str, Any] = field(name="compute-cluster")
    progress: int
    queue_time: int
    end_time: int | UnsetType = UNSET
    mesos_start_time: int | UnsetType = UNSET
    progress_message: str | UnsetType = UNSET
    reason_code: int | UnsetType = UNSET
    reason_string: str | UnsetType = UNSET
    reason_mea_culpa: bool | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    output_url: str | UnsetType = UNSET
    sandbox_directory: str | UnsetType = UNSET
    cancelled: bool | UnsetType = UNSET
    job: dict[str, str] | UnsetType = UNSET


class GroupRef(msgspec.Struct):
    """A group, as a job of `/jobs` names it."""

    uuid: str
    name: str


class JobBody(msgspec.Struct):
    """One job, as told."""

    uuid: str
    command: str
    name: str
    user: str
    priority: int
    cpus: float
    mem: float
    gpus: int
    ports: int
    max_retries: int
    retries_remaining: int
    max_runtime: int
    status: str
    state: str
    submit_time: int
    framework_id: str
    env: Mapping[str, str]
    labels: Mapping[str, str]
    constraints: Sequence[Sequence[str]]
    uris: Sequence[Any]
    instances: list[InstanceBody]
    disable_mea_culpa_retries: bool
    pool: str
    groups: list[GroupRef] | list[str] | UnsetType = UNSET
    submit_pool: str | UnsetType = UNSET
    expected_runtime: int | UnsetType = UNSET
    application: Any | UnsetType = UNSET
    executor: str | UnsetType = UNSET
    progress_output_file: str | UnsetType = UNSET
    progress_regex_string: str | UnsetType = UNSET
    disk: Any | UnsetType = UNSET
    checkpoint: Any | UnsetType = UNSET
    container: Any | UnsetType = UNSET


class JobEncoder(msgspec.Struct, frozen=True):
    """What must be known beside a job to tell it.

    Attributes:
        framework_id: the id of the one Mesos cluster, or Cook's word for "there is not exactly one".
        files_url: where the scheduler serves sandbox files, such as `http://host:port`; None if nowhere.
        host_files_url: returns where the host of an instance serves them; None if only the scheduler does.
    """

    framework_id: str = NO_FRAMEWORK
    files_url: str | None = None
    host_files_url: Callable[[Instance], str | None] | None = None

    def instance(self, instance: Instance, job: Job) -> InstanceBody:
        """Tell an instance of `job`."""
        host = instance.host or UNKNOWN_HOST
        reason = REASONS.get(instance.reason) if instance.reason is not None else None
        sandbox = instance.sandbox
        return InstanceBody(
            task_id=instance.instance_id,
            status=instance.status.value,
            start_time=instance.started_ms,
            hostname=host,
            slave_id=host,
            agent_id=host,
            executor_id=instance.instance_id,
            executor=job.spec.extra.get("executor", DEFAULT_EXECUTOR),
            preempted=instance.preempted,
            backfilled=False,
            ports=instance.ports,
            compute_cluster={
                "name": instance.cluster,
                "type": "mesos",
                "mesos": {"framework-id": self.framework_id},
            },
            progress=instance.progress,
            queue_time=instance.queue_ms,
            end_time=_or_unset(instance.ended_ms),
            mesos_start_time=_or_unset(instance.backend_started_ms),
            progress_message=_or_unset(instance.progress_message),
            reason_code=UNSET if reason is None else reason.code,
            reason_string=UNSET if reason is None else reason.sentence,
            reason_mea_culpa=UNSET if reason is None else reason.mea_culpa,
            exit_code=_or_unset(instance.exit_code),
            output_url=UNSET if sandbox is None else self._output_url(instance, sandbox),
            sandbox_directory=_or_unset(sandbox),
            cancelled=instance.cancelled or UNSET,
        )

    def instance_with_job(self, instance: Instance, job: Job) -> InstanceBody:
        """Tell an instance as `/instances` does: with its job in short."""
        body = self.instance(instance, job)
        body.job = {
            "uuid": job.job_id,
            "name": job.spec.name,
            "status": job.state.value,
            "state": job.outcome,
            "user": job.spec.user,
        }
        return body

    def job(self, job: Job, *, attempts: int, groups: Mapping[GroupId, Group]) -> JobBody:
        """Tell a job as `/jobs` does.

        Args:
            job: the job.
            attempts: how many it has used up.
            groups: the groups of the jobs being told, by id.
        """
        body = self.old_job(job, attempts=attempts)
        group = None if job.spec.group is None else groups.get(job.spec.group)
        body.groups = [] if group is None else [GroupRef(uuid=group.group_id, name=group.name)]
        return body

    def old_job(self, job: Job, *, attempts: int) -> JobBody:
        """Tell a job as `/rawscheduler` does: groups by uuid, left out if there is none."""
        spec, extra = job.spec, job.spec.extra
        return JobBody(
            uuid=spec.job_id,
            command=spec.command,
            name=spec.name,
            user=spec.user,
            priority=spec.priority,
            cpus=spec.cpus,
            mem=spec.mem_mb,
            gpus=spec.gpus,
            ports=spec.ports,
            max_retries=job.max_retries,
            retries_remaining=max(0, job.max_retries - attempts),
            max_runtime=spec.max_runtime_ms,
            status=job.state.value,
            state=job.outcome,
            submit_time=job.submitted_ms,
            framework_id=self.framework_id,
            env=spec.env,
            labels=spec.labels,
            constraints=spec.constraints,
            uris=extra.get("uris", ()),
            instances=[self.instance(instance, job) for instance in job.instances],
            disable_mea_culpa_retries=spec.disable_mea_culpa_retries,
            pool=spec.pool,
            groups=UNSET if spec.group is None else [spec.group],
            submit_pool=_or_unset(spec.submit_pool),
            expected_runtime=_or_unset(spec.expected_runtime_ms),
            application=extra.get("application", UNSET),
            executor=extra.get("executor", UNSET),
            progress_output_file=extra.get("progress_output_file", UNSET),
            progress_regex_string=extra.get("progress_regex_string", UNSET),
            disk=extra.get("disk", UNSET),
            checkpoint=extra.get("checkpoint", UNSET),
            container=extra.get("container", UNSET),
        )

    def listed_job(self, job: Job, *, attempts: int) -> dict[str, Any]:
        """Tell a job as `/list` does: as `/rawscheduler`, with four keys in kebab case."""
        told: dict[str, Any] = msgspec.to_builtins(self.old_job(job, attempts=attempts))
        return {_LIST_KEYS.get(key, key): value for key, value in told.items()}

    def _output_url(self, instance: Instance, sandbox: str) -> str | UnsetType:
        url = None if self.host_files_url is None else self.host_files_url(instance)
        url = url or self.files_url
        if url is None:
            return UNSET
        return f"{url}/files/read.json?path={quote(sandbox, safe='')}"


class GroupBody(msgspec.Struct):
    """One group, as told; the counts only in detail."""

    uuid: str
    name: str
    host_placement: Mapping[str, Any]
    straggler_handling: Mapping[str, Any]
    jobs: Sequence[str]
    waiting: int | UnsetType = UNSET
    running: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


def group_body(group: Group, job_ids: Sequence[str], states: Mapping[JobState, int] | None) -> GroupBody:
    """Encode a group.

    Args:
        group: the group.
        job_ids: its jobs.
        states: how many of them are in which state; None leaves that out.
    """
    body = GroupBody(
        uuid=group.group_id,
        name=group.name,
        host_placement=group.host_placement,
        straggler_handling=group.straggler_handling,
        jobs=job_ids,
    )
    if states is not None:
        body.waiting = states.get(JobState.WAITING, 0)
        body.running = states.get(JobState.RUNNING, 0)
        body.completed = states.get(JobState.COMPLETED, 0)
    return body


def queue_entry(job: Job, group: Group | None) -> dict[str, Any]:
    """Tell a waiting job as `/queue` does: names with a slash, and the group without its jobs."""
    spec = job.spec
    entry: dict[str, Any] = {
        "job/uuid": spec.job_id,
        "job/user": spec.user,
        "job/name": spec.name,
        "job/priority": spec.priority,
        "job/command": spec.command,
        "job/state": f"job.state/{job.state.value}",
        "job/max-retries": job.max_retries,
        "job/max-runtime": spec.max_runtime_ms,
        "job/pool": spec.pool,
        "job/ports": spec.ports,
        "job/submit-time": job.submitted_ms,
        "job/resource": [
            {"resource/type": "resource.type/cpus", "resource/amount": spec.cpus},
            {"resource/type": "resource.type/mem", "resource/amount": spec.mem_mb},
        ],
    }
    if spec.gpus:
        entry["job/resource"].append(
            {"resource/type": "resource.type/gpus", "resource/amount": float(spec.gpus)}
        )
    if group is not None:
        entry["group/_job"] = [
            {
                "group/uuid": group.group_id,
                "group/name": group.name,
                "group/host-placement": group.host_placement,
                "group/straggler-handling": group.straggler_handling,
            }
        ]
    return entry


def _or_unset(value: Any) -> Any:
    return UNSET if value is None else value
