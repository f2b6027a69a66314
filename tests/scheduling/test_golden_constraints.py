"""Cook's constraints, case by case. Each kind of case has a function of its own, named in `OPS`."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    CHECKPOINT,
    COMPLETION,
    MAX_TASKS,
    NOVEL_HOST,
    RESERVED,
    ConstraintClass,
    ConstraintRewrite,
    GroupPlacement,
    PlacementKind,
    PoolDefaults,
    attributes_equal,
    constraint_class_of,
    demands_in_pool,
    disk_fits,
    failing_group_constraint,
    failing_job_constraint,
    gpus_fit,
    host_outlives,
    rewrite_demands,
)
from cook_jupyter.scheduling.constraints.job_constraints import expected_runtime_ms, job_constraints_of
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.matching import MatchSettings, refusal_of
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.builders import a_job, an_instance
from tests.golden.cases import cases

Input = dict[str, Any]
Expect = dict[str, Any]
MINUTE_MS = 60_000


@pytest.mark.parametrize(("inputs", "expect"), cases("constraints"))
def test_constraints_are_as_in_cook(inputs: Input, expect: Expect) -> None:
    op = inputs["op"]
    actual = OPS[op](inputs)
    assert expect, "the case expects nothing"
    for word, result in expect.items():
        if word == "not_in":
            assert actual not in result
        elif word == RESULTS.get(op, "passes"):
            assert (sorted(actual) == sorted(result)) if op == "previous_hosts" else (actual == result)
        else:
            pytest.fail(f"{word!r} is no word of {op}")


def attribute_equals(inputs: Input) -> bool:
    return attributes_equal(
        _constraint_class(inputs["constraints"]).attributes, dict(inputs["host_attributes"])
    )


def gpu(inputs: Input) -> bool:
    job = inputs["job"]
    gpus = job.get("gpus") or 0
    env = {"COOK_GPU_MODEL": job["gpu_model"]} if job.get("gpu_model") else {}
    required = constraint_class_of(a_job(gpus=gpus, env=env).spec)
    defaults = PoolDefaults(gpu_model=(inputs.get("pool") or inputs).get("default_gpu_model"))
    return gpus_fit(required, gpus, _host(inputs["host"]), defaults)


def disk(inputs: Input) -> bool:
    job, pool = inputs["job"], inputs.get("pool") or {"enabled": False}
    requested = {"request": job.get("disk_request"), "type": job.get("disk_type")}
    named = {name: value for name, value in requested.items() if value is not None}
    required = constraint_class_of(a_job(extra={"disk": named} if named else {}).spec)
    request = pool.get("default_request", pool.get("default_disk_request"))
    default = {} if request is None else {"disk_mb": request}
    defaults = PoolDefaults(
        disk=pool.get("enabled", True),
        disk_type=pool.get("default_type"),
        disk_types=dict(pool.get("type_map") or {}),
        **default,
    )
    return disk_fits(required, _host(inputs["host"]), defaults)


def reservation(inputs: Input) -> bool:
    """Hosts are reserved for other jobs; the job itself has no reservation."""
    kept = {JobId(f"job-{number}"): host for number, host in enumerate(inputs["reserved"])}
    refusal = refusal_of(
        TaskRequest(JobId("another"), 1.0, 1.0),
        Hosts([_host({"kind": "plain"}, host=inputs["host"])]),
        placement_context=PlacementContext(reservations=kept),
    )
    return RESERVED not in refusal.constraints


def estimated_end(inputs: Input) -> int | None:
    config = inputs["config"] or {}
    lifetime, grace = config.get("host_lifetime_mins"), config.get("agent_start_grace_period_mins")
    defaults = PoolDefaults(
        expected_runtime_multiplier=config.get("expected_runtime_multiplier"),
        host_lifetime_ms=None if lifetime is None else lifetime * MINUTE_MS,
        host_start_grace_ms=10 * MINUTE_MS if grace is None else grace * MINUTE_MS,
    )
    now_ms, runtime_ms = inputs["now_ms"], expected_runtime_ms(_job(inputs["job"]), defaults)
    return None if runtime_ms is None else now_ms + runtime_ms


def host_outlives_the_end(inputs: Input) -> bool:
    """The same asked twice: of the rule itself, and of a job that is expected to run until then."""
    defaults = PoolDefaults(
        host_lifetime_ms=inputs["host_lifetime_mins"] * MINUTE_MS,
        host_start_grace_ms=0,
        expected_runtime_multiplier=1.0,
    )
    attributes = {
        name: str(result) for name, result in inputs["host_attributes"].items() if result is not None
    }
    ends_ms = inputs["estimated_end_ms"]
    job_constraints = job_constraints_of(_job({"expected_runtime": 1}), defaults)
    host = _host({"kind": "plain"}, attributes=attributes)
    passes = host_outlives(ends_ms, attributes, defaults)
    assert (failing_job_constraint(job_constraints, host, defaults, ends_ms - 1) != COMPLETION) is passes
    return passes


def effective_constraints(inputs: Input) -> list[dict[str, str]]:
    defaults = PoolDefaults(
        constraints=_constraint_class(inputs.get("pool_default_constraints") or ()).attributes
    )
    machine = (
        {"machine_type": inputs["machine_type_attributes"]} if "machine_type_attributes" in inputs else {}
    )
    demands = demands_in_pool(
        _constraint_class(inputs.get("job_constraints") or ()).attributes, defaults, **machine
    )
    return [
        {"attribute": attribute, "operator": "EQUALS", "pattern": pattern} for attribute, pattern in demands
    ]


def transform(inputs: Input) -> list[list[str]]:
    rewritings = {
        attribute: ConstraintRewrite(
            attribute=change.get("new_attribute"), patterns=tuple(map(tuple, change.get("patterns") or ()))
        )
        for attribute, change in (inputs["transformations"] or {}).items()
    }
    demands = tuple((result[0], result[-1]) for result in inputs["constraints"])
    return [list(demand) for demand in rewrite_demands(demands, rewritings)]


def previous_hosts(inputs: Input) -> frozenset[str]:
    return job_constraints_of(_job({"instances": inputs["instances"]}), PoolDefaults()).avoid


def checkpoint_locality(inputs: Input) -> bool:
    job = inputs["job"]
    last = job.get("last_cluster")
    instances = [{"cluster": last, "host": "elsewhere"}] if last is not None else []
    job_with_instances = _job({"checkpoint": job.get("checkpoint"), "instances": instances})
    job_constraints = job_constraints_of(
        job_with_instances, PoolDefaults(), location_of=dict(inputs["cluster_locations"]).get
    )
    host = _host({"kind": "plain"}, location=inputs["host_location"])
    return failing_job_constraint(job_constraints, host, PoolDefaults(), 0) != CHECKPOINT


def novel_host(inputs: Input) -> bool:
    job_constraints = job_constraints_of(_job({"instances": inputs["instances"]}), PoolDefaults())
    hosts = Hosts([_host({"kind": "plain"}, host=inputs["host"])])
    return (
        NOVEL_HOST
        not in refusal_of(
            TaskRequest(JobId("j"), 1.0, 1.0, job_constraints=job_constraints), hosts
        ).constraints
    )


def max_tasks_per_host(inputs: Input) -> bool:
    settings = MatchSettings(defaults=PoolDefaults(max_tasks_per_host=inputs["maximum"]))
    hosts = Hosts([_host({"kind": "plain", "tasks_assigned": inputs["tasks"]})])
    return (
        MAX_TASKS not in refusal_of(TaskRequest(JobId("j"), 1.0, 1.0), hosts, settings=settings).constraints
    )


def group(inputs: Input) -> bool:
    required = inputs["group"]
    placement = GroupPlacement(
        kind=PlacementKind(required["placement"]),
        attribute=required.get("attribute", "HOSTNAME"),
        minimum=required.get("minimum", 0),
    )
    tasks: Counter[str] = Counter(inputs["cohosts"])
    attributes = {
        host: dict(job_constraints) for host, job_constraints in inputs.get("host_attributes", {}).items()
    }
    cohosts = {host: attributes.get(host, {}) for host in tasks}
    host = inputs["host"]
    return failing_group_constraint(placement, host, attributes.get(host, {}), cohosts, tasks) is None


RESULTS = {
    "estimated_end": "estimated_end_ms",
    "effective_constraints": "constraints",
    "transform": "constraints",
    "previous_hosts": "hosts",
}
OPS: dict[str, Callable[[Input], Any]] = {
    "attribute_equals": attribute_equals,
    "gpu": gpu,
    "disk": disk,
    "reservation": reservation,
    "estimated_end": estimated_end,
    "host_outlives": host_outlives_the_end,
    "effective_constraints": effective_constraints,
    "transform": transform,
    "previous_hosts": previous_hosts,
    "checkpoint_locality": checkpoint_locality,
    "novel_host": novel_host,
    "max_tasks_per_host": max_tasks_per_host,
    "group": group,
}


def _constraint_class(constraints: Any) -> ConstraintClass:
    result = tuple((item["attribute"], item["operator"], item["pattern"]) for item in constraints)
    return constraint_class_of(a_job(constraints=result).spec)


def _host(result: Input, **fields: Any) -> Offer:
    values: dict[str, Any] = {
        "host": "host",
        "cluster": "cluster",
        "pool": "pool",
        "room": Resources(cpus=99.0, mem_mb=99.0),
        "kind": HostKind(result["kind"]),
        "gpu_models": dict(result.get("gpus") or {}),
        "disk_mb": dict(result.get("disk") or {}),
        "task_count": result.get("tasks_assigned", 0),
    }
    return Offer(**{**values, **fields})


def _job(job: Input) -> Job:
    """A waiting job with these instances behind it."""
    return a_job(
        expected_runtime_ms=job.get("expected_runtime"),
        extra={"checkpoint": {"mode": "auto"}} if job.get("checkpoint") else {},
        instances=tuple(map(_instance, job.get("instances", ()))),
    )


def _instance(result: Input) -> Instance:
    return an_instance(
        status=InstanceStatus.FAILED,
        host=result.get("host", "host"),
        cluster=result.get("cluster", "cluster"),
        preempted=result.get("preempted", False),
        reason=result.get("reason"),
        backend_started_ms=result.get("start_ms"),
        ended_ms=result.get("end_ms"),
    )
