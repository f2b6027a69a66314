"""Fitness: how well a job fills a host.

Lives here: the formula by which all placers compare hosts, so that they decide ties alike to the last bit.
Not here: room and placement (`scheduling.matching.scalar`, `matching.columnar`).

The *fill* of a host is the sum of its cpu fill and its memory fill, each (running + assigned in this cycle +
requested) / (offered + running), added up in this order. A host's fill of a resource it lacks is 0.

Source: Netflix Fenzo's `cpuMemBinPacker` as Cook weighs it; fair-share specification, section 5.
"""

from typing import Final

from cook_jupyter.scheduling.arrays import Floats

# Fenzo weights: resource sets 15 % (Cook has none); soft constraints 50 % (Cook has none, so they count in
# full); fitness 35 %. So the result is between 0.5 and 0.85.
_BASE: Final = 0.5
_WEIGHT: Final = 0.35


def fitness_of(fill: float) -> float:
    """Return the fitness, 0.5..0.85, of a host with this fill, 0..2."""
    return _BASE + _WEIGHT * (fill / 2)


def fitnesses_of(fills: Floats) -> Floats:
    """Return the fitness of each host, rounded as `fitness_of` rounds it."""
    return _BASE + _WEIGHT * (fills / 2)


def fill_near(fitness: float) -> float:
    """Return the fill, 0..2, of a host with this fitness, up to rounding."""
    return (fitness - _BASE) / _WEIGHT * 2
