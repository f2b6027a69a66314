"""Where room is kept for a head, compared with the rule as it is told: try every number of awaited tasks."""

import random
from collections.abc import Sequence
from math import inf

import pytest

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.matching.head_room import (
    HeadOfQueue,
    HostAmounts,
    HostState,
    RunningTask,
    choose_host,
    room_beside,
    update_awaited,
)

NOW = 1000
SEEDS = range(0, 300, 30)


def some_amounts(rng: random.Random) -> HostAmounts:
    return HostAmounts(
        rng.choice((0.1, 0.3, 1.0, 2.0)),
        rng.choice((0.0, 0.1, 1.0)),
        rng.choice((0.0, 0.0, 1.0)),
        float(rng.choice((0, 0, 1))),
        1.0,
    )


def some_hosts(rng: random.Random) -> list[HostState]:
    """Hosts in no order, with tasks that started before and after the head, of known and unknown run time."""
    hosts = []
    for number in rng.sample(range(9), rng.randint(1, 5)):
        tasks = [
            RunningTask(
                JobId(f"task-{number}-{task}"),
                rng.choice((0, 400, 499, 500, 501, 900, NOW)),
                some_amounts(rng),
                rng.choice((None, None, 100, 500, 600, 1000, 5000)),
            )
            for task in rng.sample(range(9), rng.randint(0, 5))
        ]
        hosts.append(
            HostState(
                host=f"host-{number}",
                whole=HostAmounts(
                    rng.choice((2.0, 3.0)), 2.0, rng.choice((0.0, 2.0)), 3.0, rng.choice((4.0, inf))
                ),
                tasks=tasks,
                promised=HostAmounts(cpus=rng.choice((0.0, 0.0, 0.5))),
                exclusive=rng.random() < 0.15,
            )
        )
    return hosts


def a_head(rng: random.Random, hosts: Sequence[HostState]) -> HeadOfQueue:
    tasks = [task.key for state in hosts for task in state.tasks]
    return HeadOfQueue(
        job_id=JobId("head"),
        user="bob",
        asked=some_amounts(rng)._replace(cpus=rng.choice((1.0, 2.0))),
        since_ms=500,
        lent=frozenset(rng.sample(tasks, min(len(tasks), rng.choice((0, 0, 2))))),
        free_at_ms=rng.choice((None, 1200, 9000)),
    )


class Rule:
    """The rule for a head and some hosts."""

    def __init__(self, head: HeadOfQueue, hosts: Sequence[HostState]) -> None:
        ages = [
            NOW - task.started_ms for state in hosts for task in state.tasks if self.known_end(task) is None
        ]
        self._usual_ms = sum(ages) / len(ages) if ages else 0.0
        self._head = head

    def known_end(self, task: RunningTask) -> int | None:
        """The end of a task whose run time is known and not exceeded."""
        if task.expected_ms is None:
            return None
        end = task.started_ms + task.expected_ms
        return end if end > NOW else None

    def end(self, task: RunningTask) -> float:
        known_end = self.known_end(task)
        return NOW + max(NOW - task.started_ms, self._usual_ms) if known_end is None else known_end

    def awaited(self, state: HostState) -> list[RunningTask] | None:
        """The fewest tasks, the earliest to end first, whose end makes room."""
        head = self._head
        earlier = sorted(
            (task for task in state.tasks if task.started_ms <= head.since_ms or task.key in head.lent),
            key=lambda task: (self.end(task), task.job_id),
        )
        if state.exclusive:
            return earlier if len(earlier) == len(state.tasks) else None
        for number in range(len(earlier) + 1):
            staying = [task.held for task in state.tasks if task not in earlier[:number]]
            held = [sum(amounts) for amounts in zip(head.asked, state.promised, *staying, strict=True)]
            if all(amount <= whole + 1e-7 for amount, whole in zip(held, state.whole, strict=True)):
                return earlier[:number]
        return None

    def free_at(self, awaited: Sequence[RunningTask]) -> int | None:
        ends = [self.known_end(task) for task in awaited]
        return None if None in ends else max((end for end in ends if end is not None), default=NOW)


@pytest.mark.parametrize("first", SEEDS)
def test_room_is_kept_on_the_host_that_will_have_it_soonest(first: int) -> None:
    for seed in range(first, first + 30):
        rng = random.Random(seed)
        hosts = some_hosts(rng)
        head = a_head(rng, hosts)
        rule = Rule(head, hosts)
        choices = [(state, awaited) for state in hosts if (awaited := rule.awaited(state)) is not None]
        chosen = choose_host(head, hosts, NOW)

        if not choices:
            assert chosen is None
            continue
        state, awaited = min(
            choices,
            key=lambda choice: (max(map(rule.end, choice[1]), default=NOW), len(choice[1]), choice[0].host),
        )
        assert chosen is not None, f"seed {seed}"
        assert (chosen.host, chosen.awaited, chosen.free_at_ms, chosen.exclusive) == (
            state.host,
            frozenset(task.key for task in awaited),
            rule.free_at(awaited),
            state.exclusive,
        ), f"seed {seed}"
        assert (chosen.job_id, chosen.asked, chosen.since_ms) == (head.job_id, head.asked, head.since_ms)


@pytest.mark.parametrize("first", SEEDS)
def test_what_is_awaited_follows_the_host_and_is_expected_no_later(first: int) -> None:
    for seed in range(first, first + 30):
        rng = random.Random(seed)
        (state, *_) = some_hosts(rng)
        head = a_head(rng, [state])
        awaited = Rule(head, [state]).awaited(state)
        updated = update_awaited(head, state, NOW)

        if awaited is None:
            assert updated is None
            continue
        free_at_ms, sooner = head.free_at_ms, Rule(head, [state]).free_at(awaited)
        if free_at_ms is not None and sooner is not None:
            free_at_ms = min(free_at_ms, sooner)
        assert updated is not None, f"seed {seed}"
        assert (updated.awaited, updated.free_at_ms) == (frozenset(task.key for task in awaited), free_at_ms)
        if not state.exclusive:
            staying = [task.held for task in state.tasks if task not in awaited]
            held = [sum(amounts) for amounts in zip(head.asked, state.promised, *staying, strict=True)]
            assert room_beside(updated, state) == pytest.approx(
                [whole - amount for whole, amount in zip(state.whole, held, strict=True)]
            )
