"""Earlier preemptions of a job, which limit further ones.

Lives here: `PreemptionHistory`, and its derivation from a job's instances.
Not here: the choice of victims (`scheduling.rebalancing.preemption`), other facts that follow from instances
(`scheduling.constraints.job_constraints`).
"""

from typing import Final, NamedTuple

from cook_jupyter.model.job import Job

HOUR_MS: Final = 3_600_000


class PreemptionHistory(NamedTuple):
    """The preemptions of one job.

    Attributes:
        ends_ms: end of each preempted instance, oldest first.
        by_others: whether any preemption was for another user's job.
    """

    ends_ms: tuple[int, ...] = ()
    by_others: bool = False

    def count_within_hour(self, now_ms: int) -> int:
        """Return the number of preemptions in the hour that ends at `now_ms`."""
        return sum(end_ms >= now_ms - HOUR_MS for end_ms in self.ends_ms)


NEVER_PREEMPTED: Final = PreemptionHistory()


def preemption_history_of(job: Job) -> PreemptionHistory:
    """Return the preemptions of a job; `NEVER_PREEMPTED` itself if there are none."""
    preempted = [instance for instance in job.instances if instance.preempted]
    if not preempted:
        return NEVER_PREEMPTED
    return PreemptionHistory(
        tuple(sorted(instance.ended_ms or instance.started_ms for instance in preempted)),
        any(instance.preempted_for != job.spec.user for instance in preempted),
    )
