"""Counts with their nouns, for messages of all layers.

Lives here: `counted`. Not here: the notebook's format of amounts and times (`notebook.units`).
"""


def counted(count: float, noun: str) -> str:
    """Return a count with its noun: `1 cpu`, `0.5 cpus`, `2,000 jobs`."""
    return f"{count:,.12g} {noun}{'' if count == 1 else 's'}"
