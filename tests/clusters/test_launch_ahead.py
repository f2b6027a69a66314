"""What the local cluster launches ahead, and when it does not."""

from cook_jupyter.clusters.local.launch_ahead import LaunchAheadQueue
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.resources import Resources

WHOLE = Resources(cpus=2, mem_mb=2048)
ONE = Resources(cpus=1, mem_mb=64)


class Site:
    """A host whose tasks last as long as a test says."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ahead = LaunchAheadQueue(lambda: self.now_s)
        self.number = 0

    def launch(self) -> InstanceId:
        self.number += 1
        instance_id = InstanceId(str(self.number))
        self.ahead.put(instance_id)
        return instance_id

    def due(self) -> list[InstanceId]:
        return list(self.ahead.pop_ready(WHOLE, lambda _: ONE))

    def run(self, seconds: float, tasks: int) -> None:
        """Let tasks run one after the other."""
        for _ in range(tasks):
            task = self.launch()
            assert task in self.due()
            self.now_s += seconds
            self.ahead.ended(task)


def test_a_host_of_which_nothing_is_known_is_offered_what_is_free() -> None:
    assert Site().ahead.offerable(WHOLE, ONE) == Resources(cpus=1, mem_mb=1984)


def test_brief_tasks_are_offered_more_room_than_there_is() -> None:
    site = Site()
    site.run(0.002, tasks=40)

    assert site.ahead.offerable(WHOLE, Resources()).cpus > 2 * WHOLE.cpus


def test_long_tasks_are_not() -> None:
    site = Site()
    site.run(0.002, tasks=40)
    site.run(5.0, tasks=1)

    assert site.ahead.offerable(WHOLE, Resources()) == WHOLE


def test_room_is_offered_again_only_when_half_of_what_was_ahead_is_gone() -> None:
    site = Site()
    site.run(0.002, tasks=40)
    most = site.ahead.offerable(WHOLE, Resources()).cpus

    assert site.ahead.offerable(WHOLE, Resources(cpus=most - 1)) == Resources()
    assert site.ahead.offerable(WHOLE, Resources(cpus=most / 4)).cpus > WHOLE.cpus


def test_no_more_is_sent_than_the_host_holds_and_in_the_order_of_launch() -> None:
    site = Site()
    tasks = [site.launch() for _ in range(5)]

    assert site.due() == tasks[:2]
    assert site.due() == []
    site.ahead.ended(tasks[0])
    assert site.due() == tasks[2:3]


def test_one_larger_than_the_host_is_due_when_nothing_else_runs() -> None:
    site = Site()
    task = site.launch()

    assert list(site.ahead.pop_ready(WHOLE, lambda _: Resources(cpus=64))) == [task]


def test_what_is_stuck_behind_a_long_task_is_given_back_and_nothing_is_ahead_for_a_while() -> None:
    site = Site()
    site.run(0.002, tasks=40)
    tasks = [site.launch() for _ in range(5)]
    site.due()
    assert site.ahead.pop_stuck() == ()

    site.now_s += 1.0

    assert list(site.ahead.pop_stuck()) == tasks[2:]
    for task in tasks[:2]:
        site.ahead.ended(task)
    site.run(0.002, tasks=40)
    assert site.ahead.offerable(WHOLE, Resources()) == WHOLE
    site.now_s += 31.0
    assert site.ahead.offerable(WHOLE, Resources()) != WHOLE


def test_a_killed_one_that_waits_is_taken_back_once() -> None:
    site = Site()
    task = site.launch()

    assert site.ahead.withdraw(task)
    assert not site.ahead.withdraw(task)
    assert site.due() == []
