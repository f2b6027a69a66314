"""Format and parse amounts and times.

Lives here: memory, durations, times and counts as text; memory and durations parsed from text.
Not here: the views that show them (`notebook.views`, `notebook.job_views`).
"""

import re
from datetime import datetime

from cook_jupyter.errors import InvalidRequest

_MEMORY = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]?)i?b?", re.IGNORECASE)
_MIB = {"k": 1 / 1024, "": 1.0, "m": 1.0, "g": 1024.0, "t": 1024.0**2}
_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|min|h|d)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def memory(mem_mb: float) -> str:
    """Format MiB, as in `310 MB` or `4.0 GB`."""
    if mem_mb < 1000:
        return f"{mem_mb:.0f} MB"
    if mem_mb < 1000 * 1024:
        return f"{mem_mb / 1024:.1f} GB"
    return f"{mem_mb / 1024**2:.1f} TB"


def cpus(count: float) -> str:
    """Format a number of cpus, as in `1 cpu` or `2.5 cpus`."""
    return f"{number(count)} cpu{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """Format a number, as in `12,345`, `2.5` or `0.07`."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}" if value < 100 else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """Format a duration, as in `0.42 s`, `12 s`, `3 m 12 s`, `2 h 05 m` or `3 d 4 h`."""
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
    """Format a time in the local time zone, with the date if it is not today."""
    then = _local(at_ms)
    today = _local(now_ms)
    if then.date() == today.date():
        return f"{then:%H:%M:%S}"
    return f"{then:%d %b %H:%M}" if then.year == today.year else f"{then:%d %b %Y}"


def full_moment(at_ms: int) -> str:
    """Format date, time and time zone."""
    return f"{_local(at_ms):%Y-%m-%d %H:%M:%S %Z}"


def ago(at_ms: int, now_ms: int) -> str:
    """Format the time since a moment, as in `just now`, `40 s ago` or `3 m ago`."""
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
    """Parse an amount of memory, such as `500`, `500m`, `4g` or `1.5 GB`, to MiB; the default unit is MiB.

    Raises:
        InvalidRequest: the text is not an amount of memory, or it is zero.
    """
    match = _MEMORY.fullmatch(text.strip())
    amount = float(match["number"]) * _MIB[match["unit"].lower()] if match else 0.0
    if amount <= 0:
        raise InvalidRequest(f"not an amount of memory: {text!r}; write 500, 500m or 4g")
    return amount


def parse_duration(text: str) -> float:
    """Parse a duration, such as `90`, `90s`, `10m`, `2h` or `1d`, to seconds; the default unit is seconds.

    Raises:
        InvalidRequest: the text is not a duration, or it is zero.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match["number"]) * _SECONDS[(match["unit"] or "s").lower()] if match else 0.0
    if seconds <= 0:
        raise InvalidRequest(f"not a duration: {text!r}; write 90s, 10m, 2h or 1d")
    return seconds


def parse_optional_duration(text: str | None) -> float | None:
    """Parse an optional duration to seconds; None remains None.

    Raises:
        InvalidRequest: the text is not a duration, or it is zero.
    """
    return None if text is None else parse_duration(text)


def _local(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000).astimezone()
