"""Resource objects of Mesos: added up, and cut to size.

Lives here: `HeldResources`, the resources of the offers of one host.
Not here: offers (`clusters.mesos.hosts`).

Mesos rounds to thousandths, so amounts are whole thousandths here: sums of fractions leave no residue. A part
of a resource is a copy of its object with a smaller amount; role, reservation and whatever else is in the
object stay as they are, or Mesos would not find the part in the offer.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from cook_jupyter.clusters.mesos.messages import JsonObject
from cook_jupyter.model.resources import Resources

SCALARS: Final = ("cpus", "mem", "gpus")
_UNIT: Final = 1000  # per cpu, MiB or gpu
_LAST_BITS: Final = 1e-6
_UNUSABLE: Final = ("revocable", "shared", "provider_id")  # may be taken away, or is not ours alone


class NotHeld(Exception):
    """Not as much is held as was to be taken."""


class HeldResources:
    """The resources of held offers of one host and one role.

    Args:
        resources: the resource objects of the offers.
    """

    def __init__(self, resources: Iterable[JsonObject] = ()) -> None:
        self._scalars: list[tuple[JsonObject, int]] = []
        self._ports: list[tuple[JsonObject, list[tuple[int, int]]]] = []
        for resource in resources:
            if is_usable(resource):
                if resource["name"] in SCALARS:
                    self._scalars.append((resource, thousandths(resource["scalar"]["value"])))
                elif resource["name"] == "ports":
                    self._ports.append((resource, _ranges_of(resource)))
        # What is reserved for us is taken first: nobody else can use it.
        self._scalars.sort(key=lambda entry: not entry[0].get("reservations"))
        self._ports.sort(key=lambda entry: not entry[0].get("reservations"))

    def amounts(self) -> Resources:
        """Return the cpus, memory and gpus that are left."""
        totals = dict.fromkeys(SCALARS, 0)
        for resource, amount in self._scalars:
            totals[resource["name"]] += amount
        return Resources(
            cpus=totals["cpus"] / _UNIT, mem_mb=totals["mem"] / _UNIT, gpus=totals["gpus"] / _UNIT
        )

    def ports(self) -> tuple[tuple[int, int], ...]:
        """Return the ports that are left, as closed ranges in ascending order."""
        return tuple(sorted(span for _, spans in self._ports for span in spans))

    def take(self, wanted: Resources, ports: Sequence[int] = ()) -> list[JsonObject]:
        """Remove resources, and return them as resource objects.

        Args:
            wanted: amounts to take; those of 0 are left out. They are rounded down, so that what fits
                in sum also fits in parts.
            ports: ports to take.

        Raises:
            NotHeld: there is less. Nothing was removed.
        """
        scalars, held_ports = list(self._scalars), [(one, list(spans)) for one, spans in self._ports]
        taken: list[JsonObject] = []
        for name, amount in (("cpus", wanted.cpus), ("mem", wanted.mem_mb), ("gpus", wanted.gpus)):
            taken += _take_scalar(scalars, name, _thousandths_within(amount))
        taken += _take_ports(held_ports, ports)
        self._scalars = [entry for entry in scalars if entry[1] > 0]
        self._ports = [entry for entry in held_ports if entry[1]]
        return taken


def is_usable(resource: Mapping[str, object]) -> bool:
    """Return whether a resource is neither revocable nor shared nor a volume."""
    disk = resource.get("disk")
    is_volume = isinstance(disk, dict) and bool(disk.keys() & {"persistence", "volume", "source"})
    return not is_volume and not any(resource.get(name) is not None for name in _UNUSABLE)


def thousandths(amount: float) -> int:
    """Return an amount in whole thousandths."""
    return round(amount * _UNIT)


def _thousandths_within(amount: float) -> int:
    """Return the whole thousandths in an amount, whose last bits do not count."""
    return math.floor(amount * _UNIT + _LAST_BITS)


def amounts_of(resources: Iterable[JsonObject]) -> Resources:
    """Return the cpus, memory and gpus of resource objects."""
    return HeldResources(resources).amounts()


def without_port(spans: Iterable[tuple[int, int]], port: int) -> list[tuple[int, int]]:
    """Return closed ranges without one number."""
    parts = []
    for low, high in spans:
        if low <= port <= high:
            parts += [(low, port - 1), (port + 1, high)]
        else:
            parts.append((low, high))
    return [(low, high) for low, high in parts if low <= high]


def _take_scalar(held: list[tuple[JsonObject, int]], name: str, wanted: int) -> Iterator[JsonObject]:
    for position, (resource, amount) in enumerate(held):
        if wanted and resource["name"] == name and amount:
            part = min(wanted, amount)
            held[position] = (resource, amount - part)
            wanted -= part
            yield {**resource, "scalar": {"value": part / _UNIT}}
    if wanted:
        raise NotHeld(f"{wanted / _UNIT} {name} are missing")


def _take_ports(
    held: list[tuple[JsonObject, list[tuple[int, int]]]], ports: Sequence[int]
) -> Iterator[JsonObject]:
    missing = sorted(ports)
    for resource, spans in held:
        found = [port for port in missing if any(low <= port <= high for low, high in spans)]
        if not found:
            continue
        missing = [port for port in missing if port not in found]
        for port in found:
            spans[:] = without_port(spans, port)
        yield {**resource, "ranges": {"range": [{"begin": port, "end": port} for port in found]}}
    if missing:
        raise NotHeld(f"the ports {missing} are missing")


def _ranges_of(resource: JsonObject) -> list[tuple[int, int]]:
    return [(int(one["begin"]), int(one["end"])) for one in resource.get("ranges", {}).get("range", ())]
