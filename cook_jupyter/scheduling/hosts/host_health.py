"""Host health: a host on which unrelated jobs fail at once takes no more of them for a while.

Lives here: which ends tell for and against a host, and when it is out of use.
Not here: acting upon it (`service.scheduler`), the health of a single worker (`worker.supervisor`).

A host that fails whatever it is given is always free, and so gets one job after the other: a black hole. The
remedy is a circuit breaker (Nygard, "Release It!"). Two things count against a host: jobs that it failed
before they began, and jobs of several users that ended within a second without a result. One job that ran
well tells that the host is sound. After the pause it is tried again; if that fails, too, the next pause is
twice as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.reason import EXECUTOR_TERMINATED, LAUNCH_FAILED, NON_ZERO_EXIT, ReasonName

NOT_BEGUN: Final[frozenset[ReasonName]] = frozenset({LAUNCH_FAILED, EXECUTOR_TERMINATED})
FAILURES: Final = 3  # of so many jobs that did not begin, or of so many users, in a row
WITHIN_MS: Final = 60_000
AT_ONCE_MS: Final = 1_000
FIRST_PAUSE_MS: Final = 5_000
LONGEST_PAUSE_MS: Final = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A host that is out of use.

    Attributes:
        host: its name.
        until_ms: when it is tried again.
        not_begun: jobs in a row that it failed before they began.
        users: users whose jobs failed there at once, in a row.
    """

    host: str
    until_ms: int
    not_begun: int
    users: int

    @property
    def cause(self) -> str:
        """What happened there, as part of a sentence."""
        if self.not_begun >= self.users:
            return f"{counted(self.not_begun, 'job')} in a row could not be begun there"
        return f"jobs of {counted(self.users, 'user')} in a row failed there at once"


@dataclass(slots=True)
class _Record:
    """What has spoken against a host since a job last ran well there."""

    not_begun: dict[JobId, int]  # when the job last failed
    users: dict[str, int]
    pause_ms: int = 0  # the last pause; 0 if there was none
    outage: Outage | None = None


class HostHealth:
    """The health of all hosts, by the ends of their instances."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def ended(self, job: Job, instance: Instance, now_ms: int) -> Outage | None:
        """Take note of an end; return the outage that begins with it, if one does.

        Args:
            job: the job of the instance.
            instance: as it ended.
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
            return None  # it had begun before
        is_on_trial = record.outage is not None
        if max(len(record.not_begun), len(record.users)) < FAILURES and not (is_on_trial and not_begun):
            return None
        record.pause_ms = min(LONGEST_PAUSE_MS, 2 * record.pause_ms or FIRST_PAUSE_MS)
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
