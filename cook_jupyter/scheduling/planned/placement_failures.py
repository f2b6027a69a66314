"""Placement failures counted over hosts, as Cook stores them with a job.

Lives here: `count_placement_failures`.
Not here: the refusals that a match cycle reports (`scheduling.matching.matching`). They count a host once,
under the constraint that fails there or else under the resources that it lacks; Cook counts both.

Source: Cook's `fenzo_utils.clj`, as described in the fair-share specification, section 13.
"""

from collections.abc import Iterable, Sequence


def count_placement_failures(
    failures: Iterable[tuple[str | None, Sequence[str]]],
) -> dict[str, dict[str, int]]:
    """Count placement failures over hosts.

    Args:
        failures: for each host, the constraint that failed (None if none did) and the resources that it
            lacks.

    Returns:
        "constraints" and "resources", each a mapping from names to numbers of hosts; an empty part is left
        out.
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
