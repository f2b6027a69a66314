"""The answers to why a job waits: each as Cook's API says it, and as a sentence for people.

Lives here: how an answer is put. A function returns None if its answer does not hold.
Not here: what holds of a job, and in which order it is told (`scheduling.explaining.wait_reasons`).
"""

from collections.abc import Iterable, Mapping, Sequence

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.instance import Instance
from cook_jupyter.model.job import JobId
from cook_jupyter.model.waiting import WaitKind, WaitReason
from cook_jupyter.scheduling.constraints.constraints import (
    ATTRIBUTE_EQUALS,
    ATTRIBUTES,
    BALANCED,
    CHECKPOINT,
    COMPLETION,
    DISK,
    GPU,
    MAX_TASKS,
    NON_GPU,
    NOVEL_HOST,
    OFFER_END,
    OFFER_USERS,
    RESERVED,
    UNIQUE,
    Demand,
)
from cook_jupyter.scheduling.hosts.host_health import Outage
from cook_jupyter.scheduling.limits.offensive import Excess
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue

_CONSTRAINT_TEXTS = {
    NOVEL_HOST: "Job already ran on this host.",
    GPU: "Host has no GPU support.",
    NON_GPU: "Host is reserved for jobs that need GPU support.",
    ATTRIBUTE_EQUALS: "Host had a different attribute than other jobs in the group.",
}
_CONSTRAINTS_FOR_PEOPLE = {
    NOVEL_HOST: "where it failed before",
    GPU: "without the gpus it asks for",
    NON_GPU: "kept for jobs with gpus",
    DISK: "without the disk it asks for",
    ATTRIBUTES: "ruled out by its constraints",
    COMPLETION: "that will not live until it ends",
    CHECKPOINT: "away from its checkpoint",
    RESERVED: "kept for other jobs",
    MAX_TASKS: "with as many tasks as it may run",
    UNIQUE: "with another job of its group",
    BALANCED: "where its group has more jobs than elsewhere",
    ATTRIBUTE_EQUALS: "unlike those of the rest of its group",
    OFFER_USERS: "for other users alone",
    OFFER_END: "that may go away before its longest run time has passed",
}
_UNITS = {"cpus": "cpus", "mem": "MB of memory", "gpus": "gpus", "count": "jobs at once", "ports": "ports"}
_SINGULAR_UNITS = {"cpus": "cpu", "gpus": "gpu", "count": "job at once", "ports": "port"}
_MAX_DECIMALS = 6


def running() -> WaitReason:
    """It runs."""
    return _plain(WaitKind.RUNNING, "The job is running.")


def completed(too_large: Excess) -> WaitReason:
    """It has ended; if it never ran because it was `too_large`, that is said."""
    if not too_large:
        return _plain(WaitKind.COMPLETED, "The job has completed.")
    return _plain(WaitKind.COMPLETED, f"The job was ended before it began: {_demand(too_large)}.", too_large)


def retries_exhausted(max_retries: int, attempts: int) -> WaitReason | None:
    """It has used up its attempts."""
    if attempts < max_retries:
        return None
    return _plain(
        WaitKind.RETRIES_EXHAUSTED,
        f"It has used all of its {_some(max_retries, 'attempt')}: raise its retries to run it.",
        {"max-retries": max_retries, "instance-count": attempts},
    )


def exceeds_quota(over: Excess) -> WaitReason | None:
    """With it its user would be above the quota."""
    if not over:
        return None
    told = f"With it you would hold {_compared(over, 'quota')}: it starts when others of yours have ended."
    return _plain(WaitKind.EXCEEDS_QUOTA, told, over)


def exceeds_share(over: Excess, *, at_head: bool = False) -> WaitReason | None:
    """Return that the job would take its user above the share, which lets others go first.

    Args:
        over: amounts above the share; empty if there are none.
        at_head: whether the job is at the head of the queue, where its turn has come already.
    """
    if not over:
        return None
    sentence = f"With it you would hold {_compared(over, 'share')}: "
    sentence += (
        "it may be preempted for others." if at_head else "others go first, and it may be preempted for them."
    )
    return _plain(WaitKind.EXCEEDS_SHARE, sentence, over)


def rate_limited(held: int | None) -> WaitReason | None:
    """Jobs of its user were held back by the launch rate."""
    if not held:
        return None
    return _plain(
        WaitKind.RATE_LIMITED,
        f"You start jobs faster than your launch rate allows; {_some(held, 'job')} wait for that.",
        {"num-ratelimited": held},
    )


def deferred(by: tuple[str, str] | None) -> WaitReason | None:
    """The launch filter of this name holds it back, with this message."""
    if by is None:
        return None
    plugin, message = by
    return _plain(
        WaitKind.DEFERRED,
        f"The launch filter {plugin} holds it back: {message}",
        {"plugin": plugin, "message": message},
    )


def queue_position(ahead: int, jobs: Sequence[JobId], *, at_least: bool) -> WaitReason | None:
    """So many tasks of its user come before it, of which some are named."""
    if not ahead:
        return None
    about = "at least " if at_least else ""
    verbs = "runs or waits" if ahead == 1 else "run or wait"
    return WaitReason(
        kind=WaitKind.QUEUE_POSITION,
        text=f"You have {about}{ahead} other jobs ahead in the queue.",
        data={"jobs": list(jobs)},
        sentence=f"{about}{_some(ahead, 'job')} of yours {verbs} before it.".capitalize(),
    )


def under_investigation() -> WaitReason:
    """Nobody has looked for a host yet."""
    return _plain(WaitKind.UNDER_INVESTIGATION, "No cycle has looked for a host for it yet.")


def not_placed(refusal: Refusal, counts: Sequence[tuple[str, int]]) -> WaitReason | None:
    """No host takes it now; `counts` tells on how many hosts what stands in the way."""
    if not counts:
        return None
    resources = refusal.resources
    told = ", ".join(f"{_some(hosts, 'host')} {_in_the_way(name, resources)}" for name, hosts in counts)
    return _plain(
        WaitKind.NOT_PLACED,
        f"No host takes it now: {told}.",
        {
            "reasons": [
                {"reason": _placement_text(name, resources), "host_count": hosts} for name, hosts in counts
            ]
        },
    )


def unsatisfiable(
    never: Mapping[str, Mapping[str, float]], demands: tuple[Demand, ...], *, met: bool
) -> WaitReason:
    """No host could ever take it.

    Args:
        never: resource -> what is "asked" and the "largest" that a host has.
        demands: what is demanded of its host besides room.
        met: some host meets those.
    """
    if demands and not met:
        wanted = " and ".join(f"{attribute} = {value}" for attribute, value in demands)
        sentence = f"No host has {wanted}: it can never start here. Change its constraints."
    else:
        asked = " and ".join(_amount(pair["asked"], name) for name, pair in never.items())
        most = " and ".join(_amount(pair["largest"], name) for name, pair in never.items())
        together = "" if any(pair["asked"] > pair["largest"] for pair in never.values()) else " together"
        among = " that meets its constraints" if demands else ""
        largest = "no single host has that" if together else f"the most any host{among} has is {most}"
        sentence = f"It asks for {asked}{together}; {largest}. It can never start here: ask for less."
    return _plain(WaitKind.UNSATISFIABLE, sentence, never)


def too_large(over: Excess) -> WaitReason | None:
    """No job of the pool may ask for that much."""
    if not over:
        return None
    return _plain(WaitKind.TOO_LARGE, f"It can never start: {_demand(over)}. Ask for less.", over)


def exceeds_pool_quota(over: Excess) -> WaitReason | None:
    """With it all users of its pool, or of its quota group, would be above their common quota."""
    if not over:
        return None
    told = f"With it all users of the pool would hold {_compared(over, 'quota of the pool')}"
    return _plain(WaitKind.EXCEEDS_POOL_QUOTA, f"{told}: it starts when others have ended.", over)


def reserved(host: str | None) -> WaitReason | None:
    """A host is kept for it."""
    if host is None:
        return None
    told = f"The host {host} is kept for it: it starts there as soon as there is room."
    return _plain(WaitKind.RESERVED, told, {"host": host})


def at_head(head: HeadOfQueue | None, now_ms: int) -> WaitReason | None:
    """Return that room is kept for the job, and until when."""
    if head is None or head.host is None:
        return None
    sentence = f"It is at the head of the queue: room on the host {head.host} is being kept for it, "
    if head.free_at_ms is None:
        sentence += "as tasks that run there end. It starts earlier where another host has room first."
    else:
        sentence += f"expected to be free {_at(head.free_at_ms, now_ms)}."
    return _plain(WaitKind.AT_HEAD, sentence, {"host": head.host, "free-at-ms": head.free_at_ms})


def out_of_use(outages: Sequence[Outage], now_ms: int) -> WaitReason | None:
    """Return that hosts take no jobs for a while, as jobs fail there at once."""
    if not outages:
        return None
    first = outages[0]
    others = f" So are {_some(len(outages) - 1, 'other host')}." if len(outages) > 1 else ""
    sentence = (
        f"The host {first.host} is out of use: {first.cause}."
        f" It is tried again {_at(first.until_ms, now_ms)};"
        f" the log of its agent names the cause.{others}"
    )
    return _plain(
        WaitKind.OUT_OF_USE,
        sentence,
        {"hosts": [{"host": outage.host, "until-ms": outage.until_ms} for outage in outages]},
    )


def held_back(head: HeadOfQueue | None, now_ms: int) -> WaitReason | None:
    """Return that room which the job could use is kept for another job."""
    if head is None:
        return None
    asked = head.asked
    amounts = [f"{_some(asked.cpus, 'cpu')}", f"{_number(asked.mem_mb)} MB of memory"]
    amounts += [_some(asked.gpus, "gpu")] if asked.gpus else []
    sentence = (
        f"{', '.join(amounts[:-1])} and {amounts[-1]} of the host {head.host} are kept"
        f" for a job of {head.user} at the head of the queue, "
    )
    if head.free_at_ms is None:
        sentence += "until tasks that run there have ended."
    else:
        sentence += (
            f"expected to start {_at(head.free_at_ms, now_ms)};"
            " jobs that are expected to end before may start now."
        )
    return _plain(
        WaitKind.HELD_BACK,
        sentence,
        {"host": head.host, "job": head.job_id, "user": head.user, "free-at-ms": head.free_at_ms},
    )


def preempted(instances: Iterable[Instance]) -> WaitReason | None:
    """It ran already, and made way for others' jobs."""
    stopped = [instance for instance in instances if instance.preempted]
    if not stopped:
        return None
    often = "once" if len(stopped) == 1 else f"{len(stopped)} times"
    users = sorted({instance.preempted_for for instance in stopped if instance.preempted_for is not None})
    whom = " and ".join(users) if users else "users further below their share"
    told = f"It was preempted {often} so that {whom} could run; it has kept its place."
    return _plain(WaitKind.PREEMPTED, told, {"times": len(stopped), "for": users})


def _at(at_ms: int, now_ms: int) -> str:
    """Return a time today or later for people, as an interval and on the clock."""
    minutes = max(0, at_ms - now_ms) // 60_000
    if minutes < 1:
        return "in less than a minute"
    hours, rest = divmod(minutes, 60)
    interval = f"{hours} h {rest} min" if hours else f"{rest} min"
    of_day = at_ms // 60_000 % 1440
    return f"in about {interval} ({of_day // 60:02}:{of_day % 60:02} UTC)"


def _plain(kind: WaitKind, sentence: str, data: Mapping[str, object] | None = None) -> WaitReason:
    return WaitReason(kind=kind, text=kind.value, data=data or {}, sentence=sentence)


def _compared(over: Excess, word: str) -> str:
    parts: list[str] = []
    for name, pair in over.items():
        decimals = _decimals(pair["usage"], pair["limit"])
        usage, limit = _amount(pair["usage"], name, decimals), _number(pair["limit"], decimals)
        parts.append(f"{usage} where the {word} is {limit}")
    return ", ".join(parts)


def _demand(over: Excess) -> str:
    parts: list[str] = []
    for name, pair in over.items():
        decimals = _decimals(pair["usage"], pair["limit"])
        usage, limit = _amount(pair["usage"], name, decimals), _number(pair["limit"], decimals)
        parts.append(f"it asks for {usage} where no job may have more than {limit}")
    return " and ".join(parts)


def _placement_text(name: str, resources: Mapping[str, int]) -> str:
    if name in resources:
        return f"Not enough {name} available."
    return _CONSTRAINT_TEXTS.get(name, name)


def _in_the_way(name: str, resources: Mapping[str, int]) -> str:
    if name in resources:
        return f"without enough {'memory' if name == 'mem' else name} free"
    return _CONSTRAINTS_FOR_PEOPLE.get(name, f"closed by {name}")


def _some(number: float, thing: str) -> str:
    return f"{_number(number)} {thing}" + ("" if number == 1 else "s")


def _amount(value: float, name: str, decimals: int = 2) -> str:
    """Return an amount of a resource with its unit."""
    number = _number(value, decimals)
    return f"{number} {_SINGULAR_UNITS.get(name, _UNITS[name]) if number == '1' else _UNITS[name]}"


def _decimals(value: float, other: float) -> int:
    """Return the number of decimals that tells two amounts apart, at least two."""
    for decimals in range(2, _MAX_DECIMALS):
        if _number(value, decimals) != _number(other, decimals):
            return decimals
    return _MAX_DECIMALS


def _number(value: float, decimals: int = 2) -> str:
    """Return a number without needless decimals; one that would be rounded to 0 keeps its leading digits."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return f"{value:g}" if text == "0" and value else text
