"""Pools: sets of hosts, each with its own queue, shares and quotas.

Lives here: `Pool` and which resources its DRU counts. Not here: its queue (`scheduling`).
"""

from dataclasses import dataclass
from enum import Enum

PoolName = str


class DruMode(Enum):
    """What a user's dominant resource usage is computed from."""

    DEFAULT = "default"  # the greater of cpus and memory
    GPU = "gpu"  # gpus alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool. An inactive one neither accepts jobs nor schedules them."""

    name: PoolName
    purpose: str = ""
    active: bool = True
    dru_mode: DruMode = DruMode.DEFAULT
