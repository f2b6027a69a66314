"""Every error a caller may want to catch.

CookError
├── InvalidRequest          wrong whoever sends it; nothing was changed; also a ValueError
│   ├── WrongType           an argument is of a type that is never taken; also a TypeError
│   ├── Unpicklable         an object in a call cannot travel; the message names it; also a PicklingError
│   ├── TooLarge            more bytes than the scheduler or the codec takes
│   └── Unsatisfiable       no host could ever run it
├── NotFound                no such job, instance, group, pool or blob
├── Unauthenticated         who asks is not known
├── Forbidden               someone else's
├── Conflict                right in itself, but not in the present state
│   ├── IllegalTransition   a life that the tables of model.lifecycle do not know
│   ├── QuotaExceeded       a quota or a queue limit is in the way
│   └── ExecutorClosed      the executor was shut down and takes no more calls; also a RuntimeError
├── SchedulerError          the scheduler failed at its own work
│   ├── StoreFull           it cannot write to its disk; nothing was changed, try again later
│   ├── StoreBusy           another program has locked its store; nothing was changed, try again soon
│   ├── StoreDamaged        its store cannot be read, or was taken away: restore it from a backup
│   ├── OutOfStep           its memory differs from its store; it starts again from the store, try again then
│   └── ClusterUnusable     a cluster refuses it for good, such as when another one has replaced it
├── SchedulerUnreachable    no answer; whether it was done is unknown
├── Unverifiable            a payload that cannot be verified: cut short, another format or key
│   └── Tampered            a complete payload that is not what was signed; it was not opened
└── JobFailed               raised by a future: the job ended without a result
    ├── JobKilled           killed by its user or an administrator
    ├── HostLost            attempts were lost to failures of the system, and no retry was left
    ├── OutOfMemory         it used more memory than it requested; also a MemoryError
    ├── NestedDeadlock      it could never start, since jobs that wait for such jobs hold all the room
    ├── TimedOut            it ran longer than its maximum run time
    ├── BadExit             the command ended with another exit code than 0
    ├── EnvironmentMismatch     the host's Python or packages differ from the notebook's; nothing was run
    └── ResultLost          it ended well, but its result cannot be read (too large, expired, unpicklable)

An exception that the user's own function raised is not in this tree: it travels as itself.
Being preempted is not an error either: it is a reason, and the job waits again.

Where an executor of the standard library raises an error of its own, the class here derives from that one
too: code written for `concurrent.futures` catches it by the name it knows.
"""

from pickle import PicklingError


class CookError(Exception):
    """The root: anything that cook_jupyter itself has to say."""


class InvalidRequest(CookError, ValueError):
    """The request is wrong whoever sends it; nothing was changed.

    Attributes:
        tree: where the shape of a JSON request is wrong, mirroring the request
            (Cook's `errors` body); None when the content is at fault.
    """

    def __init__(self, message: str, *, tree: object | None = None) -> None:
        super().__init__(message)
        self.tree = tree


class WrongType(InvalidRequest, TypeError):
    """An argument is of a type that is never taken."""


class Unpicklable(InvalidRequest, PicklingError):
    """An object in a call cannot travel; the message names the path to it."""


class TooLarge(InvalidRequest):
    """More bytes than are taken here; the message says how many are."""


class Unsatisfiable(InvalidRequest):
    """No host known to the scheduler could ever run the job."""


class NotFound(CookError):
    """No such job, instance, group, pool or blob.

    Attributes:
        missing: the names that were asked for and not found.
    """

    def __init__(self, message: str, *, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class Unauthenticated(CookError):
    """Who asks is not known: no token, or a wrong one."""


class Forbidden(CookError):
    """The thing is someone else's, or for administrators alone."""


class Conflict(CookError):
    """Right in itself, but not in the present state."""


class IllegalTransition(Conflict):
    """A step that the tables of `model.lifecycle` do not know."""


class QuotaExceeded(Conflict):
    """A quota or a queue limit is in the way."""


class ExecutorClosed(Conflict, RuntimeError):
    """The executor was shut down and takes no more calls."""


class SchedulerError(CookError):
    """The scheduler failed at its own work; its log says why."""


class StoreFull(SchedulerError):
    """The scheduler cannot write to its disk. Nothing was changed: make room and try again."""


class StoreBusy(SchedulerError):
    """Another program has locked the scheduler's store. Nothing was changed: try again soon."""


class StoreDamaged(SchedulerError):
    """The scheduler's store cannot be read, or its files were taken away. No part of an answer is given."""


class OutOfStep(SchedulerError):
    """The scheduler's memory could not follow a commit of its store.

    Nothing is lost: whatever was committed is in the store. The scheduler takes no further commands and has
    to be started again from the store; a command that raises this changed nothing.
    """


class ClusterUnusable(SchedulerError):
    """A cluster refuses this scheduler for good; trying again would not help, or would do harm."""


class SchedulerUnreachable(CookError):
    """No answer came; whether the request was carried out is unknown.

    Attributes:
        pid: the process of an embedded scheduler that lives and does not answer; else None.
    """

    def __init__(self, message: str, *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class Unverifiable(CookError):
    """A payload cannot be verified, so it was not opened; nobody is accused.

    It is cut short, damaged, of another format, signed with another key, or the signing key is unusable.
    """


class Tampered(Unverifiable):
    """A payload is complete and is not what was signed with this user's key; it was not opened."""


class JobFailed(CookError):
    """The job ended without a result.

    Attributes:
        job_id: the job's uuid, the `key` of its future.
        reason: the name of Cook's reason for the end of its last instance, or None.
        host: where that instance ran, or None.
        attempts: how many instances there were.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str = "",
        reason: str | None = None,
        host: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.reason = reason
        self.host = host
        self.attempts = attempts


class JobKilled(JobFailed):
    """The job was killed by its user or an administrator."""


class HostLost(JobFailed):
    """Attempts were lost to failures of the system more often than is free, and no retry was left."""


class OutOfMemory(JobFailed, MemoryError):
    """The job used more memory than it had requested."""


class NestedDeadlock(JobFailed):
    """The job could never start: running jobs that wait for jobs of their own hold all the room."""


class TimedOut(JobFailed):
    """The job ran longer than its maximum run time."""


class BadExit(JobFailed):
    """The command ended with another exit code than 0, or by a signal of its own."""


class EnvironmentMismatch(JobFailed):
    """The host's Python or packages differ too much from the notebook's; the call was not unpickled."""


class ResultLost(JobFailed):
    """The job ended well, but its result cannot be read."""
