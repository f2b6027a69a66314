import pytest

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ATTRIBUTE_EQUALS,
    BALANCED,
    CHECKPOINT,
    COMPLETION,
    DISK,
    UNCONSTRAINED,
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
    attributes_equal,
    constraint_class_of,
    disk_fits,
    failing_class_constraint,
    failing_group_constraint,
    failing_job_constraint,
    gpus_fit,
    host_outlives,
)
from tests.builders import a_job_spec


def a_node(**fields: object) -> Offer:
    given = {"host": "node", "cluster": "c", "pool": "p", "room": Resources(), "kind": HostKind.KUBERNETES}
    return Offer(**{**given, **fields})  # type: ignore[arg-type]


P100 = ConstraintClass(gpu_model="p100")
DEFAULTS = PoolDefaults(
    gpu_model="p100", disk=True, disk_type="standard", disk_types={"standard": "pd-standard"}
)


def test_every_required_attribute_must_be_present_and_equal() -> None:
    required = (("is_spot", "true"), ("instance_type", "mem.large"))
    assert attributes_equal(required, {"is_spot": "true", "instance_type": "mem.large"})
    assert not attributes_equal(required, {"is_spot": "false", "instance_type": "mem.large"})
    assert not attributes_equal(required, {"instance_type": "mem.large"})


@pytest.mark.parametrize(
    ("gpus", "models", "tasks", "fits"),
    [
        (4, {"p100": 4.0}, 0, True),
        (1, {"p100": 4.0}, 0, False),  # a node's gpus go to one task, all of them
        (4, {"k80": 4.0}, 0, False),
        (4, {"p100": 4.0}, 1, False),
        (1, {}, 0, False),
        (0, {"p100": 4.0}, 0, False),  # kept for jobs that request gpus
        (0, {}, 3, True),
    ],
)
def test_a_kubernetes_node_assigns_all_its_gpus_or_none(
    gpus: float, models: dict[str, float], tasks: int, fits: bool
) -> None:
    assert gpus_fit(P100, gpus, a_node(gpu_models=models, task_count=tasks), DEFAULTS) is fits


def test_a_job_without_a_gpu_model_gets_that_of_the_pool() -> None:
    node = a_node(gpu_models={"p100": 2.0})
    assert gpus_fit(UNCONSTRAINED, 2, node, DEFAULTS)
    assert not gpus_fit(UNCONSTRAINED, 2, node, PoolDefaults())


def test_a_mesos_agent_takes_no_gpu_job_and_a_plain_host_leaves_gpus_to_room() -> None:
    assert not gpus_fit(P100, 1, a_node(kind=HostKind.MESOS), DEFAULTS)
    assert gpus_fit(P100, 0, a_node(kind=HostKind.MESOS), DEFAULTS)
    assert gpus_fit(P100, 1, a_node(kind=HostKind.PLAIN), DEFAULTS)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (ConstraintClass(disk_type="standard", disk_mb=10.0), True),
        (ConstraintClass(disk_type="standard", disk_mb=100.0), False),
        (ConstraintClass(disk_type="ssd", disk_mb=10.0), False),
        (ConstraintClass(disk_mb=50.0), True),  # of the pool's default type
        (UNCONSTRAINED, False),  # the default request is larger
    ],
)
def test_a_node_must_have_the_requested_disk(wanted: ConstraintClass, fits: bool) -> None:
    assert disk_fits(wanted, a_node(disk_mb={"pd-standard": 50.0}), DEFAULTS) is fits


def test_a_node_without_disk_of_a_type_takes_no_job_that_wants_any() -> None:
    assert not disk_fits(ConstraintClass(disk_type="ssd", disk_mb=0.5), a_node(), DEFAULTS)
    assert disk_fits(ConstraintClass(disk_type="ssd", disk_mb=0.0), a_node(), DEFAULTS)


def test_disk_is_only_checked_if_the_pool_does_and_the_host_offers_disk() -> None:
    greedy = ConstraintClass(disk_type="standard", disk_mb=1e9)
    assert disk_fits(greedy, a_node(), PoolDefaults())
    assert disk_fits(greedy, a_node(kind=HostKind.MESOS), DEFAULTS)
    assert disk_fits(greedy, a_node(), PoolDefaults(disk=True)) is False
    assert disk_fits(UNCONSTRAINED, a_node(), PoolDefaults(disk=True))


def test_the_first_failing_constraint_is_reported() -> None:
    required = ConstraintClass(attributes=(("zone", "a"),), disk_type="standard", disk_mb=99.0)
    assert failing_class_constraint(required, 0, a_node(), DEFAULTS) == DISK


def test_a_host_must_outlive_the_job_unless_its_age_is_unknown() -> None:
    lifetime = PoolDefaults(host_lifetime_ms=60_000)
    assert host_outlives(100_000, {}, lifetime)
    assert host_outlives(100_000, {"host-start-time": "51.0"}, lifetime)
    assert not host_outlives(100_000, {"host-start-time": "40.0"}, lifetime)
    assert host_outlives(100_000, {"host-start-time": "0.0"}, PoolDefaults())
    young = a_node(attributes={"host-start-time": "40.0"})
    assert failing_job_constraint(JobConstraints(runtime_ms=60_000), young, lifetime, 40_000) == COMPLETION
    assert failing_job_constraint(JobConstraints(runtime_ms=60_000), young, lifetime, 39_999) is None


def test_a_job_with_a_checkpoint_returns_to_its_location() -> None:
    job_constraints = JobConstraints(location="lab")
    assert failing_job_constraint(job_constraints, a_node(location="lab"), DEFAULTS, 0) is None
    assert failing_job_constraint(job_constraints, a_node(location="attic"), DEFAULTS, 0) == CHECKPOINT


ZONES = {"a1": {"zone": "a"}, "a2": {"zone": "a"}, "b1": {"zone": "b"}}


def test_a_balanced_group_uses_the_least_used_values() -> None:
    spread = GroupPlacement(kind=PlacementKind.BALANCED, attribute="zone", minimum=2)
    tasks = {"a1": 1, "a2": 1, "b1": 1}
    assert failing_group_constraint(spread, "new", {"zone": "a"}, ZONES, tasks) == BALANCED
    assert failing_group_constraint(spread, "new", {"zone": "b"}, ZONES, tasks) is None
    assert failing_group_constraint(spread, "new", {"zone": "c"}, ZONES, tasks) is None
    assert failing_group_constraint(spread, "new", {"zone": "a"}, {}, {}) is None


def test_a_balanced_group_first_uses_its_minimum_number_of_values() -> None:
    spread = GroupPlacement(kind=PlacementKind.BALANCED, attribute="zone", minimum=3)
    tasks = {"a1": 1, "b1": 1}
    cohosts = {host: ZONES[host] for host in tasks}
    assert failing_group_constraint(spread, "new", {"zone": "a"}, cohosts, tasks) == BALANCED
    assert failing_group_constraint(spread, "new", {"zone": "c"}, cohosts, tasks) is None


def test_a_group_with_equal_attributes_follows_its_first_host() -> None:
    alike = GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone")
    tasks = {"a1": 1}
    assert (
        failing_group_constraint(alike, "new", {"zone": "b"}, {"a1": ZONES["a1"]}, tasks) == ATTRIBUTE_EQUALS
    )
    assert failing_group_constraint(alike, "new", {"zone": "a"}, {"a1": ZONES["a1"]}, tasks) is None
    assert failing_group_constraint(alike, "new", {"zone": "b"}, {}, {}) is None


def test_constraints_are_derived_from_the_requests_of_the_job() -> None:
    assert constraint_class_of(a_job_spec()) == UNCONSTRAINED
    spec = a_job_spec(env={"COOK_GPU_MODEL": "p100"})
    assert constraint_class_of(spec).gpu_model is None  # it requests no gpus
