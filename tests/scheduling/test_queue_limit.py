from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.limits.queue_limit import QueueLengths, max_waiting

pools = st.sampled_from(["lab", "gpu"])
users = st.sampled_from(["ada", "bob"])
steps = st.one_of(
    st.tuples(pools, users, st.integers(1, 5)),
    st.lists(st.tuples(pools, users), max_size=8),
)


@given(steps=st.lists(steps, max_size=12))
def test_counters_are_never_below_zero_and_a_pool_without_kills_adds_up_its_users(
    steps: list[object],
) -> None:
    lengths = QueueLengths()
    killed = False
    for step in steps:
        if isinstance(step, tuple):
            lengths = lengths.added(*step)
        elif isinstance(step, list):
            killed = killed or bool(step)
            lengths = lengths.killed(step)
        for pool in (PoolName("lab"), PoolName("gpu")):
            job_constraints = [lengths.of_user(pool, user) for user in ("ada", "bob")]
            assert min(job_constraints) >= 0
            assert lengths.of_pool(pool) >= 0
            assert killed or lengths.of_pool(pool) == sum(job_constraints)


def test_the_stricter_limit_counts_from_past_the_threshold_on() -> None:
    limits = {"threshold": 100, "normal": 50, "constrained": 5}
    assert max_waiting(100, **limits) == 50
    assert max_waiting(101, **limits) == 5
