"""The reasons why a job waits, as texts of Cook's API and as sentences for users.

Lives here: the texts. A function returns None if its reason does not apply.
Not here: which reasons apply to a job, and their order (`scheduling.explaining.wait_reasons`).
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
_CONSTRAINT_PHRASES = {
    NOVEL_HOST: "where it failed before",
    GPU: "without the gpus it requests",
    NON_GPU: "kept for jobs with gpus",
    DISK: "without the disk it requests",
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
    """Return that the job runs."""
    return _answer(WaitKind.RUNNING, "The job is running.")


def completed(too_large: Excess) -> WaitReason:
    """Return that the job has completed, and why if it never ran because it was too large."""
    if not too_large:
        return _answer(WaitKind.COMPLETED, "The job has completed.")
    return _answer(
        WaitKind.COMPLETED, f"The job was ended before it began: {_describe_demand(too_large)}.", too_large
    )


def retries_exhausted(max_retries: int, attempts: int) -> WaitReason | None:
    """Return that the job has used up its attempts."""
    if attempts < max_retries:
        return None
    return _answer(
        WaitKind.RETRIES_EXHAUSTED,
        f"It has used all of its {_counted(max_retries, 'attempt')}: raise its retries to run it.",
        {"max-retries": max_retries, "instance-count": attempts},
    )


def exceeds_quota(excess: Excess) -> WaitReason | None:
    """Return that the job would take its user above the quota."""
    if not excess:
        return None
    sentence = f"It would take you to {_compare(excess, 'your quota')}: "
    return _answer(
        WaitKind.EXCEEDS_QUOTA, f"{sentence}it starts when other jobs of yours have ended.", excess
    )


def exceeds_share(excess: Excess, *, at_head: bool = False) -> WaitReason | None:
    """Return that the job would take its user above the share, which lets others go first.

    Args:
        excess: amounts above the share; empty if there are none.
        at_head: whether the job is at the head of the queue, where its turn has come already.
    """
    if not excess:
        return None
    sentence = f"It would take you to {_compare(excess, 'your share')}: "
    sentence += (
        "it may be preempted for others." if at_head else "others go first, and it may be preempted for them."
    )
    return _answer(WaitKind.EXCEEDS_SHARE, sentence, excess)


def rate_limited(limited_jobs: int | None) -> WaitReason | None:
    """Return that the launch rate holds back jobs of the user."""
    if not limited_jobs:
        return None
    jobs = f"{_counted(limited_jobs, 'job')} {'waits' if limited_jobs == 1 else 'wait'}"
    return _answer(
        WaitKind.RATE_LIMITED,
        f"You start jobs faster than your launch rate allows; {jobs} for that.",
        {"num-ratelimited": limited_jobs},
    )


def deferred(deferral: tuple[str, str] | None) -> WaitReason | None:
    """Return that a launch filter (name and message) defers the job."""
    if deferral is None:
        return None
    plugin, message = deferral
    return _answer(
        WaitKind.DEFERRED,
        f"The launch filter {plugin} holds it back: {message}",
        {"plugin": plugin, "message": message},
    )


def queue_position(ahead: int, jobs: Sequence[JobId], *, at_least: bool) -> WaitReason | None:
    """Return the number of the user's tasks before the job, with the ids of some."""
    if not ahead:
        return None
    about = "at least " if at_least else ""
    verbs = "runs or waits" if ahead == 1 else "run or wait"
    return WaitReason(
        kind=WaitKind.QUEUE_POSITION,
        text=f"You have {about}{ahead} other jobs ahead in the queue.",
        data={"jobs": list(jobs)},
        sentence=f"{about}{_counted(ahead, 'job')} of yours {verbs} before it.".capitalize(),
    )


def under_investigation() -> WaitReason:
    """Return that no cycle has considered the job yet."""
    return _answer(WaitKind.UNDER_INVESTIGATION, "No cycle has looked for a host for it yet.")


def not_placed(refusal: Refusal, counts: Sequence[tuple[str, int]]) -> WaitReason | None:
    """Return why no host takes the job now, from the numbers of hosts by obstacle."""
    if not counts:
        return None
    resources = refusal.resources
    obstacles = ", ".join(
        f"{_counted(hosts, 'host')} {_in_the_way(name, resources)}" for name, hosts in counts
    )
    return _answer(
        WaitKind.NOT_PLACED,
        f"No host takes it now: {obstacles}.",
        {
            "reasons": [
                {"reason": _placement_text(name, resources), "host_count": hosts} for name, hosts in counts
            ]
        },
    )


def no_offers(host_count: int) -> WaitReason:
    """Return that no host takes jobs now, such as without a connection to the cluster.

    Args:
        host_count: number of known hosts.
    """
    sentence = "Its pool has no hosts at present."
    if host_count:
        verb = "takes" if host_count == 1 else "take"
        no_host = "The only host" if host_count == 1 else f"All {host_count} hosts"
        sentence = (
            f"{no_host} of its pool {verb} no jobs at present; the log of the scheduler names the cause."
        )
    reason = {"reason": "No host takes jobs at present.", "host_count": host_count}
    return _answer(WaitKind.NOT_PLACED, sentence, {"reasons": [reason]})


def unsatisfiable(
    excess: Mapping[str, Mapping[str, float]], demands: tuple[Demand, ...], *, constraints_met: bool
) -> WaitReason:
    """Return that no host could ever take the job.

    Args:
        excess: resource -> the amount "asked" and the "largest" of any host.
        demands: required attributes of the host.
        constraints_met: whether any host has these attributes.
    """
    if demands and not constraints_met:
        required = " and ".join(f"{attribute} = {value}" for attribute, value in demands)
        sentence = f"No host has {required}: it can never start here. Change its constraints."
    else:
        requested = " and ".join(_amount(pair["asked"], name) for name, pair in excess.items())
        largest_amounts = " and ".join(_amount(pair["largest"], name) for name, pair in excess.items())
        together = "" if any(pair["asked"] > pair["largest"] for pair in excess.values()) else " together"
        among = " that meets its constraints" if demands else ""
        largest = (
            "no single host has that" if together else f"the most any host{among} has is {largest_amounts}"
        )
        sentence = f"It requests {requested}{together}; {largest}. It can never start here: request less."
    return _answer(WaitKind.UNSATISFIABLE, sentence, excess)


def too_large(excess: Excess) -> WaitReason | None:
    """Return that the job exceeds the maximum size of the pool's jobs."""
    if not excess:
        return None
    return _answer(
        WaitKind.TOO_LARGE, f"It can never start: {_describe_demand(excess)}. Request less.", excess
    )


def exceeds_pool_quota(excess: Excess) -> WaitReason | None:
    """Return that the job would exceed the quota of all users of its pool or quota group."""
    if not excess:
        return None
    sentence = f"It would take all users of the pool to {_compare(excess, 'their quota')}"
    return _answer(WaitKind.EXCEEDS_POOL_QUOTA, f"{sentence}: it starts when others have ended.", excess)


def reserved(host: str | None) -> WaitReason | None:
    """Return that a host is reserved for the job."""
    if host is None:
        return None
    sentence = f"The host {host} is kept for it: it starts there as soon as there is room."
    return _answer(WaitKind.RESERVED, sentence, {"host": host})


def at_head(head: HeadOfQueue | None, now_ms: int) -> WaitReason | None:
    """Return that room is kept for the job, and until when."""
    if head is None or head.host is None:
        return None
    sentence = f"It is at the head of the queue: room on the host {head.host} is being kept for it, "
    if head.free_at_ms is None:
        sentence += "as tasks that run there end. It starts earlier where another host has room first."
    else:
        sentence += f"expected to be free {_format_time(head.free_at_ms, now_ms)}."
    return _answer(WaitKind.AT_HEAD, sentence, {"host": head.host, "free-at-ms": head.free_at_ms})


def out_of_use(outages: Sequence[Outage], now_ms: int) -> WaitReason | None:
    """Return that hosts are out of use because jobs fail there immediately."""
    if not outages:
        return None
    first_outage = outages[0]
    verb = "is" if len(outages) == 2 else "are"
    others = f" So {verb} {_counted(len(outages) - 1, 'other host')}." if len(outages) > 1 else ""
    sentence = (
        f"The host {first_outage.host} is out of use: {first_outage.cause}."
        f" It is tried again {_format_time(first_outage.until_ms, now_ms)};"
        f" the log of its agent names the cause.{others}"
    )
    return _answer(
        WaitKind.OUT_OF_USE,
        sentence,
        {"hosts": [{"host": outage.host, "until-ms": outage.until_ms} for outage in outages]},
    )


def held_back(head: HeadOfQueue | None, now_ms: int) -> WaitReason | None:
    """Return that room which the job could use is kept for another job."""
    if head is None:
        return None
    amounts_of_head = head.asked
    amounts = [f"{_counted(amounts_of_head.cpus, 'cpu')}", f"{_number(amounts_of_head.mem_mb)} MB of memory"]
    amounts += [_counted(amounts_of_head.gpus, "gpu")] if amounts_of_head.gpus else []
    sentence = (
        f"{', '.join(amounts[:-1])} and {amounts[-1]} of the host {head.host} are kept"
        f" for a job of {head.user} at the head of the queue, "
    )
    if head.free_at_ms is None:
        sentence += "until tasks that run there have ended."
    else:
        sentence += (
            f"expected to start {_format_time(head.free_at_ms, now_ms)};"
            " jobs that are expected to end before may start now."
        )
    return _answer(
        WaitKind.HELD_BACK,
        sentence,
        {"host": head.host, "job": head.job_id, "user": head.user, "free-at-ms": head.free_at_ms},
    )


def preempted(instances: Iterable[Instance]) -> WaitReason | None:
    """Return that the job was preempted."""
    stopped = [instance for instance in instances if instance.preempted]
    if not stopped:
        return None
    count_text = "once" if len(stopped) == 1 else f"{len(stopped)} times"
    users = sorted({instance.preempted_for for instance in stopped if instance.preempted_for is not None})
    beneficiaries = " and ".join(users) if users else "users further below their share"
    sentence = f"It was preempted {count_text} so that {beneficiaries} could run; it has kept its place."
    return _answer(WaitKind.PREEMPTED, sentence, {"times": len(stopped), "for": users})


def _format_time(at_ms: int, now_ms: int) -> str:
    """Format a time as an interval from now and as a time of day."""
    minutes = max(0, at_ms - now_ms) // 60_000
    if minutes < 1:
        return "in less than a minute"
    hours, rest = divmod(minutes, 60)
    interval = f"{hours} h {rest} min" if hours else f"{rest} min"
    of_day = at_ms // 60_000 % 1440
    return f"in about {interval} ({of_day // 60:02}:{of_day % 60:02} UTC)"


def _answer(kind: WaitKind, sentence: str, data: Mapping[str, object] | None = None) -> WaitReason:
    return WaitReason(kind=kind, text=kind.value, data=data or {}, sentence=sentence)


def _compare(excess: Excess, limit_name: str) -> str:
    parts: list[str] = []
    for name, pair in excess.items():
        decimals = _decimals(pair["usage"], pair["limit"])
        usage, limit = _amount(pair["usage"], name, decimals), _number(pair["limit"], decimals)
        parts.append(f"{usage} ({limit_name} is {limit})")
    return ", ".join(parts)


def _describe_demand(excess: Excess) -> str:
    parts: list[str] = []
    for name, pair in excess.items():
        decimals = _decimals(pair["usage"], pair["limit"])
        usage, limit = _amount(pair["usage"], name, decimals), _number(pair["limit"], decimals)
        parts.append(f"it requests {usage} where no job may have more than {limit}")
    return " and ".join(parts)


def _placement_text(name: str, resources: Mapping[str, int]) -> str:
    if name in resources:
        return f"Not enough {name} available."
    return _CONSTRAINT_TEXTS.get(name, name)


def _in_the_way(name: str, resources: Mapping[str, int]) -> str:
    if name in resources:
        return f"without enough {'memory' if name == 'mem' else name} free"
    return _CONSTRAINT_PHRASES.get(name, f"closed by {name}")


def _counted(number: float, noun: str) -> str:
    return f"{_number(number)} {noun}" + ("" if number == 1 else "s")


def _amount(value: float, name: str, decimals: int = 2) -> str:
    """Return an amount of a resource with its unit."""
    number = _number(value, decimals)
    return f"{number} {_SINGULAR_UNITS.get(name, _UNITS[name]) if number == '1' else _UNITS[name]}"


def _decimals(value: float, limit: float) -> int:
    """Return the number of decimals that tells two amounts apart, at least two."""
    for decimals in range(2, _MAX_DECIMALS):
        if _number(value, decimals) != _number(limit, decimals):
            return decimals
    return _MAX_DECIMALS


def _number(value: float, decimals: int = 2) -> str:
    """Return a number without needless decimals; one that would be rounded to 0 keeps its leading digits."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return f"{value:g}" if text == "0" and value else text
