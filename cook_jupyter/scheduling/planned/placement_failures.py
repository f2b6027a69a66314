"""Placement failures counted over hosts, as Cook stores them with a job.

Lives here: `summary`. Not here: the refusals that a match cycle reports (`scheduling.matching.matching`):
they count a host once, under the constraint that fails there or else under what it is short of, where Cook
counts both.

Source: Cook's `fenzo_utils.clj`, as told in the fair-share specification, section 13.
"""

from collections.abc import Iterable, Sequence


def summary(failures: Iterable[tuple[str | None, Sequence[str]]]) -> dict[str, dict[str, int]]:
    """Count placement failures over hosts.

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
