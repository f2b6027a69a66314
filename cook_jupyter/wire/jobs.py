"""Jobs, instances and groups in Cook's JSON.

Lives here: the fields of a job, an instance and a group, and the variants of Cook's endpoints (`/jobs`, the
older `/rawscheduler`, `/list`, `/queue`).
Not here: submissions (`wire.submission`), the event stream (`wire.events`).

A field without a value is omitted, never null, because Cook's clients test with `in`.

Source: the REST specification, sections 5 to 8 and 13.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType, field

from cook_jupyter.model.instance import Instance
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobState
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import REASONS

UNKNOWN_HOST = "Unknown"
DEFAULT_EXECUTOR = "cook"
NO_FRAMEWORK = "unsupported"  # Cook's value if there is not exactly one Mesos cluster
_LIST_KEYS = {
    "expected_runtime": "expected-runtime",
    "progress_output_file": "progress-output-file",
    "progress_regex_string": "progress-regex-string",
    "submit_pool": "submit-pool",
}


class InstanceBody(msgspec.Struct):
    """An instance in Cook's JSON."""

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
    """A group, as listed by a job of `/jobs`."""

    uuid: str
    name: str


class JobBody(msgspec.Struct):
    """A job in Cook's JSON."""

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
    pool: PoolName
    groups: list[GroupRef] | list[GroupId] | UnsetType = UNSET
    submit_pool: PoolName | UnsetType = UNSET
    expected_runtime: int | UnsetType = UNSET
    application: Any | UnsetType = UNSET
    executor: str | UnsetType = UNSET
    progress_output_file: str | UnsetType = UNSET
    progress_regex_string: str | UnsetType = UNSET
    disk: Any | UnsetType = UNSET
    checkpoint: Any | UnsetType = UNSET
    container: Any | UnsetType = UNSET


class JobEncoder(msgspec.Struct, frozen=True):
    """Encodes jobs, with facts that are not part of a job.

    Attributes:
        framework_id: id of the only Mesos cluster, or `NO_FRAMEWORK`.
        files_url: base URL of sandbox files, such as `http://host:port`; None if they are not served.
        host_files_url: returns the base URL of an instance's files on its host; None if only the scheduler
            serves them.
    """

    framework_id: str = NO_FRAMEWORK
    files_url: str | None = None
    host_files_url: Callable[[Instance], str | None] | None = None

    def encode_instance(self, instance: Instance, job: Job) -> InstanceBody:
        """Encode an instance of a job."""
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

    def encode_instance_with_job(self, instance: Instance, job: Job) -> InstanceBody:
        """Encode an instance for `/instances`, with its job in short form."""
        body = self.encode_instance(instance, job)
        body.job = {
            "uuid": job.job_id,
            "name": job.spec.name,
            "status": job.state.value,
            "state": job.outcome,
            "user": job.spec.user,
        }
        return body

    def encode_job(self, job: Job, *, attempts: int, groups: Mapping[GroupId, Group]) -> JobBody:
        """Encode a job for `/jobs`.

        Args:
            job: the job.
            attempts: number of attempts that it has used.
            groups: groups of all jobs being encoded, by id.
        """
        body = self.encode_raw_job(job, attempts=attempts)
        group = None if job.spec.group is None else groups.get(job.spec.group)
        body.groups = [] if group is None else [GroupRef(uuid=group.group_id, name=group.name)]
        return body

    def encode_raw_job(self, job: Job, *, attempts: int) -> JobBody:
        """Encode a job for `/rawscheduler`: its group as a uuid, omitted if there is none."""
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
            instances=[self.encode_instance(instance, job) for instance in job.instances],
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

    def encode_list_job(self, job: Job, *, attempts: int) -> dict[str, Any]:
        """Encode a job for `/list`: as for `/rawscheduler`, with four keys in kebab case."""
        body: dict[str, Any] = msgspec.to_builtins(self.encode_raw_job(job, attempts=attempts))
        return {_LIST_KEYS.get(key, key): value for key, value in body.items()}

    def _output_url(self, instance: Instance, sandbox: str) -> str | UnsetType:
        url = None if self.host_files_url is None else self.host_files_url(instance)
        url = url or self.files_url
        if url is None:
            return UNSET
        return f"{url}/files/read.json?path={quote(sandbox, safe='')}"


class GroupBody(msgspec.Struct):
    """A group in Cook's JSON; the numbers of jobs are only set in detailed answers."""

    uuid: str
    name: str
    host_placement: Mapping[str, Any]
    straggler_handling: Mapping[str, Any]
    jobs: Sequence[str]
    waiting: int | UnsetType = UNSET
    running: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


def encode_group(group: Group, job_ids: Sequence[JobId], states: Mapping[JobState, int] | None) -> GroupBody:
    """Encode a group.

    Args:
        group: the group.
        job_ids: jobs of the group.
        states: number of its jobs by state; None to omit them.
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


def encode_queue_entry(job: Job, group: Group | None) -> dict[str, Any]:
    """Encode a waiting job for `/queue`: keys with a slash, and the group without its jobs."""
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
