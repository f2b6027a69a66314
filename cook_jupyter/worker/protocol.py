"""The messages on the sockets of a host, the records in its journals, and what their fields may hold.

Lives here: one table per sender, and `require`, which holds a header against it. Every reader checks first,
so that no message, whatever a task made of it, ends a process or stands for something else.
Not here: what the messages mean (`worker.agent`), how they are packed (`worker.frames`).

A table has an entry for each kind of message (the field `t`): the fields that it must have and, marked with
`optional`, those that it may have. Further fields are let through.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cook_jupyter.worker.frames import BrokenStream, Header

Check = Callable[[Any], bool]
Table = Mapping[str, Mapping[str, Check]]

_SURROGATES = re.compile(r"[\ud800-\udfff]")
_MAX_INT = 2**53  # larger ones are none of ours, and not every reader holds them


class optional:  # noqa: N801 - reads as a word of the tables
    """A field that may be missing; if it is there, `check` holds."""

    __slots__ = ("check",)

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self, value: Any) -> bool:
        """Return whether the field may have this value."""
        return self.check(value)


def require(header: Header, table: Table) -> str:
    """Return the kind of a message that is as the table says.

    Args:
        header: header of the message.
        table: one of the tables below.

    Raises:
        BrokenStream: it is of no kind in the table, a field is missing, or a field holds what it may not.
    """
    kind = header.get("t")
    fields = table.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise BrokenStream(f"a message of the kind {str(kind)[:40]!r} is not expected here")
    for name, value in header.items():  # fewer than the table has: what is as usual is left out
        check = fields.get(name)
        if check is not None and not check(value):
            raise BrokenStream(f"the field {name!r} of a message of the kind {kind!r} is not valid")
    required = _required_names(fields)
    if not required <= header.keys():
        missing = min(required - header.keys())
        raise BrokenStream(f"a message of the kind {kind!r} has no field {missing!r}")
    return str(kind)


_known_required: dict[int, tuple[frozenset[str], Mapping[str, Check]]] = {}  # by id, with the object itself


def _required_names(fields: Mapping[str, Check]) -> frozenset[str]:
    """Return the names of the fields that are not optional."""
    known = _known_required.get(id(fields))
    if known is None:
        names = frozenset(name for name, check in fields.items() if not isinstance(check, optional))
        known = _known_required[id(fields)] = (names, fields)
    return known[0]


def is_valid(header: Header, table: Table) -> bool:
    """Return whether a message is as the table says."""
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
    """Whether the store can hold it: text with lone surrogates has no UTF-8."""
    return value is None or (isinstance(value, str) and _SURROGATES.search(value) is None)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return type(value) is int and -_MAX_INT <= value <= _MAX_INT  # a bool is none


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT


def _is_count_or_none(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_pid(value: Any) -> bool:
    return _is_integer(value) and bool(1 < value < 2**31)  # 0, 1 and below mean groups, init and everybody


def _is_exit_code(value: Any) -> bool:
    return value is None or (_is_integer(value) and bool(abs(value) < 2**31))


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_integer(value)  # `math.isfinite` raises OverflowError for the largest ones


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
"""From a connection that has not shown yet that it is the scheduler's."""

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

IN_WORKER_LOG: Table = {
    "end": FROM_WORKER["end"],
    "shell": {"id": _is_text, "pid": _is_pid, "mark": _is_text_or_none},
}

IN_LEDGER: Table = {
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

LAUNCH_IN_LEDGER: Table = {"launch": _LAUNCH}
