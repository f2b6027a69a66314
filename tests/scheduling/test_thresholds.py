"""Numbers that only decide which way is faster change no decision.

Here they are small, so that pools of a few dozen hosts go through all the code that is for thousands.
"""

import random
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from cook_jupyter.scheduling.hosts import room
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching import best_fit, columnar
from cook_jupyter.scheduling.matching.matching import MatchSettings, match, refusal_of
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling.busy_pools import a_context, some_defaults, some_offers, some_requests
from tests.scheduling.queues import job_id

SMALL: Mapping[ModuleType, Mapping[str, tuple[int, ...]]] = {
    columnar: {
        "_MIN_HOSTS_IN_A_ROW": (1, 2, 3),
        "_LOOKAHEAD": (1, 3, 11, 25),
        "_FIRST_HOSTS": (10, 20),
        "_MIN_CHOICES": (1, 4, 16),
        "_HOSTS_PER_CHOICE": (1, 10, 200),
        "_MAX_MISSES": (0, 2, 8),
        "_MIN_TIED": (0, 2, 5),
    },
    room: {"_FEW": (0, 2, 12), "_MAX_CACHED_CPUS": (0, 1, 2, 8)},
    best_fit: {"_MAX_SIZES": (1, 2, 4), "_MAX_LEVELS": (5, 72)},
}
POOLS, AT_ONCE = 400, 20


@pytest.mark.parametrize("first", range(0, POOLS, AT_ONCE))
def test_hosts_are_chosen_in_columns_as_one_by_one(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + AT_ONCE):
        rng = random.Random(seed)
        for module, numbers in SMALL.items():
            for name, values in numbers.items():
                monkeypatch.setattr(module, name, rng.choice(values))
        offers = some_offers(rng)
        requests = some_requests(rng, is_limited=any(offer.is_limited for offer in offers))
        settings: dict[str, Any] = {
            "good_enough": rng.choice((0.8, 0.65, 1.0, 0.1, fitness_of(1.25), fitness_of(rng.random() * 2))),
            "defaults": some_defaults(rng),
        }
        context = a_context(rng)
        last = TaskRequest(
            job_id(999), rng.choice((0.5, 9.0)), 9.0, gpus=rng.choice((0.0, 2.0)), ports=rng.choice((0, 2, 7))
        )

        hosts = Hosts(offers)  # kept, as between cycles
        one_by_one, in_columns, again = (
            (
                match(
                    requests,
                    hosts,
                    settings=way,
                    placement_context=context,
                    min_request=lambda: (0.5, 1.0),
                ),
                refusal_of(last, hosts, settings=way, placement_context=context),
            )
            for way in (MatchSettings(**settings, columnar_from=number) for number in (10**9, 0, 10**9))
        )

        assert in_columns == one_by_one, f"seed {seed}"
        assert again == one_by_one, f"seed {seed}"
