"""What preemption is for: cycles put in force one after the other, on a full pool whose demand is stable."""

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cook_jupyter.model.limits import Share, UserLimits
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings, rebalance
from tests.scheduling.queues import job_id

USERS = ("ada", "bob", "cyd", "dan")
HOSTS = 5
PER_HOST = 8
SHARE = HOSTS * PER_HOST // len(USERS)  # in jobs of one cpu; together the shares are the pool
LIMITS = UserLimits(default_share=Share(cpus=SHARE))


def a_full_pool(rng: Random, waiting: int) -> QueueIndex:
    """Somebody runs something everywhere, and more waits."""
    index = QueueIndex()
    weights = [rng.random() ** 3 for _ in USERS]
    for seq in range(HOSTS * PER_HOST + waiting):
        [user] = rng.choices(USERS, weights) if seq < HOSTS * PER_HOST else [rng.choice(USERS)]
        index.add(QueuedJob(job_id(seq + 1), user, 1.0, 1.0, seq, priority=rng.choice([50, 50, 70])))
        if seq < HOSTS * PER_HOST:
            index.mark_running(job_id(seq + 1), rng.randint(0, 9), f"host-{seq % HOSTS}", task_seq=seq)
    return index


def rebalanced(index: QueueIndex, how: PreemptionSettings, now_ms: int) -> int:
    """Put one cycle in force; return how many tasks were stopped."""
    decided = rebalance(index, Hosts(), LIMITS, settings=how)
    for victim in decided.victims:
        index.requeue(victim)
    displaced = {job for made in decided.preemptions for job in made.displaced}  # by a later decision
    for number, made in enumerate(made for made in decided.preemptions if made.beneficiary not in displaced):
        index.mark_running(made.beneficiary, now_ms, made.host, task_seq=number)
    return len(decided.victims)


@settings(max_examples=60)
@example(seed=79, waiting=17, cooks=True)  # a decision takes the room of an earlier one
@example(seed=402305, waiting=5, cooks=True)  # two victims make way for one job
@given(st.integers(0, 2**48), st.integers(0, 60), st.booleans())
def test_after_two_cycles_no_user_below_the_share_waits_for_room_used_above_a_share(
    seed: int, waiting: int, cooks: bool
) -> None:
    index = a_full_pool(Random(seed), waiting)
    how = PreemptionSettings.cook if cooks else PreemptionSettings
    for cycle in (1, 2):
        rebalanced(index, how(min_dru_diff=0.0), 100 * cycle)

    held = {user: index.usage(user).count for user in USERS}
    waits_below = [user for user in USERS if index.waiting_of(user) and held[user] < SHARE]
    holds_above = [user for user in USERS if held[user] > SHARE]
    assert not (waits_below and holds_above)
    # Cook may stop more than the beneficiary needs; what is left over waits for the next match cycle.
    assert sum(held.values()) <= HOSTS * PER_HOST if cooks else sum(held.values()) == HOSTS * PER_HOST


@settings(max_examples=60)
@given(st.integers(0, 2**48), st.integers(0, 60), st.sampled_from([0.0, 0.2, 0.5]))
def test_preemption_in_a_pool_settles(seed: int, waiting: int, difference: float) -> None:
    index = a_full_pool(Random(seed), waiting)
    how = PreemptionSettings(min_dru_diff=difference)
    stopped = [rebalanced(index, how, 100 * cycle) for cycle in range(1, 5)]

    assert stopped[-1] == 0
