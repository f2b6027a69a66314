"""Messages on the sockets of a host and records in its journals, with the valid values of their fields.

Lives here: one table per sender, and `require`, which checks a header against a table. Every reader checks
first, so that no message, whatever a task put into it, can end a process or be mistaken for another.
Not here: the meaning of messages (`worker.agent`), how they are encoded (`worker.frames`).

A table has an entry for each kind of message (the field `t`) with the fields that it must have and, marked
with `optional`, those that it may have. Other fields are ignored.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cook_jupyter.worker.frames import BrokenStream, Header

Check = Callable[[Any], bool]
Table = Mapping[str, Mapping[str, Check]]

_SURROGATES = re.compile(r"[\ud800-\udfff]")
_MAX_INT = 2**53  # not every reader can represent larger numbers


class optional:  # noqa: N801 - reads as a word of the tables
    """A field that may be omitted; `check` applies if it is present."""

    __slots__ = ("check",)

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self, value: Any) -> bool:
        """Return whether the field may have a value."""
        return self.check(value)


def require(header: Header, table: Table) -> str:
    """Check a message against a table; return its kind.

    Args:
        header: header of the message.
        table: one of the tables below.

    Raises:
        BrokenStream: the kind is not in the table, a field is missing, or a field has an invalid value.
    """
    kind = header.get("t")
    fields = table.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise BrokenStream(f"a message of the kind {str(kind)[:40]!r} is not expected here")
    for name, value in header.items():  # fewer than in the table, as defaults are omitted
        check = fields.get(name)
        if check is not None and not check(value):
            raise BrokenStream(f"the field {name!r} of a message of the kind {kind!r} is not valid")
    required = _required_names(fields)
    if not required <= header.keys():
        missing = min(required - header.keys())
        raise BrokenStream(f"a message of the kind {kind!r} has no field {missing!r}")
    return str(kind)


_required_cache: dict[int, tuple[frozenset[str], Mapping[str, Check]]] = {}  # by id, with the object itself


def _required_names(fields: Mapping[str, Check]) -> frozenset[str]:
    """Return the names of the fields that are not optional."""
    cached = _required_cache.get(id(fields))
    if cached is None:
        names = frozenset(name for name, check in fields.items() if not isinstance(check, optional))
        cached = _required_cache[id(fields)] = (names, fields)
    return cached[0]


def is_valid(header: Header, table: Table) -> bool:
    """Return whether a message matches a table."""
    try:
        require(header, table)
    except BrokenStream:
        return False
    return True


def is_text(value: Any) -> bool:
    """Return whether a value is text."""
    return isinstance(value, str)


def is_text_or_none(value: Any) -> bool:
    """Return whether a value is text or None."""
    return value is None or isinstance(value, str)


def is_storable_text_or_none(value: Any) -> bool:
    """Return whether a value is None or text that can be stored: without lone surrogates, as UTF-8."""
    return value is None or (isinstance(value, str) and _SURROGATES.search(value) is None)


def are_texts(value: Any) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_flag(value: Any) -> bool:
    """Return whether a value is true or false."""
    return isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Return whether a value is a whole number that every reader can represent."""
    return type(value) is int and -_MAX_INT <= value <= _MAX_INT  # excludes bool


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number that is not negative."""
    return type(value) is int and 0 <= value <= _MAX_INT


def is_count_or_none(value: Any) -> bool:
    """Return whether a value is a count or None."""
    return value is None or is_count(value)


def is_pid(value: Any) -> bool:
    """Return whether a value is the id of an ordinary process."""
    return is_integer(value) and bool(1 < value < 2**31)  # others stand for groups, init or all processes


def is_exit_code(value: Any) -> bool:
    """Return whether a value is an exit code or None."""
    return value is None or (is_integer(value) and bool(abs(value) < 2**31))


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_integer(value)  # `math.isfinite` raises OverflowError for the largest integers


def is_number_or_none(value: Any) -> bool:
    """Return whether a value is a finite number or None."""
    return value is None or is_number(value)


def is_amount(value: Any) -> bool:
    """Return whether a value is a finite number that is not negative."""
    return is_number(value) and bool(value >= 0)


def is_progress(value: Any) -> bool:
    """Return whether a value is a percentage and a message."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and is_number(value[0])
        and bool(0 <= value[0] <= 100)
        and is_storable_text_or_none(value[1])
    )


def is_progress_or_none(value: Any) -> bool:
    """Return whether a value is a percentage and a message, or None."""
    return value is None or is_progress(value)


def are_ports(value: Any) -> bool:
    """Return whether a value is a list of port numbers."""
    return isinstance(value, list) and all(is_count(port) and port < 2**16 for port in value)


_LAUNCH: Mapping[str, Check] = {
    "instance_id": is_text,
    "job_id": is_text,
    "user": is_text,
    "cpus": is_amount,
    "mem_mb": is_amount,
    "gpus": optional(is_amount),
    "python": optional(is_text_or_none),
    "ports": optional(are_ports),
    "max_runtime_s": optional(is_number_or_none),
    "progress_regex": optional(is_text_or_none),
}

END_FIELDS: Mapping[str, Check] = {
    "instance_id": is_text,
    "exit_code": is_exit_code,
    "at_ms": is_count,
    "signal": optional(is_count),
    "memory": optional(is_flag),
    "termed": optional(is_flag),
    "blob": optional(is_storable_text_or_none),
    "size": optional(is_count),
    "inline": optional(is_flag),
    "peak_mb": optional(is_number_or_none),
    "progress": optional(is_progress_or_none),
    "written": optional(is_flag),
    "message": optional(is_storable_text_or_none),
}
"""The fields of an end as its worker saw it."""

GREETING: Table = {"hello": {"secret": is_text}}
"""Messages of a connection that has not sent the secret yet."""

FROM_SCHEDULER: Table = {
    **GREETING,
    "launch": _LAUNCH,
    "kill": {"id": is_text},
    "ack": {"ids": are_texts},
    "stop": {},
    "leave": {},
}

FROM_WORKER: Table = {
    "end": {
        **END_FIELDS,
        "segment": is_count,
        "leftover_mb": is_number,
        "retires": is_flag,
        "remaining": optional(are_texts),
        "imported": optional(is_flag),
    },
    "progress": {"id": is_text, "progress": is_progress},
}

FROM_SPAWNER: Table = {
    "ready": {"pid": is_pid},
    "refused": {"why": is_storable_text_or_none},
    "born": {"worker": is_text, "pid": is_pid, "mark": is_text_or_none},
    "unborn": {"worker": is_text},
    "died": {"worker": is_text, "code": is_integer},
}

WORKER_RECORDS: Table = {
    "end": FROM_WORKER["end"],
    "shell": {"id": is_text, "pid": is_pid, "mark": is_text_or_none},
}

AGENT_RECORDS: Table = {
    "launch": {
        "id": is_text,
        "worker": is_text,
        "pid": is_pid,
        "mark": is_text_or_none,
        "base_mb": is_number,
        "until": is_number_or_none,
    },
    "doom": {"id": is_text, "cause": is_text},
    "end": {**END_FIELDS, "id": is_text, "cause": is_text},
}

SETTLED: Table = {"settled": {"ids": are_texts}}

LAUNCH_RECORD: Table = {"launch": _LAUNCH}
