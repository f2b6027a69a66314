"""Why a job has not started: Cook's reasons, with their data and a sentence for users.

Lives here: the value. Not here: which reasons apply to a job (`scheduling.explaining.wait_reasons`).

Source: Cook's `unscheduled.clj`, as described in the fair-share specification, section 13, and the REST
specification, section 13. Texts and keys are part of the REST API and must not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class WaitKind(Enum):
    """Kind of reason; the value is Cook's text, where that is fixed."""

    RUNNING = "The job is running now."
    COMPLETED = "The job already completed."
    RETRIES_EXHAUSTED = "Job has exhausted its maximum number of retries."
    EXCEEDS_QUOTA = "The job would cause you to exceed resource quotas."
    EXCEEDS_SHARE = "The job would cause you to exceed resource shares."
    RATE_LIMITED = "You are currently rate limited on how many jobs you launch per minute."
    DEFERRED = "The launch filter plugin is blocking the job launch."
    QUEUE_POSITION = "You have other jobs ahead in the queue."
    UNDER_INVESTIGATION = "The job is now under investigation. Check back in a minute for more details!"
    NOT_PLACED = "The job couldn't be placed on any available hosts."
    # Additions of cook_jupyter:
    UNSATISFIABLE = "The job requests more than any host has."
    TOO_LARGE = "The job requests more than any job may."
    EXCEEDS_POOL_QUOTA = "The job would cause its pool to exceed resource quotas."
    RESERVED = "A host is reserved for the job."
    PREEMPTED = "The job was preempted."
    AT_HEAD = "The job is at the head of the queue."
    OUT_OF_USE = "Hosts are out of use because jobs fail there at once."
    HELD_BACK = "Room is kept for a job at the head of the queue."


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReason:
    """A reason why a job waits.

    Attributes:
        kind: kind of the reason.
        text: text of Cook's API.
        data: facts under Cook's keys.
        sentence: explanation for users: what prevents the start, with numbers, and what to do about it.
    """

    kind: WaitKind
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    sentence: str
