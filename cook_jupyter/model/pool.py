"""Pools: sets of hosts, each with its own queue, shares and quotas.

Lives here: `Pool`, and the resources that its DRU counts. Not here: its queue (`scheduling`).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, NewType

PoolName = NewType("PoolName", str)

DEFAULT_POOL: Final = PoolName("default")


class DruMode(Enum):
    """The resources from which DRUs are computed."""

    DEFAULT = "default"  # the greater of cpus and memory
    GPU = "gpu"  # gpus alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool. An inactive pool neither accepts jobs nor schedules them."""

    name: PoolName
    purpose: str = ""
    active: bool = True
    dru_mode: DruMode = DruMode.DEFAULT
