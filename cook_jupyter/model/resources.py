"""Amounts of resources, and their arithmetic.

Lives here: `Resources`. Not here: shares and quotas (`model.limits`).
"""

from dataclasses import dataclass

from cook_jupyter.model.fast_dataclass import fast_init


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Cpus, memory in MiB (Cook's "mem") and gpus."""

    cpus: float = 0.0
    mem_mb: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            cpus=self.cpus + other.cpus, mem_mb=self.mem_mb + other.mem_mb, gpus=self.gpus + other.gpus
        )

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(
            cpus=self.cpus - other.cpus, mem_mb=self.mem_mb - other.mem_mb, gpus=self.gpus - other.gpus
        )

    def fits_in(self, room: "Resources") -> bool:
        """Return whether no amount exceeds that of `room`."""
        return self.cpus <= room.cpus and self.mem_mb <= room.mem_mb and self.gpus <= room.gpus
