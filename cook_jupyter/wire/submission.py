"""Submissions: the body of POST /jobs, converted to domain types.

Lives here: the structure of a submission, and the checks that do not depend on the present state.
Not here: encoding of jobs (`wire.jobs`), checks that depend on settings or other jobs (`api.jobs`,
`service`).

Source: the REST specification, section 4.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import (
    DEFAULT_PRIORITY,
    HIGHEST_PRIORITY,
    UNLIMITED_RUNTIME_MS,
    Group,
    GroupId,
    JobId,
    JobSpec,
)
from cook_jupyter.model.pool import PoolName
from cook_jupyter.wire.validation import AnyCaseStruct, BodyDecoder, StrictStruct, named

JOBS_PER_SUBMISSION = 10_000
ENV_VALUE_BYTES = 128 * 1024  # the kernel's limit for "NAME=value" with its terminating zero
ENV_BYTES = 1024 * 1024

_NAME = r"\A[.a-zA-Z0-9_-]{%s}\Z"
_LABEL_VALUE = r"\A(?:[a-zA-Z0-9]{1,2}|[a-zA-Z0-9][.a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\Z"

Uuid = Annotated[
    str, Meta(pattern=r"\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z", extra=named("uuid?"))
]
NonEmpty = Annotated[str, Meta(min_length=1, extra=named("non-empty?"))]
JobName = Annotated[str, Meta(pattern=_NAME % "0,128", extra=named("job-name?"))]
ShortName = Annotated[str, Meta(pattern=_NAME % "1,128", extra=named("non-empty-max-128-characters?"))]
LabelValue = Annotated[str, Meta(pattern=_LABEL_VALUE, extra=named("valid-k8s-pod-label-value?"))]
PositiveInt = Annotated[int, Meta(gt=0, le=2**31 - 1)]
Milliseconds = Annotated[int, Meta(gt=0, le=UNLIMITED_RUNTIME_MS)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Amount = Annotated[float, Meta(gt=0)]
MoreThanOne = Annotated[float, Meta(gt=1)]
Priority = Annotated[int, Meta(ge=0, le=HIGHEST_PRIORITY, extra=named(f"between-0-and-{HIGHEST_PRIORITY}"))]
Operator = Annotated[str, Meta(pattern=r"\A(?i:equals)\Z", extra=named("constraint-operator?"))]
Constraint = tuple[str, Operator, str]


class Uri(StrictStruct):
    """A file to fetch into the sandbox."""

    value: str
    executable: bool | UnsetType = UNSET
    extract: bool | UnsetType = UNSET
    cache: bool | UnsetType = UNSET


class Application(StrictStruct, rename="kebab"):
    """The submitting program, as it describes itself."""

    name: ShortName
    version: ShortName
    workload_class: LabelValue | UnsetType = UNSET
    workload_id: LabelValue | UnsetType = UNSET
    workload_details: LabelValue | UnsetType = UNSET


class Parameter(StrictStruct):
    """A docker parameter."""

    key: str
    value: str


class PortMapping(StrictStruct, rename="kebab"):
    """A host port that is mapped to a container port."""

    host_port: Count
    container_port: Count
    protocol: str | UnsetType = UNSET


class Docker(StrictStruct, rename="kebab"):
    """The docker part of a container."""

    image: str | UnsetType = UNSET
    network: str | UnsetType = UNSET
    force_pull_image: bool | UnsetType = UNSET
    parameters: list[Parameter] | UnsetType = UNSET
    port_mapping: list[PortMapping] | UnsetType = UNSET


class MesosImage(StrictStruct):
    """The mesos part of a container."""

    image: str


class Volume(StrictStruct, rename="kebab"):
    """A host directory that is mounted in the container."""

    host_path: str
    container_path: str | UnsetType = UNSET
    mode: str | UnsetType = UNSET


class Container(StrictStruct):
    """The container in which the job runs."""

    type: Annotated[str, Meta(pattern=r"\A(?i:docker|mesos)\Z", extra=named("container-type?"))]
    docker: Docker | UnsetType = UNSET
    mesos: MesosImage | UnsetType = UNSET
    volumes: list[Volume] | UnsetType = UNSET


class Disk(StrictStruct):
    """Disk space, in MiB."""

    request: MoreThanOne
    limit: MoreThanOne | UnsetType = UNSET
    type: str | UnsetType = UNSET


class CheckpointOptions(StrictStruct, rename="kebab"):
    """Paths to preserve."""

    preserve_paths: list[str] | UnsetType = UNSET


class PeriodicOptions(StrictStruct, rename="kebab"):
    """Interval of checkpoints."""

    period_sec: Count


class Checkpoint(StrictStruct, rename="kebab"):
    """How the job preserves its state between attempts."""

    mode: Annotated[str, Meta(pattern=r"\A(?:auto|periodic|preemption)\Z", extra=named("checkpoint-mode?"))]
    options: CheckpointOptions | UnsetType = UNSET
    periodic_options: PeriodicOptions | UnsetType = UNSET


class JobRequest(AnyCaseStruct):
    """A job in a submission."""

    uuid: Uuid
    command: str
    max_retries: PositiveInt
    cpus: Amount
    mem: Amount
    name: JobName = "cookjob"
    priority: Priority = DEFAULT_PRIORITY
    max_runtime: Milliseconds = UNLIMITED_RUNTIME_MS
    expected_runtime: Milliseconds | UnsetType = UNSET
    gpus: PositiveInt | UnsetType = UNSET
    ports: Count = 0
    env: dict[NonEmpty, str] = {}
    labels: dict[str, str] = {}
    constraints: list[Constraint] = []
    uris: list[Uri] | UnsetType = UNSET
    executor: Annotated[str, Meta(pattern=r"\A(?:cook|mesos)\Z", extra=named("executor?"))] | UnsetType = (
        UNSET
    )
    container: Container | UnsetType = UNSET
    application: Application | UnsetType = UNSET
    group: Uuid | UnsetType = UNSET
    disk: Disk | UnsetType = UNSET
    checkpoint: Checkpoint | UnsetType = UNSET
    disable_mea_culpa_retries: bool = False
    progress_output_file: NonEmpty | UnsetType = UNSET
    progress_regex_string: NonEmpty | UnsetType = UNSET
    status: str | UnsetType = UNSET  # accepted and ignored


class PlacementParameters(StrictStruct):
    """Parameters of the placements `balanced` and `attribute-equals`."""

    attribute: str | UnsetType = UNSET
    minimum: PositiveInt | UnsetType = UNSET


class HostPlacement(StrictStruct):
    """How the jobs of a group are distributed over hosts."""

    type: Annotated[
        str, Meta(pattern=r"\A(?:all|unique|balanced|attribute-equals)\Z", extra=named("host-placement?"))
    ]
    parameters: PlacementParameters | UnsetType = UNSET


class StragglerParameters(StrictStruct):
    """Definition of a straggler in a group."""

    quantile: Annotated[float, Meta(gt=0, lt=1)]
    multiplier: MoreThanOne


class StragglerHandling(StrictStruct):
    """Whether stragglers of a group are restarted."""

    type: Annotated[str, Meta(pattern=r"\A(?:none|quantile-deviation)\Z", extra=named("straggler-handling?"))]
    parameters: StragglerParameters | UnsetType = UNSET


class GroupRequest(AnyCaseStruct):
    """A group in a submission."""

    uuid: Uuid
    name: str = "cookgroup"
    host_placement: HostPlacement = field(default_factory=lambda: HostPlacement(type="all"))
    straggler_handling: StragglerHandling = field(default_factory=lambda: StragglerHandling(type="none"))


Jobs = Annotated[list[JobRequest], Meta(max_length=JOBS_PER_SUBMISSION)]
Groups = Annotated[list[GroupRequest], Meta(max_length=JOBS_PER_SUBMISSION)]


class RawSubmission(StrictStruct, rename="kebab"):
    """The body of POST /rawscheduler."""

    jobs: Jobs
    groups: Groups = []
    override_group_immutability: bool = False


class Submission(RawSubmission, rename="kebab"):
    """The body of POST /jobs."""

    pool: PoolName | UnsetType = UNSET


read_submission = BodyDecoder(Submission).read
read_raw_submission = BodyDecoder(RawSubmission).read

_PASSED_THROUGH = (
    "executor",
    "application",
    "disk",
    "checkpoint",
    "progress_output_file",
    "progress_regex_string",
)


def job_spec(
    job: JobRequest, *, user: str, pool: PoolName, submit_pool: PoolName | None, docker_user: str
) -> JobSpec:
    """Convert a job in a submission to a specification.

    Args:
        job: the job; its structure is valid.
        user: user who submits it.
        pool: pool of the job.
        submit_pool: pool that the submission names; None if it names none.
        docker_user: `uid:gid` of the user, added to a docker container without a user.

    Raises:
        InvalidRequest: the job is invalid for any settings.
    """
    job_id = JobId(job.uuid.lower())
    _check(job, job_id)
    extra: dict[str, Any] = {}
    for name in _PASSED_THROUGH:
        value = getattr(job, name)
        if value is not UNSET:
            extra[name] = msgspec.to_builtins(value)
    if job.uris is not UNSET:
        extra["uris"] = _uris(job.uris, job_id)
    if job.container is not UNSET:
        extra["container"] = _container(job.container, docker_user, job_id)
    return JobSpec(
        job_id=job_id,
        user=user,
        command=job.command,
        pool=pool,
        cpus=job.cpus,
        mem_mb=job.mem,
        gpus=0 if job.gpus is UNSET else job.gpus,
        ports=job.ports,
        name=job.name,
        priority=job.priority,
        max_retries=job.max_retries,
        max_runtime_ms=job.max_runtime,
        expected_runtime_ms=None if job.expected_runtime is UNSET else job.expected_runtime,
        env=job.env,
        labels=job.labels,
        constraints=tuple((attribute, "EQUALS", pattern) for attribute, _, pattern in job.constraints),
        group=None if job.group is UNSET else GroupId(job.group.lower()),
        submit_pool=submit_pool,
        disable_mea_culpa_retries=job.disable_mea_culpa_retries,
        extra=extra,
    )


def group_of(group: GroupRequest) -> Group:
    """Convert a group in a submission to a domain type.

    Raises:
        InvalidRequest: parameters of its placement or its straggler handling are missing.
    """
    group_id = GroupId(group.uuid.lower())
    placement, handling = group.host_placement, group.straggler_handling
    parameters = placement.parameters
    attribute = UNSET if parameters is UNSET else parameters.attribute
    minimum = UNSET if parameters is UNSET else parameters.minimum
    if placement.type in ("balanced", "attribute-equals") and not attribute:
        raise InvalidRequest(
            f"group {group_id}: host placement {placement.type} needs the parameter attribute"
        )
    if placement.type == "balanced" and minimum is UNSET:
        raise InvalidRequest(f"group {group_id}: host placement balanced needs the parameter minimum")
    if handling.type == "quantile-deviation" and handling.parameters is UNSET:
        raise InvalidRequest(
            f"group {group_id}: straggler handling quantile-deviation needs the parameters"
            " quantile and multiplier"
        )
    return Group(
        group_id=group_id,
        name=group.name,
        host_placement=msgspec.to_builtins(placement),
        straggler_handling=msgspec.to_builtins(handling),
    )


def _check(job: JobRequest, job_id: JobId) -> None:
    """Refuse a job that could not run on any host."""
    if "\0" in job.command:
        raise InvalidRequest(f"job {job_id}: the command contains a zero byte, which no shell can be given")
    if job.expected_runtime is not UNSET and job.expected_runtime > job.max_runtime:
        raise InvalidRequest(
            f"job {job_id}: expected_runtime {job.expected_runtime} is above max_runtime {job.max_runtime}"
        )
    total = 0
    for name, value in job.env.items():
        if "\0" in value or "\0" in name or "=" in name:
            raise InvalidRequest(
                f"job {job_id}: the environment variable {name[:80]!r} cannot be set:"
                " it must not contain zero bytes, nor '=' in its name"
            )
        size = len(name) + len(value)
        if size * 4 >= ENV_VALUE_BYTES:  # a character has at most 4 bytes
            size = len(name.encode()) + len(value.encode())
            if size + 2 > ENV_VALUE_BYTES:
                raise InvalidRequest(
                    f"job {job_id}: the environment variable {name[:80]!r} has {size} bytes, but must have"
                    f" less than {ENV_VALUE_BYTES}: put large data in a file and give the job its name"
                )
        total += size
    if total > ENV_BYTES:
        raise InvalidRequest(
            f"job {job_id}: the environment has {total} bytes; the limit is {ENV_BYTES}:"
            " put large data in a file and give the job its name"
        )


def _uris(uris: list[Uri], job_id: JobId) -> list[dict[str, Any]]:
    for uri in uris:
        if uri.executable is True and uri.extract is True:
            raise InvalidRequest(f"job {job_id}: uri {uri.value} cannot be both executable and extracted")
    return [
        {
            "value": u.value,
            "cache": u.cache is True,
            "executable": u.executable is True,
            "extract": u.extract is True,
        }
        for u in uris
    ]


def _container(container: Container, docker_user: str, job_id: JobId) -> dict[str, Any]:
    """Convert a container to Cook's form: upper case constants, the submitter as user, no port mapping."""
    converted: dict[str, Any] = {"type": container.type.upper()}
    if container.docker is not UNSET:
        docker = msgspec.to_builtins(container.docker)
        docker.pop("port-mapping", None)
        docker.setdefault("force-pull-image", False)
        parameters = docker.setdefault("parameters", [])
        users = {parameter["value"] for parameter in parameters if parameter["key"] == "user"}
        if users - {docker_user}:
            raise InvalidRequest(
                f"job {job_id}: the docker parameter user must be {docker_user},"
                f" not {', '.join(sorted(users))}"
            )
        if not users:
            parameters.append({"key": "user", "value": docker_user})
        converted["docker"] = docker
    if container.mesos is not UNSET:
        converted["mesos"] = msgspec.to_builtins(container.mesos)
    if container.volumes is not UNSET:
        converted["volumes"] = [
            volume | ({"mode": volume["mode"].upper()} if "mode" in volume else {})
            for volume in msgspec.to_builtins(container.volumes)
        ]
    return converted
