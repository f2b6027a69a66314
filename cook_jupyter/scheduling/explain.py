"""Why a job still waits: all answers that hold, in Cook's order.

Lives here: `reasons` and the questions it is made of. Answers come from the same functions that decide.
Not here: the texts' home on the wire (`model.waiting` has them, `api` sends them).

Source: Cook's `unscheduled.clj` and `fenzo_utils.clj`, as told in the fair-share specification, section 13.
Ours is what no host could ever take: Cook lets such a job wait without a word.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.job import Job, JobId, JobState
from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.waiting import WaitKind, WaitReason
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.constraints import (
    ATTRIBUTE_EQUALS,
    ATTRIBUTES,
    GPU,
    NON_GPU,
    NOVEL_HOST,
    UNCONSTRAINED,
    attributes_equal,
    constraint_class_of,
)
from cook_jupyter.scheduling.ranking import in_order

WAITING_LOOKED_AT = 100
AHEAD_LISTED = 10

_CONSTRAINT_TEXTS = {
    NOVEL_HOST: "Job already ran on this host.",
    GPU: "Host has no GPU support.",
    NON_GPU: "Host is reserved for jobs that need GPU support.",
    ATTRIBUTE_EQUALS: "Host had a different attribute than other jobs in the group.",
}
_UNITS = {"cpus": "cpus", "mem": "MB of memory", "gpus": "gpus", "count": "jobs at once", "ports": "ports"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a job stands among its user's own tasks.

    Attributes:
        ahead: how many come before it.
        at_least: it was not found among those looked at, so there are more.
        jobs: the first of those before it.
    """

    ahead: int
    at_least: bool
    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What bears on one job's wait besides the queue.

    Attributes:
        attempts: how many the job has used up.
        held: jobs of its user that the launch rate held back in the last cycle; None: not enforced.
        deferred: name and message of the launch filter that defers the job, if one does.
        placement: why no host takes it now (`matching.refusal_of`); None: nobody has looked yet.
        capacity: every host of the pool as if it were empty.
    """

    attempts: int = 0
    held: int | None = None
    deferred: tuple[str, str] | None = None
    placement: Refusal | None = None
    capacity: Sequence[Offer] = ()


def reasons(job: Job, index: QueueIndex, limits: UserLimits, facts: Facts) -> tuple[WaitReason, ...]:
    """Return all answers that hold for the job, in Cook's order; one only if it does not wait."""
    if job.state is JobState.RUNNING:
        return (_plain(WaitKind.RUNNING, "The job is running."),)
    if job.state is JobState.COMPLETED:
        return (_plain(WaitKind.COMPLETED, "The job has completed."),)
    user = job.spec.user
    found = [
        _retries_exhausted(job.max_retries, facts.attempts),
        _exceeds(WaitKind.EXCEEDS_QUOTA, _with_job(job, index), limits.quota(user), "quota"),
        _exceeds(WaitKind.EXCEEDS_SHARE, _with_job(job, index), limits.share(user), "share"),
        _rate_limited(facts.held),
        _deferred(facts.deferred),
        _position(position(index, job.job_id)),
        _unsatisfiable(job, facts.capacity),
        _placement(facts.placement),
    ]
    return tuple(reason for reason in found if reason is not None)


def sentences(found: Sequence[WaitReason]) -> tuple[str, ...]:
    """Return the answers for people, the one that waiting will not cure first."""
    hopeless = [reason for reason in found if reason.kind is WaitKind.UNSATISFIABLE]
    rest = [reason for reason in found if reason.kind is not WaitKind.UNSATISFIABLE]
    if hopeless:
        rest = [
            reason
            for reason in rest
            if reason.kind not in (WaitKind.NOT_PLACED, WaitKind.UNDER_INVESTIGATION)
        ]
    return tuple(reason.sentence for reason in (*hopeless, *rest))


def exceeded(usage: Usage, limit: Quota | Share) -> dict[str, dict[str, float]]:
    """Return, for each amount of `usage` above the limit, the limit and the usage, under Cook's names."""
    pairs = [
        ("count", usage.count, limit.count if isinstance(limit, Quota) else float("inf")),
        ("cpus", usage.cpus, limit.cpus),
        ("mem", usage.mem_mb, limit.mem_mb),
        ("gpus", usage.gpus, limit.gpus),
    ]
    return {name: {"limit": most, "usage": used} for name, used, most in pairs if used > most}


def position(index: QueueIndex, job_id: JobId, looked_at: int = WAITING_LOOKED_AT) -> Position:
    """Return where the job stands among its user's running tasks and first `looked_at` waiting jobs."""
    tasks = index.tasks_of_job(job_id)
    if tasks is None:
        return Position(ahead=0, at_least=False, jobs=())
    wanted = index.row_of(job_id)
    before: list[int] = []
    waiting = 0
    for row, waits in in_order(index, tasks):
        if row == wanted:
            return _stands(index, before, at_least=False)
        if waits:
            waiting += 1
            if waiting > looked_at:
                break
        before.append(row)
    return _stands(index, before, at_least=True)


def _stands(index: QueueIndex, before: list[int], *, at_least: bool) -> Position:
    first = tuple(index.ids(before[:AHEAD_LISTED]))
    return Position(ahead=len(before), at_least=at_least, jobs=first)


def summary(failures: Iterable[tuple[str | None, Sequence[str]]]) -> dict[str, dict[str, int]]:
    """Count placement failures over hosts, as Cook stores them.

    Args:
        failures: per host, the constraint that failed, if one did, and the resources it was short of.

    Returns:
        "constraints" and "resources", each name -> hosts; a part that would be empty is left out.
    """
    constraints: dict[str, int] = {}
    resources: dict[str, int] = {}
    for constraint, short in failures:
        if constraint is not None:
            constraints[constraint] = constraints.get(constraint, 0) + 1
        for name in short:
            resources[name] = resources.get(name, 0) + 1
    parts = {"constraints": constraints, "resources": resources}
    return {part: counts for part, counts in parts.items() if counts}


def host_counts(refusal: Refusal) -> tuple[tuple[str, int], ...]:
    """Return what stood in the way on how many hosts, resources first."""
    return (*refusal.resources.items(), *refusal.constraints.items())


def never_fits(job: Job, capacity: Sequence[Offer]) -> dict[str, dict[str, float]] | None:
    """Return what the job asks for and the most a host has, if no host could ever take it; else None.

    Args:
        job: what waits.
        capacity: every host as if it were empty. Without any, nothing can be said: None.

    Returns:
        asked and largest, under each resource that no suitable host has enough of; if each is had by some
        host, but by no single one, then under all resources.
    """
    if not capacity:
        return None
    asked = job.spec.resources
    wanted = constraint_class_of(job.spec) if job.spec.constraints else UNCONSTRAINED
    suitable = [offer for offer in capacity if attributes_equal(wanted.attributes, offer.attributes)]
    if any(asked.fits_in(offer.room + offer.running) for offer in suitable):
        return None
    totals = [offer.room + offer.running for offer in suitable]
    compared = {
        "cpus": (asked.cpus, max((total.cpus for total in totals), default=0.0)),
        "mem": (asked.mem_mb, max((total.mem_mb for total in totals), default=0.0)),
        "gpus": (asked.gpus, max((total.gpus for total in totals), default=0.0)),
    }
    too_much = {name: pair for name, pair in compared.items() if pair[0] > pair[1]}
    told = too_much or {name: pair for name, pair in compared.items() if pair[0] > 0}
    return {name: {"asked": most[0], "largest": most[1]} for name, most in told.items()}


# --- each answer


def _plain(kind: WaitKind, sentence: str) -> WaitReason:
    return WaitReason(kind=kind, text=kind.value, sentence=sentence)


def _with_job(job: Job, index: QueueIndex) -> Usage:
    """What the user would use with the job running too."""
    used = index.usage(job.spec.user)
    asked = job.spec.resources
    return Usage(
        count=used.count + 1,
        cpus=used.cpus + asked.cpus,
        mem_mb=used.mem_mb + asked.mem_mb,
        gpus=used.gpus + asked.gpus,
    )


def _retries_exhausted(max_retries: int, attempts: int) -> WaitReason | None:
    if attempts < max_retries:
        return None
    return WaitReason(
        kind=WaitKind.RETRIES_EXHAUSTED,
        text=WaitKind.RETRIES_EXHAUSTED.value,
        data={"max-retries": max_retries, "instance-count": attempts},
        sentence=f"It has used all of its {_some(max_retries, 'attempt')}: raise its retries to run it.",
    )


def _exceeds(kind: WaitKind, usage: Usage, limit: Quota | Share, word: str) -> WaitReason | None:
    over = exceeded(usage, limit)
    if not over:
        return None
    told = ", ".join(
        f"{_number(pair['usage'])} {_UNITS[name]} where the {word} is {_number(pair['limit'])}"
        for name, pair in over.items()
    )
    if kind is WaitKind.EXCEEDS_QUOTA:
        sentence = f"With it you would hold {told}: it starts when others of yours have ended."
    else:
        sentence = f"With it you would hold {told}: others go first, and it may be preempted for them."
    return WaitReason(kind=kind, text=kind.value, data=over, sentence=sentence)


def _rate_limited(held: int | None) -> WaitReason | None:
    if not held:
        return None
    return WaitReason(
        kind=WaitKind.RATE_LIMITED,
        text=WaitKind.RATE_LIMITED.value,
        data={"num-ratelimited": held},
        sentence=f"You start jobs faster than your launch rate allows; {_some(held, 'job')} wait for that.",
    )


def _deferred(deferred: tuple[str, str] | None) -> WaitReason | None:
    if deferred is None:
        return None
    plugin, message = deferred
    return WaitReason(
        kind=WaitKind.DEFERRED,
        text=WaitKind.DEFERRED.value,
        data={"plugin": plugin, "message": message},
        sentence=f"The launch filter {plugin} holds it back: {message}",
    )


def _position(stands: Position) -> WaitReason | None:
    if not stands.ahead:
        return None
    about = "at least " if stands.at_least else ""
    return WaitReason(
        kind=WaitKind.QUEUE_POSITION,
        text=f"You have {about}{stands.ahead} other jobs ahead in the queue.",
        data={"jobs": list(stands.jobs)},
        sentence=f"{about}{_some(stands.ahead, 'job')} of yours run or wait before it.".capitalize(),
    )


def _unsatisfiable(job: Job, capacity: Sequence[Offer]) -> WaitReason | None:
    never = never_fits(job, capacity)
    if never is None:
        return None
    wanted = constraint_class_of(job.spec).attributes if job.spec.constraints else ()
    among = " that meets its constraints" if wanted else ""
    if wanted and not any(attributes_equal(wanted, offer.attributes) for offer in capacity):
        demands = " and ".join(f"{attribute} = {value}" for attribute, value in wanted)
        sentence = f"No host has {demands}: it can never start here. Change its constraints."
    else:
        asked = " and ".join(f"{_number(pair['asked'])} {_UNITS[name]}" for name, pair in never.items())
        most = " and ".join(f"{_number(pair['largest'])} {_UNITS[name]}" for name, pair in never.items())
        together = "" if any(pair["asked"] > pair["largest"] for pair in never.values()) else " together"
        largest = "no single host has that" if together else f"the most any host{among} has is {most}"
        sentence = f"It asks for {asked}{together}; {largest}. It can never start here: ask for less."
    return WaitReason(
        kind=WaitKind.UNSATISFIABLE, text=WaitKind.UNSATISFIABLE.value, data=never, sentence=sentence
    )


def _placement(refusal: Refusal | None) -> WaitReason | None:
    if refusal is None:
        return _plain(WaitKind.UNDER_INVESTIGATION, "No cycle has looked for a host for it yet.")
    counts = host_counts(refusal)
    if not counts:
        return None
    return WaitReason(
        kind=WaitKind.NOT_PLACED,
        text=WaitKind.NOT_PLACED.value,
        data={
            "reasons": [
                {"reason": _placement_text(name, refusal.resources), "host_count": hosts}
                for name, hosts in counts
            ]
        },
        sentence="No host takes it now: "
        + ", ".join(
            f"{_some(hosts, 'host')} {_in_the_way(name, refusal.resources)}" for name, hosts in counts
        )
        + ".",
    )


def _placement_text(name: str, resources: Mapping[str, int]) -> str:
    if name in resources:
        return f"Not enough {name} available."
    return _CONSTRAINT_TEXTS.get(name, name)


def _in_the_way(name: str, resources: Mapping[str, int]) -> str:
    if name in resources:
        return f"without enough {'memory' if name == 'mem' else name} free"
    told = {
        NOVEL_HOST: "where it failed before",
        GPU: "without the gpus it asks for",
        NON_GPU: "kept for jobs with gpus",
        ATTRIBUTES: "that fail its constraints",
        ATTRIBUTE_EQUALS: "unlike those of the rest of its group",
    }
    return told.get(name, f"closed by {name}")


def _some(number: float, thing: str) -> str:
    return f"{_number(number)} {thing}" + ("" if number == 1 else "s")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
