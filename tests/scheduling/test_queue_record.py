"""A queue that was written down and built again is decided about as before."""

import pytest

from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import decide_matches
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.queue_record import index_of, record_of
from cook_jupyter.scheduling.rebalancing.preemption import rebalance
from tests.scheduling.queues import a_queued_job, waiting_jobs
from tests.scheduling.ways_agree import (
    IN_COLUMNS,
    ONE_BY_ONE,
    cycle_settings,
    filters_of,
    kept_index,
    placement_context_of,
)
from tests.scheduling.worlds import random_world

WORLDS = 60


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # tiny shares, whose DRU is infinite
@pytest.mark.parametrize("first", range(0, WORLDS, 20))
def test_a_rebuilt_queue_leads_to_the_same_decisions(first: int) -> None:
    for seed in range(first, first + 20):
        world = random_world(seed)
        index = kept_index(world)
        again = index_of(record_of(index))

        assert record_of(again) == record_of(index)
        for way in (ONE_BY_ONE, IN_COLUMNS):
            matchings = [
                decide_matches(
                    item,
                    Hosts(world.offers),
                    world.limits,
                    settings=cycle_settings(world, way),
                    filters=filters_of(world),
                    placement_context=placement_context_of(world),
                )
                for item in (index, again)
            ]
            assert matchings[0] == matchings[1], seed
        preempted = [
            rebalance(item, Hosts(world.offers), world.limits, placement_context=placement_context_of(world))
            for item in (index, again)
        ]
        assert preempted[0] == preempted[1], seed


def test_users_without_jobs_keep_their_numbers() -> None:
    index = QueueIndex()
    for seq, user in enumerate(("bob", "ada", "carl")):
        index.add(a_queued_job({"seq": seq, "user": user, "cpus": 1.0, "mem": 1.0}))
    gone = waiting_jobs(index, "ada")[0]
    index.remove(gone)

    again = index_of(record_of(index))

    assert [again.name_of(number) for number in range(again.user_count)] == ["bob", "ada", "carl"]
    assert gone not in again
