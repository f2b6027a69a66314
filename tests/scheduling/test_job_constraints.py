from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ATTRIBUTES,
    NO_JOB_CONSTRAINTS,
    NOVEL_HOST,
    UNCONSTRAINED,
    ConstraintClass,
    ConstraintRewrite,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
    class_in_pool,
    demands_in_pool,
    rewrite_demands,
)
from cook_jupyter.scheduling.constraints.job_constraints import (
    could_run,
    group_placement_of,
    job_constraints_of,
)
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.matching import MatchSettings, refusal_of
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.builders import a_group, a_job, an_instance

AGEING = PoolDefaults(expected_runtime_multiplier=2.0, host_lifetime_ms=3_600_000)


def failed(**fields: Any) -> Any:
    return an_instance(status=InstanceStatus.FAILED, **fields)


def test_a_job_that_never_ran_and_says_nothing_has_no_particulars() -> None:
    assert job_constraints_of(a_job(), AGEING) is NO_JOB_CONSTRAINTS
    assert job_constraints_of(a_job(group="g", expected_runtime_ms=5), PoolDefaults()) is NO_JOB_CONSTRAINTS


def test_all_particulars_come_together() -> None:
    job = a_job(
        group="g",
        expected_runtime_ms=1000,
        extra={"checkpoint": {"mode": "auto"}},
        instances=(
            failed(host="a", cluster="east", started_ms=9, preempted=True),
            failed(host="b", cluster="west", started_ms=5, reason="mesos-slave-removed"),
        ),
    )
    assert job_constraints_of(
        job, AGEING, location_of={"east": "here", "west": "there"}.get, placed_groups={GroupId("g")}
    ) == JobConstraints(avoid=frozenset({"b"}), group=GroupId("g"), location="here", runtime_ms=2000)


def test_where_a_pool_can_not_afford_it_a_job_may_return_to_its_host() -> None:
    job = a_job(instances=(failed(host="laptop"),))
    laptop = Hosts([Offer(host="laptop", cluster="c", pool=PoolName("p"), room=Resources(cpus=1, mem_mb=1))])
    for novel, failing in ((True, {NOVEL_HOST: 1}), (False, {})):
        job_constraints = job_constraints_of(job, PoolDefaults(novel_host=novel))
        assert (
            refusal_of(TaskRequest(JobId("j"), 1, 1, job_constraints=job_constraints), laptop).constraints
            == failing
        )


def test_what_a_job_ran_on_a_host_that_was_removed_tells_how_long_it_runs() -> None:
    lost = failed(reason="mesos-slave-removed", backend_started_ms=1000, ended_ms=61_000)
    job = a_job(expected_runtime_ms=1000, instances=(lost,))
    assert job_constraints_of(job, AGEING).runtime_ms == 60_000


@pytest.mark.parametrize(
    ("sent", "placement"),
    [
        ({"type": "all"}, GroupPlacement()),
        ({"type": "unique"}, GroupPlacement(kind=PlacementKind.UNIQUE)),
        (
            {"type": "balanced", "parameters": {"attribute": "zone", "minimum": 3}},
            GroupPlacement(kind=PlacementKind.BALANCED, attribute="zone", minimum=3),
        ),
        (
            {"type": "attribute-equals", "parameters": {"attribute": "zone"}},
            GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
        ),
    ],
)
def test_a_groups_placement_is_read_as_its_user_sent_it(
    sent: dict[str, Any], placement: GroupPlacement
) -> None:
    assert group_placement_of(a_group(host_placement=sent)) == placement


MACHINES = PoolDefaults(constraints=(("node-family", "n1"), ("cpu-architecture", "haswell"), ("zone", "a")))


def test_a_pools_demands_give_way_to_the_jobs_those_on_the_machine_together() -> None:
    assert demands_in_pool((), MACHINES) == MACHINES.constraints
    assert demands_in_pool((("node-type", "big"),), MACHINES) == (("node-type", "big"), ("zone", "a"))
    assert demands_in_pool((("zone", "b"),), MACHINES) == (("zone", "b"), *MACHINES.constraints[:2])


def test_a_rewriting_may_change_attribute_and_value_with_what_was_found() -> None:
    change = ConstraintRewrite(attribute="family", patterns=(("^(n)(\\d)", "$2-$1"), ("n", "\\$")))
    assert rewrite_demands((("node", "n1-standard"), ("zone", "a")), {"node": change}) == (
        ("family", "1-$-sta$dard"),
        ("zone", "a"),
    )


def test_a_group_that_matched_nothing_is_replaced_by_nothing() -> None:
    change = ConstraintRewrite(patterns=(("^n(\\d)?$", "node$1"),))
    demands = (("node", "n"), ("node", "n1"))
    assert rewrite_demands(demands, {"node": change}) == (("node", "node"), ("node", "node1"))


@pytest.mark.parametrize(
    ("defaults", "demands"),
    [
        (PoolDefaults(), (("area", "b"),)),
        (PoolDefaults(constraints=(("zone", "a"),)), (("area", "b"), ("zone", "a"))),
        (PoolDefaults(rewritings={"area": ConstraintRewrite(attribute="zone")}), (("zone", "b"),)),
    ],
)
def test_a_pool_adds_to_demands_or_rewrites_them_or_neither(
    defaults: PoolDefaults, demands: tuple[tuple[str, str], ...]
) -> None:
    own = ConstraintClass(attributes=(("area", "b"),), gpu_model="p100")
    assert class_in_pool(own, defaults) == ConstraintClass(attributes=demands, gpu_model="p100")


@pytest.mark.parametrize(
    ("spec", "defaults", "expected"),
    [
        ({}, PoolDefaults(), True),
        ({"cpus": 4}, PoolDefaults(), True),
        ({"cpus": 4.5}, PoolDefaults(), False),
        ({"user": "bob"}, PoolDefaults(), False),
        ({"constraints": (("zone", "EQUALS", "b"),)}, PoolDefaults(), False),
        ({}, PoolDefaults(constraints=(("zone", "b"),)), False),
    ],
)
def test_an_empty_host_takes_a_job_of_its_users_that_fits_and_demands_nothing_else(
    spec: dict[str, Any], defaults: PoolDefaults, expected: bool
) -> None:
    host = Offer(
        host="h",
        cluster="c",
        pool=PoolName("p"),
        room=Resources(cpus=1, mem_mb=1000),
        running=Resources(cpus=3),
        attributes={"zone": "a"},
        users=frozenset({"ada"}),
    )
    assert could_run(a_job(**spec).spec, host, defaults) is expected
    assert could_run(a_job(**{**spec, "user": "bob"}).spec, replace(host, users=None), defaults) is (
        expected or spec.get("user") == "bob"
    )


@pytest.mark.parametrize("columnar_from", [1, 1000])
@pytest.mark.parametrize(
    ("own", "zone", "passes"),
    [
        ((), "a", True),
        ((), "b", False),
        ((("zone", "b"),), "b", True),
        ((("area", "a"),), "a", True),
        ((("area", "b"),), "a", False),
    ],
)
def test_hosts_are_held_to_what_the_pool_makes_of_demands(
    own: tuple[tuple[str, str], ...], zone: str, passes: bool, columnar_from: int
) -> None:
    host = Offer(
        host="h", cluster="c", pool=PoolName("p"), room=Resources(cpus=1, mem_mb=1), attributes={"zone": zone}
    )
    pool = PoolDefaults(
        constraints=(("zone", "a"),), rewritings={"area": ConstraintRewrite(attribute="zone")}
    )
    refusal = refusal_of(
        TaskRequest(JobId("j"), 1, 1, constraints=ConstraintClass(attributes=own) if own else UNCONSTRAINED),
        Hosts([host]),
        settings=MatchSettings(defaults=pool, columnar_from=columnar_from),
    )
    assert refusal.constraints == ({} if passes else {ATTRIBUTES: 1})
