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


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_storable_text_or_none(value: Any) -> bool:
    """Return whether a value is None or text that can be stored: without lone surrogates, as UTF-8."""
    return value is None or (isinstance(value, str) and _SURROGATES.search(value) is None)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return type(value) is int and -_MAX_INT <= value <= _MAX_INT  # excludes bool


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT


def _is_count_or_none(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_pid(value: Any) -> bool:
    return _is_integer(value) and bool(1 < value < 2**31)  # others stand for groups, init or all processes


def _is_exit_code(value: Any) -> bool:
    return value is None or (_is_integer(value) and bool(abs(value) < 2**31))


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_integer(value)  # `math.isfinite` raises OverflowError for the largest integers


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and bool(value >= 0)


def _is_progress(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_number(value[0])
        and bool(0 <= value[0] <= 100)
        and _is_storable_text_or_none(value[1])
    )


def _is_progress_or_none(value: Any) -> bool:
    return value is None or _is_progress(value)


def _are_ports(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(port) and port < 2**16 for port in value)


_LAUNCH: Mapping[str, Check] = {
    "instance_id": _is_text,
    "job_id": _is_text,
    "user": _is_text,
    "cpus": _is_amount,
    "mem_mb": _is_amount,
    "gpus": optional(_is_amount),
    "python": optional(_is_text_or_none),
    "ports": optional(_are_ports),
    "max_runtime_s": optional(_is_number_or_none),
    "progress_regex": optional(_is_text_or_none),
}

_END: Mapping[str, Check] = {
    "instance_id": _is_text,
    "exit_code": _is_exit_code,
    "at_ms": _is_count,
    "signal": optional(_is_count),
    "memory": optional(_is_flag),
    "termed": optional(_is_flag),
    "blob": optional(_is_storable_text_or_none),
    "size": optional(_is_count),
    "inline": optional(_is_flag),
    "peak_mb": optional(_is_number_or_none),
    "progress": optional(_is_progress_or_none),
    "written": optional(_is_flag),
}

GREETING: Table = {"hello": {"secret": _is_text}}
"""Messages of a connection that has not sent the secret yet."""

FROM_SCHEDULER: Table = {
    **GREETING,
    "launch": _LAUNCH,
    "kill": {"id": _is_text},
    "ack": {"ids": _are_texts},
    "stop": {},
    "leave": {},
}

FROM_WORKER: Table = {
    "end": {
        **_END,
        "segment": _is_count,
        "leftover_mb": _is_number,
        "retires": _is_flag,
        "remaining": optional(_are_texts),
        "imported": optional(_is_flag),
    },
    "progress": {"id": _is_text, "progress": _is_progress},
}

FROM_SPAWNER: Table = {
    "ready": {"pid": _is_pid},
    "born": {"worker": _is_text, "pid": _is_pid, "mark": _is_text_or_none},
    "unborn": {"worker": _is_text},
    "died": {"worker": _is_text, "code": _is_integer},
}

WORKER_RECORDS: Table = {
    "end": FROM_WORKER["end"],
    "shell": {"id": _is_text, "pid": _is_pid, "mark": _is_text_or_none},
}

AGENT_RECORDS: Table = {
    "launch": {
        "id": _is_text,
        "worker": _is_text,
        "pid": _is_pid,
        "mark": _is_text_or_none,
        "base_mb": _is_number,
        "until": _is_number_or_none,
    },
    "doom": {"id": _is_text, "cause": _is_text},
    "end": {**_END, "id": _is_text, "cause": _is_text},
}

SETTLED: Table = {"settled": {"ids": _are_texts}}

LAUNCH_RECORD: Table = {"launch": _LAUNCH}
