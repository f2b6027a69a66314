from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cook_jupyter.errors import Conflict, InvalidRequest, NotFound
from cook_jupyter.model.decisions import Matching
from cook_jupyter.model.job import GroupId
from cook_jupyter.model.limits import UNLIMITED, Share, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    ConstraintClass,
    JobConstraints,
)
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.considerable import NO_FILTERS, QueueFilters
from cook_jupyter.scheduling.ranking.ranking import RankSettings, rank_in_columns
from tests.builders import a_job_spec
from tests.scheduling.queues import a_queued_job, an_index, job_id, rank, running_jobs, seq_of, waiting_jobs
from tests.scheduling.strategies import USERS, offer_lists, user_limits

LIMITS = UserLimits(default_share=Share(cpus=3.0, mem_mb=30.0))
LARGEST = QueueFilters(max_cpus=2.0, max_mem_mb=20.0)


class IndexFollowsChanges(RuleBasedStateMachine):
    """Whatever happens to jobs, hosts and limits, all is as if built afresh from what they are now."""

    @initialize()
    def begin(self) -> None:
        self.index = QueueIndex()
        self.hosts = Hosts()
        self.offers: list[Offer] = []
        self.limits = LIMITS
        self.tasks: dict[int, dict[str, Any]] = {}
        self.created = 0

    def _task(self, user: str, cpus: float, priority: int) -> dict[str, Any]:
        self.created += 1
        task = {"seq": self.created, "user": user, "cpus": cpus, "mem": 7.0, "priority": priority}
        self.tasks[self.created] = task
        return task

    users = st.sampled_from(USERS[:3])
    cpus = st.sampled_from([0.1, 1.0, 2.0, 3.0, 3.0])
    priorities = st.sampled_from([50, 50, 50, 40, 60])

    @rule(user=users, cpus=cpus, priority=priorities)
    def add(self, user: str, cpus: float, priority: int) -> None:
        self.index.add(a_queued_job(self._task(user, cpus, priority)))

    @rule(user=users, cpus=cpus, priority=priorities, count=st.integers(1, 80), data=st.data())
    def add_many(self, user: str, cpus: float, priority: int, count: int, data: st.DataObject) -> None:
        tasks = [self._task(user, cpus, priority) for _ in range(count)]
        self.index.add_many([a_queued_job(task) for task in data.draw(st.permutations(tasks))])

    def _draw_task(self, data: st.DataObject, *, running: bool) -> dict[str, Any]:
        seqs = [seq for seq, task in self.tasks.items() if ("start_ms" in task) is running]
        return self.tasks[data.draw(st.sampled_from(sorted(seqs)))]

    def _has_task(self, *, running: bool) -> bool:
        return any(("start_ms" in task) is running for task in self.tasks.values())

    @precondition(lambda self: self._has_task(running=False))
    @rule(data=st.data(), start_ms=st.integers(1, 5))
    def start(self, data: st.DataObject, start_ms: int) -> None:
        task = self._draw_task(data, running=False)
        task["start_ms"] = start_ms
        self.index.mark_running(job_id(task["seq"]), start_ms, "host")

    @precondition(lambda self: self._has_task(running=True))
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        task = self._draw_task(data, running=True)
        del task["start_ms"]
        self.index.requeue(job_id(task["seq"]))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.tasks)))
        del self.tasks[seq]
        self.index.remove(job_id(seq))

    @precondition(lambda self: self._has_task(running=False))
    @rule()
    def start_the_first_of_everybody(self) -> None:
        for user in self.index.users():
            for job in waiting_jobs(self.index, user, 1):
                seq = next(seq for seq in self.tasks if job_id(seq) == job)
                self.tasks[seq]["start_ms"] = 9
                self.index.mark_running(job, 9, "host")

    @rule(limits=user_limits())
    def change_limits(self, limits: UserLimits) -> None:
        self.limits = limits

    @rule(offers=offer_lists(max_size=30))
    def change_hosts(self, offers: list[Offer]) -> None:
        known = {offer.host: offer for offer in self.offers}
        self.offers = [known[offer.host] if known.get(offer.host) == offer else offer for offer in offers]
        self.hosts.update_from_offers(self.offers)

    @rule(rank_in_columns=st.booleans(), filters=st.sampled_from([NO_FILTERS, LARGEST]))
    def launch_what_a_cycle_matches(self, rank_in_columns: bool, filters: QueueFilters) -> None:
        now_ms = 10
        for match in self._decided(self.index, self.hosts, rank_in_columns, filters).matches:
            seq = seq_of(match.job_id)
            self.tasks[seq]["start_ms"] = now_ms
            self.index.mark_running(match.job_id, now_ms, match.host)

    def _decided(
        self, index: QueueIndex, hosts: Hosts, rank_in_columns: bool, filters: QueueFilters
    ) -> Matching:
        settings = CycleSettings(
            rank=RankSettings(max_over_quota_jobs=3),
            lazy_up_to=0 if rank_in_columns else 10**9,
            max_considered=12,
        )
        return decide_matches(index, hosts, self.limits, settings=settings, filters=filters)

    @invariant()
    def a_cycle_decides_as_on_a_newly_built_index(self) -> None:
        afresh = an_index(self.tasks.values())
        in_columns = self.created % 2 == 0
        for filters in (NO_FILTERS, LARGEST):
            decided = self._decided(self.index, self.hosts, in_columns, filters)
            assert decided == self._decided(afresh, Hosts(self.offers), not in_columns, filters)

    @invariant()
    def equals_a_newly_built_index(self) -> None:
        afresh = an_index(self.tasks.values())
        assert rank(self.index, self.limits) == rank(afresh, self.limits)
        assert self.index.users() == afresh.users()
        assert self.index.pool_usage() == afresh.pool_usage()
        assert (self.index.waiting_count, self.index.running_count) == (
            afresh.waiting_count,
            afresh.running_count,
        )
        for user in afresh.users():
            assert self.index.usage(user) == afresh.usage(user)
            assert waiting_jobs(self.index, user) == waiting_jobs(afresh, user)
            assert running_jobs(self.index, user) == running_jobs(afresh, user)

    @invariant()
    def the_bounds_of_the_requests_of_waiting_jobs_are_correct(self) -> None:
        waiting = [task["cpus"] for task in self.tasks.values() if "start_ms" not in task]
        least, most = self.index.min_request[0], self.index.max_request[0]
        assert least <= min(waiting, default=0.0) <= least * 1.01
        assert max(waiting, default=0.0) <= most <= max(waiting, default=0.0) * 1.01

    @invariant()
    def oversized_jobs_are_counted_up_to_the_first_other_job(self) -> None:
        columns = self.index.columns
        for tasks in self.index.by_name():
            user = tasks.name
            requested = [self.index.requested(job).cpus for job in waiting_jobs(self.index, user)]
            first = next((at for at, cpus in enumerate(requested) if cpus <= 2.0), len(requested))
            assert tasks.too_large(2.0, 20.0, columns.cpus, columns.mem) == first


TestIndexFollowsChanges = IndexFollowsChanges.TestCase
TestIndexFollowsChanges.settings = hypothesis_settings(max_examples=30, stateful_step_count=20)


def a_waiting(seq: int, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "user": "ada", "cpus": 1.0, "mem": 10.0, **more}


def test_a_job_is_added_only_once() -> None:
    index = an_index([a_waiting(1)])
    with pytest.raises(Conflict):
        index.add(a_queued_job(a_waiting(1)))
    with pytest.raises(Conflict):
        index.add_many([a_queued_job(a_waiting(2)), a_queued_job(a_waiting(2))])
    assert len(index) == 1


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("priority", 16_000_001),
    ("priority", 100_000_000),
    ("priority", -1),
    ("priority", 50.5),
    ("priority", float("nan")),
    ("priority", None),
    ("seq", -1),
    ("seq", 2**39),
    ("seq", 2**80),
    ("seq", 7.5),
    ("cpus", -0.5),
    ("cpus", float("nan")),
    ("cpus", float("inf")),
    ("cpus", "2"),
    ("mem_mb", -1.0),
    ("mem_mb", float("-inf")),
    ("mem_mb", None),
    ("gpus", -1.0),
    ("gpus", float("nan")),
    ("ports", -1),
    ("ports", 2**31),
    ("ports", 0.5),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_job_with_a_number_out_of_range_is_refused_and_nothing_is_changed(
    name: str, value: Any, count: int
) -> None:
    index = an_index([a_waiting(1), a_waiting(2, start_ms=1)])
    out_of_range: dict[str, Any] = {name: value}
    wrong = a_queued_job(a_waiting(1000, user="eve"))._replace(**out_of_range)
    right = [a_queued_job(a_waiting(10 + number, user="bob")) for number in range(count - 1)]

    kind = "a whole number" if name in ("priority", "seq", "ports") else "a number"
    with pytest.raises(
        InvalidRequest, match=rf"job {wrong.job_id}: {name} is .*; it must be {kind} from 0 to"
    ):
        index.add_many([*right, wrong]) if right else index.add(wrong)

    assert (len(index), index.waiting_count, index.users()) == (2, 1, ["ada"])
    assert rank(index, LIMITS) == [job_id(1)]
    assert (index.min_request, index.max_request) == (
        an_index([a_waiting(1)]).min_request,
        an_index([a_waiting(1)]).max_request,
    )
    mended: dict[str, Any] = {name: 1}
    index.add_many([*right, wrong._replace(**mended)])
    assert len(rank(index, LIMITS)) == 1 + count


@pytest.mark.parametrize("name", ["seq", "ports", "priority"])
def test_fractions_are_refused_also_beside_amounts_that_are_all_whole(name: str) -> None:
    whole: dict[str, Any] = {"cpus": 1, "mem": 1, "gpus": 1}
    jobs = [a_queued_job(a_waiting(seq, **whole)) for seq in range(100)]
    fraction: dict[str, Any] = {name: 7.5}
    with pytest.raises(InvalidRequest, match=rf"{name} is 7.5; it must be a whole number"):
        QueueIndex().add_many([*jobs[1:], jobs[0]._replace(**fraction)])


@pytest.mark.parametrize("count", [1, 100])
def test_the_bounds_of_every_range_are_accepted(count: int) -> None:
    index = QueueIndex()
    highest = {"cpus": UNLIMITED, "mem": UNLIMITED, "gpus": UNLIMITED, "ports": 2**31 - 1, "priority": 0}
    jobs = [a_queued_job(a_waiting(2**39 - 1 - number, **highest)) for number in range(count)]
    lowest = a_queued_job(a_waiting(0, cpus=0.0, mem=0.0, priority=16_000_000))
    index.add_many([*jobs, lowest])
    assert rank(index, LIMITS) == [lowest.job_id, *sorted(job.job_id for job in jobs)]


def test_an_unknown_job_cannot_start_or_end_or_be_requeued() -> None:
    index = QueueIndex()
    for change in (index.remove, index.requeue, lambda job: index.mark_running(job, 1)):
        with pytest.raises(NotFound):
            change(job_id(1))


def test_a_job_starts_once_and_waits_once() -> None:
    index = an_index([a_waiting(1)])
    with pytest.raises(Conflict):
        index.requeue(job_id(1))
    index.mark_running(job_id(1), 5, "host")
    with pytest.raises(Conflict):
        index.mark_running(job_id(1), 6, "host")


def test_the_usage_of_a_user_is_that_of_running_tasks() -> None:
    index = an_index([a_waiting(1, start_ms=1), a_waiting(2, gpus=2.0, start_ms=2), a_waiting(3)])
    assert index.usage("ada") == Usage(count=2, cpus=2.0, mem_mb=20.0, gpus=2.0)
    assert index.waiting_of("ada") == 1
    assert index.usage("nobody") == Usage()


def test_a_requeued_job_keeps_its_constraints() -> None:
    index = an_index([a_waiting(1, group="g", start_ms=1, host="a")])
    assert index.group_hosts(GroupId("g")) == {"a": 1}
    index.requeue(job_id(1), job_constraints=JobConstraints(avoid=frozenset({"a"}), group=GroupId("g")))
    assert index.group_hosts(GroupId("g")) == {}
    row = index.row_of(job_id(1))
    assert index.job_constraints[row].avoid == {"a"}
    index.mark_running(job_id(1), 2, "b")
    assert index.group_hosts(GroupId("g")) == {"b": 1}
    index.requeue(job_id(1), job_constraints=NO_JOB_CONSTRAINTS)
    assert row not in index.job_constraints


def test_a_queued_job_has_the_values_of_its_submission() -> None:
    spec = a_job_spec(
        cpus=2.0,
        gpus=1,
        ports=3,
        priority=70,
        constraints=(("zone", "EQUALS", "a"),),
        env={"COOK_GPU_MODEL": "p100"},
        extra={"disk": {"request": 5.0, "type": "ssd"}},
    )
    queued = QueuedJob.of(spec, 7)
    assert (queued.job_id, queued.cpus, queued.gpus, queued.ports) == (spec.job_id, 2.0, 1, 3)
    assert (queued.seq, queued.priority) == (7, 70)
    assert queued.constraints == ConstraintClass(
        attributes=(("zone", "a"),), gpu_model="p100", disk_type="ssd", disk_mb=5.0
    )


def test_a_long_list_is_ranked_as_it_shrinks_from_the_front() -> None:
    index = QueueIndex()
    index.add_many([a_queued_job(a_waiting(seq)) for seq in range(5000)])
    for seq in range(4000):
        index.mark_running(job_id(seq), seq, "host")
        index.remove(job_id(seq))
    assert index.waiting_of("ada") == 1000
    assert waiting_jobs(index, "ada", 2) == [job_id(4000), job_id(4001)]
    assert len(rank_in_columns(index, LIMITS).rows) == 1000


@pytest.mark.parametrize("time_ms", [2**43, 2**53, -(2**43) - 1, -(2**53)])
def test_tasks_may_start_at_any_representable_time(time_ms: int) -> None:
    index = QueueIndex()
    index.add(a_queued_job(a_waiting(1)))

    index.mark_running(job_id(1), time_ms, "host")

    assert running_jobs(index, "ada") == [job_id(1)]
