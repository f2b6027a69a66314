"""Offers and hosts: where there is room at this moment.

Lives here: `Offer`. Not here: who makes offers (`clusters`), who takes them (`scheduling.matching`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Room on one host of one cluster for one pool, at this moment.

    Attributes:
        room: what is free now.
        running: what tasks hold there now; `room + running` is the whole host.
        attributes: Cook's host attributes; HOSTNAME is always among them.
        ports: free ports as closed ranges.
    """

    host: str
    cluster: str
    pool: str
    room: Resources
    running: Resources = field(default_factory=Resources)
    attributes: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[int, int], ...] = ()
    task_count: int = 0
