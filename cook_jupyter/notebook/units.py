"""Amounts and times as people say them, both ways.

Lives here: memory, durations, moments, counts as text; memory and durations read from text.
Not here: what they belong to (`notebook.display`).
"""

import re
from datetime import datetime

from cook_jupyter.errors import InvalidRequest

_MEMORY = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]?)i?b?", re.IGNORECASE)
_MIB = {"k": 1 / 1024, "": 1.0, "m": 1.0, "g": 1024.0, "t": 1024.0**2}
_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|min|h|d)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def memory(mem_mb: float) -> str:
    """MiB as `310 MB` or `4.0 GB`."""
    if mem_mb < 1000:
        return f"{mem_mb:.0f} MB"
    if mem_mb < 1000 * 1024:
        return f"{mem_mb / 1024:.1f} GB"
    return f"{mem_mb / 1024**2:.1f} TB"


def cpus(count: float) -> str:
    """`1 cpu`, `2.5 cpus`."""
    return f"{number(count)} cpu{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """A count or an amount: `12,345`, `2.5`, `0.07`."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}" if value < 100 else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """`0.42 s`, `12 s`, `3 m 12 s`, `2 h 05 m`, `3 d 4 h`."""
    if seconds < 0.0005:
        return "0 s"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(at_ms: int, now_ms: int) -> str:
    """A time of day as the reader's clock shows it, with the date when it is not today."""
    then = _local(at_ms)
    today = _local(now_ms)
    if then.date() == today.date():
        return f"{then:%H:%M:%S}"
    return f"{then:%d %b %H:%M}" if then.year == today.year else f"{then:%d %b %Y}"


def full_moment(at_ms: int) -> str:
    """Date, time and zone."""
    return f"{_local(at_ms):%Y-%m-%d %H:%M:%S %Z}"


def ago(at_ms: int, now_ms: int) -> str:
    """`just now`, `40 s ago`, `3 m ago`."""
    seconds = max(0.0, (now_ms - at_ms) / 1000)
    if seconds < 2:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    if seconds < 3600:
        return f"{seconds // 60:.0f} m ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    return f"{seconds // 86400:.0f} d ago"


def parse_memory(text: str) -> float:
    """MiB of `500`, `500m`, `4g` or `1.5 GB`; a bare number is MiB.

    Raises:
        InvalidRequest: it is no amount of memory, or none at all.
    """
    found = _MEMORY.fullmatch(text.strip())
    amount = float(found["number"]) * _MIB[found["unit"].lower()] if found else 0.0
    if amount <= 0:
        raise InvalidRequest(f"not an amount of memory: {text!r}; write 500, 500m or 4g")
    return amount


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `2h` or `1d`; a bare number is seconds.

    Raises:
        InvalidRequest: it is no duration, or none at all.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found["number"]) * _SECONDS[(found["unit"] or "s").lower()] if found else 0.0
    if seconds <= 0:
        raise InvalidRequest(f"not a duration: {text!r}; write 90s, 10m, 2h or 1d")
    return seconds


def parse_optional_duration(text: str | None) -> float | None:
    """Seconds of a duration that may be left out: None stays None.

    Raises:
        InvalidRequest: it is no duration, or none at all.
    """
    return None if text is None else parse_duration(text)


def _local(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000).astimezone()
