from collections.abc import Sequence

from cook_jupyter.model.decisions import Match, Matching
from cook_jupyter.model.limits import Quota, UserLimits
from cook_jupyter.scheduling.growth.autoscaling import jobs_to_grow_for
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from tests.scheduling.queues import an_index, job_id, seq_of

NOBODY = UserLimits()


def waiting(count: int) -> QueueIndex:
    return an_index([{"seq": seq, "user": "u", "cpus": 1.0, "mem": 1.0} for seq in range(count)])


def after_matching(matched: int, considered: int) -> Matching:
    matches = tuple(Match(job_id=job_id(seq), host="h", cluster="c") for seq in range(matched))
    return Matching(matches=matches, considered=considered)


def seqs(jobs: Sequence[str]) -> list[int]:
    return [seq_of(job) for job in jobs]


def test_the_fewer_jobs_were_matched_the_more_are_returned() -> None:
    index = waiting(100)
    half = jobs_to_grow_for(index, NOBODY, after_matching(10, 20), max_jobs=40)
    assert seqs(half) == list(range(10, 30))
    twice_as_eager = jobs_to_grow_for(index, NOBODY, after_matching(10, 20), max_jobs=40, factor=2.0)
    assert seqs(twice_as_eager) == list(range(10, 50))


def test_it_never_looks_further_than_the_maximum() -> None:
    eager = jobs_to_grow_for(waiting(100), NOBODY, after_matching(5, 20), max_jobs=40, factor=2.0)
    assert seqs(eager) == list(range(5, 45))


def test_at_least_as_many_jobs_are_returned_as_were_unmatched() -> None:
    assert seqs(jobs_to_grow_for(waiting(100), NOBODY, after_matching(0, 20), max_jobs=5)) == list(range(20))


def test_without_considered_jobs_no_job_is_returned() -> None:
    assert jobs_to_grow_for(waiting(5), NOBODY, after_matching(0, 0)) == ()


def test_new_matches_do_not_count_against_the_quota_yet() -> None:
    allowed = UserLimits(default_quota=Quota(count=3))
    assert seqs(jobs_to_grow_for(waiting(9), allowed, after_matching(2, 3))) == [2, 3, 4]


def test_launch_rate_and_pool_quota_apply_but_not_the_launch_filter() -> None:
    index, matching = waiting(9), after_matching(0, 3)
    rate = QueueFilters(tokens={"u": 2}, accepts=lambda _: False)
    assert seqs(jobs_to_grow_for(index, NOBODY, matching, filters=rate)) == [0, 1]
    pool = QueueFilters(pool_quota=Quota(cpus=4))
    assert seqs(jobs_to_grow_for(index, NOBODY, matching, filters=pool)) == [0, 1, 2, 3]


def test_jobs_with_a_recent_request_are_left_out() -> None:
    requested = frozenset({job_id(0), job_id(2)})
    assert seqs(jobs_to_grow_for(waiting(4), NOBODY, after_matching(0, 4), already_requested=requested)) == [
        1,
        3,
    ]
