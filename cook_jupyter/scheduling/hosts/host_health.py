"""Host health: a host on which unrelated jobs fail immediately gets no jobs for a while.

Lives here: the ends of instances that count for and against a host, and the time for which it is out of use.
Not here: the consequences (`service.scheduler`), the health of a single worker (`worker.supervisor`).

A host on which every job fails is always free, and so gets one job after the other: a black hole. The remedy
is a circuit breaker (Nygard, "Release It!"). Two kinds of failures count against a host: of jobs that could
not be started, and of jobs of several users within a second and without a result. One job that runs well
clears the host. After the pause the host is tried again; if that fails, too, the next pause is twice as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.reason import EXECUTOR_TERMINATED, LAUNCH_FAILED, NON_ZERO_EXIT, ReasonName

NOT_BEGUN: Final[frozenset[ReasonName]] = frozenset({LAUNCH_FAILED, EXECUTOR_TERMINATED})
FAILURES: Final = 3  # jobs that did not start, or users, in a row
WITHIN_MS: Final = 60_000
AT_ONCE_MS: Final = 1_000
INITIAL_PAUSE_MS: Final = 5_000
MAX_PAUSE_MS: Final = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A host that is out of use.

    Attributes:
        host: name of the host.
        until_ms: time at which it is tried again.
        not_begun: number of jobs in a row that could not be started there.
        users: number of users in a row whose jobs failed there immediately.
    """

    host: str
    until_ms: int
    not_begun: int
    users: int

    @property
    def cause(self) -> str:
        """The cause, as part of a sentence."""
        if self.not_begun >= self.users:
            return f"{counted(self.not_begun, 'job')} in a row could not be begun there"
        return f"jobs of {counted(self.users, 'user')} in a row failed there at once"


@dataclass(slots=True)
class _Record:
    """Failures on a host since a job last ran well there."""

    not_begun: dict[JobId, int]  # job -> time of its last failure
    users: dict[str, int]  # user -> time of the last failure
    pause_ms: int = 0  # the last pause; 0 if there was none
    outage: Outage | None = None


class HostHealth:
    """The health of all hosts, derived from the ends of their instances."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def ended(self, job: Job, instance: Instance, now_ms: int) -> Outage | None:
        """Record the end of an instance; return the outage that begins with it, if any.

        Args:
            job: the job of the instance.
            instance: the ended instance.
            now_ms: the time.
        """
        if instance.status is InstanceStatus.SUCCESS or instance.has_result:
            if self._records:
                self._records.pop(instance.host, None)
            return None
        not_begun = instance.reason in NOT_BEGUN
        if not not_begun and not _failed_at_once(instance):
            return None
        record = self._records.setdefault(instance.host, _Record({}, {}))
        _forget(record, before_ms=now_ms - WITHIN_MS)
        if not_begun:
            record.not_begun[job.job_id] = now_ms
        else:
            record.users[job.spec.user] = now_ms
        if record.outage is not None and now_ms < record.outage.until_ms:
            return None  # it was launched before the outage
        is_on_trial = record.outage is not None
        if max(len(record.not_begun), len(record.users)) < FAILURES and not (is_on_trial and not_begun):
            return None
        record.pause_ms = min(MAX_PAUSE_MS, 2 * record.pause_ms or INITIAL_PAUSE_MS)
        record.outage = Outage(
            host=instance.host,
            until_ms=now_ms + record.pause_ms,
            not_begun=len(record.not_begun),
            users=len(record.users),
        )
        return record.outage

    def outages(self, now_ms: int) -> Sequence[Outage]:
        """Return the hosts that are out of use."""
        return [
            record.outage
            for record in self._records.values()
            if record.outage is not None and now_ms < record.outage.until_ms
        ]


def _failed_at_once(instance: Instance) -> bool:
    began_ms = instance.started_ms if instance.backend_started_ms is None else instance.backend_started_ms
    return (
        instance.reason == NON_ZERO_EXIT
        and instance.ended_ms is not None
        and instance.ended_ms - began_ms < AT_ONCE_MS
    )


def _forget(record: _Record, *, before_ms: int) -> None:
    record.not_begun = {job_id: at_ms for job_id, at_ms in record.not_begun.items() if at_ms >= before_ms}
    record.users = {user: at_ms for user, at_ms in record.users.items() if at_ms >= before_ms}
