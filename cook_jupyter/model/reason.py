"""Reasons: why an instance ended, and whether that was the fault of the system.

Lives here: Cook's table of reasons. A *mea culpa* reason is the fault of the system and, up to a limit, costs
the job no retry. Not here: the count of attempts (`model.lifecycle`).

Source: Cook's `schema.clj` (reason entities), as described in the REST specification, section 16.3.
Codes and sentences are part of the REST API and must not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

ReasonName = str

DEFAULT_MEA_CULPA_LIMIT = 5
NEVER_COUNTS = -1  # a failure limit that is never reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A reason. `failure_limit` is the number of failures that cost no retry; None means the default."""

    code: int
    name: ReasonName
    sentence: str
    mea_culpa: bool = False
    failure_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeaCulpaLimits:
    """Number of failures of a mea culpa reason that cost a job no retry (Cook's mea-culpa-failure-limit).

    Attributes:
        default: limit of a reason without a limit in the table; -1 for any number.
        by_reason: limits that the operator has set, which take precedence over the table.
    """

    default: int = DEFAULT_MEA_CULPA_LIMIT
    by_reason: Mapping[ReasonName, int] = field(default_factory=dict)

    def limit_of(self, reason: Reason) -> int:
        """Return the limit of a mea culpa reason."""
        limit = self.by_reason.get(reason.name, reason.failure_limit)
        return self.default if limit is None else limit


DEFAULT_MEA_CULPA_LIMITS = MeaCulpaLimits()

NORMAL_EXIT = "normal-exit"
KILLED_BY_USER = "reason-killed-by-user"
PREEMPTED = "preempted-by-rebalancer"
KILLED_DURING_LAUNCH = "killed-during-launch"
SCHEDULING_FAILED_ON_HOST = "scheduling-failed-on-host"
KILLED_EXTERNALLY = "killed-externally"
MEMORY_LIMIT_EXCEEDED = "mesos-container-limitation-memory"
MAX_RUNTIME_EXCEEDED = "max-runtime-exceeded"
STRAGGLER = "straggler"
AGENT_REMOVED = "mesos-slave-removed"
AGENT_RESTARTED = "mesos-slave-restarted"
LAUNCH_FAILED = "mesos-container-launch-failed"
HEARTBEAT_LOST = "heartbeat-lost"
UNKNOWN = "unknown"
UNMAPPED = "mesos-unknown"
EXECUTOR_TERMINATED = "mesos-executor-terminated"
NON_ZERO_EXIT = "mesos-command-executor-failed"


def _table() -> dict[ReasonName, Reason]:
    rows: tuple[tuple[int, ReasonName, str, bool, int | None], ...] = (
        (1000, NORMAL_EXIT, "Normal exit", False, None),
        (1001, KILLED_BY_USER, "Killed by user", False, None),
        (1002, PREEMPTED, "Preempted by rebalancer", True, None),
        (1003, "mesos-container-preempted", "Container preempted by Mesos", False, None),
        (1004, KILLED_DURING_LAUNCH, "Killed during launch", False, None),
        (1005, "running", "Running", False, None),
        (1006, SCHEDULING_FAILED_ON_HOST, "Scheduling failed on host", True, 3),
        (1007, "container-initialization-timed-out", "Container initialization timed out", False, None),
        (1008, KILLED_EXTERNALLY, "Killed externally", True, None),
        (1009, "container-readiness-timed-out", "Container readiness timed out", True, None),
        (1010, "pod-submission-api-error", "Kubernetes pod submission API error", True, None),
        (2000, "mesos-container-limitation", "Container limitation reached", False, None),
        (2001, "mesos-container-limitation-disk", "Container disk limitation exceeded", False, None),
        (2002, MEMORY_LIMIT_EXCEEDED, "Container memory limit exceeded", False, None),
        (2003, MAX_RUNTIME_EXCEEDED, "Task max runtime exceeded", False, None),
        (2004, STRAGGLER, "Task was a straggler", True, None),
        (3000, "mesos-reconciliation", "Mesos task reconciliation", False, None),
        (3001, "mesos-invalid-framework-id", "Invalid Mesos framework id", True, None),
        (3002, "mesos-invalid-offers", "Invalid Mesos offer", True, None),
        (3003, "mesos-resources-unknown", "Resource unknown", False, None),
        (3004, "mesos-task-invalid", "Invalid task", False, None),
        (3005, "mesos-task-unauthorized", "Unauthorized task", False, None),
        (3006, "mesos-task-unknown", "Unknown task", False, None),
        (3007, "mesos-slave-unknown", "Agent unknown", False, None),
        (3008, "could-not-reconstruct-pod", "Could not reconstruct pod", True, None),
        (4000, AGENT_REMOVED, "Agent removed", True, None),
        (4001, AGENT_RESTARTED, "Mesos agent restarted", True, None),
        (4002, "mesos-gc-error", "Mesos agent GC error", True, None),
        (4003, LAUNCH_FAILED, "Container launch failed", True, 10),
        (4004, "mesos-container-update-failed", "Container update failed", False, None),
        (4005, "mesos-slave-disconnected", "Agent disconnected", True, None),
        (4006, HEARTBEAT_LOST, "Unable to contact agent", True, None),
        (5000, "mesos-framework-removed", "Mesos framework removed", True, None),
        (5001, "mesos-master-disconnected", "Mesos master disconnected", True, None),
        (6000, "mesos-executor-registration-timeout", "Mesos executor registration timed out", True, None),
        (
            6001,
            "mesos-executor-reregistration-timeout",
            "Mesos executor re-registration timed out",
            False,
            None,
        ),
        (6002, "mesos-executor-unregistered", "Mesos executor unregistered", False, None),
        (99000, UNKNOWN, "Unknown reason", False, None),
        (99001, UNMAPPED, "Unknown mesos reason", False, None),
        (99002, EXECUTOR_TERMINATED, "Mesos executor terminated", True, 3),
        (99003, NON_ZERO_EXIT, "Command exited non-zero", False, None),
    )
    return {
        name: Reason(code=code, name=name, sentence=sentence, mea_culpa=mea_culpa, failure_limit=limit)
        for code, name, sentence, mea_culpa, limit in rows
    }


REASONS: dict[ReasonName, Reason] = _table()


def reason_of_mesos(name: str) -> ReasonName:
    """Return Cook's reason for a reason of Mesos: "REASON_GC_ERROR", or "gc-error" as Cook writes it.

    Current Mesos says "agent" where Cook's names, which are part of the REST API, say "slave".
    """
    kebab_name = name.lower().replace("_", "-").removeprefix("reason-").replace("agent", "slave")
    cook_name = "mesos-" + kebab_name.replace("frameworkid", "framework-id")
    return cook_name if cook_name in REASONS else UNMAPPED
