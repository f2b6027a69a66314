from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.planned.uncommitted import KEEP_MS, Submitted, to_forget


def test_only_old_jobs_of_incomplete_requests_are_removed() -> None:
    jobs = [
        Submitted(JobId("committed"), 0, committed=True),
        Submitted(JobId("old"), 0, committed=False),
        Submitted(JobId("at the limit"), 1, committed=False),
    ]
    assert to_forget(jobs, KEEP_MS + 1) == ["old"]
